"""`deploy/README.md` names every file, and grades every way."""

import re

from tests.deploy.files import FOLDER
from tests.docs.markdown import tables

GRADES = ("tested in CI", "run by hand", "written, never run", "unsupported")
UNNAMED = {"kustomization.yaml"}


def test_the_readme_names_every_file_and_no_other() -> None:
    text = (FOLDER / "README.md").read_text()
    named = {
        found.rpartition("/")[2]
        for found in re.findall(r"[\w./-]+\.(?:yaml|json|sbatch|sh|lock)\b", text)
    } - {"job.yaml"}
    there = {path.name for path in FOLDER.rglob("*") if path.is_file()} - {"README.md"} - UNNAMED

    assert (named - UNNAMED) | {"Dockerfile", "Dockerfile.dockerignore"} == there
    assert "deploy/Dockerfile" in text


def test_the_readme_names_every_overlay_and_component() -> None:
    text = (FOLDER / "README.md").read_text()
    for kind in ("overlays", "components"):
        for folder in (FOLDER / "kubernetes" / kind).iterdir():
            if folder.name != "namespace":
                assert f"`{folder.name}`" in text or f"/{folder.name}/" in text, folder


def test_every_way_has_a_grade() -> None:
    ways = next(t for t in tables((FOLDER / "README.md").read_text()) if "grade" in t[0])
    assert len(ways) > 9
    for way in ways[1:]:
        assert way[-1].startswith(GRADES), way
