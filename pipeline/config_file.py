"""Makes the job's settings of `job.yaml` and flags, and says what is wrong with them.

Precedence: built-in < `job.yaml` < flag < manifest row (the last for generation parameters only).
"""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from manifests.messages import from_pydantic
from manifests.schema import GenerationDefaults
from pipeline.audio.limits import QualityLimits
from pipeline.config import REPEATED_FLAGS, ConfigError, JobConfig, flag_of

_SECTIONS: dict[str, type[BaseModel]] = {"generation": GenerationDefaults, "qc": QualityLimits}


def load_config(
    path: str | None, flags: Mapping[str, Any], inherited: Mapping[str, Any] | None = None
) -> JobConfig:
    """Merges `job.yaml` and flags.

    Args:
        path: The settings file, if any.
        flags: Fields of JobConfig and of its generation defaults; None means not given.
        inherited: Settings of an earlier run, which everything else overrides.

    Raises:
        ConfigError: unreadable file, unknown key, or a value out of range; names every one.
    """
    merged = {**(inherited or {}), **(_read_yaml(path) if path else {})}
    generation = _mapping(merged, "generation", path)
    sections = {name: _mapping(merged, name, path) for name in ("storage_options", "qc")}
    for name, value in flags.items():
        if value is None:
            continue
        if name in GenerationDefaults.model_fields:
            generation[name] = value
        elif name in sections:
            merged[name] = sections[name] | value
        else:
            merged[name] = value
    if generation:
        merged["generation"] = generation
    try:
        return JobConfig.model_validate(merged)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(error, path))) from None


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
        key = ".".join(str(part) for part in fault["loc"]) or "(settings)"
        section = str(fault["loc"][0]) if len(fault["loc"]) > 1 else ""
        known = list(_SECTIONS.get(section, JobConfig).model_fields)
        if fault["type"] == "extra_forbidden":
            near = difflib.get_close_matches(str(fault["loc"][-1]), known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known keys: {', '.join(known)}"
            lines.append(f"{path or 'settings'}: unknown key {key}; {hint}")
        elif fault["type"] == "missing":
            lines.append(f"{key} is missing; give {flag_of(key)} or `{key}:` in job.yaml")
        elif fault["type"] == "value_error":  # our own words, which name what they are about
            lines.append(fault["msg"].removeprefix("Value error, "))
        else:
            rule = from_pydantic({**fault, "loc": fault["loc"][-1:]}).rule
            flag = REPEATED_FLAGS.get(str(fault["loc"][0])) or flag_of(fault["loc"][-1])
            lines.append(f"{key}={fault['input']!r} {rule}; correct {flag} or job.yaml")
    return lines
