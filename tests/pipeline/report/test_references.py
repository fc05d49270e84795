"""References beside their clips in the report, and controls that name what they play."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf

from manifests.identity import bytes_token
from pipeline.audio.encode import Coding, encode
from pipeline.report import cards
from pipeline.report.page import build_report
from pipeline.storage import Storage
from tests.pipeline.report.outputs import (
    RATE_HZ,
    Page,
    Row,
    clip_row,
    run_record,
    tune,
    write_output,
)

TUNE = tune(9, 1.0)


def output(folder: Path, n: int = 2, **changes: Any) -> tuple[Storage, list[tuple[Row, bytes]]]:
    """Clips that were made after one melody, which lies beside their manifest."""
    data = encode(TUNE, RATE_HZ, Coding())
    (folder / "tune.flac").write_bytes(data)
    named = {"melody_uri": "tune.flac", "references": {"melody": bytes_token(data)}}
    made = [clip_row(number, tune(number, 0.3), **(named | changes)) for number in range(n)]
    runs = [run_record(config={"run": {"manifest": str(folder / "m.parquet")}})]
    return write_output(folder / "out", made, runs=runs), made


def players(page: Page) -> list[dict[str, str | None]]:
    return [each for each in page.all("audio") if str(each["id"]).startswith("reference-")]


def test_a_reference_is_in_the_page_once_and_plays_beside_each_of_its_clips(
    tmp_path: Path,
) -> None:
    page = Page(build_report(output(tmp_path)[0]))

    (player,) = players(page)
    data = base64.b64decode(str(player["src"]).partition(",")[2])
    heard, rate_hz = sf.read(io.BytesIO(data))
    assert rate_hz == RATE_HZ
    np.testing.assert_allclose(heard, TUNE[0], atol=1e-4)
    buttons = [each for each in page.all("button") if each.get("data-plays") == player["id"]]
    assert {each["aria-label"] for each in buttons} == {
        "Play the melody of row-0000 take 0: tune number 0",
        "Play the melody of row-0001 take 0: tune number 1",
    }
    assert page.text.count("melody: tune.flac") == 2


def test_only_the_beginning_of_a_long_reference_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cards, "REFERENCE_S", 0.25)
    (player,) = players(Page(build_report(output(tmp_path)[0])))
    data = base64.b64decode(str(player["src"]).partition(",")[2])
    assert len(sf.read(io.BytesIO(data))[0]) == RATE_HZ // 4


@pytest.mark.parametrize(
    ("uri", "words"),
    [("gone.flac", "no such file"), ("https://example.org/a.flac", "on the web"),
     ("/etc/passwd", "changed")],
)  # fmt: skip
def test_a_reference_that_cannot_be_had_says_why(tmp_path: Path, uri: str, words: str) -> None:
    page = Page(build_report(output(tmp_path, melody_uri=uri)[0]))
    assert players(page) == []
    assert words in page.text
    assert "root:" not in page.text


def test_a_page_of_links_holds_no_reference(tmp_path: Path) -> None:
    page = Page(build_report(output(tmp_path)[0], embed=False))
    assert players(page) == []
    assert "melody: tune.flac (not inside this page)" in page.text


def test_every_control_names_its_clip_and_the_peak_its_unit(tmp_path: Path) -> None:
    storage, made = output(tmp_path, references={})
    page = Page(build_report(storage))
    names = {f"{row['id']} take 0: {row['prompt']}" for row, _ in made}
    plays = {str(each["aria-label"]) for each in page.all("button") if each.get("data-name")}
    assert plays == {f"Play {name}" for name in names}
    sliders = {each["aria-label"] for each in page.all("div") if each.get("role") == "slider"}
    assert sliders == {f"Position in {name}" for name in names}
    assert {each["aria-label"] for each in page.all("audio")} == names
    assert page.text.count(" dBTP") >= 2
    assert [each["type"] for each in page.all("input")] == ["range", "checkbox"]
