"""`qwenlong track`: what could not be logged while the MLflow server was down."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from qwenlong.core.config import Config

app = typer.Typer(no_args_is_help=True, help="What could not be logged while the MLflow server was down.")

_Results = Annotated[Path, typer.Option(help="Results folder of the run.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def status(results: _Results, json: _Json = False) -> None:
    """List runs that wait to be uploaded."""
    from qwenlong.core.files import dump_json, read_json
    from qwenlong.core.tracking_spool import folders

    waiting = []
    for folder in folders(results):
        lines = (folder / "log.jsonl").read_bytes().count(b"\n")
        sent = int((folder / "sent").read_text()) if (folder / "sent").is_file() else 0
        name = read_json(folder / "head.json").get("name")
        waiting.append({"run": folder.name, "name": name, "entries": lines - sent})
    if json:
        typer.echo(dump_json({"waiting": waiting}).rstrip())
        return
    for run in waiting:
        typer.echo(f"{run['run']}: {run['name']}, {run['entries']} entries")
    typer.echo(f"{len(waiting)} runs wait" if waiting else "nothing waits")


@app.command()
def upload(
    results: _Results,
    config: Annotated[
        Path | None, typer.Option(help="Configuration with the address; none: as the runs were begun.")
    ] = None,
    json: _Json = False,
) -> None:
    """Upload what waits. Exit code 1 when the server does not answer, or refuses something."""
    from qwenlong.core import tracking_spool
    from qwenlong.core.errors import QwenlongError, UsageError
    from qwenlong.core.files import dump_json
    from qwenlong.core.logs import redact_text
    from qwenlong.core.tracking_store import Down, Store, is_outage, store_uri

    if not results.is_dir():
        raise UsageError(f"--results {results} is no folder; name the results folder of a run")
    found = tracking_spool.folders(results)
    done = tracking_spool.Uploaded()
    settings = _settings(results, found[0], config) if found else None
    if settings is not None:
        uri = redact_text(store_uri(settings))
        try:
            store = Store(settings)
            done = tracking_spool.upload(results, store)
            store.bury_dead()
        except QwenlongError as error:
            if isinstance(error, Down):
                raise QwenlongError(
                    f"MLflow at {uri} does not answer ({error}); {len(found)} runs still wait"
                ) from None
            raise
        except Exception as error:
            if not is_outage(error):
                raise
            said = redact_text(str(error))[:300]
            raise QwenlongError(f"MLflow at {uri} went away ({said}); run the same command again") from None
    report: dict[str, Any] = {"runs": done.runs, "entries": done.entries, "refused": done.refused, "busy": done.busy}
    text = f"{len(done.runs)} runs, {done.entries} entries uploaded"
    text += f"; {done.busy} runs are at work and upload by themselves" if done.busy else ""
    typer.echo(dump_json(report).rstrip() if json else text)
    left = len(found) - len(done.runs) - done.busy
    if done.refused or left:
        raise QwenlongError(
            f"{done.refused} entries were refused (see {results}/state/tracking/refused), {left} runs could not be read"
        )


def _settings(results: Path, folder: Path, config: Path | None) -> Config:
    """Return a configuration with the address that a run was begun with, or that of `config`."""
    from qwenlong.core import config_files
    from qwenlong.core.config import Config
    from qwenlong.core.errors import UsageError
    from qwenlong.core.files import read_json

    if config is not None:
        given = config_files.load(config)
        return given.model_copy(update={"run": given.run.model_copy(update={"results": str(results)})})
    head = read_json(folder / "head.json")
    if not head.get("uri") and not head.get("uri_env"):
        raise UsageError(
            f"{folder / 'head.json'} names no server (an address with a password is not kept); use --config"
        )
    return Config.model_validate(
        {
            "run": {"name": head["experiment"], "results": str(results)},
            "tracking": {key: head.get(key) for key in ("uri", "uri_env", "artifacts")},
        }
    )
