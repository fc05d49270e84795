"""Manifests and references open wherever they lie, and a store that misbehaves is borne."""

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from manifests.build import build
from manifests.check import check
from manifests.reader import Manifest, ManifestError
from manifests.uris import files
from manifests.uris.errors import RetryPolicy, StorageError, try_again
from manifests.uris.filesystems import split_uri
from manifests.uris.range_file import RangeFile
from tests.faults import FaultProxy, fault_proxy
from tests.s3 import S3Server


@pytest.mark.parametrize(
    ("uri", "place"),
    [
        ("s3a://bucket/a/", ("s3", "bucket/a")),
        ("gcs://bucket/a", ("gs", "bucket/a")),
        ("file:///a/../b", ("file", "/b")),
        ("https://host/a.wav?sig=1", ("https", "https://host/a.wav?sig=1")),
        ("memory://a/b", ("memory", "/a/b")),
    ],
)
def test_a_uri_is_a_protocol_and_a_place_in_it(uri: str, place: tuple[str, str]) -> None:
    assert split_uri(uri) == place


def test_a_home_that_nobody_has_is_said() -> None:
    with pytest.raises(StorageError, match="write the whole path"):
        split_uri("~no-such-user/a")


def test_a_range_file_reads_what_a_buffer_asks_for() -> None:
    data = bytes(range(256)) * 1000
    asked: list[tuple[int, int]] = []

    def read(start: int, end: int) -> bytes:
        asked.append((start, end))
        return data[start:end]

    file = RangeFile(read, len(data))
    buffer = bytearray(10)
    file.seek(300)
    assert (file.readinto(buffer), bytes(buffer)) == (10, data[300:310])
    file.seek(-3, 2)
    assert (file.readinto(buffer), bytes(buffer[:3])) == (3, data[-3:])
    assert asked[0] == (300, 310)


def test_what_passes_is_tried_again_and_what_lasts_is_not() -> None:
    errors: list[Exception] = [TimeoutError("slow"), ConnectionError("reset")]
    quick = RetryPolicy(attempts=3, first_delay_s=0.001)

    def shaky() -> str:
        if errors:
            raise errors.pop(0)
        return "there"

    assert try_again(shaky, quick, str) == "there"
    errors += [PermissionError("no")] * 2
    with pytest.raises(PermissionError):
        try_again(shaky, quick, str)
    assert len(errors) == 1


def test_messages_name_no_secret_of_an_address(tmp_path: Path) -> None:
    (tmp_path / "m.parquet").write_bytes(b"no parquet at all")
    with pytest.raises(ManifestError) as caught:
        Manifest.open(f"{tmp_path}/m.parquet?token=hunter22")
    assert "hunter22" not in str(caught.value)
    assert "m.parquet?***" in str(caught.value)


@pytest.fixture
def proxy(s3: S3Server) -> Iterator[FaultProxy]:
    with fault_proxy(s3.endpoint) as proxy:
        yield proxy


@pytest.mark.s3
@pytest.mark.parametrize("whole", [True, False])
def test_a_store_that_misbehaves_does_not_stop_a_manifest(
    s3: S3Server, proxy: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    if not whole:
        monkeypatch.setattr(files, "READ_WHOLE_BYTES", 100)
    options = {"endpoint_url": proxy.endpoint}
    rows = [{"id": str(i), "prompt": "a song" * 20} for i in range(2000)]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    root = s3.bucket()

    proxy.inject("slow_down", "PUT")
    assert build(str(tmp_path / "m.jsonl"), f"{root}/m.parquet", storage_options=options).n_rows
    for fault in ("slow_down", "reset", "truncate"):
        proxy.inject(fault, "GET", "m.parquet")
    manifest = Manifest.open(f"{root}/m.parquet", storage_options=options)
    assert manifest.n_rows == 2000
    proxy.inject("truncate", "GET", "m.parquet")
    assert check(f"{root}/m.parquet", storage_options=options).n_clips == 2000
    assert all(rule.times == 0 for rule in proxy.rules)


@pytest.mark.s3
def test_a_text_manifest_on_s3_is_read_to_its_end(
    s3: S3Server, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fsspec

    monkeypatch.setattr(files, "READ_WHOLE_BYTES", 100)
    root, rows = s3.bucket(), 30_000
    text = "".join(json.dumps({"id": str(i), "prompt": "x" * 50}) + "\n" for i in range(rows))
    fsspec.filesystem("s3", use_listings_cache=False).pipe_file(f"{root}/m.jsonl", text.encode())

    proxy.inject("truncate", "GET", "m.jsonl")
    report = check(f"{root}/m.jsonl", storage_options={"endpoint_url": proxy.endpoint})

    assert (report.n_rows, report.n_clips) == (rows, rows)
    assert proxy.count("GET", "m.jsonl") > 2


def test_a_manifest_in_memory_is_read(tmp_path: Path) -> None:
    import fsspec

    pq.write_table(pa.table({"prompt": ["x"]}), tmp_path / "m.parquet")
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/set/m.parquet", (tmp_path / "m.parquet").read_bytes())
    manifest = Manifest.open("memory://set/m.parquet")
    assert next(manifest.read_row_group(manifest.row_groups[0]))[1].num_rows == 1
