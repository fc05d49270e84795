"""The whole path on real input: a manifest becomes a dataset that other tools read."""

import io
import json
import tarfile
from pathlib import Path

import duckdb
import fsspec
import pandas as pd
import pyarrow.dataset as pads
import pytest
import soundfile as sf
from datasets import Audio, load_dataset

from pipeline import ledger
from pipeline.report import build_report
from pipeline.run_record import read_status
from pipeline.storage import open_storage
from tests.integration.jobs import (
    EXAMPLES,
    clips,
    problems,
    run_here,
    run_in_process,
    write_manifest,
)


def mixed_rows(audio: str) -> list[dict[str, object]]:
    """Text, melody, continuation, takes, parameters, an extra column, and two rows that fail."""
    return [
        {"id": "text", "prompt": "calm piano", "duration_s": 1.0, "takes": 2, "genre": "calm"},
        {"id": "melody", "prompt": "flute", "melody_uri": f"{audio}/ode.flac", "duration_s": 0.7},
        {"id": "only-melody", "melody_uri": f"{audio}/scale.flac", "duration_s": 0.5},
        {"id": "goes-on", "continuation_uri": f"{audio}/drums.flac", "duration_s": 3.0},
        {"id": "greedy", "prompt": "bells", "use_sampling": False, "duration_s": 0.58},
        {"id": "plain", "prompt": "pad", "cfg_coef": 1.0, "duration_s": 0.02, "genre": "pad"},
        {"id": "gone", "prompt": "x", "melody_uri": f"{audio}/gone.flac", "duration_s": 1.0},
        {"id": "too-long", "prompt": "x", "duration_s": 3601.0},
    ]


def hashes(output: str) -> dict[str, str]:
    return {row["clip_id"]: row["audio_sha256"] for row in clips(output)}


FRAMES = {"text": 50, "melody": 35, "only-melody": 25, "goes-on": 150, "greedy": 29, "plain": 1}


@pytest.fixture
def audio_folder(output_root: str) -> str:
    """The example audio, on the same kind of store as the output."""
    if output_root.startswith("file://"):
        return str(EXAMPLES / "audio")
    target = output_root.removesuffix("/some/out") + "/melodies"
    fs, path = fsspec.core.url_to_fs(target, use_listings_cache=False)
    for file in (EXAMPLES / "audio").iterdir():
        fs.pipe_file(f"{path}/{file.name}", file.read_bytes())
    return target


@pytest.mark.usefixtures("ray_cluster")
def test_a_mixed_manifest_becomes_a_dataset(
    output_root: str, audio_folder: str, tmp_path: Path
) -> None:
    """On a disk without Ray, on S3 with it: the same bytes as there, whatever the order of rows."""
    manifest = write_manifest(tmp_path / "mixed.parquet", mixed_rows(audio_folder))

    if output_root.startswith("file://"):
        summary = run_here(manifest, output_root, replicas=2)
    else:
        summary = run_in_process(manifest, output_root, replicas=2)
        backward = write_manifest(tmp_path / "b.parquet", mixed_rows(audio_folder)[::-1])
        run_here(backward, f"file://{tmp_path}/out", block_rows=1, part_clips=2)
        assert hashes(output_root) == hashes(f"file://{tmp_path}/out")

    assert (summary.tally.clips, summary.dead_letters_standing) == (7, 2)
    assert problems(output_root) == []
    rows = clips(output_root)
    assert sorted((r["id"], r["take"]) for r in rows) == sorted(
        [("text", 0), ("text", 1), *((name, 0) for name in FRAMES if name != "text")]
    )
    storage = open_storage(output_root)
    for row in rows:
        wav, rate = sf.read(io.BytesIO(storage.get(row["audio_path"])), always_2d=True)
        assert (rate, wav.shape) == (16_000, (FRAMES[row["id"]] * 320, 1)), row["id"]
        assert row["n_samples"] == FRAMES[row["id"]] * 320
        assert row["genre"] == {"text": "calm", "plain": "pad"}.get(row["id"])
        assert row["weights_licence"] == "Apache-2.0"
        assert row["ai_generated"] is True
    letters = {r["id"]: r["message"] for r in ledger.read_dead_letters(storage).to_pylist()}
    assert letters.keys() == {"gone", "too-long"}
    assert letters["gone"].startswith("mixed.parquet row 6 (id=gone): ")
    assert "gone.flac" in letters["gone"]
    assert "duration_s=3601.0 exceeds 3600 s" in letters["too-long"]


def test_other_tools_read_the_dataset(output_root: str, tmp_path: Path) -> None:
    rows = [{"id": f"r{i}", "prompt": f"song {i}", "duration_s": 0.2} for i in range(5)]
    manifest = write_manifest(tmp_path / "five.parquet", rows)
    run_here(manifest, output_root, audio="parquet")

    fs, root = fsspec.core.url_to_fs(output_root, use_listings_cache=False)
    table = pads.dataset(f"{root}/clips", filesystem=fs, format="parquet").to_table()
    assert sorted(table["id"].to_pylist()) == [f"r{i}" for i in range(5)]

    frame = pd.concat(
        pd.read_parquet(f"s3://{p}" if "s3" in fs.protocol else p) for p in fs.ls(f"{root}/clips")
    )
    assert frame["n_samples"].tolist() == [3200] * 5

    parts = [f"s3://{p}" if "s3" in fs.protocol else p for p in fs.glob(f"{root}/clips/*.parquet")]
    local = [fs.get(part, str(tmp_path / f"{i}.parquet")) for i, part in enumerate(parts)]
    files = [str(tmp_path / f"{i}.parquet") for i in range(len(local))]
    count = duckdb.sql(f"SELECT count(DISTINCT clip_id), sum(n_samples) FROM read_parquet({files})")
    assert count.fetchall() == [(5, 16_000)]

    dataset = load_dataset(
        "parquet", data_files=files, split="train", cache_dir=str(tmp_path / "hf")
    )
    assert isinstance(dataset.features["audio"], Audio)
    encoded = dataset.cast_column("audio", Audio(decode=False))[0]["audio"]["bytes"]
    wav, rate = sf.read(io.BytesIO(encoded))
    assert (len(wav), rate) == (3200, 16_000)


def test_webdataset_tars_hold_audio_and_metadata(tmp_path: Path) -> None:
    rows = [{"id": f"r{i}", "prompt": f"song {i}", "duration_s": 0.1} for i in range(3)]
    output = f"file://{tmp_path}/out"
    run_here(
        write_manifest(tmp_path / "m.parquet", rows), output, audio="webdataset", audio_format="wav"
    )

    assert problems(output) == []
    storage = open_storage(output)
    for row in clips(output):
        with tarfile.open(fileobj=io.BytesIO(storage.get(row["audio_path"]))) as tar:
            audio = tar.extractfile(row["audio_member"]).read()
            meta = json.load(tar.extractfile(row["audio_member"].replace(".wav", ".json")))
        assert len(sf.read(io.BytesIO(audio))[0]) == 1600
        assert meta["id"] == row["id"]


@pytest.mark.parametrize("n_threads", [1, pytest.param(2, marks=pytest.mark.long)])
def test_bytes_do_not_depend_on_mates_replicas_or_layout(n_threads: int, tmp_path: Path) -> None:
    rows = mixed_rows(str(EXAMPLES / "audio"))
    forward = write_manifest(tmp_path / "a.parquet", rows)
    backward = write_manifest(tmp_path / "b.parquet", rows[::-1])

    threads = {"threads_per_replica": n_threads}
    run_here(forward, f"file://{tmp_path}/one", block_rows=3, **threads)
    run_here(backward, f"file://{tmp_path}/two", replicas=2, block_rows=2, **threads)

    assert len(hashes(f"file://{tmp_path}/one")) == 7
    assert hashes(f"file://{tmp_path}/one") == hashes(f"file://{tmp_path}/two")


def test_the_comment_of_a_file_is_its_provenance(tmp_path: Path) -> None:
    manifest = write_manifest(
        tmp_path / "m.parquet", [{"id": "a", "prompt": "x", "duration_s": 0.1}]
    )
    output = f"file://{tmp_path}/out"
    run_here(manifest, output)

    (row,) = clips(output)
    with sf.SoundFile(io.BytesIO(open_storage(output).get(row["audio_path"]))) as file:
        comment = json.loads(file.comment)

    assert comment["clip_id"] == row["clip_id"]
    assert comment["weights_licence"] == "Apache-2.0"
    assert comment["ai_generated"] is True
    assert not {"run_id", "created_at", "replica"} & comment.keys()


def test_status_and_report_of_a_run(tmp_path: Path) -> None:
    manifest = write_manifest(
        tmp_path / "m.parquet",
        [{"id": f"r{i}", "prompt": "<script>x</script>", "duration_s": 0.5} for i in range(3)],
    )
    output = f"file://{tmp_path}/out"
    run_here(manifest, output)

    found = read_status(open_storage(output))
    assert (found.clips, found.audio_s, found.dead_letters) == (3, 1.5, 0)
    assert found.last_run is not None
    assert found.last_run["state"] == "done"
    timing = found.last_run["timing"]
    assert 0 < timing["slot_occupancy"] <= 1
    assert 0 < timing["model_s"] < timing["window_s"] < found.last_run["wall_s"]
    assert timing["overhead"] == pytest.approx(1 - timing["model_s"] / timing["window_s"])
    assert "% full while rows waited" in found.text()
    page = build_report(open_storage(output))
    assert page.count("<audio") >= 3
    assert "<script>x" not in page


def test_an_extra_column_may_appear_later_but_not_change_its_type(tmp_path: Path) -> None:
    output = f"file://{tmp_path}/out"
    row = {"id": "a", "prompt": "x", "duration_s": 0.1}
    run_here(write_manifest(tmp_path / "m.parquet", [row]), output)
    run_here(write_manifest(tmp_path / "n.parquet", [row | {"id": "b", "mood": "sad"}]), output)

    with pytest.raises(ledger.SchemaError, match=r"mood.*int64.*string"):
        run_here(write_manifest(tmp_path / "o.parquet", [row | {"id": "c", "mood": 3}]), output)

    assert {row["id"]: row["mood"] for row in clips(output)} == {"a": None, "b": "sad"}
