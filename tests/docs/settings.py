"""The reference of the settings, made from `JobConfig`: `python -m tests.docs.settings` writes it.

`docs/reference/settings.md` is for people, `docs/reference/job.schema.json` for editors.
"""

import json
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from pipeline.audio.limits import QualityLimits
from pipeline.config import SECTIONS, SETTINGS, JobConfig, flag_of

FOLDER = Path(__file__).parents[2] / "docs" / "reference"
SCHEMA, PAGE = FOLDER / "job.schema.json", FOLDER / "settings.md"
HEAD = """# Settings

Every setting is a key of `job.yaml`, in its section, and a flag of `run`, `retry`, `plan` and
`submit`. Precedence: default < the output's last run (`retry` and `plan`) < `job.yaml` < flag <
manifest row (for what stands under `generation`). `model: NAME` is short for `model: {name: NAME}`.
[job.schema.json](job.schema.json) is the JSON Schema of the file.

This page is made by `python -m tests.docs.settings`."""


def schema() -> dict[str, Any]:
    """The JSON Schema of `job.yaml`. Nothing is required there: flags may give it."""
    found: dict[str, Any] = _without(JobConfig.model_json_schema(), ("required", "title"))
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "job.yaml",
        **found,
        "description": "Settings of a musicgen-batch job.",
    }


def _without(node: Any, names: tuple[str, ...]) -> Any:
    if isinstance(node, dict):
        return {key: _without(value, names) for key, value in node.items() if key not in names}
    return [_without(item, names) for item in node] if isinstance(node, list) else node


def page() -> str:
    """The page with a table for each section, and one for the limits of `qc`."""
    shape = schema()
    pieces = [HEAD]
    for section, model in SECTIONS.items():
        flags = {
            setting.key: f"`{flag_of(name)}`"
            for name, setting in SETTINGS.items()
            if setting.section == section
        }
        about = JobConfig.model_fields[section].description
        pieces.append(f"## {section}\n\n{about}\n\n{_table(model, flags, shape)}")
    limits = {name: f"`--qc {name}=VALUE`" for name in QualityLimits.model_fields}
    pieces.append(
        "## The limits of `quality.qc`\n\nEach is off unless it is given; `off` (in a flag) or "
        f"`null` (in `job.yaml`) lifts it.\n\n{_table(QualityLimits, limits, shape)}"
    )
    return "\n\n".join(pieces) + "\n"


def _table(model: type[BaseModel], flags: dict[str, str], shape: dict[str, Any]) -> str:
    properties = shape["$defs"][model.__name__]["properties"]
    rows = [
        (
            f"`{key}`",
            flags[key],
            _type(properties[key]),
            _default(field),
            (field.description or "").replace("|", "\\|"),
        )
        for key, field in model.model_fields.items()
    ]
    head = ["| key | flag | type | default | description |", "|---|---|---|---|---|"]
    return "\n".join([*head, *(f"| {' | '.join(row)} |" for row in rows)])


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default is PydanticUndefined or field.default in (None, ()):
        return "none"
    default = field.default
    return f"`{default if isinstance(default, str) else json.dumps(default)}`"


_BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
_TYPES = {"array": "list", "object": "mapping", "string": "text"}


def _type(shape: dict[str, Any]) -> str:
    """A property of the schema in words."""
    if "anyOf" in shape:
        return " or ".join(_type(one) for one in shape["anyOf"] if one.get("type") != "null")
    if "$ref" in shape:
        return "mapping"
    if "enum" in shape or "const" in shape:
        return ", ".join(f"`{value}`" for value in shape.get("enum", [shape.get("const")]))
    bounds = [f"{sign} {_number(shape[name])}" for name, sign in _BOUNDS.items() if name in shape]
    kind = _TYPES.get(shape.get("type", "any"), shape.get("type", "any"))
    return ", ".join([kind, *bounds])


def _number(value: float) -> str:
    return str(int(value) if value == int(value) else value)


def files() -> dict[Path, str]:
    """What the generated files must hold."""
    return {SCHEMA: json.dumps(schema(), indent=2, ensure_ascii=False) + "\n", PAGE: page()}


def main() -> None:
    """Writes the files."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for path, text in files().items():
        path.write_text(text, encoding="utf-8")
        sys.stdout.write(f"{path.name} is up to date\n")


if __name__ == "__main__":
    main()
