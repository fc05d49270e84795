"""The examples that ship with the project are what the README says they are."""

import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import soundfile

import manifests
from manifests.build import build
from manifests.check import check
from manifests.schema import BUILT_IN_DEFAULTS, PromptRow, effective
from manifests.sources.tables import Tables
from musicgen.tiny.training.pieces import KEYS
from musicgen.tiny.training.recipe import SAMPLING
from musicgen.tiny.training.tunes import write_tunes
from musicgen.tiny.training.vocabulary import words
from pipeline.config_file import load_config

EXAMPLES = Path(manifests.__file__).parent / "examples"


def rows_of(name: str) -> list[PromptRow]:
    with Tables([str(EXAMPLES / name)]) as tables:
        rows = [row.parse()[0] for row in tables.rows()]
    assert None not in rows
    return [row for row in rows if row is not None]


@pytest.mark.parametrize("name", ["demo.jsonl", "text.jsonl", "text.csv"])
def test_examples_build_without_a_complaint(name: str, tmp_path: Path) -> None:
    summary = build(str(EXAMPLES / name), str(tmp_path / "m.parquet"))
    assert (summary.issues, summary.column_faults) == ((), ())
    assert pq.read_metadata(tmp_path / "m.parquet").num_rows == summary.n_rows


def test_the_demo_samples_as_suits_the_bundled_model() -> None:
    generation = load_config(
        str(EXAMPLES / "demo.yaml"), {"manifest": "-", "output": "-"}
    ).generation
    assert generation.top_k == SAMPLING.top_k
    assert generation.temperature == SAMPLING.temperature
    assert generation.cfg_coef == SAMPLING.cfg_coef


def test_the_demo_shows_every_kind_of_row_in_about_two_minutes_of_audio() -> None:
    rows = rows_of("demo.jsonl")
    params = [effective(row, BUILT_IN_DEFAULTS) for row in rows]
    assert len(rows) >= 16
    assert sum(row.takes or 1 for row in rows) == 23
    audio_s = sum(p.duration_s * (row.takes or 1) for row, p in zip(rows, params, strict=True))
    assert 110 <= audio_s <= 150
    assert {role for row in rows for role in row.references()} == {"melody", "continuation"}
    assert min(p.duration_s for p in params) == 0.6
    assert max(p.duration_s for p in params) == 14.0
    assert any(not p.use_sampling for p in params)
    assert any(p.cfg_coef == 1 for p in params)
    assert any(p.top_p for p in params)
    assert any(p.temperature != 1 for p in params)
    assert any(row.prompt is None for row in rows)


@pytest.mark.parametrize("name", ["demo.jsonl", "text.jsonl", "text.csv"])
def test_most_prompts_are_in_the_words_of_the_bundled_model(name: str) -> None:
    prompts = [row.prompt.lower() for row in rows_of(name) if row.prompt]
    known = {"a", *(part for word in words() for part in word.split())}
    share = [
        sum(word in known for word in said) / len(said)
        for prompt in prompts
        for said in [prompt.replace(",", "").split()]
    ]
    keys = [any(prompt.startswith(key.lower()) for key in KEYS) for prompt in prompts]
    assert sum(s >= 0.7 for s in share) >= 0.7 * len(prompts)
    assert sum(keys) >= 0.7 * len(prompts)


def test_the_demos_only_fault_is_the_row_that_is_broken_on_purpose() -> None:
    report = check(str(EXAMPLES / "demo.jsonl"), read_audio=True)
    (issue,) = report.issues
    assert issue.id == "broken-melody"
    assert issue.rule.endswith("no-such-file.flac: no such file; correct the path, then `retry`")


@pytest.mark.slow
def test_the_audio_is_what_the_synthesiser_makes(tmp_path: Path) -> None:
    made = {path.name: path for path in write_tunes(tmp_path)}
    shipped = sorted((EXAMPLES / "audio").iterdir())
    assert [path.name for path in shipped] == sorted(made)
    for path in shipped:
        assert path.stat().st_size < 150_000
        again, _ = soundfile.read(made[path.name])
        samples, sample_rate_hz = soundfile.read(path)
        assert sample_rate_hz == 16_000
        # a last-bit difference of sin() between machines may move a sample by one step
        assert samples == pytest.approx(again, abs=2**-15)
        assert 0.1 < abs(samples).max() < 1.0


def test_the_package_needs_neither_torch_nor_ray_nor_the_other_packages() -> None:
    code = (
        "import sys, manifests.build, manifests.check, manifests.reader\n"
        "heavy = {'torch', 'ray', 'transformers', 'pandas', 'soundfile', 'musicgen', 'pipeline'}\n"
        "sys.exit(str(heavy & sys.modules.keys()) if heavy & sys.modules.keys() else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
