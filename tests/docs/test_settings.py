"""The reference of the settings is up to date, and the schema judges files as the program does."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from pipeline.config import SETTINGS, ConfigError, flag_of
from pipeline.config_file import load_config
from tests.docs.settings import PAGE, SCHEMA, files

EXAMPLES = Path(__file__).parents[2] / "manifests" / "examples"
PLACES = {"manifest": "m.parquet", "output": "o", "model": "tiny"}


@pytest.fixture(scope="module")
def validator() -> Any:
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("path", [SCHEMA, PAGE], ids=lambda path: path.name)
def test_the_reference_is_what_the_settings_say(path: Path) -> None:
    said = path.read_text(encoding="utf-8")
    assert said == files()[path], "stale: `python -m tests.docs.settings` writes it anew"


def test_the_page_names_every_flag() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert [name for name in SETTINGS if f"| `{flag_of(name)}` |" not in page] == []


def test_the_demos_settings_fit_the_schema_that_they_name(validator: Any) -> None:
    text = (EXAMPLES / "demo.yaml").read_text()
    named = text.splitlines()[0].removeprefix("# yaml-language-server: $schema=")

    assert (EXAMPLES / named).resolve() == SCHEMA
    validator.validate(yaml.safe_load(text))


@pytest.mark.parametrize(
    "text",
    [
        "model: tiny",
        "model: {name: tiny, revision: v1}",
        "engine: {slots: auto}",
        "run: {max_runtime: 3600, storage_options: {endpoint_url: 'http://x'}}",
        "quality: {qc: {max_dc_offset: null}}",
    ],
)
def test_what_the_schema_takes_is_taken(text: str, validator: Any, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(text)

    assert validator.is_valid(yaml.safe_load(text))
    load_config(str(tmp_path / "job.yaml"), PLACES)


@pytest.mark.parametrize(
    "text",
    [
        "slots: 32",
        "engine: {slotz: 3}",
        "engine: {slots: 0}",
        "engine: {slots: many}",
        "cluster: {slots: 3}",
        "audio: parquet",
        "audio: {audio_format: aac}",
        "generation: {duration_s: 9999}",
        "quality: {qc: {max_silence_ratio: 50}}",
        "run: {runtime: slurm}",
    ],
)
def test_a_wrong_file_fails_both(text: str, validator: Any, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(text)

    assert not validator.is_valid(yaml.safe_load(text))
    with pytest.raises(ConfigError):
        load_config(str(tmp_path / "job.yaml"), PLACES)
