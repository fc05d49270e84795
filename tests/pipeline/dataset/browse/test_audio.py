"""Sound over HTTP: ranges from every layout, references, rows that name what they may not."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile as sf

from manifests.identity import bytes_token
from pipeline.audio.encode import Coding, encode
from pipeline.storage import Storage, open_storage
from tests.pipeline.dataset.browse.servers import Client, browsing, commit
from tests.pipeline.report.outputs import (
    RATE_HZ,
    RUN,
    Row,
    clip_row,
    run_record,
    tune,
    write_output,
)
from tests.s3 import S3Server

LAYOUTS = ("files", "webdataset", "parquet")
TUNE = tune(3, 0.5)


def some(n: int, **changes: Any) -> list[tuple[Row, bytes]]:
    return [clip_row(number, tune(number, 0.3), **changes) for number in range(n)]


@pytest.fixture(scope="module", params=LAYOUTS)
def layout(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Client, list[tuple[Row, bytes]]]]:
    folder = tmp_path_factory.mktemp(request.param)
    storage = open_storage(str(folder / "out"))
    clips = some(40)  # two row groups where the audio is inside
    commit(storage, clips[:35], 0, mode=request.param)
    commit(storage, clips[35:], 1, mode=request.param)
    with browsing(storage, folder) as client:
        yield client, clips


def test_every_clip_is_served_as_it_was_written(layout: Any) -> None:
    client, clips = layout
    for row, data in reversed(clips):
        answer = client.ask(f"/clips/{row['clip_id']}/audio")
        assert answer.status == 200
        assert answer.body == data
        assert answer.headers["content-type"] == "audio/flac"
        assert answer.headers["etag"] == f'"{hashlib.sha256(data).hexdigest()}"'


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [("bytes=0-", 0, None), ("bytes=0-0", 0, 1), ("bytes=100-199", 100, 200),
     ("bytes=-50", -50, None), ("bytes=500-99999999", 500, None), ("bytes=-99999999", 0, None)],
)  # fmt: skip
def test_ranges(layout: Any, asked: str, start: int, end: int | None) -> None:
    client, clips = layout
    row, data = clips[36]
    answer = client.ask(f"/clips/{row['clip_id']}/audio", Range=asked)
    assert answer.status == 206
    assert answer.body == data[start:end]
    first = start % len(data)
    expected = f"bytes {first}-{first + len(answer.body) - 1}/{len(data)}"
    assert answer.headers["content-range"] == expected
    assert answer.headers["content-length"] == str(len(answer.body))


@pytest.mark.parametrize("asked", ["bytes=1-2,5-6", "lines=1-2", "bytes=", "bytes=9-2", "x"])
def test_what_is_no_single_range_gets_the_whole(layout: Any, asked: str) -> None:
    client, clips = layout
    row, data = clips[0]
    answer = client.ask(f"/clips/{row['clip_id']}/audio", Range=asked)
    assert (answer.status, answer.body) == (200, data)


def test_beyond_the_end_and_the_head_alone(layout: Any) -> None:
    client, clips = layout
    row, data = clips[0]
    beyond = client.ask(f"/clips/{row['clip_id']}/audio", Range=f"bytes={len(data)}-")
    assert beyond.status == 416
    assert beyond.headers["content-range"] == f"bytes */{len(data)}"
    head = client.ask(f"/clips/{row['clip_id']}/audio", method="HEAD")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-length"] == str(len(data))


def test_a_download_has_a_name_and_a_picture_is_drawn(layout: Any) -> None:
    client, clips = layout
    row, data = clips[5]
    answer = client.ask(f"/clips/{row['clip_id']}/audio?download=1")
    assert answer.body == data
    name = f'attachment; filename="{row["clip_id"]}.flac"'
    assert answer.headers["content-disposition"] == name
    picture = client.ask(f"/clips/{row['clip_id']}/spectrogram.png")
    assert picture.headers["content-type"] == "image/png"
    assert picture.body[:4] == b"\x89PNG"


def test_listing_reads_no_audio_that_is_inside_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = open_storage(str(tmp_path / "out"))
    read: list[tuple[int, int]] = []
    noise = np.random.default_rng(0).normal(0, 0.1, (1, 20 * RATE_HZ)).astype(np.float32)
    clips = [clip_row(number, noise) for number in range(6)]
    commit(storage, clips, mode="parquet")
    size = storage.list("clips")[0].size
    assert size > 3_000_000
    get_range = Storage.get_range

    def noting(self: Storage, path: str, start: int, end: int) -> bytes:
        read.append((start, end))
        return get_range(self, path, start, end)

    monkeypatch.setattr(Storage, "get_range", noting)
    with browsing(storage, tmp_path) as client:
        assert client.clips()["n_found"] == 6
        listed = sum(end - start for start, end in read)
        assert 0 < listed < size / 4
        assert client.ask(f"/clips/{clips[2][0]['clip_id']}/audio").body == clips[2][1]


@pytest.mark.slow
@pytest.mark.s3
@pytest.mark.parametrize("mode", LAYOUTS)
def test_an_output_in_an_object_store(s3: S3Server, tmp_path: Path, mode: str) -> None:
    storage = open_storage(f"{s3.bucket()}/some/music")
    clips = some(3)
    commit(storage, clips, mode=mode)
    with browsing(storage, tmp_path) as client:
        for row, data in clips:
            whole = client.ask(f"/clips/{row['clip_id']}/audio")
            assert whole.body == data
            part = client.ask(f"/clips/{row['clip_id']}/audio", Range="bytes=10-19")
            assert part.body == data[10:20]
        assert client.rate(clips[0][0]["clip_id"], 3).json["ratings_elsewhere"] is None
    assert len(storage.list("ratings")) == 1
    with browsing(storage, tmp_path) as client:
        assert client.clips(sort=":rating")["clips"][0][":rating"] == 3


# --- rows that name what they may not


def test_a_row_that_names_another_file_as_its_audio_gets_none(tmp_path: Path) -> None:
    secret = b"RIFF" + b"a secret" * 20
    (tmp_path / "secret.wav").write_bytes(secret)
    storage = open_storage(str(tmp_path / "out"))
    storage.put("audio/notes.flac", secret)
    clips = some(9)
    linked = clips[8][0]["audio_path"]
    named = ["../secret.wav", "/etc/passwd", str(tmp_path / "secret.wav"), "audio/notes.flac",
             f"runs/{RUN}.json", "audio/../../secret.wav", "audio\\x.flac",
             f"clips/part-{RUN}-a1b2c3-000000.parquet", linked]  # fmt: skip
    for (row, _), path in zip(clips, named, strict=True):
        row |= {"audio_path": path, "audio_bytes": len(secret)}
    commit(storage, [(row, b"") for row, _ in clips])
    (tmp_path / "out" / linked).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "out" / linked).symlink_to(tmp_path / "secret.wav")
    with browsing(storage, tmp_path) as client:
        assert client.clips()["n_found"] == 9
        for row, _ in clips:
            for what in ("audio", "spectrogram.png"):
                answer = client.ask(f"/clips/{row['clip_id']}/{what}")
                assert answer.status == 404, row["audio_path"]
                assert answer.json["error"]
                assert b"secret secret" not in answer.body


def test_missing_and_damaged_audio_is_told(tmp_path: Path) -> None:
    clips = some(3)
    storage = write_output(tmp_path / "out", clips)
    storage.delete([clips[0][0]["audio_path"]])
    storage.put(clips[1][0]["audio_path"], clips[1][1][:100])
    garbage = b"no audio " * 1000
    storage.put(clips[2][0]["audio_path"], garbage[: len(clips[2][1])])
    with browsing(storage, tmp_path) as client:
        for (row, _), words in zip(clips[:2], ("missing", "another size"), strict=True):
            answer = client.ask(f"/clips/{row['clip_id']}/audio")
            assert answer.status == 404
            assert words in answer.json["error"]
        picture = client.ask(f"/clips/{clips[2][0]['clip_id']}/spectrogram.png")
        assert picture.status == 422


# --- references


def reference(number: int = 7) -> bytes:
    return encode(tune(number, 1.0), RATE_HZ, Coding(), comment="a tag of the file")


def referring(number: int, role: str, uri: str | None, data: bytes, **changes: Any) -> Any:
    names = {f"{role}_uri": uri, "references": {role: bytes_token(data)}}
    return clip_row(number, TUNE, **names, **changes)


def record(manifest: Path | str) -> Row:
    return run_record(config={"run": {"manifest": str(manifest)}})


def test_references_are_served_beside_their_clips(tmp_path: Path) -> None:
    tune_file, inside = reference(7), reference(8)
    (tmp_path / "tunes").mkdir()
    (tmp_path / "tunes" / "a.flac").write_bytes(tune_file)
    manifest = tmp_path / "m.parquet"
    pq.write_table(
        pa.table({"id": ["other", "held"], "style_audio": pa.array([b"x", inside])}), manifest
    )
    clips = [
        referring(0, "melody", "tunes/a.flac", tune_file),
        referring(1, "continuation", str(tmp_path / "tunes" / "a.flac"), tune_file),
        referring(2, "style", None, inside, id="held"),
    ]
    storage = write_output(tmp_path / "out", clips, runs=[record(manifest)])
    with browsing(storage, tmp_path) as client:
        for (row, _), role, data in zip(
            clips, ("melody", "continuation", "style"), (tune_file, tune_file, inside), strict=True
        ):
            answer = client.ask(f"/clips/{row['clip_id']}/references/{role}")
            assert answer.status == 200, answer.body
            assert b"a tag of the file" in data
            assert b"a tag of the file" not in answer.body  # samples leave, not the file
            heard, rate_hz = sf.read(io.BytesIO(answer.body))
            expected, _ = sf.read(io.BytesIO(data))
            assert rate_hz == RATE_HZ
            np.testing.assert_allclose(heard, expected, atol=1e-4)
            part = client.ask(f"/clips/{row['clip_id']}/references/{role}", Range="bytes=4-9")
            assert (part.status, part.body) == (206, answer.body[4:10])
            loud = client.ask(f"/clips/{row['clip_id']}/references/{role}/loudness").json
            assert -40 < loud["loudness_lufs"] < 0
            told = client.ask(f"/api/clips/{row['clip_id']}").json["references"]
            assert [each["role"] for each in told] == [role]
        assert client.clips()["clips"][0]["roles"] == ["style"]


def test_references_that_may_not_be_served_say_why(tmp_path: Path) -> None:
    audio, passwd = reference(), Path("/etc/passwd").read_bytes()
    (tmp_path / "a.flac").write_bytes(audio)
    (tmp_path / "notes.txt").write_bytes(b"private notes " * 50)
    notes = (tmp_path / "notes.txt").read_bytes()
    cases = [
        ("/etc/passwd", passwd, "not an audio file"),
        (str(tmp_path / "notes.txt"), notes, "not an audio file"),
        ("../" * 30 + "etc/passwd", passwd, "not an audio file"),
        (str(tmp_path / "a.flac"), reference(9), "changed"),  # another content than the clip's
        (str(tmp_path / "none.flac"), audio, "no such file"),
        (str(tmp_path), audio, "is a folder"),
        ("/dev/zero", audio, ""),
        ("http://127.0.0.1:1/a.flac", audio, "on the web"),
        ("http://169.254.169.254/latest", audio, "on the web"),
        ("s3://other/a.flac", audio, "another store"),
        ("ftp://example.org/a.flac", audio, "another store"),
    ]
    clips = [referring(n, "melody", uri, data) for n, (uri, data, _) in enumerate(cases)]
    clips.append(referring(50, "melody", str(tmp_path / "a.flac"), audio, run_id="gone"))
    storage = write_output(tmp_path / "out", clips, runs=[record(tmp_path / "m.parquet")])
    with browsing(storage, tmp_path) as client:
        for (row, _), (uri, _, words) in zip(clips, [*cases, ("", b"", "record")], strict=True):
            answer = client.ask(f"/clips/{row['clip_id']}/references/melody")
            assert answer.status == 404, uri
            assert words in answer.json["error"], answer.json
            assert b"root:" not in answer.body
            assert b"private notes" not in answer.body
        assert client.ask(f"/clips/{clips[0][0]['clip_id']}/references/style").status == 404


@pytest.mark.slow
@pytest.mark.s3
def test_an_output_in_an_object_store_names_no_file_of_this_machine(
    s3: S3Server, tmp_path: Path
) -> None:
    audio = reference()
    (tmp_path / "a.flac").write_bytes(audio)
    root = s3.bucket()
    beside = open_storage(root)
    beside.put("tunes/a.flac", audio)
    from manifests.uris.policy import ReferenceAccess
    from manifests.uris.references import reference_token

    token = reference_token(f"{root}/tunes/a.flac", ReferenceAccess())
    local = referring(0, "melody", str(tmp_path / "a.flac"), audio)
    stored = clip_row(1, TUNE, melody_uri="tunes/a.flac", references={"melody": token})
    for manifest, status in ((f"{root}/m.parquet", 200), ("/m.parquet", 404)):
        storage = write_output(f"{root}/out-{status}", [local, stored], runs=[record(manifest)])
        with browsing(storage, tmp_path) as client:
            refused = client.ask(f"/clips/{local[0]['clip_id']}/references/melody")
            assert refused.status == 404
            assert "object store may not name" in refused.json["error"]
            heard = client.ask(f"/clips/{stored[0]['clip_id']}/references/melody")
            assert heard.status == status
