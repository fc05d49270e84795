"""Every kind of model through the job, row by row: checked by numbers, to the sample."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
from click.testing import CliRunner

from pipeline import ledger
from pipeline.cli.root import main
from pipeline.storage import open_storage
from tests.integration.jobs import EXAMPLES, clips, problems, run_here, write_manifest
from tests.musicgen.audiocraft_files import save, save_mert, save_t5

AUDIO = EXAMPLES / "audio"
RATE_HZ, HOP, WINDOW_S = 32_000, 640, 2.0  # of the small AudioCraft checkpoints


def listen(output: str) -> dict[tuple[str, int], np.ndarray[Any, Any]]:
    """(id, take) to samples [N, C]; rate, length and finiteness are checked on the way."""
    storage, heard = open_storage(output), {}
    for row in clips(output):
        wav, rate = sf.read(io.BytesIO(storage.get(row["audio_path"])), always_2d=True)
        assert rate == row["sample_rate_hz"]
        assert wav.shape == (row["n_samples"], row["channels"])
        assert np.isfinite(wav).all()
        heard[row["id"], row["take"]] = wav
    return heard


def frames(duration_s: float) -> int:
    return round(duration_s * 50)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Callable[..., dict[str, str]]:
    """A small random AudioCraft checkpoint of a kind, as the settings that name it."""

    def make(kind: str, *, stereo: bool = False) -> dict[str, str]:
        model = save(tmp_path / "model", kind, stereo=stereo)
        parts = {"model": str(model), "text_encoder": str(save_t5(tmp_path / "t5"))}
        if kind == "style":
            parts["style_encoder"] = str(save_mert(tmp_path / "mert"))
        return parts

    return make


def text_rows() -> list[dict[str, Any]]:
    return [
        {"id": "two", "prompt": "calm piano", "duration_s": 0.5, "takes": 2},
        {"id": "double", "prompt": "drums", "duration_s": 0.3, "cfg_coef_beta": 5.0},
        {"id": "plain", "prompt": "drums", "duration_s": 0.3, "cfg_coef": 1.0},
        {"id": "on", "continuation_uri": str(AUDIO / "drums.flac"), "duration_s": 3.0},
        {"id": "long", "prompt": "a long one", "duration_s": 6.5},
    ]


AUDIOGEN_ROWS = [
    {"id": "two", "prompt": "a dog barks", "duration_s": 0.5, "takes": 2},
    {"id": "on", "continuation_uri": str(AUDIO / "drums.flac"), "duration_s": 3.0},
    {"id": "25", "prompt": "rain on a roof", "duration_s": 25.0},
]

EXTRA_ROWS: dict[str, list[dict[str, Any]]] = {
    "text": [],
    "melody": [
        {"id": "m", "prompt": "flute", "melody_uri": str(AUDIO / "ode.flac"), "duration_s": 0.5},
        {"id": "m-long", "melody_uri": str(AUDIO / "ode.flac"), "duration_s": 5.0},
    ],
    "style": [
        {"id": "s", "prompt": "pop", "style_uri": str(AUDIO / "brother.flac"), "duration_s": 0.5},
        {"id": "s-double", "prompt": "pop", "style_uri": str(AUDIO / "ode.flac"),
         "duration_s": 0.5, "cfg_coef_beta": 4.0, "takes": 2},
        {"id": "s-long", "style_uri": str(AUDIO / "ode.flac"), "duration_s": 4.0},
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "stereo"),
    [
        pytest.param("text", False, marks=pytest.mark.long),
        ("text", True),
        ("melody", False),
        ("style", False),
    ],
)
def test_a_model_of_every_kind(
    kind: str, stereo: bool, checkpoint: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    rows = text_rows() + EXTRA_ROWS[kind]
    manifest = write_manifest(tmp_path / "m.parquet", rows)
    output = f"file://{tmp_path}/out"
    model = checkpoint(kind, stereo=stereo)

    summary = run_here(manifest, output, extend_stride_s=1.2, **model)

    assert [r["message"] for r in ledger.read_dead_letters(open_storage(output)).to_pylist()] == []
    assert summary.dead_letters_standing == 0
    assert problems(output) == []
    heard = listen(output)
    assert len(heard) == sum(row.get("takes", 1) for row in rows)
    for row in rows:
        for take in range(row.get("takes", 1)):
            expected = (frames(row["duration_s"]) * HOP, 2 if stereo else 1)
            assert heard[row["id"], take].shape == expected, row["id"]
    assert not np.array_equal(heard["two", 0], heard["two", 1])
    made = {row["id"]: row for row in clips(output)}
    assert {row["channels"] for row in made.values()} == {2 if stereo else 1}
    assert made["long"]["extend_stride_s"] == 1.2
    if kind == "melody":
        assert made["m"]["separation"] == "none"
        assert made["two"]["separation"] is None


@pytest.mark.long
def test_an_audiogen_from_a_table_to_sounds_on_the_command_line(
    checkpoint: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    """Text, takes, a continuation and a clip of nine windows; alone each has the same bytes."""
    table, heard = tmp_path / "rows.json", []
    parts = [
        f"--{name.replace('_', '-')}={value}" for name, value in checkpoint("audiogen").items()
    ]
    for name, rows in (("all", AUDIOGEN_ROWS), ("long", AUDIOGEN_ROWS[-1:])):
        table.write_text(json.dumps(rows))
        manifest, output = tmp_path / f"{name}.parquet", f"file://{tmp_path}/{name}"
        for command in (
            ["manifest", "build", str(table), str(manifest)],
            ["run", "--local", f"--manifest={manifest}", f"--output={output}", *parts],
        ):
            result = CliRunner().invoke(main, command)
            assert result.exit_code == 0, result.output
        assert problems(output) == []
        heard.append(listen(output))
        made = clips(output)
        assert {(row["sample_rate_hz"], row["channels"]) for row in made} == {(16_000, 1)}
        (digest,) = {row["audio_sha256"] for row in made if row["id"] == "25"}
        heard.append(digest)

    seconds = {key: len(wav) / 16_000 for key, wav in heard[0].items()}
    assert seconds == {("two", 0): 0.5, ("two", 1): 0.5, ("on", 0): 3.0, ("25", 0): 25.0}
    assert heard[1] == heard[3]


@pytest.mark.long
def test_a_35_second_row_and_a_row_of_its_own_stride(tmp_path: Path) -> None:
    rows = [
        {"id": "35", "prompt": "long", "duration_s": 35.0},
        {"id": "m", "melody_uri": str(AUDIO / "ode.flac"), "duration_s": 12.0,
         "extend_stride_s": 8.0},
        {"id": "no-overlap", "prompt": "x", "duration_s": 11.0, "extend_stride_s": 10.0},
    ]  # fmt: skip
    output = f"file://{tmp_path}/out"

    run_here(write_manifest(tmp_path / "m.parquet", rows), output)

    heard = listen(output)
    assert {key: len(wav) for key, wav in heard.items()} == {
        ("35", 0): 35 * 16_000,
        ("m", 0): 12 * 16_000,
    }
    (letter,) = ledger.read_dead_letters(open_storage(output)).to_pylist()
    assert letter["id"] == "no-overlap"
    assert "must be shorter than the model's window of 10 s" in letter["message"]


def test_a_style_too_short_for_its_excerpt_is_a_dead_letter(
    checkpoint: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    rows = [
        {"id": "short", "style_uri": str(AUDIO / "drums.flac"), "duration_s": 0.3},
        {"id": "fine", "style_uri": str(AUDIO / "ode.flac"), "duration_s": 0.3},
    ]
    output = f"file://{tmp_path}/out"

    run_here(
        write_manifest(tmp_path / "m.parquet", rows), output, style_excerpt_s=3.0,
        **checkpoint("style"),
    )  # fmt: skip

    assert [key[0] for key in listen(output)] == ["fine"]
    (letter,) = ledger.read_dead_letters(open_storage(output)).to_pylist()
    assert "an excerpt of 3 s is read from it" in letter["message"]
    assert [row["style_excerpt_s"] for row in clips(output)] == [3.0]
