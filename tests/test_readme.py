"""The README's tables hold: what they name exists, no cell is empty, nothing public is missing."""

import ast
import re
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import get_args

import click
import pytest

from pipeline.audio.limits import QualityLimits
from pipeline.audio.measures_table import AudioMeasures
from pipeline.audio.settings import AudioFormat, Normalize
from pipeline.cli.root import main
from pipeline.config import SETTINGS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
MEASURES = ["measure", "is", "limits"]
FEATURES = ["feature", "where", "test"]
COMMANDS = ["command", "does"]
# AudioCraft's classes whose every public method and parameter has a row, and where ours are.
REFERENCE = {
    "MusicGen": "musicgen/model.py",
    "LMModel": "musicgen/lm/model.py",
    "CompressionModel": "musicgen/codec/codec.py",
}

Table = list[list[str]]


def tables(text: str) -> list[Table]:
    """Every Markdown table: its rows of cells, the header first. Code blocks are left out."""
    found: list[Table] = []
    inside = False
    for line in re.sub(r"```.*?```", "", text, flags=re.DOTALL).splitlines():
        if not line.startswith("|"):
            inside = False
            continue
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]
        if not inside:
            found.append([])
            inside = True
        if not all(re.fullmatch(r":?-+:?", cell) for cell in cells):
            found[-1].append(cells)
    return found


def table(header: list[str]) -> Table:
    """The rows of the one table with that header."""
    (found,) = [rows for rows in tables(README) if rows[0] == header]
    return found[1:]


@cache
def parsed(path: str) -> ast.Module:
    assert (ROOT / path).is_file(), f"{path} does not exist"
    return ast.parse((ROOT / path).read_text())


def names(body: list[ast.stmt], *, of_self: bool = False) -> set[str]:
    """What `body` defines: functions, classes and variables; with `of_self` attributes as well."""
    found = set()
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        targets: list[ast.expr] = []
        for part in ast.walk(node) if of_self else [node]:
            targets += part.targets if isinstance(part, ast.Assign) else []
            targets += [part.target] if isinstance(part, ast.AnnAssign) else []
        for target in targets:
            if isinstance(target, ast.Name):
                found.add(target.id)
            elif isinstance(target, ast.Attribute) and ast.unparse(target.value) == "self":
                found.add(target.attr)
    return found


def has(path: str, dotted: str) -> bool:
    """Whether the file defines `Name` or `Class.name`."""
    name, _, member = dotted.partition(".")
    if not member:
        return name in names(parsed(path).body)
    return any(member in names(node.body, of_self=True) for node in classes(path, name))


def classes(path: str, name: str) -> list[ast.ClassDef]:
    body = parsed(path).body
    return [node for node in body if isinstance(node, ast.ClassDef) and node.name == name]


def public_methods(class_name: str) -> dict[str, list[str]]:
    """Each public method of a class, properties included, and its parameters."""
    (node,) = classes(REFERENCE[class_name], class_name)
    methods = {}
    for method in node.body:
        if isinstance(method, ast.FunctionDef) and not method.name.startswith("_"):
            given = [arg.arg for arg in method.args.args + method.args.kwonlyargs]
            methods[method.name] = [name for name in given if name not in ("self", "cls")]
    return methods


def test_no_cell_of_any_table_is_empty() -> None:
    found = tables(README)
    assert found
    for rows in found:
        assert len(rows) > 1, f"the table {rows[0]} has no rows"
        for row in rows:
            assert len(row) == len(rows[0]), row
            assert all(row), row


def test_every_file_that_is_linked_exists() -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", re.sub(r"```.*?```", "", README, flags=re.DOTALL))
    local = [target for target in targets if not target.startswith("http")]
    assert any(target.endswith(".png") for target in local)
    for target in local:
        assert (ROOT / target).is_file(), target
        if target.endswith(".png"):
            assert (ROOT / target).read_bytes().startswith(b"\x89PNG"), target


def test_every_test_that_is_named_exists() -> None:
    named = set(re.findall(r"(tests/[\w/]+\.py)::(\w+)", README))
    assert named
    missing = [f"{path}::{name}" for path, name in sorted(named) if not has(path, name)]
    assert missing == []


def test_every_feature_says_where_it_lives_and_what_proves_it() -> None:
    wrong = []
    for feature, where, test in table(FEATURES):
        place = re.fullmatch(r"`((?:musicgen|pipeline)/[\w/]+\.py): ([\w.]+)`", where)
        if place is None or not has(place[1], place[2]):
            wrong.append(f"{feature}: {where}")
        if not re.fullmatch(r"`tests/[\w/]+\.py::test_\w+`", test):
            wrong.append(f"{feature}: {test}")
    assert wrong == []


@pytest.mark.parametrize("class_name", REFERENCE)
def test_every_public_method_and_parameter_has_a_row(class_name: str) -> None:
    rows = [set(re.findall(r"\w+", feature)) for feature, *_ in table(FEATURES)]
    methods = public_methods(class_name)
    assert methods
    missing = [name for name in methods if not any(name in row for row in rows)]
    for name, parameters in methods.items():
        told = set().union(*(row for row in rows if name in row))
        missing += [f"{name}({parameter})" for parameter in parameters if parameter not in told]
    assert missing == []


def test_the_commands_are_those_of_the_command_line() -> None:
    named = []
    for command, *_ in table(COMMANDS):
        written = re.fullmatch(r"`([a-z ]+?)(?: [A-Z\[-].*)?`", command)
        assert written is not None, command
        named.append(written[1])
    assert sorted(named) == sorted(existing_commands())


def existing_commands() -> list[str]:
    found = []
    for name, command in main.commands.items():
        if isinstance(command, click.Group):
            found += [f"{name} {inner}" for inner in command.commands]
        else:
            found.append(name)
    return found


def test_the_measures_and_limits_are_those_of_the_code() -> None:
    rows = table(MEASURES)
    measures = [name for row in rows for name in re.findall(r"`(\w+)`", row[0])]
    assert sorted(measures) == sorted(field.name for field in fields(AudioMeasures))
    limits = [name for row in rows for name in re.findall(r"`(\w+)`", row[2])]
    assert sorted(limits) == sorted(QualityLimits.model_fields)


def test_the_strategies_and_formats_are_those_of_the_settings() -> None:
    for header, setting in (
        (["`--normalize`", "does", "setting (default)"], Normalize),
        (["format", "coding", "settings"], AudioFormat),
    ):
        named = [name for row in table(header) for name in re.findall(r"`(\w+)`", row[0])]
        assert sorted(named) == sorted(get_args(setting))


def test_every_setting_that_is_named_exists() -> None:
    part = README.partition("## Level, format, quality checks")[2].partition("\n## ")[0]
    flags = {flag.replace("-", "_") for flag in re.findall(r"--([a-z][a-z0-9-]+)", part)}
    assert flags - set(SETTINGS) == {"config"}
