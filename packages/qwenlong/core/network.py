"""Addresses and ports of this machine."""

from __future__ import annotations

import socket

from qwenlong.core.errors import ConfigError, QwenlongError


def own_addresses() -> dict[str, list[str]]:
    """Return IPv4 addresses by interface."""
    import psutil

    found = {}
    for name, entries in psutil.net_if_addrs().items():
        addresses = [entry.address for entry in entries if entry.family == socket.AF_INET]
        if addresses:
            found[name] = addresses
    return found


def own_address(interface: str | None, towards: str) -> str:
    """Return the address of `interface`, or without one, that of the interface that leads to the host `towards`.

    Raises ConfigError for an interface that is not there, QwenlongError when no way leads to the host.
    """
    if interface is not None:
        found = own_addresses()
        if interface not in found:
            raise ConfigError(
                f"engine.ray.interface = {interface!r}, but {socket.gethostname()} has "
                f"{', '.join(sorted(found)) or 'none with an IPv4 address'}; name one that all machines have"
            )
        return found[interface][0]
    # Connecting a datagram socket sends nothing: it only asks the routing table.
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((towards, 9))
            address = str(probe.getsockname()[0])
    except OSError as error:
        raise QwenlongError(
            f"{socket.gethostname()} has no way to {towards}: {error}; name the network in engine.ray.interface"
        ) from error
    return address


def free_port(address: str, wanted: int | None = None) -> int:
    """Return `wanted`, or any port, if it is free at `address`. Raises QwenlongError when it is taken."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, wanted or 0))
        except OSError as error:
            what = f"engine.ray.port = {wanted}" if wanted else "a port"
            raise QwenlongError(
                f"{what} at {address} cannot be had: {error.strerror}; another run holds it, name another or none"
            ) from error
        return int(probe.getsockname()[1])


def answers(address: str, port: int, timeout: float = 1.0) -> bool:
    """Tell whether something listens at a port."""
    try:
        socket.create_connection((address, port), timeout).close()
    except OSError:
        return False
    return True
