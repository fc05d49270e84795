"""Command-line options made from the config: one description for flags, YAML and docs."""

import json
import types
from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import click
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from manifests.uris.placeholders import literal
from manifests.uris.policy import ReferencePolicy
from pipeline.config import REPEATED_FLAGS, SETTINGS, JobConfig, flag_of, refuse_credentials

F = TypeVar("F", bound=Callable[..., Any])

SHORT_FLAGS = {"verbose": ("-v",)}


def job_options(command: F) -> F:
    """Adds a flag for every setting of JobConfig.

    A flag that is not given is None, so that `job.yaml` and the built-in defaults show through.
    """
    for name, setting in reversed(SETTINGS.items()):
        command = _option(name, setting.field)(command)
    config = click.option("--config", metavar="JOB.YAML", help="Settings file; flags override it.")
    return config(command)


def reference_options(command: F) -> F:
    """Adds the flags that say which references may be opened; see `reference_policy`."""
    for name, field in reversed(ReferencePolicy.model_fields.items()):
        command = _option(name, field)(command)
    return command


def reference_policy(values: dict[str, Any]) -> ReferencePolicy:
    """The policy of the flags of `reference_options`."""
    given = {name: value for name, value in values.items() if value is not None}
    return ReferencePolicy.model_validate(given)


def local_option(command: F) -> F:
    """Adds `--local`."""
    return click.option("--local", is_flag=True, help="The same as --runtime local.")(command)


class JobCommand(click.Command):
    """A command whose help shows the settings of a job under the sections of `job.yaml`."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the flags of the command itself, then those of each section."""
        groups: dict[str, list[tuple[str, str]]] = {"Options": []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                groups.setdefault(_heading(parameter.name or ""), []).append(record)
        for heading, records in groups.items():
            with formatter.section(heading):
                formatter.write_dl(records)


def _heading(name: str) -> str:
    if name not in SETTINGS:
        return "Options"
    section = SETTINGS[name].section
    description = JobConfig.model_fields[section].description or ""
    return f"{description.removesuffix('.')} (section {section})"


def given_flags(values: dict[str, Any]) -> dict[str, Any]:
    """The flags that were given, as `load_config` takes them: repeated KEY=VALUE become dicts."""
    given = {name: value for name, value in values.items() if value is not None and value != ()}
    if given.pop("local", False) and given.setdefault("runtime", "local") != "local":
        raise click.UsageError("--local and --runtime ray exclude each other")
    if "storage_options" in given:
        given["storage_options"] = storage_pairs(given["storage_options"])
    for name in ("replica_resources", "qc"):
        if name in given:
            given[name] = dict(_pair(text, REPEATED_FLAGS[name]) for text in given[name])
    if "qc" in given:  # `off` lifts a limit that job.yaml or the last run has set
        limits = given["qc"].items()
        given["qc"] = {name: None if value == "off" else value for name, value in limits}
    return given


def storage_pairs(texts: Iterable[str]) -> dict[str, Any]:
    """`KEY=VALUE` texts of --storage-option as fsspec options; credentials are refused."""
    pairs = dict(_pair(text, REPEATED_FLAGS["storage_options"]) for text in texts)
    refuse_credentials(pairs)
    return pairs


def flags_of(config: JobConfig) -> list[str]:
    """The flags that give this config anew, on a machine that does not have its files."""
    told = config.model_dump(mode="json", exclude_unset=True)
    flags = []
    for name, (section, key, _) in SETTINGS.items():
        value, flag = told.get(section, {}).get(key), flag_of(name)
        if isinstance(value, bool):
            flags.append(flag if value else f"--no-{flag[2:]}")
        elif isinstance(value, dict):
            flags += [f"{flag}={key}={_text(item)}" for key, item in value.items()]
        elif isinstance(value, list):
            flags += [f"{flag}={item}" for item in value]
        elif value is not None:
            filled = name in ("manifest", "output")  # `run` fills the placeholders of these
            flags.append(f"{flag}={literal(value) if filled else value}")
    return flags


def _text(value: Any) -> str:
    """What `_value` turns back into `value`."""
    plain = isinstance(value, str) and _value(value) == value
    return value if plain else json.dumps(value)


def _pair(text: str, flag: str) -> tuple[str, Any]:
    key, mark, value = text.partition("=")
    if not mark or not key:
        raise click.BadParameter(f"{text!r} is not KEY=VALUE", param_hint=flag)
    return key, _value(value)


def _value(text: str) -> Any:
    """JSON where it is JSON (numbers, true, null, objects), else the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return {"true": True, "false": False}.get(text.lower(), text)


def joined(context: click.Context, parameter: click.Parameter, given: Iterable[str]) -> str | None:
    """A flag that takes names with commas and may be given several times, as one text."""
    return ",".join(given) or None


def _option(name: str, field: FieldInfo) -> Callable[[F], F]:
    flag = flag_of(name)
    help_text = f"{field.description or ''}{_default_text(field)}"
    if name in REPEATED_FLAGS:
        metavars = {"extra_columns": "NAME", "qc": "LIMIT=VALUE", "adapter": "FOLDER[:SCALE]"}
        metavar = metavars.get(name, "KEY=VALUE")
        return click.option(flag, name, multiple=True, metavar=metavar, help=help_text)
    if name == "score":
        return click.option(flag, name, multiple=True, callback=joined, help=help_text)
    kind = _plain_type(field.annotation)
    if kind is bool:
        short = SHORT_FLAGS.get(name, ())
        return click.option(f"{flag}/--no-{flag[2:]}", *short, name, default=None, help=help_text)
    return click.option(flag, name, type=kind, default=None, help=help_text)


def _default_text(field: FieldInfo) -> str:
    default = field.default
    if default is PydanticUndefined or default is None or isinstance(default, BaseModel | tuple):
        return ""
    return f" [default: {default}]"


def _plain_type(annotation: Any) -> Any:
    """int, float, str, bool or a choice, for the annotations that the config uses."""
    if get_origin(annotation) in (types.UnionType, Union):
        annotation, *others = (a for a in get_args(annotation) if a is not type(None))
        if others:  # a number or a word: the config tells them apart
            return str
    if get_origin(annotation) is Literal:
        values = get_args(annotation)
        return int if all(isinstance(v, int) for v in values) else click.Choice(values)
    if hasattr(annotation, "__metadata__"):  # Annotated[float, ...]
        annotation = get_args(annotation)[0]
    return annotation
