"""CONTRIBUTING is a map that leads somewhere; the files around the repository can be read."""

import os
import re

import pytest
import yaml

from tests.docs.markdown import ROOT, has, table

QUESTIONS = ("chroma", "guidance", "part", "dead letter", "flag", "S3 errors", "RayJob")
GLOSSARY = {
    *("clip", "take", "row", "batch row", "dead letter", "part", "slot", "block", "window"),
    *("prefix", "prompt", "replica", "lease", "attempt record", "suspect", "quarantine", "drain"),
}
PACKAGES = ("manifests", "musicgen", "pipeline")


@pytest.mark.parametrize("subject", QUESTIONS)
def test_the_map_answers_the_questions_of_a_newcomer(subject: str) -> None:
    (answer,) = [
        answer
        for question, answer in table("CONTRIBUTING.md", "question", "answer")
        if subject in question
    ]
    path, _, symbol = re.findall(r"`([^`]+)`", answer)[0].partition(": ")
    assert (ROOT / path).is_file()
    assert path == "deploy/kubernetes/base/rayjob.yaml" or has(path, symbol)


def test_the_map_names_every_folder_of_the_packages() -> None:
    folders = table("CONTRIBUTING.md", "folder", "does")
    named = set(re.findall(r"`([\w/]+)/`", " ".join(cell for row in folders for cell in row)))
    there = {
        f"{package}/{path.name}"
        for package in PACKAGES
        for path in (ROOT / package).iterdir()
        if path.is_dir() and path.name != "__pycache__"
    }
    assert there <= named


def test_the_glossary_has_the_words_of_the_project() -> None:
    assert {word for word, _ in table("CONTRIBUTING.md", "word", "means")} >= GLOSSARY


def test_the_citation_can_be_read() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["cff-version"] == "1.2.0"
    assert cited["authors"] == [{"name": "musicgen-batch contributors"}]
    pyproject = (ROOT / "pyproject.toml").read_text()
    assert f'version = "{cited["version"]}"' in pyproject
    assert f'license = "{cited["license"]}"' in pyproject


def test_the_workflow_runs_the_gate() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    assert [step["run"] for step in steps if "run" in step] == ["bash .ci/run"]
    assert os.access(ROOT / ".ci" / "run", os.R_OK)
    assert set(workflow[True]) == {"push", "pull_request"}  # YAML 1.1 reads `on` as true


@pytest.mark.parametrize("name", ["bug", "feature"])
def test_the_issue_templates_ask_for_something(name: str) -> None:
    form = yaml.safe_load((ROOT / f".github/ISSUE_TEMPLATE/{name}.yml").read_text())
    assert form["name"]
    assert form["description"]
    asked = [field["id"] for field in form["body"]]
    assert len(asked) == len(set(asked)) >= 3
    assert any(field.get("validations", {}).get("required") for field in form["body"])
