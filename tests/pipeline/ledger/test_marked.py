"""Signed clips in the three layouts: committed, proven by `verify`, kept by `gc`."""

import io
import tarfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import ledger
from pipeline.audio.marks.credentials import CERTIFICATE, KEY, read_credentials
from pipeline.audio.marks.signing import Claim, ClipSigner, Signed
from pipeline.audio.marks.trial_pair import make_trial_pair
from pipeline.audio.settings import AudioFormat
from pipeline.ledger import list_parts, read_clips
from pipeline.ledger.lease import Lease
from pipeline.ledger.maintain import compact, gc
from pipeline.ledger.names import sidecar_of
from pipeline.ledger.parts import read_part
from pipeline.ledger.repair import repair
from pipeline.ledger.schema import encode_part
from pipeline.ledger.settings import AudioMode
from pipeline.ledger.verify import VerifyReport, verify
from pipeline.ledger.writer import PartLimits, PartOrigin, PartWriter
from pipeline.storage import Storage, open_storage
from tests.pipeline.audio.marks.pairs import music
from tests.pipeline.ledger.test_writer import NOBODY, row
from tests.pipeline.outputs import RUN, clip, commit

LIMITS = PartLimits(max_clips=100, max_bytes=1e9, max_age_s=600.0)


@pytest.fixture
def signer(monkeypatch: pytest.MonkeyPatch) -> ClipSigner:
    """A signer whose pair stands in the environment."""
    pair = make_trial_pair()
    monkeypatch.setenv(KEY, pair.key.decode())
    monkeypatch.setenv(CERTIFICATE, pair.chain.decode())
    found = read_credentials()
    assert found is not None
    return ClipSigner(found)


@pytest.fixture
def local(tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path / "out"))


def claim(number: int) -> Claim:
    return Claim(f"{number:032x}", "tiny", "0" * 32, "none", "a song", None)


def put(
    storage: Storage, signer: ClipSigner, layout: AudioMode, fmt: AudioFormat, n_clips: int = 2
) -> list[Signed]:
    """Commits signed clips as a replica does."""
    writer = PartWriter(
        storage,
        schema=ledger.clip_schema(pa.schema([]), layout),
        origin=PartOrigin(RUN, "aaaaaa", 1),
        audio=layout,
        audio_format=fmt,
        limits=LIMITS,
        guard=lambda: None,
    )
    signed = [signer.sign(music(fmt), fmt, claim(number)) for number in range(n_clips)]
    for number, each in enumerate(signed):
        marks = {"c2pa": each.layer, "unsigned_sha256": each.unsigned_sha256}
        writer.add_clip(row(number, **marks), each.data, sidecar=each.sidecar)
    writer.commit(NOBODY)
    return signed


def states(report: VerifyReport) -> dict[str, int]:
    return {state: n for state, n in report.marks.as_json()["signatures"].items() if n}


def kinds(report: VerifyReport) -> list[str]:
    return [f"{each.kind}: {each.detail}" for each in report.problems]


@pytest.mark.parametrize(
    ("layout", "fmt"),
    [("files", "flac"), ("files", "opus"), ("parquet", "opus"), ("webdataset", "opus")],
)
def test_signatures_hold_after_a_round_trip_through_the_store(
    output_root: str, signer: ClipSigner, layout: AudioMode, fmt: AudioFormat
) -> None:
    storage = open_storage(output_root)
    put(storage, signer, layout, fmt)

    report = verify(storage)

    assert (report.problems, report.n_unreferenced, report.n_foreign) == ((), 0, 0)
    assert states(report) == {"trusted": 2}
    place = "c2pa_embedded" if fmt == "flac" else "c2pa_sidecar"
    assert (report.marks.claimed.c2pa, getattr(report.marks.claimed, place)) == (2, 2)
    assert "  signatures that hold, by the given certificate: 2" in report.marks.lines
    assert report.marks.lines[-1].startswith(
        "  given certificate: 'musicgen-batch test certificate' (valid until "
    )
    assert "self-signed" in report.marks.lines[-1]
    assert states(verify(storage, deep=False)) == {"unchecked": 2}
    hashes = read_clips(storage, ["audio_sha256", "unsigned_sha256"]).to_pydict()
    assert (hashes["audio_sha256"] == hashes["unsigned_sha256"]) == (fmt == "opus")
    assert len(set(hashes["unsigned_sha256"])) == 1


def test_sidecars_lie_beside_the_file_in_its_tar_or_in_a_column(
    tmp_path: Path, signer: ClipSigner
) -> None:
    for layout in get_args(AudioMode):
        storage = open_storage(str(tmp_path / layout))
        (signed,) = put(storage, signer, layout, "ogg", n_clips=1)
        (found,) = read_clips(storage).to_pylist()
        path, member = found["audio_path"], found["audio_member"]
        if layout == "files":
            assert storage.get(sidecar_of(path)) == signed.sidecar
        elif layout == "webdataset":
            with tarfile.open(fileobj=io.BytesIO(storage.get(path))) as tar:
                file = tar.extractfile(sidecar_of(member))
                assert file is not None
                assert file.read() == signed.sidecar
        assert found["c2pa_sidecar"] == (signed.sidecar if layout == "parquet" else None)


def test_two_signings_of_one_clip_never_share_a_name(tmp_path: Path, signer: ClipSigner) -> None:
    """The audio of an Opus file is the same each time, its sidecar is not."""
    names = set()
    for attempt in range(2):
        storage = open_storage(f"{tmp_path}/{attempt}")
        put(storage, signer, "files", "opus", n_clips=1)
        names |= {info.path for info in storage.list("audio")}
    assert len(names) == 4
    assert len({name.rpartition(".")[0] for name in names}) == 2


def flip(data: bytes, at: int) -> bytes:
    """The same with one bit changed; a negative place counts from the end."""
    changed = bytearray(data)
    changed[at] ^= 1
    return bytes(changed)


@pytest.mark.parametrize("at", [60, -600])  # among samples, and in what pads the manifest
def test_a_flipped_byte_of_a_file_is_found(local: Storage, signer: ClipSigner, at: int) -> None:
    put(local, signer, "files", "wav")
    path = read_clips(local, ["audio_path"])["audio_path"][0].as_py()
    local.put(path, flip(local.get(path), at))

    report = verify(local)

    assert [problem.kind for problem in report.problems] == ["wrong sha256"]
    assert states(report) == {"trusted": 1, "invalid": 1}


@pytest.mark.parametrize("at", [1000, -200])
def test_a_flipped_byte_of_a_sidecar_is_found_and_mended(
    local: Storage, signer: ClipSigner, at: int
) -> None:
    put(local, signer, "files", "ogg")
    path = sidecar_of(read_clips(local, ["audio_path"])["audio_path"][0].as_py())
    local.put(path, flip(local.get(path), at))

    report = verify(local)

    assert kinds(report) == [f"wrong signature: clip {0:032x}: its C2PA sidecar is damaged"]
    assert states(report) == {"trusted": 1, "invalid": 1}
    with Lease.acquire(local) as lease:
        assert repair(local, lease).n_clips == 1
    assert read_clips(local, ["clip_id"])["clip_id"].to_pylist() == [f"{1:032x}"]
    assert states(verify(local)) == {"trusted": 1}


@pytest.mark.parametrize("layout", ["parquet", "webdataset"])
def test_a_flipped_byte_inside_a_part_or_a_tar_is_found(
    local: Storage, signer: ClipSigner, layout: AudioMode
) -> None:
    signed = put(local, signer, layout, "ogg", n_clips=1)[0]
    assert signed.sidecar is not None
    changed = flip(signed.sidecar, 1000)
    if layout == "webdataset":
        path = read_clips(local, ["audio_path"])["audio_path"][0].as_py()
        local.put(path, local.get(path).replace(signed.sidecar, changed))
    else:
        (info,) = list_parts(local, "clips")
        table = read_part(local, info)
        at = table.schema.get_field_index("c2pa_sidecar")
        table = table.set_column(at, table.schema.field(at), [pa.array([changed])])
        local.put(info.path, encode_part(table, table.schema, "token"))

    assert kinds(verify(local)) == [f"wrong signature: clip {0:032x}: its C2PA sidecar is damaged"]


def test_a_row_that_claims_a_manifest_which_is_not_there_is_found(
    local: Storage, signer: ClipSigner
) -> None:
    commit(local, [clip("a", c2pa="embedded", audio_format="flac")], 0)

    (problem,) = kinds(verify(local))

    assert problem.startswith("wrong signature: clip ")
    assert "its C2PA signature does not hold (" in problem


def test_a_missing_sidecar_is_found_without_reading_audio(
    local: Storage, signer: ClipSigner
) -> None:
    put(local, signer, "files", "ogg", n_clips=1)
    path = sidecar_of(read_clips(local, ["audio_path"])["audio_path"][0].as_py())
    local.delete([path])

    for deep in (False, True):
        (problem,) = verify(local, deep=deep).problems
        assert (problem.kind, problem.where) == ("missing", path)


def test_gc_keeps_sidecars_of_clips_and_removes_others(local: Storage, signer: ClipSigner) -> None:
    put(local, signer, "files", "ogg", n_clips=1)
    orphan = f"audio/ff/{'f' * 32}-00000000.c2pa"
    local.put(orphan, b"left by a killed run")
    assert verify(local).n_unreferenced == 1

    with Lease.acquire(local) as lease:
        assert [info.path for info in gc(local, lease, min_age_s=-10).audio] == [orphan]

    assert (verify(local).problems, verify(local).n_unreferenced) == ((), 0)


@pytest.mark.slow
def test_a_certificate_that_has_expired_since_is_told_and_damages_nothing(
    local: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = make_trial_pair(days=64 / 86_400)  # it began a minute ago
    monkeypatch.setenv(KEY, pair.key.decode())
    monkeypatch.setenv(CERTIFICATE, pair.chain.decode())
    found = read_credentials()
    assert found is not None
    put(local, ClipSigner(found), "files", "flac", n_clips=1)
    left_s = (found.certificate.ends - datetime.now(UTC)).total_seconds()
    time.sleep(max(0.0, left_s) + 1.1)  # the reader counts in whole seconds

    report = verify(local)

    assert (report.problems, states(report)) == ((), {"expired": 1})
    assert "  signatures that fit their clips, but their certificate has expired since: 1" in (
        report.marks.lines
    )


def test_parts_of_earlier_versions_have_no_marks_and_stand_beside_signed_ones(
    local: Storage, signer: ClipSigner, tmp_path: Path
) -> None:
    commit(local, [clip("old")], 7)
    (info,) = list_parts(local, "clips")
    table = read_part(local, info)
    table = table.drop_columns([*(n for n in table.column_names if "c2pa" in n), "watermark"])
    local.put(info.path, encode_part(table, table.schema, "token"))
    put(local, signer, "files", "flac", n_clips=1)

    report = verify(local)
    rows = read_clips(local, ["c2pa", "watermark"])

    assert (report.problems, report.marks.claimed.clips, report.marks.claimed.c2pa) == ((), 2, 1)
    assert sorted(map(str, rows["c2pa"].to_pylist())) == ["None", "embedded"]
    with Lease.acquire(local) as lease:
        compact(local, lease)
    assert pq.read_table(tmp_path / "out/clips")["c2pa"].null_count == 1
    assert states(verify(local)) == {"trusted": 1}


def test_an_output_without_marks_is_said_nothing_of(local: Storage) -> None:
    commit(local, [clip("a")], 0)
    report = verify(local)
    assert (report.marks.lines, report.marks.claimed.c2pa) == ([], 0)
