"""Servers that a run starts itself: models behind one address each, for whoever asks `service:NAME`."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from qwenlong.core.config.models import EndpointConfig
from qwenlong.core.config.section import Section
from qwenlong.core.config.variables import variables

#: What an endpoint's base_url begins with when it names a service of the run.
PREFIX = "service:"
#: What `command` may name: the model's path and name, and where one replica listens.
PLACES = ("model", "name", "host", "port")
_variables = variables("`qwenlong serve`", ("VLLM_API_KEY", "QWENLONG_SERVICE_KEY"), ("SLURM_",))


def _places(value: tuple[str, ...]) -> tuple[str, ...]:
    for word in value:
        for name in re.findall(r"\{(\w*)\}", word):
            if name and name not in PLACES:
                raise ValueError(f"{word!r}: no place {name!r}; there are {', '.join('{' + p + '}' for p in PLACES)}")
    if value and not any("{port}" in word for word in value):
        raise ValueError("the command has no place {port}, so that its server could not be found")
    return value


class SlurmConfig(Section):
    """The Slurm job of a service, for `where: slurm`."""

    cpus: Annotated[int, Field(ge=1)] = 8
    """Cores per machine."""
    memory_mb: Annotated[int, Field(ge=100)] = 64000
    """Memory per machine in MB."""
    runtime_minutes: Annotated[int, Field(ge=1)] = 2880
    """Wall time; at its end the service is gone, and the next who asks for it starts it again."""
    nodes: Annotated[int, Field(ge=1)] = 1
    """Machines."""
    gpus: Annotated[int, Field(ge=0)] = 0
    """GPUs per machine."""
    partition: str | None = None
    """Partition; none: the site's default."""
    extra: tuple[str, ...] = ()
    """More options of sbatch, one word each: [--account=…, --qos=…]."""


class ServiceConfig(Section):
    """A model served by replicas behind one address (docs/services.md). Every size is [assumed]: the paper names
    models, not how they were served.
    """

    model: str
    """Hugging Face directory or id; `qwenlong serve --model` serves another one with the same settings."""
    name: str | None = None
    """Name under which clients ask for it; none: the last part of `model`."""
    replicas: Annotated[int, Field(ge=1, le=1024)] = 1
    """Copies of the server; each request goes to the least loaded one."""
    gpus: Annotated[int, Field(ge=0)] | None = None
    """GPUs of one replica; 0: none, on processors. none: tensor x pipeline x data parallel; with a command
    of one's own, 0."""
    nodes: Annotated[int, Field(ge=1)] = 1
    """Machines of one replica, for models that no machine holds."""
    tensor_parallel: Annotated[int, Field(ge=1)] = 1
    """GPUs that share each layer."""
    pipeline_parallel: Annotated[int, Field(ge=1)] = 1
    """Parts into which the layers are cut."""
    data_parallel: Annotated[int, Field(ge=1)] = 1
    """Engines behind one replica's address."""
    expert_parallel: bool = False
    """Spread whole experts over the GPUs of tensor and data parallel, instead of slices of each."""
    max_model_len: Annotated[int, Field(ge=64)] | None = None
    """Window in tokens; none: the model's own."""
    program: tuple[str, ...] = ("vllm", "serve")
    """Program to which model and options are given."""
    extra: tuple[str, ...] = ()
    """More options of the server, one word each."""
    command: Annotated[tuple[str, ...], AfterValidator(_places)] = ()
    """A command of one's own in place of program and options, one word each, with the places {model}, {name}, {host}
    and {port}. It must answer /v1/chat/completions, and /health with status 200 when it is ready. Its key stands in
    the variables VLLM_API_KEY and QWENLONG_SERVICE_KEY."""
    environment: Annotated[dict[str, str], AfterValidator(_variables)] = Field(default_factory=dict)
    """Environment variables of the replicas."""
    where: Literal["local", "slurm"] = "local"
    """Where it is started when somebody needs it: on the machine that asks, or as a Slurm job of its own."""
    slurm: SlurmConfig = SlurmConfig()
    """For `where: slurm`."""
    port: Annotated[int, Field(ge=0, le=65535)] = 0
    """Port of the one address; 0: a free one."""
    start_minutes: Annotated[float, Field(gt=0)] = 30.0
    """How long a replica may load before it is ended and started again."""
    hung_seconds: Annotated[float, Field(gt=0)] = 120.0
    """How long a replica that was ready may leave /health unanswered before it is started again."""
    failures: Annotated[int, Field(ge=1)] = 5
    """Starts in a row that may fail before a replica is given up; the service ends when all are."""
    restart_seconds: Annotated[float, Field(ge=0)] = 1.0
    """Pause before a crashed replica is started again; it doubles with each failed start, up to a minute."""
    hold_seconds: Annotated[float, Field(ge=0)] = 300.0
    """How long a request waits while no replica is ready, before it is answered with 503; below the clients'
    timeout_seconds."""
    linger_seconds: Annotated[float, Field(ge=0)] = 60.0
    """How long a service that was started for its consumers outlives the last of them."""
    idle_minutes: Annotated[float, Field(gt=0)] = 720.0
    """Without a request for so long, such a service ends though a consumer on another machine seems to be there."""
    max_request_mb: Annotated[int, Field(ge=1)] = 64
    """Largest request body in MiB."""

    @property
    def served_name(self) -> str:
        """Return the name under which clients ask for the model."""
        return self.name or PurePosixPath(self.model).name

    @property
    def gpus_each(self) -> int:
        """Return the GPUs of one replica."""
        if self.gpus is not None or self.command:
            return self.gpus or 0
        return self.tensor_parallel * self.pipeline_parallel * self.data_parallel

    @model_validator(mode="after")
    def _adds_up(self) -> ServiceConfig:
        product = self.tensor_parallel * self.pipeline_parallel * self.data_parallel
        if self.gpus and not self.command and self.gpus != product:
            raise ValueError(f"gpus = {self.gpus}, but tensor x pipeline x data parallel = {product}; make them equal")
        if self.gpus_each % self.nodes:
            raise ValueError(f"{self.gpus_each} GPUs of one replica do not divide over nodes = {self.nodes}")
        if self.nodes > 1 and (self.where != "slurm" or self.command):
            raise ValueError(
                f"nodes = {self.nodes}: a replica over several machines needs where: slurm, and no command"
            )
        if self.where == "slurm":
            self._fits()
        return self

    def _fits(self) -> None:
        job = self.slurm
        each = self.gpus_each // self.nodes
        if not each:
            return
        if each > job.gpus:
            raise ValueError(f"slurm.gpus = {job.gpus} a machine, but a replica needs {each} on one; raise it")
        room = job.nodes // self.nodes if self.nodes > 1 else job.nodes * (job.gpus // each)
        if room < self.replicas:
            raise ValueError(
                f"slurm.nodes = {job.nodes} of {job.gpus} GPUs hold {room} replicas of {self.gpus_each}, not "
                f"{self.replicas}; ask for more machines, or lower replicas"
            )


def completed(values: Any, results: str) -> Any:
    """Return nested values in which every base_url `service:NAME` names the service's folder below `results`."""
    if isinstance(values, dict):
        return {
            key: full_address(value, results) if key == "base_url" else completed(value, results)
            for key, value in values.items()
        }
    if isinstance(values, list | tuple):
        return type(values)(completed(value, results) for value in values)
    return values


def full_address(url: Any, results: str) -> Any:
    """Return `service:<results>/state/services/NAME` for `service:NAME`; any other value as it is."""
    if isinstance(url, str) and re.fullmatch(PREFIX + r"[a-z0-9][a-z0-9_-]*", url):
        return f"{PREFIX}{results}/state/services/{url.removeprefix(PREFIX)}"
    return url


def service_name(url: str) -> str | None:
    """Return the name of the service that a base_url means; none for an address."""
    return PurePosixPath(url.removeprefix(PREFIX)).name if url.startswith(PREFIX) else None


def instance(name: str, model: str | None) -> str:
    """Return the name under which a service serves `model`; none: its own."""
    return name if model is None else f"{name}-{hashlib.sha256(model.encode()).hexdigest()[:12]}"


def endpoints(section: Section, above: str = "") -> Iterator[tuple[str, EndpointConfig]]:
    """Yield every endpoint of a configuration or a section, with its dotted key."""
    for key in type(section).model_fields:
        value = getattr(section, key)
        if isinstance(value, EndpointConfig):
            yield above + key, value
        elif isinstance(value, Section):
            yield from endpoints(value, f"{above}{key}.")


def service_fault(key: str, endpoint: EndpointConfig, services: Mapping[str, ServiceConfig]) -> str | None:
    """Return what is wrong with an endpoint that asks a service; none for nothing."""
    name = service_name(endpoint.base_url)
    if name is None:
        return None
    if name not in services:
        return f"{key}.base_url names the service {name!r}; services has {', '.join(sorted(services)) or 'none'}"
    if endpoint.model != services[name].served_name:
        return (
            f"{key}.model = {endpoint.model!r}, but services.{name} serves {services[name].served_name!r}; "
            "make them equal"
        )
    if endpoint.api_key_env is not None:
        return f"{key}.api_key_env = {endpoint.api_key_env!r}: a service has a key of its own; remove the setting"
    return None
