"""The lock files pin what pyproject.toml asks for, with hashes, and name no index."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DEV = ROOT / "deploy" / "requirements-dev.lock"
IMAGE = ROOT / "deploy" / "requirements.lock"
PIN = re.compile(r"^(?P<name>[\w.-]+)(\[[^]]*\])?==(?P<version>\S+)( ; (?P<marker>[^\\]+))?")


def pins(lock: Path) -> dict[str, str]:
    """Versions by name; a name that two Python versions pin differently is an error."""
    found: dict[str, str] = {}
    for line in lock.read_text().splitlines():
        if match := PIN.match(line):
            assert match["name"] not in found, f"{match['name']} is pinned twice"
            found[match["name"]] = match["version"]
    return found


def unmet(requirements: list[str], lock: Path) -> list[str]:
    pinned = pins(lock)
    wanted = [Requirement(text) for text in requirements]
    return [
        str(requirement)
        for requirement in wanted
        if not requirement.specifier.contains(pinned.get(canonicalize_name(requirement.name), "0"))
    ]


def test_the_locks_pin_what_the_project_asks_for() -> None:
    assert unmet([*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]], DEV) == []
    assert unmet(PROJECT["dependencies"], IMAGE) == []
    assert unmet(["click<1", "nothing-of-the-kind>=1"], DEV) == [
        "click<1",
        "nothing-of-the-kind>=1",
    ]


def test_the_image_gets_versions_that_the_tests_ran_with() -> None:
    tested = pins(DEV)
    assert {name: tested.get(name) for name in pins(IMAGE)} == pins(IMAGE)


@pytest.mark.parametrize("lock", [DEV, IMAGE], ids=lambda lock: lock.name)
def test_a_lock_has_hashes_for_every_pin_and_names_no_place(lock: Path) -> None:
    """An index or a folder in the lock would override the one that pip is set up with."""
    text = lock.read_text()
    lines = [line.strip() for line in text.splitlines() if not line.startswith("#")]
    hashes = re.compile(r"--hash=sha256:[0-9a-f]{64}( \\)?")
    assert [line for line in lines if not PIN.match(line) and not hashes.fullmatch(line)] == []
    assert len(re.findall(r"== *\S+[^\n]*\\\n +--hash=", text)) == len(pins(lock))
    assert "://" not in text
