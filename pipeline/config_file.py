"""Makes the job's settings of `job.yaml` and flags, and says what is wrong with them.

Precedence: built-in < `job.yaml` < flag < manifest row (the last for generation parameters only).
"""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from manifests.messages import from_pydantic, shorten
from manifests.redaction import without_hidden
from manifests.schema import GenerationDefaults
from manifests.uris.placeholders import PlaceholderError, Placeholders
from pipeline.audio.limits import QualityLimits
from pipeline.config import (
    SECTIONS,
    SETTINGS,
    ConfigError,
    JobConfig,
    check_location,
    flag_of,
    in_sections,
    refuse_credentials,
)
from pipeline.ledger.parts import new_run_id

Sections = dict[str, dict[str, Any]]
# Settings of several entries: flags add to the entries of `job.yaml`.
_ADDED_TO = ("storage_options", "qc")
# Settings of one run, which the next one does not inherit.
_NOT_INHERITED = ("manifest", "output", "wait", "run_id")


def load_config(
    path: str | None,
    flags: Mapping[str, Any],
    inherited: Mapping[str, Any] | None = None,
    *,
    placeholders: Placeholders | None = None,
) -> JobConfig:
    """Merges `job.yaml` and flags, and fills the placeholders of all texts of the file and of the
    addresses among the flags.

    Args:
        path: The settings file, if any.
        flags: Values of flags, under their names with underscores; None means not given.
        inherited: Sections of an earlier run's settings, which everything else overrides.
        placeholders: Their values, where other settings of the command share them.

    Raises:
        ConfigError: unreadable file, unknown key, or a value out of range; names every one.
    """
    merged: dict[str, Any] = {name: dict(values) for name, values in (inherited or {}).items()}
    written = _read_sections(path) if path else {}
    written, flags = _filled(path, written, flags, placeholders)
    for name, value in written.items():
        merged[name] = merged.get(name, {}) | value if isinstance(value, dict) else value
    for section, values in in_sections(flags).items():
        settings = merged.setdefault(section, {})
        for key, value in values.items():
            if key in _ADDED_TO:
                value = _mapping(settings, key, path) | value
            settings[key] = value
    try:
        return JobConfig.model_validate(merged)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(error, path))) from None


def run_placeholders(run_id: str | None = None) -> Placeholders:
    """The placeholders of a command that makes a run, which has this id or gets one."""
    return Placeholders(new_run_id if run_id is None else lambda: run_id)


def fill_address(address: str, flag: str) -> str:
    """An address of a command that makes no run, its placeholders filled; else a ConfigError."""
    try:
        return Placeholders(None).fill(address, f"{flag} {address}")
    except PlaceholderError as error:
        raise ConfigError(str(error)) from None


def _filled(
    path: str | None,
    written: Mapping[str, Any],
    flags: Mapping[str, Any],
    placeholders: Placeholders | None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings of the file and the flags without placeholders; a run whose id stands in one of
    them is told it."""
    run = written.get("run")
    told = flags.get("run_id") or (run.get("run_id") if isinstance(run, Mapping) else None)
    fill = placeholders or run_placeholders(told)
    try:
        settings = fill.fill_all(written, f"{path}: ")
        given = dict(flags)
        for name in ("manifest", "output"):
            if isinstance(given.get(name), str):
                given[name] = fill.fill(given[name], f"{flag_of(name)} {given[name]}")
    except PlaceholderError as error:
        raise ConfigError(str(error)) from None
    if fill.run_id is not None:
        given["run_id"] = fill.run_id
    return settings, given


def inherited_settings(recorded: Mapping[str, Any]) -> Sections:
    """What a run inherits of the config in an earlier run's record, as sections.

    Records of version 0.1 hold a flat config: one key per flag, and `generation`. Settings that
    this version does not know are left out.
    """
    if isinstance(recorded.get("run"), Mapping):
        sections = recorded
    else:
        flat = {name: value for name, value in recorded.items() if name in SETTINGS}
        sections = in_sections(flat) | {"generation": recorded.get("generation", {})}
    return {
        section: {
            key: without_hidden(value) if key == "storage_options" else value
            for key, value in settings.items()
            if key in SECTIONS[section].model_fields and key not in _NOT_INHERITED
        }
        for section, settings in sections.items()
        if section in SECTIONS
    }


def names_output(path: str) -> bool:
    """Whether a settings file says where the output lies."""
    run = _read_sections(path).get("run")
    return isinstance(run, Mapping) and run.get("output") is not None


def _mapping(settings: Mapping[str, Any], name: str, path: str | None) -> dict[str, Any]:
    value = settings.get(name) or {}
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"{path}: {name} is a {type(value).__name__}; write `key: value` lines below `{name}:`"
        )
    return dict(value)


def load_defaults(duration_s: float | None) -> GenerationDefaults:
    """Built-in generation defaults, with another duration where one is given."""
    given = {} if duration_s is None else {"duration_s": duration_s}
    try:
        return GenerationDefaults.model_validate(given)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(error, None))) from None


def _read_sections(path: str) -> dict[str, Any]:
    """The sections of a settings file; a flat file, as version 0.1 read it, is refused."""
    loaded = _read_yaml(path)
    if isinstance(loaded.get("model"), str):
        loaded["model"] = {"name": loaded["model"]}
    flat = {
        name: value
        for name, value in loaded.items()
        if name in SETTINGS and (name not in SECTIONS or isinstance(value, str))
    }
    if flat:
        raise ConfigError(f"{path}: {_in_sections_now(flat)}")
    sections = {name: _mapping(loaded, name, path) for name in SECTIONS if name in loaded}
    for section, name in (("run", "storage_options"), ("quality", "qc")):
        _mapping(sections.get(section, {}), name, path)
    return loaded | sections


def _in_sections_now(flat: Mapping[str, Any]) -> str:
    """Where settings that stand outside of their sections belong, as lines of YAML."""
    options = flat.get("storage_options")
    if isinstance(options, Mapping):  # the message must not repeat a secret
        refuse_credentials(options)
    for name in ("manifest", "output"):
        check_location(str(flat.get(name, "")), flag_of(name))
    places = [f"{name} is now in the section {SETTINGS[name].section}" for name in flat]
    lines = yaml.safe_dump(in_sections(flat), sort_keys=False, allow_unicode=True).splitlines()
    return "\n  ".join([f"{', '.join(places)}; write", *lines])


def _read_yaml(path: str) -> dict[str, Any]:
    try:
        loaded = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); check --config") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{path}: is not YAML{where}: {error.problem}; mend it") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise ConfigError(f"{path}: is not YAML, nor even text; check --config") from None
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path}: holds a {type(loaded).__name__}; write `key: value` lines")
    return loaded


def _explain(error: ValidationError, path: str | None) -> list[str]:
    """One line per fault: where, what, and the nearest known key for a misspelt one."""
    lines = []
    for fault in error.errors():
        location = tuple(str(part) for part in fault["loc"])
        key = ".".join(location) or "(settings)"
        if fault["type"] == "extra_forbidden":
            lines.append(f"{path or 'settings'}: unknown key {key}; {_nearest(location)}")
        elif fault["type"] == "missing":
            lines.append(_missing(location))
        elif fault["type"] == "value_error":  # our own words, which name what they are about
            lines.append(fault["msg"].removeprefix("Value error, "))
        else:
            rule = from_pydantic({**fault, "loc": fault["loc"][-1:]}).rule
            flag = flag_of(_flag_name(location))
            given = "" if "storage_options" in location else f"={shorten(fault['input'])}"
            lines.append(f"{key}{given} {rule}; correct {flag} or job.yaml")
    return lines


def _flag_name(location: tuple[str, ...]) -> str:
    """The name of the flag that gives the setting at a place in the config."""
    if len(location) == 1:
        return location[0]  # of the generation defaults, or a section
    return "model" if location[:2] == ("model", "name") else location[1]


def _missing(location: tuple[str, ...]) -> str:
    name = _flag_name(location)
    line = "`model:`" if name == "model" else f"`{name}:` below `{location[0]}:`"
    return f"{name} is missing; give {flag_of(name)} or {line} in job.yaml"


def _nearest(location: tuple[str, ...]) -> str:
    """What an unknown key may have been meant to be: a key beside it, or of another section."""
    key, inside = location[-1], location[:-1]
    if inside == ("quality", "qc"):
        beside = list(QualityLimits.model_fields)
    else:
        beside = list(SECTIONS[inside[0]].model_fields if inside else SECTIONS)
    near = difflib.get_close_matches(key, beside, n=1)
    if key not in SETTINGS and near:
        return f"did you mean {near[0]}?"
    elsewhere = difflib.get_close_matches(key, SETTINGS, n=1)
    if key in SETTINGS:
        return f"{key} is in the section {SETTINGS[key].section}"
    if elsewhere:
        return f"did you mean {elsewhere[0]} in the section {SETTINGS[elsewhere[0]].section}?"
    return f"known {'keys' if inside else 'sections'}: {', '.join(beside)}"
