"""What the tests read out of Markdown pages: tables, links, anchors, code, and names."""

import ast
import re
import shlex
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = (".github", "deploy", "docs", "examples", "manifests", "musicgen", "pipeline", "tests")
# Pages, folders and flags that are named before they are there.
NOT_YET_THERE: set[str] = set()

Table = list[list[str]]


def pages() -> list[Path]:
    """Every Markdown page of the repository."""
    below = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.md")]
    return sorted([*ROOT.glob("*.md"), *below])


def name_of(page: Path) -> str:
    """The page as a person names it, from the root of the repository."""
    return page.relative_to(ROOT).as_posix()


def without_blocks(text: str) -> str:
    """The page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


def inline_code(text: str) -> list[str]:
    """What stands between single backticks, outside of blocks."""
    return re.findall(r"(?<!`)`([^`\n]+)`(?!`)", without_blocks(text))


def tables(text: str) -> list[Table]:
    """Every table: its rows of cells, the header first."""
    found: list[Table] = []
    inside = False
    for line in without_blocks(text).splitlines():
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


def table(page: str, *header: str) -> Table:
    """The rows of the one table of a page with that header."""
    rows = all_tables(page, *header)
    assert len(rows) == 1, f"{page} has {len(rows)} tables {header}"
    return rows[0]


def all_tables(page: str, *header: str) -> list[Table]:
    """The rows of every table of a page with that header."""
    found = tables((ROOT / page).read_text())
    return [rows[1:] for rows in found if rows[0] == list(header)]


def links(text: str) -> list[tuple[str, str]]:
    """Targets of the relative links and pictures: path ("" for the page itself) and anchor."""
    found = re.findall(r"\]\(([^)\s]+)\)", without_blocks(text))
    return [
        (target.partition("#")[0], target.partition("#")[2])
        for target in found
        if not re.match(r"[a-z]+:", target)
    ]


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    titles = re.findall(r"^#{1,6} (.+)$", without_blocks(text), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-") for title in titles}


def shell_commands(text: str) -> list[list[str]]:
    """The words of each command that a console block shows behind `$`."""
    found = []
    for block in blocks(text, "console"):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("$ "):
                words = shlex.split(line[2:], comments=True)
                found.append([word for word in words if word != "&"])
    return found


@cache
def parsed(path: str) -> ast.Module:
    """A Python file of the repository."""
    assert (ROOT / path).is_file(), f"{path} does not exist"
    return ast.parse((ROOT / path).read_text())


def classes(path: str, name: str) -> list[ast.ClassDef]:
    """The classes of a file that have that name."""
    body = parsed(path).body
    return [node for node in body if isinstance(node, ast.ClassDef) and node.name == name]


def has(path: str, dotted: str) -> bool:
    """Whether the file defines `Name` or `Class.name`."""
    name, _, member = dotted.partition(".")
    if not member:
        return name in _defined(parsed(path).body)
    return any(member in _defined(node.body, of_self=True) for node in classes(path, name))


def _defined(body: list[ast.stmt], *, of_self: bool = False) -> set[str]:
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
