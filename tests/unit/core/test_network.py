"""Addresses and ports of this machine."""

from __future__ import annotations

import socket

import pytest

from qwenlong.core import network
from qwenlong.core.errors import ConfigError, QwenlongError


def test_a_taken_port_is_refused_and_a_free_one_found() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        with pytest.raises(QwenlongError, match=f"engine.ray.port = {taken} at 127.0.0.1"):
            network.free_port("127.0.0.1", taken)
        assert network.answers("127.0.0.1", taken)
    port = network.free_port("127.0.0.1")
    assert not network.answers("127.0.0.1", port)


def test_an_interface_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(ConfigError, match=r"engine.ray.interface = 'ib7', but .* has .*lo"):
        network.own_address("ib7", "10.0.0.1")
    assert network.own_address("lo", "10.0.0.1") == network.own_address(None, "127.0.0.1") == "127.0.0.1"
