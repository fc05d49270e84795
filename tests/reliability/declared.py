"""Which faults tests declare, read from their source: no test is imported for that."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

from tests.reliability.outcomes import Fault, fault

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Declared:
    """A fault with the test that causes it."""

    fault: Fault
    test: str
    is_long: bool


def declared_faults() -> dict[str, Declared]:
    """Every fault that a test declares, read from the source of the tests."""
    found: dict[str, Declared] = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        source = path.read_text()
        if "@fault(" not in source and "=fault(" not in source:
            continue
        tree = ast.parse(source)
        constants = _constants(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                for each in _faults_of(node, constants):
                    assert each.key not in found, f"two tests declare {each.key}"
                    name = f"{path.relative_to(ROOT).as_posix()}::{node.name}"
                    found[each.key] = Declared(each, name, _is_long(node))
    return found


def _constants(tree: ast.Module) -> dict[str, str]:
    """The texts that a file names, such as `WHEN = "..."`."""
    return {
        node.targets[0].id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    }


def _text(node: ast.expr, constants: dict[str, str]) -> str:
    return constants[node.id] if isinstance(node, ast.Name) else str(ast.literal_eval(node))


def _faults_of(function: ast.FunctionDef, constants: dict[str, str]) -> list[Fault]:
    calls = [call for mark in function.decorator_list for call in ast.walk(mark)]
    return [
        Fault(*(_text(argument, constants) for argument in call.args))
        for call in calls
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Name)
        and call.func.id == fault.__name__
    ]


def _is_long(function: ast.FunctionDef) -> bool:
    return any(ast.unparse(mark) == "pytest.mark.long" for mark in function.decorator_list)
