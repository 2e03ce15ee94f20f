"""The cluster that is planned for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from qwenlong.core.errors import ConfigError, UsageError

#: GPUs of the table.
SIZES = (8, 64, 256)


class Cluster(BaseModel):
    """A file of --cluster; also what --gpus stands for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = "the cluster"
    gpus: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """GPUs that the run may hold at a time; none: as many as the configuration's training."""
    cores: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """CPU cores, for configurations without GPUs."""
    speed: Annotated[float, Field(gt=0, le=100)] = 1.0
    """Speed of a GPU as a multiple of the one that the rates are of."""
    gpu_memory_gb: Annotated[float, Field(gt=0)] | None = None
    """Memory of a GPU; none: that of the one that the rates are of."""
    disk_gb: Annotated[float, Field(gt=0)] | None = None
    """Free disk of the results' file system."""

    def processors(self, unit: str, default: int) -> int:
        """Return GPUs or cores. Raises UsageError where the other ones were given alone."""
        value, other = (self.gpus, self.cores) if unit == "GPU" else (self.cores, self.gpus)
        if value is None and other is not None:
            need = "gpus" if unit == "GPU" else "cores (--cluster FILE with `cores: N`)"
            raise UsageError(f"the configuration's engine runs on {unit}s, the cluster names none; give {need}")
        return default if value is None else value


def read(file: Path) -> Cluster:
    """Read a cluster's file. Raises ConfigError naming file, key and value."""
    import yaml

    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
        return Cluster.model_validate({} if values is None else values)
    except OSError as error:
        raise ConfigError(f"{file} cannot be read ({error.strerror}); name a file with gpus: N") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not YAML: {str(error).splitlines()[0]}; mend that place") from error
    except ValidationError as error:
        lines = [
            f"{file}: {'.'.join(map(str, f['loc'])) or 'the file'} = {f['input']!r}: {f['msg']}" for f in error.errors()
        ]
        keys = ", ".join(Cluster.model_fields)
        raise ConfigError("\n".join(lines) + f"\nits keys are {keys}") from error
