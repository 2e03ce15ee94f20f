"""The command line. Sub-commands are imported only when asked for, so that help comes at once."""

from __future__ import annotations

import errno
import importlib
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from qwenlong.core.errors import QwenlongError

#: Verb: module, name of the app or function in it, help.
COMMANDS = {
    "doctor": ("qwenlong.core.commands", "doctor_app", "What is installed, and what each stage can run here."),
    "answer": ("qwenlong.memory_agent.commands", "answer_app", "Answer a question about a document in one pass."),
    "corpus": ("qwenlong.corpus.commands", "app", "Fetch sources and build the corpus."),
    "synthesize": ("qwenlong.synthesis.commands", "app", "Make questions with computed answers from the corpus."),
    "score": ("qwenlong.rewards.commands", "score", "Score responses by rule or judge."),
    "train": ("qwenlong.nano.commands", "app", "Tokenizer, base model, selection of samples, RL stages."),
    "ray": ("qwenlong.training.ray_cluster.commands", "app", "Ray on the machines of a job."),
    "checkpoint": ("qwenlong.checkpoints.commands", "app", "Convert, merge and verify checkpoints."),
    "agent": ("qwenlong.memory_agent.commands", "app", "Read documents of any length with the memory agent."),
    "evaluate": ("qwenlong.evaluation.commands", "app", "Run and score benchmarks."),
    "serve": ("qwenlong.serving.commands", "serve", "Serve models to the run: replicas behind one address."),
    "replicate": ("qwenlong.replication.commands", "app", "Experiments in pieces on a lent machine."),
    "audit": ("qwenlong.audit.commands", "app", "Report, tables and checks of the claims."),
    "config": ("qwenlong.core.commands", "config_app", "Check, print and describe configurations."),
    "track": ("qwenlong.core.tracking_commands", "app", "Upload what an MLflow server that was down has missed."),
    "pipeline": ("qwenlong.core.commands", "pipeline_app", "Begin and end the MLflow run of a pipeline."),
}


def _load(name: str) -> Any:
    module_name, attribute, _ = COMMANDS[name]
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except ModuleNotFoundError as error:
        raise QwenlongError(
            f"`qwenlong {name}` needs the module {error.name!r}, which is not installed; "
            "`qwenlong doctor` lists what is missing"
        ) from error
    if not isinstance(found, typer.Typer):
        app = typer.Typer(add_completion=False)
        app.command(name)(found)
        found = app
    found._add_completion = False
    command = typer.main.get_command(found)
    command.name = name
    return command


class LazyGroup(TyperGroup):
    """A group that lists its commands from a table and imports one when it is called."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        # Stand-ins with name and help: enough for listing and for suggestions.
        self.commands = {name: TyperCommand(name, help=entry[2]) for name, entry in COMMANDS.items()}

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the real command of the first argument."""
        name, command, rest = super().resolve_command(ctx, args)
        return (name, _load(name), rest) if name in COMMANDS else (name, command, rest)


app = typer.Typer(
    cls=LazyGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="An open reproduction of QwenLong-L1.5: synthesis, AEPO training, merging, memory agent, evaluation, audit.",
)


def _version(value: bool) -> None:
    if value:
        from qwenlong import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    log_level: Annotated[str, typer.Option(help="DEBUG, INFO, WARNING or ERROR (QWENLONG_LOG_LEVEL).")] = "",
) -> None:
    from qwenlong.core import logs

    logs.setup(log_level or None)


#: What the system answers to a path that cannot be used: the user's to mend, and no fault of the program.
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)


def main(arguments: list[str] | None = None) -> None:
    """Run a command line (default: this process's) and exit: 0, 1 failed, 2 wrong usage, 130 interrupted."""
    try:
        app(args=arguments, prog_name="qwenlong")
    except QwenlongError as error:
        _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            _fail(f"cannot write{where}: {error.strerror}; free space there, and run the same command again", 1)
        if where and error.errno in _REFUSED:
            _fail(f"cannot read or write{where}: {error.strerror}; check the path and its permissions", 1)
        _crash(error)
    except Exception as error:
        _crash(error)


def _fail(message: str, code: int) -> None:
    from qwenlong.core.logs import redact_text

    print(f"error: {redact_text(message)}", file=sys.stderr)
    sys.exit(code)


def _crash(error: Exception) -> None:
    from qwenlong.core import logs

    logs.setup()
    logs.get(__name__).critical("unexpected %s", type(error).__name__, exc_info=error)
    _fail(f"{type(error).__name__}: {error}; the traceback above tells where", 1)
