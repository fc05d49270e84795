"""FAD and KAD of an output against reference audio, per model and per group."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from pipeline.audio.scores.distances import frechet_distance, kernel_distance
from pipeline.audio.scores.protocol import ScoredClip
from pipeline.audio.scores.scoring import open_embedder
from pipeline.cli.root import main
from pipeline.report import build_report
from pipeline.report.set_figures import read_figures
from pipeline.storage import open_storage
from tests.integration.jobs import problems
from tests.pipeline.report.outputs import RATE_HZ, Row, clip_row, tune, write_output

N_CLIPS = 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output of two models and two prompts, and reference audio."""
    folder = tmp_path_factory.mktemp("figures")
    rows: list[tuple[Row, bytes]] = []
    for number in range(N_CLIPS):
        model = "tiny" if number < 6 else "other"
        prompt = "even" if number % 2 == 0 else "odd"
        rows.append(clip_row(number, tune(number, 1.0), model=model, prompt=prompt))
    write_output(folder / "out", rows)
    (folder / "refs" / "deep").mkdir(parents=True)
    (folder / "refs" / "notes.txt").write_text("no audio")
    for number in range(8):
        place = folder / "refs" / ("deep" if number % 2 else ".") / f"{number}.wav"
        soundfile.write(place, tune(100 + number, 1.0)[0] * 0.5, RATE_HZ, "FLOAT")
    return folder


def measured(folder: Path, *flags: str) -> dict[str, object]:
    command = ["score", "--output", str(folder / "out"), "--set-figures", "spectrum", "--json"]
    command += ["--reference-audio", str(folder / "refs"), *flags]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)["set_figures"]
    return found


def test_they_are_the_distances_of_the_embeddings(folder: Path) -> None:
    measured(folder)
    figures = read_figures(open_storage(str(folder / "out")))
    assert figures is not None
    assert (figures.embedder, figures.reference_clips, figures.unreadable) == ("spectrum", 8, 0)
    assert [(f.by, f.value, f.clips) for f in figures.figures] == [
        *(("model", "tiny", 6), ("model", "other", 4)),
        *(("prompt", "even", 5), ("prompt", "odd", 5)),
    ]
    embedder = open_embedder("spectrum")
    clips = [embedder.embed(ScoredClip(tune(n, 1.0), RATE_HZ)) for n in range(6)]
    target = [embedder.embed(ScoredClip(tune(100 + n, 1.0) * 0.5, RATE_HZ)) for n in range(8)]
    tiny = figures.figures[0]
    # Clips are stored with 16 bits, and files are listed in an order of their own.
    assert tiny.fad == pytest.approx(frechet_distance(np.stack(clips), np.stack(target)), rel=1e-3)
    assert tiny.kad == pytest.approx(kernel_distance(np.stack(clips), np.stack(target)), rel=1e-3)
    assert problems(f"file://{folder}/out") == []


def test_clips_are_nearer_to_their_like(folder: Path) -> None:
    embedder = open_embedder("spectrum")

    def heard(first: int, gain: float) -> np.ndarray:
        clips = [ScoredClip(tune(first + n, 1.0) * np.float32(gain), RATE_HZ) for n in range(16)]
        return np.stack([embedder.embed(clip) for clip in clips])

    own, like, far = heard(0, 1.0), heard(20, 1.0), heard(40, 0.05)
    for distance in (frechet_distance, kernel_distance):
        near, away = distance(own, like), distance(own, far)
        assert near is not None
        assert away is not None
        assert near < 0.2 * away


def test_a_column_makes_groups_and_the_report_shows_them(folder: Path) -> None:
    found = measured(folder, "--group-by", "take")
    figures = found["figures"]
    assert isinstance(figures, list)
    assert [each["by"] for each in figures] == ["model", "model", "take"]
    page = build_report(open_storage(str(folder / "out")), sample=0)
    assert "Against reference audio" in page
    assert f"{figures[0]['fad']:.4f}" in page


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--group-by", "colour"], "has no column colour; --group-by takes a column of clips/"),
        (["--reference-audio", "EMPTY"], "0 audio files"),
        (["--set-figures", "melody"], "no embedder is named 'melody'; known: clap, spectrum"),
    ],
)
def test_what_is_wrong_is_said(folder: Path, tmp_path: Path, flags: list[str], said: str) -> None:
    flags = [str(tmp_path) if flag == "EMPTY" else flag for flag in flags]
    command = ["score", "--output", str(folder / "out"), "--set-figures", "spectrum"]
    command += ["--reference-audio", str(folder / "refs"), *flags]
    done = CliRunner().invoke(main, command)
    assert (done.exit_code, done.stdout) == (2, "")
    assert said in done.stderr


def test_people_see_a_table_of_80_columns(folder: Path) -> None:
    measured(folder)
    figures = read_figures(open_storage(str(folder / "out")))
    assert figures is not None
    lines = figures.text().splitlines()
    assert all(len(line) <= 80 for line in lines[:-1])
    assert lines[2].startswith("model tiny")
    assert "says more of their number than of their sound" in lines[-1]
