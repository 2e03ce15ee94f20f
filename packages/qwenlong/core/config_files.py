"""Reading and writing configuration files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from qwenlong.core.config import AblationRow, Config
from qwenlong.core.errors import ConfigError
from qwenlong.core.files import digest_value, dump_json


def load(path: str | Path) -> Config:
    """Load a configuration file.

    Raises ConfigError naming the file, the key, the value and the remedy; unknown keys name the closest known one.
    """
    file = Path(path)
    try:
        values = read_sections(file, "see configs/default.yaml")
    except FileNotFoundError as error:
        raise ConfigError(f"no configuration file {file}; configs/ has the ones that are shipped") from error
    return build(values, file)


def read_yaml(file: Path) -> Any:
    """Return what a YAML file holds. Raises OSError when it cannot be read, ConfigError when it is not YAML."""
    import yaml

    try:
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not YAML: {str(error).splitlines()[0]}; mend that place") from error


def read_sections(file: Path, form: str) -> dict[str, Any]:
    """Return a YAML file's table of sections.

    Raises OSError when it cannot be read, ConfigError when it holds something else; `form` says where its form is seen.
    """
    values = read_yaml(file)
    if not isinstance(values, dict):
        raise ConfigError(f"{file} holds {type(values).__name__}, not a table of sections; {form}")
    return values


def build(values: dict[str, Any], file: Path) -> Config:
    """Validate values read from `file`, with ablation rows read from the files they name."""
    values = dict(values)
    ablations = values.get("ablations")
    if isinstance(ablations, dict) and isinstance(ablations.get("rows"), list):
        rows = [_ablation(row, file) if isinstance(row, str) else row for row in ablations["rows"]]
        values["ablations"] = {**ablations, "rows": rows}
    return validate(Config, values, file)


def _ablation(name: str, file: Path) -> dict[str, Any]:
    import yaml

    # Beside the configuration first, so that a user's own folder works; then from the project's root.
    for candidate in (file.parent / name, Path(name)):
        if candidate.is_file():
            values = yaml.safe_load(candidate.read_text(encoding="utf-8"))
            return validate(AblationRow, values, candidate).model_dump(exclude_unset=True, mode="json")
    raise ConfigError(
        f"{file}: ablations.rows = {name!r}: no such file beside it or from here; configs/ablations has them"
    )


def validate(kind: type[Any], values: Any, file: Path) -> Any:
    """Validate `values` as `kind`. Raises ConfigError with every fault, one a line."""
    import difflib

    try:
        return kind.model_validate(values)
    except ValidationError as error:
        lines = []
        for fault in error.errors():
            key = ".".join(str(part) for part in fault["loc"])
            if fault["type"] == "extra_forbidden":
                known = _known_keys(kind, fault["loc"][:-1])
                near = difflib.get_close_matches(str(fault["loc"][-1]), known, n=1)
                remedy = f"did you mean {near[0]!r}?" if near else f"known keys here: {', '.join(sorted(known))}"
                lines.append(f"{file}: {key} = {fault['input']!r}: unknown key; {remedy}")
            else:
                shown = "" if isinstance(fault["input"], dict) else f" = {fault['input']!r}"
                message = fault["msg"].removeprefix("Value error, ")
                lines.append(f"{file}: {key or 'the file'}{shown}: {message}; see configs/default.yaml for its meaning")
        raise ConfigError("\n".join(lines)) from error


def _known_keys(kind: type[Any], location: tuple[Any, ...]) -> list[str]:
    import typing

    from pydantic import BaseModel

    current: Any = kind
    for part in location:
        options = [current, *typing.get_args(current)]
        sections = [o for o in options if isinstance(o, type) and issubclass(o, BaseModel)]
        if not sections:
            return []
        # In a choice of sections the place names the one that was chosen by its `kind`.
        chosen = [o for o in sections if "kind" in o.model_fields and o.model_fields["kind"].default == part]
        current = (chosen or sections)[0]
        field = current.model_fields.get(str(part))
        if field is None:
            continue
        current = field.annotation
    for option in (current, *typing.get_args(current)):
        if isinstance(option, type) and issubclass(option, BaseModel):
            return list(option.model_fields)
    return []


def dump(config: Config) -> str:
    """Return a configuration as YAML that `load` reads back as the same one."""
    import yaml

    # Stages and rows keep only what was written: null there means "off", absence "as in training".
    values = config.model_dump(mode="json")
    values["stages"] = {k: v.model_dump(mode="json", exclude_unset=True) for k, v in config.stages.items()}
    rows = [r if isinstance(r, str) else r.model_dump(mode="json", exclude_unset=True) for r in config.ablations.rows]
    stage = config.ablations.stage.model_dump(mode="json", exclude_unset=True)
    values["ablations"] |= {"rows": rows, "stage": stage}
    return str(yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120))


#: Where an address with a password stands for the processes of a run.
ADDRESS = "QWENLONG_TRACKING_URI"


def without_password(config: Config) -> Config:
    """Return the configuration with a tracking address that holds a password moved to the environment.

    What a run read is kept beside its results and handed to its jobs; the environment goes with them, too.
    """
    import os

    from qwenlong.core.logs import redact_text

    uri = config.tracking.uri
    if not uri or redact_text(uri) == uri:
        return config
    os.environ[ADDRESS] = uri
    tracking = config.tracking.model_copy(update={"uri": None, "uri_env": ADDRESS})
    return config.model_copy(update={"tracking": tracking})


def schema() -> str:
    """Return the JSON schema of the configuration, as text."""
    return dump_json(Config.model_json_schema())


def digest(config: Config) -> str:
    """Return a digest of the whole configuration."""
    return digest_value(dump(config))
