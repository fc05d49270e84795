"""Whole plans: equal to those row by row wherever they run; what is kept never hides a change."""

import json
import logging
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from manifests.schema import GenerationDefaults
from pipeline import ledger
from pipeline.ledger import maintain, part_index
from pipeline.ledger.id_set import pack_ids
from pipeline.ledger.lease import Lease
from pipeline.ledger.names import is_ours
from pipeline.planning import judge, scan, survey
from pipeline.planning.expand import PlanSpec, Selection
from pipeline.planning.judge import Judge
from pipeline.planning.pool import LocalPool
from pipeline.planning.scan import Plan, wanted_clips
from pipeline.storage import ObjectInfo, Storage, open_storage
from tests.integration.jobs import Cli, wait_until
from tests.pipeline import outputs
from tests.pipeline.planning.manifests import (
    RowByRow,
    plan_row_by_row,
    some_stand,
    spec_of,
)


def is_same(plan: Plan, wanted: RowByRow) -> bool:
    groups = {row_group.first_row for row_group in plan.row_groups}
    counts = (plan.outcomes, plan.letters, plan.repeats, groups)
    return counts == (
        +wanted.outcomes,
        wanted.letters,
        wanted.repeats,
        wanted.groups,
    ) and plan.pending_audio_s == pytest.approx(wanted.audio_s)


@pytest.fixture
def odd_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PlanSpec:
    """Duplicates, bad rows, takes, references, embedded audio; cut into many tasks."""
    monkeypatch.setattr(scan, "FEWEST_ROWS", 50)
    monkeypatch.setattr(judge, "BATCH_ROWS", 32)
    draw = random.Random(5)
    (tmp_path / "a.wav").write_bytes(b"one")
    columns = {
        "id": lambda: draw.choice([f"r{draw.randrange(600)}"] * 9 + [None, "\u200b", "x" * 257]),
        "prompt": lambda: draw.choice(["song"] * 20 + [None, " ", "y" * 4001, "\u0085"]),
        "duration_s": lambda: draw.choice([None] * 20 + [3.0, 1.5, float("nan"), 3601.0]),
        "takes": lambda: draw.choice([None, 1, 1, 1, 1, 2, 3] * 3 + [0]),
        "seed": lambda: draw.choice([None, None, 5, 2**63 - 1, -1]),
        "melody_uri": lambda: draw.choice([None] * 15 + ["a.wav", "gone.wav"]),
        "melody_audio": lambda: draw.choice([None] * 30 + [b"RIFF", b""]),
    }
    drawn = {name: [column() for _ in range(400)] for name, column in columns.items()}
    return spec_of(tmp_path / "m.parquet", pa.table(drawn), 70)


def test_a_plan_is_the_same_row_by_row_in_a_thread_and_in_a_process(odd_manifest: PlanSpec) -> None:
    everything = plan_row_by_row(odd_manifest)
    known = some_stand(random.Random(1), everything)
    assert len(everything.repeats) > 50
    assert everything.outcomes["refused"] > 50

    with LocalPool() as threads, LocalPool(1) as processes:
        for retry in (False, True):
            selection = Selection(known, retry)
            wanted = plan_row_by_row(odd_manifest, selection)
            assert is_same(scan.scan(odd_manifest, selection, threads), wanted)
            assert is_same(scan.scan(odd_manifest, selection, processes), wanted)
    asked = np.unique(pack_ids([clip.spec.clip_id for clip in everything.clips]))
    assert np.array_equal(wanted_clips(odd_manifest), asked)


# --- what is kept in the output


class Reads:
    """Counts the row groups that are read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.groups: list[int] = []
        real = Judge.judge

        def noted(own: Judge, piece: judge.Slice, repeats: dict[int, int]) -> judge.Judged:
            self.groups.append(piece.row_group)
            return real(own, piece, repeats)

        monkeypatch.setattr(Judge, "judge", noted)

    def since(self) -> list[int]:
        found, self.groups = sorted({*self.groups}), []
        return found


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    monkeypatch.setattr(survey, "FEWEST_ROWS_KEPT", 1)
    monkeypatch.setattr(part_index, "FEWEST_PARTS", 1)
    return Reads(monkeypatch)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path / "out"))


def manifest(path: Path, n_rows: int = 40, **columns: list[Any]) -> PlanSpec:
    rows = {"id": [f"r{i}" for i in range(n_rows)], "prompt": [f"song {i}" for i in range(n_rows)]}
    return spec_of(path, pa.table(rows | columns), 10)


def objects_like(storage: Storage, pattern: str) -> list[ObjectInfo]:
    return [info for info in storage.list("cache") if fnmatch(info.path, pattern)]


def plan_and_keep(storage: Storage, spec: PlanSpec, *, keep: bool = True) -> Plan:
    with LocalPool() as pool:
        return survey.survey(storage, spec, pool, keep=keep).plan


def make(storage: Storage, spec: PlanSpec, rows: range, seq: int) -> str:
    """Commits the clips of some rows; returns the path of the part."""
    found = plan_row_by_row(spec).clips
    made = [clip.spec for clip in found if clip.spec.row in rows]
    clips = [
        outputs.clip(c.id, clip_id=c.clip_id, row_key=c.row_key, audio_path=None) for c in made
    ]
    table = pa.Table.from_pylist(clips, schema=ledger.clip_schema(pa.schema([]), "files"))
    return ledger.write_clip_part(storage, table, outputs.RUN, "aaaaaa", seq)


def test_row_groups_of_which_all_is_done_are_not_read_again(
    tmp_path: Path, storage: Storage, reads: Reads
) -> None:
    spec = manifest(tmp_path / "m.parquet")
    make(storage, spec, range(25), 0)

    first = plan_and_keep(storage, spec)
    assert reads.since() == [0, 1, 2, 3]
    second = plan_and_keep(storage, spec)

    assert reads.since() == [2, 3]
    assert first == second
    assert second.outcomes == {"done": 25, "pending": 15}


def test_where_nothing_is_left_neither_rows_nor_parts_are_read(
    tmp_path: Path, storage: Storage, reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = manifest(tmp_path / "m.parquet")
    make(storage, spec, range(40), 0)
    first = plan_and_keep(storage, spec)
    assert reads.since() == [0, 1, 2, 3]

    with monkeypatch.context() as patch:
        patch.delattr(survey, "read_standing")
        again = plan_and_keep(storage, spec)
    assert reads.since() == []
    assert again == first
    assert again.outcomes == {"done": 40}
    assert [info.path for info in storage.list("cache") if not is_ours(info.path)] == []

    make(storage, spec, range(5), 1)  # the same clips once more, in a part that is new
    assert plan_and_keep(storage, spec) == first
    assert reads.since() == []


def test_a_clip_that_is_gone_is_made_again(tmp_path: Path, storage: Storage, reads: Reads) -> None:
    spec = manifest(tmp_path / "m.parquet")
    make(storage, spec, range(35), 0)
    second_part = make(storage, spec, range(35, 40), 1)
    plan_and_keep(storage, spec)
    storage.delete([second_part])

    assert plan_and_keep(storage, spec).outcomes == {"done": 35, "pending": 5}
    assert 0 not in reads.since()[4:]


def test_clips_that_were_compacted_are_still_known(
    tmp_path: Path, storage: Storage, reads: Reads
) -> None:
    spec = manifest(tmp_path / "m.parquet")
    make(storage, spec, range(20), 0)
    make(storage, spec, range(20, 40), 1)
    plan_and_keep(storage, spec)
    with Lease.acquire(storage) as lease:
        maintain.compact(storage, lease)
        maintain.gc(storage, lease, min_age_s=0)
    reads.since()

    assert plan_and_keep(storage, spec).outcomes == {"done": 40}
    assert reads.since() == []
    assert storage.list("cache/plan")  # gc leaves it


def test_an_edited_file_is_read_again(tmp_path: Path, storage: Storage, reads: Reads) -> None:
    spec = manifest(tmp_path / "m.parquet")
    make(storage, spec, range(40), 0)
    plan_and_keep(storage, spec)

    edited = manifest(tmp_path / "m.parquet", prompt=["x"] + [f"song {i}" for i in range(1, 40)])
    assert plan_and_keep(storage, edited).outcomes == {"done": 39, "pending": 1}


@pytest.mark.parametrize("change", [{"temperature": 0.5}, {"seed": 1}, {"duration_s": 3.0}])
def test_other_defaults_are_another_plan(
    change: dict[str, Any], tmp_path: Path, storage: Storage, reads: Reads
) -> None:
    spec = manifest(tmp_path / "m.parquet")
    make(storage, spec, range(40), 0)
    plan_and_keep(storage, spec)

    other = replace(spec, defaults=GenerationDefaults(**change))
    assert plan_and_keep(storage, other).outcomes == {"pending": 40}


def test_a_watermark_is_another_plan_and_without_one_the_old_clips_are_done(
    tmp_path: Path, storage: Storage, reads: Reads
) -> None:
    spec = manifest(tmp_path / "m.parquet")
    make(storage, spec, range(40), 0)
    plan_and_keep(storage, spec)

    marked = replace(spec, limits=replace(spec.limits, watermark="some strength=1.0"))
    assert plan_and_keep(storage, marked).outcomes == {"pending": 40}
    stronger = replace(spec, limits=replace(spec.limits, watermark="some strength=2.0"))
    assert plan_and_keep(storage, stronger).outcomes == {"pending": 40}
    assert plan_and_keep(storage, spec).outcomes == {"done": 40}


def test_a_letter_that_came_or_went_is_seen(tmp_path: Path, storage: Storage, reads: Reads) -> None:
    spec = manifest(tmp_path / "m.parquet")
    make(storage, spec, range(40), 0)
    plan_and_keep(storage, spec)
    key = plan_row_by_row(spec).clips[7].spec.row_key
    outputs.fail(storage, [outputs.letter("r7", 5, row_key=key)], 0)

    assert plan_and_keep(storage, spec).outcomes == {"done": 39, "standing": 1}
    reads.since()
    assert plan_and_keep(storage, spec).outcomes == {"done": 39, "standing": 1}
    assert reads.since() == []
    outputs.fail(storage, [outputs.letter("r7", 6, row_key=key, stage="settled")], 1)
    assert plan_and_keep(storage, spec).outcomes == {"done": 40}


def test_an_id_that_another_file_repeats_is_seen(
    tmp_path: Path, storage: Storage, reads: Reads
) -> None:
    folder = tmp_path / "manifest"
    folder.mkdir()
    later = manifest(folder / "b.parquet")
    make(storage, later, range(40), 0)
    plan_and_keep(storage, later)
    pq.write_table(pa.table({"id": ["r3"], "prompt": ["first"]}), folder / "a.parquet")

    whole = PlanSpec(type(later.manifest).open(str(folder)), later.defaults, later.limits)
    reads.since()
    plan = plan_and_keep(storage, whole)

    assert plan.outcomes == {"done": 39, "pending": 1, "refused": 1}
    assert plan.repeats == {4: 1}
    assert reads.since() == [0, 1]  # the new file, and the group with the repeated id


def test_a_reference_that_changed_is_seen(tmp_path: Path, storage: Storage, reads: Reads) -> None:
    (tmp_path / "a.wav").write_bytes(b"one")
    spec = manifest(tmp_path / "m.parquet", melody_uri=["a.wav"] * 5 + [None] * 35)
    make(storage, spec, range(40), 0)
    plan_and_keep(storage, spec)
    (tmp_path / "a.wav").write_bytes(b"another")

    assert plan_and_keep(storage, spec).outcomes == {"done": 35, "pending": 5}


@pytest.mark.parametrize("name", ["cache/plan/*.plan", "cache/plan/*.whole", "cache/ledger/*.keys"])
@pytest.mark.parametrize(
    "damage",
    [lambda data: data[:-20], lambda data: b"", lambda data: data[:99] + b"?" + data[100:]],
)
def test_damage_costs_time_and_nothing_else(
    name: str,
    damage: Callable[[bytes], bytes],
    tmp_path: Path,
    storage: Storage,
    reads: Reads,
    caplog: pytest.LogCaptureFixture,
) -> None:
    spec = manifest(tmp_path / "m.parquet")
    make(storage, spec, range(40), 0)
    first = plan_and_keep(storage, spec)
    (whole,) = objects_like(storage, "cache/plan/*.whole")
    if not name.endswith(".whole"):
        storage.delete([whole.path])
    (kept,) = objects_like(storage, name)
    storage.put(kept.path, damage(storage.get(kept.path)))

    with caplog.at_level(logging.WARNING):
        assert plan_and_keep(storage, spec) == first
    assert "is left out, it can't be read" in caplog.text


def test_a_plan_alone_writes_nothing(tmp_path: Path, storage: Storage, reads: Reads) -> None:
    spec = manifest(tmp_path / "m.parquet")
    make(storage, spec, range(40), 0)

    plan_and_keep(storage, spec, keep=False)

    assert storage.list("cache") == []


# --- a run whose scan takes its time


@pytest.mark.slow
def test_a_signal_ends_a_scan_at_once_and_the_lease_lives_meanwhile(
    tmp_path: Path, cli: Cli
) -> None:
    n_rows, output = 3_000_000, f"file://{tmp_path}/out"
    rows = {"id": [f"r{i}" for i in range(n_rows)], "prompt": ["song"] * n_rows}
    pq.write_table(pa.table(rows), tmp_path / "m.parquet", row_group_size=20_000)
    settings: dict[str, Any] = {"runtime": "local", "lease_ttl_s": 1.0, "interval_s": 0.2}
    running = cli.start(*cli.job("run", tmp_path / "m.parquet", output, **settings))
    lease = open_storage(output)

    def beats() -> int:
        return int(json.loads(lease.get("lease/00000001.json"))["counter"])

    wait_until(lambda: "rows/s" in cli.said(running))
    before = beats()
    wait_until(lambda: beats() > before + 2)
    os.kill(running.pid, signal.SIGTERM)
    asked = time.monotonic()
    assert running.wait(timeout=60) == 5, cli.said(running)

    assert time.monotonic() - asked < 10  # on a busy machine; about one second on an idle one
    said = cli.said(running)
    assert f"scanning the {n_rows} rows of the manifest" in said
    assert "drained (SIGTERM) while the manifest was scanned: no clip was begun" in said
    (record,) = ledger.read_runs(open_storage(output))
    assert (record["state"], record["done"]) == ("drained", 0)
    assert b'"held": false' in lease.get("lease/00000001.json")
