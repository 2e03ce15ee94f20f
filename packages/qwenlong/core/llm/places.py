"""Where an endpoint is: an address as it stands, or a service of the run, found by the file that it keeps.

`service:FOLDER` is what a configuration makes of `service:NAME`. FOLDER/service.json says where the service is just
now: after a restart on another machine it says so, and clients follow. Its key stands in a file of its own, which its
owner alone can read.
"""

from __future__ import annotations

import json
import stat
from dataclasses import dataclass
from pathlib import Path

from qwenlong.core.config import EndpointConfig
from qwenlong.core.config.services import PREFIX
from qwenlong.core.errors import QwenlongError

FILE = "service.json"


class NotThere(QwenlongError):
    """A service that does not run."""


@dataclass(frozen=True)
class Place:
    """An address with its key ("": none)."""

    url: str
    key: str = ""


def folder_of(base_url: str) -> Path | None:
    """Return the folder of a service; none for an address."""
    return Path(base_url.removeprefix(PREFIX)) if base_url.startswith(PREFIX) else None


def locate(folder: Path) -> Place:
    """Return where a service is. Raises NotThere where it does not run, QwenlongError where its files are unfit."""
    file = folder / FILE
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        url, key_file = str(found["base_url"]), Path(found["key_file"])
        mode = key_file.stat().st_mode
        key = key_file.read_text(encoding="utf-8").strip()
    except (FileNotFoundError, NotADirectoryError):
        raise NotThere(
            f"the service {folder.name!r} does not run (no {file}); start it with `qwenlong serve {folder.name} "
            f"--config CONFIG`, or run what needs it as `qwenlong serve {folder.name} --config CONFIG -- COMMAND`"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise QwenlongError(
            f"{file} is no service's file ({type(error).__name__}); end the service, and remove it"
        ) from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise QwenlongError(f"{key_file} can be read by others; chmod 600 it, or start the service again")
    return Place(url.rstrip("/"), key)


def anchored(endpoint: EndpointConfig) -> EndpointConfig:
    """Return an endpoint that means the same in any working folder: on workers elsewhere, for one."""
    folder = folder_of(endpoint.base_url)
    if folder is None:
        return endpoint
    return endpoint.model_copy(update={"base_url": f"{PREFIX}{folder.resolve()}"})
