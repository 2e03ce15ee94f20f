"""Ray over the machines of an allocation, and the network between them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator

from qwenlong.core.config.section import Section
from qwenlong.core.config.variables import variables

#: Longest folder that leaves room for Ray's own below it: a socket's path has at most 107 characters.
TEMP_LIMIT = 24
_OURS = ("RAY_ADDRESS", "PYTHONPATH", "PATH", "CUDA_VISIBLE_DEVICES", "VERL_USE_EXTERNAL_MODULES")
_variables = variables("the launcher", _OURS, ("SLURM_", "QWENLONG_"))


class RayConfig(Section):
    """How the machines of one training run find each other. Nothing of it but `interface` and `environment` is read
    where engine.nodes is 1.
    """

    launcher: Literal["start", "symmetric"] = "start"
    """start: `ray start` on each machine, each with folder and ports of its own, ended by process id: several runs may
    share a machine. symmetric: `ray symmetric-run`, which refuses a machine on which another Ray runs, and on its way
    out stops every Ray of the user there: for whole machines."""
    interface: str | None = None
    """Network interface of Ray, NCCL and gloo, named alike on all machines (ib0, bond0); none: the one that leads from
    a machine to the first."""
    port: Annotated[int, Field(ge=1024, le=65535)] | None = None
    """Port of the first machine that the others connect to; none: a free one."""
    worker_ports: tuple[int, int] | None = None
    """First and last port that Ray's workers listen on, for firewalls between machines; none: any free one. Runs that
    share a machine need ranges of their own."""
    temp_dir: str | None = None
    """Folder on each machine below which Ray puts sockets, logs and spilled objects, in a folder of its own per run;
    best a local disk. At most 24 characters: sockets lie below it. none: SLURM_TMPDIR or TMPDIR where they are as
    short, else /tmp."""
    start_timeout_seconds: Annotated[int, Field(ge=5)] = 300
    """How long all machines have to join before the run fails, naming those that did not."""
    environment: Annotated[dict[str, str], AfterValidator(_variables)] = Field(default_factory=dict)
    """Variables of every process on every machine: NCCL_*, GLOO_*, UCX_*, FI_* as the site needs them, e.g.
    {NCCL_IB_HCA: "mlx5_0,mlx5_1"}."""

    @field_validator("worker_ports")
    @classmethod
    def _range(cls, value: tuple[int, int] | None) -> tuple[int, int] | None:
        if value is not None and not 1024 <= value[0] < value[1] <= 65535:
            raise ValueError(f"{list(value)} is no range of ports within 1024 to 65535, first below last")
        return value

    @field_validator("temp_dir")
    @classmethod
    def _short(cls, value: str | None) -> str | None:
        if value is not None and (not value.startswith("/") or len(value) > TEMP_LIMIT):
            raise ValueError(f"{value!r} is no absolute path of at most {TEMP_LIMIT} characters (sockets lie below)")
        return value

    def variables(self) -> dict[str, str]:
        """Return the environment variables of all processes of the run: those of `interface`, then `environment`."""
        named = {f"{kind}_SOCKET_IFNAME": self.interface for kind in ("NCCL", "GLOO") if self.interface}
        return named | self.environment
