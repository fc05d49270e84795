"""Every Markdown page holds: its links lead somewhere, what it names exists, its examples parse."""

import ast
import re
from pathlib import Path

import click
import pytest
import yaml

from tests.docs.command_line import all_flags, commands, flags_of, parse
from tests.docs.markdown import (
    NOT_YET_THERE,
    ROOT,
    anchors,
    blocks,
    has,
    inline_code,
    links,
    name_of,
    pages,
    shell_commands,
    tables,
    without_blocks,
)

PAGES = pages()
OURS = [page for page in PAGES if page.parent in (ROOT, ROOT / "docs", ROOT / "docs/reference")]
SECTIONS = {
    *("model", "generation", "engine", "cluster", "references", "parts", "audio", "quality", "run"),
    *("marks", "price"),
}
# Flags of the benchmarks, which are scripts of the tests.
FLAGS_OF_SCRIPTS = {"--only"}
A_PATH = re.compile(
    r"((?:\.ci|\.github|deploy|docs|examples|manifests|musicgen|pipeline|tests)/[\w./-]*)"
    r"(?:: ([A-Za-z_][\w.]*))?"
)

every_page = pytest.mark.parametrize("page", PAGES, ids=name_of)
each_of_ours = pytest.mark.parametrize("page", OURS, ids=name_of)


def test_the_pages_are_found() -> None:
    found = {name_of(page) for page in PAGES}
    assert {"README.md", "CONTRIBUTING.md", "docs/README.md", "deploy/README.md"} <= found


def test_the_readme_is_short() -> None:
    assert (ROOT / "README.md").stat().st_size <= 12 * 1024


def test_the_index_names_every_page_of_the_documentation() -> None:
    index = ROOT / "docs" / "README.md"
    named = {(index.parent / path).resolve() for path, _ in links(index.read_text())}
    missing = [p for p in (ROOT / "docs").rglob("*.md") if p != index and p not in named]
    assert missing == []


@every_page
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for path, anchor in links(page.read_text()):
        target = (page.parent / path).resolve() if path else page
        if target.is_relative_to(ROOT) and name_of(target) in NOT_YET_THERE:
            continue
        assert target.exists(), f"{path} does not exist"
        if anchor:
            assert anchor in anchors(target.read_text()), f"{path or name_of(page)} lacks #{anchor}"
        if target.suffix == ".png":
            assert target.read_bytes().startswith(b"\x89PNG"), path


@every_page
def test_no_cell_of_any_table_is_empty(page: Path) -> None:
    """But for units: text and plain numbers have none."""
    for header, *rows in tables(page.read_text()):
        assert rows, f"the table {header} has no rows"
        for row in rows:
            assert len(row) == len(header), row
            assert all(cell or name == "unit" for name, cell in zip(header, row, strict=True)), row


@every_page
def test_every_test_that_is_named_exists(page: Path) -> None:
    named = set(re.findall(r"(tests/[\w/]+\.py)::([\w:]+)", page.read_text()))
    missing = [f"{path}::{name}" for path, name in named if not has(path, name.replace("::", "."))]
    assert missing == []


@each_of_ours
def test_every_path_and_symbol_that_is_named_exists(page: Path) -> None:
    wrong = []
    for code in inline_code(page.read_text()):
        found = A_PATH.fullmatch(code)
        if found is None:
            continue
        path, symbol = found[1], found[2]
        if path in NOT_YET_THERE:
            continue
        if not (ROOT / path).exists() or (symbol and not has(path, symbol)):
            wrong.append(code)
    assert wrong == []


@each_of_ours
def test_every_flag_that_is_named_exists(page: Path) -> None:
    named = {
        flag
        for code in inline_code(page.read_text())
        if not code.startswith(("ray ", "pip "))
        for flag in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", code)
    }
    if name_of(page) == "docs/reference/errors.md":  # some of its cases are flags that do not exist
        return
    assert named - all_flags() - FLAGS_OF_SCRIPTS - NOT_YET_THERE == set()


@every_page
def test_the_commands_that_are_shown_parse(page: Path) -> None:
    for words in shell_commands(page.read_text()):
        if words[0] != "musicgen-batch":
            continue
        try:
            parse(words[1:])
        except click.UsageError as error:
            pytest.fail(f"{' '.join(words)}: {error.format_message()}")


def test_a_flag_that_does_not_exist_is_noticed() -> None:
    (words,) = shell_commands(
        "```console\n$ musicgen-batch run --slotz 3 \\\n  --model tiny\n```\n"
    )
    assert words == ["musicgen-batch", "run", "--slotz", "3", "--model", "tiny"]
    with pytest.raises(click.UsageError, match="--slotz"):
        parse(words[1:])


@every_page
def test_the_make_targets_that_are_named_exist(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z0-9-]+):", makefile, flags=re.MULTILINE))
    text = page.read_text()
    named = {words[1] for words in shell_commands(text) if words[0] == "make"}
    named |= {code.split()[1] for code in inline_code(text) if re.match(r"make [a-z]", code)}
    assert named <= targets


@each_of_ours
def test_the_settings_of_yaml_examples_are_flags_in_sections(page: Path) -> None:
    flags = flags_of(commands()["run"])
    for block in blocks(page.read_text(), "yaml"):
        for section, settings in yaml.safe_load(block).items():
            assert section in SECTIONS
            for name in settings if isinstance(settings, dict) else ():
                assert f"--{name.replace('_', '-')}" in flags, f"{section}.{name}"


@every_page
def test_python_examples_are_python(page: Path) -> None:
    for block in blocks(page.read_text(), "python"):
        ast.parse(block)


@each_of_ours
def test_headings_are_unique_so_that_anchors_are(page: Path) -> None:
    titles = re.findall(r"^#{1,6} .+$", without_blocks(page.read_text()), flags=re.MULTILINE)
    assert len(titles) == len(set(titles))
