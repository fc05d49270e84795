"""Habits of the code base that no linter checks: short signatures, short files, honest tests.

Each rule is a function from source text to what breaks it, and is shown to find something.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("manifests", "musicgen", "pipeline")
MOST_PARAMETERS, MOST_LINES = 8, 400

# Names of modules that are not ours, whose private attributes a test may need.
NOT_OURS = ("os", "ray", "torch")


def sources(*folders: str) -> Iterator[tuple[str, str]]:
    """Path from the root of the repository, and text, of each Python file below `folders`."""
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")


def long_signatures(text: str) -> list[str]:
    """Functions with too many parameters, `self` and `cls` not counted. Triton kernels may have
    more: each tensor that they read or write is a parameter of its own."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if "triton.jit" in map(ast.unparse, node.decorator_list):
                continue
            given = node.args
            named = [*given.posonlyargs, *given.args, *given.kwonlyargs]
            starred = [arg for arg in (given.vararg, given.kwarg) if arg is not None]
            names = {arg.arg for arg in [*named, *starred]} - {"self", "cls"}
            if len(names) > MOST_PARAMETERS:
                found.append(node.name)
    return found


def private_uses(text: str) -> list[str]:
    """Private attributes of other objects, and private names of our own modules."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            base = ast.unparse(node.value)
            if base not in ("self", "cls") and base.partition(".")[0] not in NOT_OURS:
                found.append(ast.unparse(node))
        elif isinstance(node, ast.ImportFrom) and is_ours(node.module or ""):
            found += [alias.name for alias in node.names if is_private(alias.name)]
    return found


def is_ours(module: str) -> bool:
    return module.partition(".")[0] in PACKAGES


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def test_no_function_has_more_than_8_parameters() -> None:
    found = {
        f"{path}: {name}" for path, text in sources(*PACKAGES) for name in long_signatures(text)
    }
    assert found == set()


def test_no_file_has_more_than_400_lines() -> None:
    long = {path: text.count("\n") for path, text in sources(*PACKAGES)}
    assert {path: lines for path, lines in long.items() if lines > MOST_LINES} == {}


def test_tests_touch_no_private_attribute_of_our_code() -> None:
    found = {path: uses for path, text in sources("tests") if (uses := private_uses(text))}
    assert found == {}


@pytest.mark.parametrize(
    ("signature", "is_long"),
    [
        ("self, a, b, c, d, e, f, g, h", False),
        ("a, b, c, d, e, f, g, h, i", True),
        ("a, b, c, d, /, e, f, *, g, h, i", True),
        ("a, b, c, d, e, f, g, *args, **kwargs", True),
    ],
)
def test_parameters_of_every_kind_are_counted(signature: str, is_long: bool) -> None:
    text = f"class Some:\n    def method({signature}): ...\n"
    assert long_signatures(text) == (["method"] if is_long else [])


def test_a_triton_kernel_may_have_more_parameters() -> None:
    kernel = "@triton.jit\ndef kernel(a, b, c, d, e, f, g, h, i): ...\n"
    assert long_signatures(kernel) == []
    assert long_signatures(kernel.replace("@triton.jit", "@cache")) == ["kernel"]


@pytest.mark.parametrize(
    ("line", "uses"),
    [
        ("engine._state.step", ["engine._state"]),
        ("make()._queue", ["make()._queue"]),
        ("self.engine._queue = 1", ["self.engine._queue"]),
        ("from pipeline.audio.measure import _filter", ["_filter"]),
        ("self._seen, engine.state, engine.__dict__", []),
        ("ray._private.worker._global_node, torch._dynamo.reset()", []),
        ("from torch.utils._python_dispatch import TorchDispatchMode", []),
    ],
)
def test_private_uses_are_found_and_those_of_other_libraries_left_out(
    line: str, uses: list[str]
) -> None:
    assert private_uses(line) == uses
