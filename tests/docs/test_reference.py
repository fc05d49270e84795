"""The tables of the pages are complete: nothing public is missing, nothing is made up."""

import ast
import re

import pytest

from pipeline import config
from pipeline.audio.limits import QualityLimits
from pipeline.audio.measures_table import MEASURES
from pipeline.cli import errors
from tests.docs.command_line import choices, commands
from tests.docs.dataset_tables import DOCS, TABLES, with_tables
from tests.docs.markdown import ROOT, all_tables, classes, has, table

PARITY = "docs/reference/audiocraft-parity.md"
FEATURES = ("feature", "where", "test")
# AudioCraft's classes whose every public method and parameter has a row, and where ours are.
REFERENCE = {
    "MusicGen": "musicgen/model.py",
    "AudioGen": "musicgen/audiogen.py",
    "LMModel": "musicgen/lm/model.py",
    "CompressionModel": "musicgen/codec/codec.py",
}
GRADES = {"tested in CI", "run by hand", "written, never run", "unsupported"}
A_TEST = re.compile(r"`tests/[\w/]+\.py::(?:Test\w+::)?test_\w+`")


def public_methods(class_name: str) -> dict[str, list[str]]:
    """Each public method of a class, properties included, and its parameters."""
    (node,) = classes(REFERENCE[class_name], class_name)
    methods = {}
    for method in node.body:
        if isinstance(method, ast.FunctionDef) and not method.name.startswith("_"):
            given = [arg.arg for arg in method.args.args + method.args.kwonlyargs]
            methods[method.name] = [name for name in given if name not in ("self", "cls")]
    return methods


def test_every_feature_says_where_it_lives_and_what_proves_it() -> None:
    wrong = []
    for feature, where, test in table(PARITY, *FEATURES):
        place = re.fullmatch(r"`((?:musicgen|pipeline)/[\w/]+\.py): ([\w.]+)`", where)
        if place is None or not has(place[1], place[2]):
            wrong.append(f"{feature}: {where}")
        if not A_TEST.fullmatch(test):
            wrong.append(f"{feature}: {test}")
    assert wrong == []


@pytest.mark.parametrize("class_name", REFERENCE)
def test_every_public_method_and_parameter_has_a_row(class_name: str) -> None:
    rows = [set(re.findall(r"\w+", feature)) for feature, *_ in table(PARITY, *FEATURES)]
    methods = public_methods(class_name)
    assert methods
    missing = [name for name in methods if not any(name in row for row in rows)]
    for name, parameters in methods.items():
        told = set().union(*(row for row in rows if name in row))
        missing += [f"{name}({parameter})" for parameter in parameters if parameter not in told]
    assert missing == []


def test_every_difference_names_the_test_that_holds_it() -> None:
    for _, _, test in table(PARITY, "reference", "here", "test"):
        assert A_TEST.fullmatch(test), test


def test_the_commands_are_those_of_the_command_line() -> None:
    named = []
    for command, _ in table("README.md", "command", "does"):
        written = re.fullmatch(r"`([a-z -]+?)(?: [A-Z\[-].*)?`", command)
        assert written is not None, command
        named.append(written[1])
    assert sorted(named) == sorted(commands())


def test_every_exit_code_is_explained() -> None:
    places = vars(errors) | vars(config)
    codes = {value for name, value in places.items() if name.startswith("EXIT_")}
    explained = [int(code) for code, _ in table("docs/operations.md", "code", "means")]
    assert explained == sorted({0} | codes)


def test_the_measures_and_limits_are_those_of_the_code() -> None:
    rows = table("docs/audio-and-qc.md", "measure", "unit", "is", "limits")
    measures = [name for row in rows for name in re.findall(r"`(\w+)`", row[0])]
    assert sorted(measures) == sorted(MEASURES)
    limits = [name for row in rows for name in re.findall(r"`(\w+)`", row[3])]
    assert sorted(limits) == sorted(QualityLimits.model_fields)


@pytest.mark.parametrize(
    ("flag", "header"),
    [
        ("--normalize", ("`--normalize`", "does", "setting (default)")),
        ("--audio-format", ("format", "coding", "settings")),
    ],
)
def test_the_strategies_and_formats_are_those_of_the_settings(
    flag: str, header: tuple[str, ...]
) -> None:
    rows = table("docs/audio-and-qc.md", *header)
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row[0])]
    assert sorted(named) == sorted(choices(flag))


def test_the_manifests_columns_are_those_of_the_schema() -> None:
    from manifests.schema import COLUMNS

    rows = table("docs/manifest.md", "column", "unit", "meaning")
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row[0])]
    assert sorted(named) == sorted(COLUMNS)


@pytest.mark.parametrize("name", TABLES)
def test_the_generated_tables_of_a_page_are_up_to_date(name: str) -> None:
    page = (DOCS / name).read_text()
    assert page == with_tables(name, page), "stale: `make columns-table` writes the tables anew"
    stale = page.replace("\n| `", "\n| stale `")
    assert with_tables(name, stale) != stale


def test_every_stage_of_a_dead_letter_is_one_of_the_code() -> None:
    code = "".join(path.read_text() for path in (ROOT / "pipeline").rglob("*.py"))
    for stage, _ in table("docs/dataset-schema.md", "stage", "the row failed"):
        assert f'"{stage.strip("`")}"' in code, stage


def test_every_claim_of_support_has_a_grade_and_what_is_tested_names_a_test() -> None:
    subjects = all_tables("docs/support.md", "what", "grade", "evidence")
    claims = [claim for claims in subjects for claim in claims]
    assert {grade for _, grade, _ in claims} == GRADES
    for what, grade, evidence in claims:
        if grade == "tested in CI":
            assert A_TEST.search(evidence), what
    explained = [grade for grade, _ in table("docs/support.md", "grade", "means")]
    assert set(explained) == GRADES


def test_every_invariant_names_the_test_that_holds_it() -> None:
    rows = table("docs/architecture.md", "invariant", "prevents", "test")
    assert len(rows) >= 20
    for invariant, _, test in rows:
        assert A_TEST.fullmatch(test), invariant
