"""The report: one safe, self-contained page for outputs of any size and shape."""

from __future__ import annotations

import base64
import hashlib
import io
import re
import tarfile
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner

from pipeline import ledger
from pipeline.cli.root import main
from pipeline.ledger.schema import CLIP_FIELDS, clip_schema
from pipeline.report import cards
from pipeline.report.page import build_report, load, size_text, span_text
from pipeline.storage import Storage
from tests.pipeline.report.outputs import (
    RATE_HZ,
    RUN,
    START,
    Page,
    clip_row,
    letter,
    run_record,
    some_clips,
    tune,
    write_output,
)


def page_of(storage: Storage, **options: Any) -> Page:
    return Page(build_report(storage, **options))


def test_the_players_play_the_very_bytes_of_the_output(tmp_path: Path) -> None:
    made = some_clips(5)
    page = page_of(write_output(tmp_path, made))
    assert page.players == {row["clip_id"]: data for row, data in made}
    assert len(page.all("article")) == 5
    assert "5 from 5 manifest rows" in page.text
    assert "Every clip." in page.text


@pytest.mark.parametrize("mode", ["parquet", "webdataset"])
def test_the_players_are_the_same_in_every_audio_mode(tmp_path: Path, mode: str) -> None:
    made = some_clips(40, 0.05)  # more than one Parquet row group
    players = page_of(write_output(tmp_path, made, mode=mode), sample=8).players
    assert len(players) == 8
    assert players.items() <= {row["clip_id"]: data for row, data in made}.items()


def test_the_page_needs_nothing_but_itself(tmp_path: Path) -> None:
    html = build_report(write_output(tmp_path, some_clips(3), [letter(1)]))
    page = Page(html)
    for tag, attrs in page.elements:
        for name in ("src", "href", "action", "poster", "data", "srcset", "xlink:href"):
            value = attrs.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, name, value)
    assert page.all("link") == page.all("iframe") == page.all("object") == []
    assert not re.search(r"https?:|//[a-z]|@import|url\(|fetch\(|XMLHttp|import\(", _code(html))


def _code(html: str) -> str:
    """Styles and scripts without comments."""
    blocks = re.findall(r"<(?:style|script)>(.*?)</(?:style|script)>", html, re.DOTALL)
    return re.sub(r"^\s*//.*$|/\*.*?\*/", "", "\n".join(blocks), flags=re.MULTILINE)


def test_the_content_policy_lets_only_our_own_script_run(tmp_path: Path) -> None:
    html = build_report(write_output(tmp_path, some_clips(1)))
    (policy,) = [m["content"] for m in Page(html).all("meta") if m.get("http-equiv")]
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy is not None
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


EVIL = "</script><script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{ 7 * 7 }}&amp;"


def test_text_of_users_is_never_markup(tmp_path: Path) -> None:
    columns = ["id", "prompt", "melody_uri", "continuation_uri", "style_uri", "model",
               "weights_licence", "dtype", "device"]  # fmt: skip
    made = [clip_row(0, tune(0, 0.5), **dict.fromkeys(columns, EVIL))]
    made += [clip_row(9, tune(9, 0.5), id=EVIL, take=1)]
    evil_letter = letter(0, id=EVIL, stage=EVIL, error_class=EVIL, message=EVIL)
    runs = [run_record(state=EVIL, replicas=EVIL)]
    page = page_of(write_output(tmp_path / "x", made, [evil_letter], runs))
    assert len(page.all("script")) == 1
    assert not [a for _, attrs in page.elements for a in attrs if a.startswith("on")]
    assert all(str(attrs["src"]).startswith("data:image/png") for attrs in page.all("img"))
    assert page.text.count(EVIL) >= len(columns) + 4  # shown as it was written
    assert "49" not in page.text.replace(EVIL, "")


def test_the_same_output_gives_the_same_page(tmp_path: Path) -> None:
    storage = write_output(tmp_path, some_clips(4), [letter(1)])
    assert build_report(storage, sample=2) == build_report(storage, sample=2)
    assert build_report(storage, sample=2) != build_report(storage, sample=2, seed=5)


def test_an_output_without_clips_says_so(tmp_path: Path) -> None:
    page = page_of(write_output(tmp_path, [], runs=[run_record(state="running", wall_s=0.0)]))
    assert "No clip is committed yet." in page.text
    assert "last run: running" in page.text
    assert page.all("article") == []


def test_an_empty_folder_still_gives_a_page(tmp_path: Path) -> None:
    assert "No clip is committed yet." in page_of(write_output(tmp_path, [], runs=[])).text


@pytest.mark.parametrize("duration_s", [0.02, 0.00007])
def test_one_very_short_clip_has_a_player(tmp_path: Path, duration_s: float) -> None:
    page = page_of(write_output(tmp_path, some_clips(1, duration_s), runs=[]))
    assert len(page.players) == 1
    assert "1 from 1 manifest row" in page.text
    assert "no loudness" in page.text


def test_stereo_and_unprompted_clips_are_told(tmp_path: Path) -> None:
    row = clip_row(1, tune(1, 1.0, channels=2), prompt=None, melody_uri="s3://b/m.wav")
    text = page_of(write_output(tmp_path, [row])).text
    assert "16 kHz, stereo" in text
    assert "No prompt" in text
    assert "s3://b/m.wav" in text


def test_silence_keeps_its_card_and_is_suspicious(tmp_path: Path) -> None:
    silent = clip_row(0, np.zeros((1, RATE_HZ * 2), np.float32))
    page = page_of(write_output(tmp_path, [silent, clip_row(1, tune(1, 2.0))]))
    assert "Mostly silent 1 clip, 50.0 %" in page.text
    assert "2.0 s of silence at the end" in page.text
    assert len(page.players) == 2  # shown in the sample and among the worst, embedded once
    assert len(page.all("article")) == 3


def test_takes_stand_side_by_side_with_their_seeds(tmp_path: Path) -> None:
    takes = [clip_row(i, tune(i, 0.5), id="choir", take=i, seed_used=70 + i) for i in range(3)]
    text = page_of(write_output(tmp_path, takes), sample=0).text
    assert "One row, 3 takes" in text
    assert re.search(r"take 0 seed 70 .* take 1 seed 71 .* take 2 seed 72", text)


# --- audio that can't be had ----------------------------------------------------------------------


def test_a_missing_object_is_said_in_the_players_place(tmp_path: Path) -> None:
    made = some_clips(3)
    storage = write_output(tmp_path, made)
    gone = made[1][0]["audio_path"]
    (tmp_path / gone).unlink()
    page = page_of(storage)
    assert f"The audio is missing: {gone}" in page.text
    assert set(page.players) == {made[0][0]["clip_id"], made[2][0]["clip_id"]}


def test_a_missing_tar_and_a_missing_member_are_said(tmp_path: Path) -> None:
    made = some_clips(2)
    storage = write_output(tmp_path, made, mode="webdataset")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w"):
        pass
    storage.put("audio/s.tar", buffer.getvalue())
    assert "The audio is missing inside audio/s.tar" in page_of(storage).text
    storage.put("audio/s.tar", b"no tar" * 500)
    assert "The audio can't be read" in page_of(storage).text
    storage.delete(["audio/s.tar"])
    assert "The audio is missing: audio/s.tar" in page_of(storage).text


def test_audio_that_was_changed_is_not_played(tmp_path: Path) -> None:
    made = some_clips(1)
    storage = write_output(tmp_path, made)
    storage.put(made[0][0]["audio_path"], made[0][1][:-1])
    page = page_of(storage)
    assert "The audio differs from its sha256: run verify." in page.text
    assert page.players == {}


def test_bytes_that_are_not_audio_are_told_by_the_decoder(tmp_path: Path) -> None:
    row, _ = clip_row(0, tune(0, 0.5))
    row["audio_sha256"] = hashlib.sha256(b"noise").hexdigest()
    page = page_of(write_output(tmp_path, [(row, b"noise")]))
    assert "not an audio file that can be read" in page.text


# --- links in place of embedded audio -------------------------------------------------------------


def test_links_are_relative_to_the_root_of_the_output(tmp_path: Path) -> None:
    made = some_clips(2)
    page = page_of(write_output(tmp_path, made), embed=False)
    assert page.players == {row["clip_id"]: row["audio_path"] for row, _ in made}
    assert len(page.all("img")) == 2  # the pictures are embedded all the same


@pytest.mark.parametrize("mode", ["parquet", "webdataset"])
def test_audio_inside_another_file_can_only_be_embedded(tmp_path: Path, mode: str) -> None:
    page = page_of(write_output(tmp_path, some_clips(1), mode=mode), embed=False)
    assert page.players == {}
    assert "Not embedded; the audio is inside" in page.text


def test_a_page_does_not_grow_without_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = some_clips(6)
    monkeypatch.setattr(cards, "EMBED_LIMIT_BYTES", 3 * max(len(data) for _, data in made))
    played = page_of(write_output(tmp_path, made)).players
    assert 3 <= sum(isinstance(source, bytes) for source in played.values()) < 6
    assert len(played) == 6


@pytest.mark.parametrize("how", ["--embed", "--link"])
def test_the_command_embeds_or_links_as_asked_wherever_the_output_lies(
    output_root: str, how: str
) -> None:
    made = some_clips(4)
    storage = write_output(output_root, made)

    done = CliRunner().invoke(main, ["report", "--output", output_root, "--sample", "2", how])

    assert done.exit_code == 0, done.output
    assert done.output.strip() == storage.uri("report.html")
    players = Page(storage.get("report.html").decode()).players
    by_id = {row["clip_id"]: (data, row["audio_path"]) for row, data in made}
    assert len(players) == 2
    for clip_id, played in players.items():
        assert played == by_id[clip_id][how == "--link"]


# --- failures, runs, sizes ------------------------------------------------------------------------


def test_failures_show_class_stage_message_and_ids(tmp_path: Path) -> None:
    text = page_of(write_output(tmp_path, some_clips(1), [letter(1), letter(2)])).text
    assert "ReferenceNotFoundError prepare 2 rows" in text
    assert "melodies/1.flac does not exist; upload it or drop the row 1 ×: bad-1" in text


def test_a_failure_that_was_mended_is_gone(tmp_path: Path) -> None:
    made = some_clips(2)
    mended = letter(0, row_key=made[0][0]["row_key"], created_at=START - timedelta(hours=1))
    text = page_of(write_output(tmp_path, made, [mended, letter(7)])).text
    assert "bad-7" in text
    assert "bad-0" not in text


def test_speed_is_music_per_second_over_all_runs(tmp_path: Path) -> None:
    other = run_record(run_id="20260103T000000-fedcba", audio_seconds=50.0, wall_s=28.0)
    text = page_of(write_output(tmp_path, some_clips(2), runs=[run_record(), other])).text
    assert "2.00 × real time, over 40.0 s" in text  # (30 + 50) / (12 + 28)


def test_a_run_record_of_a_killed_run_may_be_short(tmp_path: Path) -> None:
    page = page_of(write_output(tmp_path, some_clips(2), runs=[{"run_id": RUN}]))
    assert f"{RUN} – 0 0 0" in page.text


def test_a_licence_that_forbids_commerce_stands_out(tmp_path: Path) -> None:
    made = some_clips(1, weights_licence="CC-BY-NC-4.0")
    page = page_of(write_output(tmp_path, made))
    assert "chip warn" in [attrs.get("class") for attrs in page.all("span")]
    assert "weights: CC-BY-NC-4.0" in page.text


@pytest.mark.slow
def test_a_hundred_thousand_clips_take_seconds(tmp_path: Path) -> None:
    made = some_clips(1, 0.1)
    n = 100_000
    storage = write_output(tmp_path, made)
    rng = np.random.default_rng(0)
    one = pa.Table.from_pylist([made[0][0]], schema=CLIP_FIELDS)
    many = one.take(pa.array(np.zeros(n, np.int64)))
    for name, values in {
        "clip_id": [f"{i:032x}" for i in range(n)],
        "id": [f"row-{i}" for i in range(n)],
        "duration_s": rng.uniform(1, 30, n),
        "loudness_lufs": rng.normal(-18, 3, n),
    }.items():
        field = CLIP_FIELDS.field(name)
        many = many.set_column(many.column_names.index(name), field, pa.array(values, field.type))
    ledger.write_clip_part(storage, many, RUN, "b1b2c3", 0)
    started = time.monotonic()
    page = page_of(storage)
    assert time.monotonic() - started < 20
    assert "100,001 from 100,001 manifest rows" in page.text
    assert "12 clips drawn from 100,001." in page.text
    (duration,) = [a for a in page.all("div") if str(a.get("aria-label")).startswith("Duration")]
    assert "median 15." in str(duration["aria-label"])


def test_the_audio_column_is_not_read_for_the_numbers(tmp_path: Path) -> None:
    storage = write_output(tmp_path, some_clips(3), mode="parquet")
    assert "audio" not in load(storage).clips.column_names


def test_the_layout_of_parts_does_not_change_what_is_shown(tmp_path: Path) -> None:
    made = some_clips(6)
    one = write_output(tmp_path / "same", made, runs=[])
    two = write_output(tmp_path / "two" / "same", made[3:], runs=[])
    two.put_many({row["audio_path"]: data for row, data in made[:3]})
    schema = clip_schema(pa.schema([("genre", pa.string())]), "files")
    table = pa.Table.from_pylist([row for row, _ in made[:3]], schema=schema)
    ledger.write_clip_part(two, table, RUN, "b1b2c3", 7)
    assert page_of(one, sample=3).players == page_of(two, sample=3).players


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.00 s"), (0.02, "0.02 s"), (12.34, "12.3 s"), (99.99, "100.0 s"), (185, "3 min 05 s"),
     (3600, "1 h 00 min"), (90_000, "1 d 01 h"), (86_400 * 2000, "2,000 d 00 h")],
)  # fmt: skip
def test_lengths_of_time_read_well(seconds: float, text: str) -> None:
    assert span_text(seconds) == text


def test_sizes_read_well() -> None:
    assert [size_text(n) for n in (0, 999, 1500, 3.2e6, 5e9, 7e15)] == [
        "0 B", "999 B", "1.5 kB", "3.2 MB", "5.0 GB", "7,000.0 TB"
    ]  # fmt: skip
