"""Manifest minus ledger: what a run has to do, and which rows become dead letters."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from manifests.reader import Manifest
from manifests.schema import GenerationDefaults
from pipeline.ledger.id_set import NO_IDS, DoneSet, pack_ids
from pipeline.planning.clips import ClipSpec, DeadLetter, PlannedClip
from pipeline.planning.expand import Expander, ModelLimits, PlanSpec, Selection
from pipeline.planning.scan import describe_plan, scan

LIMITS = ModelLimits("toy", "f" * 32, frozenset({"melody", "continuation"}))
NOTHING = DoneSet(NO_IDS, NO_IDS)


def spec_of(path: Path, rows: Sequence[Mapping[str, Any]], **defaults: Any) -> PlanSpec:
    names = {name: None for row in rows for name in row}
    pq.write_table(pa.table({n: [row.get(n) for row in rows] for n in names}), path)
    return PlanSpec(Manifest.open(str(path)), GenerationDefaults(**defaults), LIMITS)


def items(
    spec: PlanSpec, selection: Selection | None = None
) -> list[PlannedClip | DeadLetter | None]:
    expander, repeats = Expander(spec), scan(spec, Selection(NOTHING)).repeats
    found: list[PlannedClip | DeadLetter | None] = []
    for row_group in spec.manifest.row_groups:
        for first_row, batch in spec.manifest.read_row_group(row_group):
            for number, raw in enumerate(spec.manifest.raw_rows(batch), start=first_row):
                results = expander.expand(
                    raw, number, repeats.get(number, 0), selection or Selection(NOTHING)
                )
                found += [item for _, item in results]
    return found


def clips(spec: PlanSpec) -> list[ClipSpec]:
    return [item.spec for item in items(spec) if isinstance(item, PlannedClip)]


def letters(spec: PlanSpec) -> list[DeadLetter]:
    return [item for item in items(spec) if isinstance(item, DeadLetter)]


def done_with(*clip_ids: str, letters: Sequence[str] = ()) -> DoneSet:
    return DoneSet(np.unique(pack_ids(clip_ids)), np.unique(pack_ids(letters)))


def test_takes_are_clips_with_seeds_of_their_own(tmp_path: Path) -> None:
    spec = spec_of(tmp_path / "m.parquet", [{"id": "a", "prompt": "x", "takes": 3, "seed": 7}])

    found = clips(spec)

    assert [clip.take for clip in found] == [0, 1, 2]
    assert found[0].seed_used == 7
    assert len({clip.seed_used for clip in found}) == 3
    assert len({clip.clip_id for clip in found}) == 3


def test_what_is_done_is_decided_by_content_not_by_position(tmp_path: Path) -> None:
    rows = [{"id": f"r{i}", "prompt": f"song {i}"} for i in range(4)]
    before = clips(spec_of(tmp_path / "m.parquet", rows))
    known = done_with(*(clip.clip_id for clip in before))

    edited = [rows[3], {"id": "new", "prompt": "x"}, rows[1] | {"prompt": "edited"}, rows[0]]
    plan = scan(spec_of(tmp_path / "n.parquet", edited), Selection(known))

    assert plan.outcomes == {"done": 2, "pending": 2}


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"genre": "another"}, True),
        ({"prompt": "another"}, False),
        ({"duration_s": 3.0}, False),
        ({"duration_s": 10.0}, True),  # the default, written out
        ({"temperature": 0.5}, False),
        ({"seed": 1}, False),
    ],
)
def test_identity_is_what_determines_the_music(
    change: dict[str, Any], same: bool, tmp_path: Path
) -> None:
    row = {"id": "a", "prompt": "x", "genre": "jazz"}

    (before,) = clips(spec_of(tmp_path / "m.parquet", [row]))
    (after,) = clips(spec_of(tmp_path / "n.parquet", [row | change]))

    assert (before.clip_id == after.clip_id) is same


def test_a_reference_counts_by_its_bytes_not_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"one")
    (tmp_path / "b.wav").write_bytes(b"one")
    row = {"id": "a", "prompt": "x"}
    spec = spec_of(tmp_path / "m.parquet", [row | {"melody_uri": "a.wav"}])
    other = spec_of(tmp_path / "n.parquet", [row | {"melody_uri": "b.wav"}])
    (first,), (second,) = clips(spec), clips(other)
    assert first.clip_id == second.clip_id
    assert first.row_key != second.row_key

    (tmp_path / "a.wav").write_bytes(b"another")
    (changed,) = clips(spec)
    assert changed.clip_id != first.clip_id
    assert changed.row_key == first.row_key


REFUSED = {
    "invalid": ({"duration_s": -1.0}, "manifest", r"duration_s=-1\.0"),
    "too long": ({"duration_s": 3601.0}, "manifest", r"duration_s=3601\.0 exceeds 3600 s; shorten"),
    "style": ({"style_uri": "s.wav"}, "prepare", r"style .* toy takes .*choose another --model"),
    "odd": ({"melody_uri": "hf://x/y.wav"}, "prepare", r"cannot read hf://x/y\.wav"),
    "missing": ({"melody_uri": "gone.wav"}, "prepare", r"gone\.wav: no such file"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_row_that_cannot_be_made_becomes_a_letter(case: str, tmp_path: Path) -> None:
    change, stage, message = REFUSED[case]
    rows = [{"id": "fine", "prompt": "x"}, {"id": "bad", "prompt": "x"} | change]
    spec = spec_of(tmp_path / "m.parquet", rows)

    (letter,) = letters(spec)

    assert (letter.id, letter.row, letter.stage, letter.source) == ("bad", 1, stage, "m.parquet")
    assert letter.message.startswith("m.parquet row 1 (id=bad): ")
    assert re.search(message, letter.message), letter.message
    assert [clip.id for clip in clips(spec)] == ["fine"]


def test_rows_that_repeat_an_id_are_refused_and_the_first_is_kept(tmp_path: Path) -> None:
    rows = [{"id": i, "prompt": "x"} for i in ("a", "b", "a", "c", "a")]
    spec = spec_of(tmp_path / "m.parquet", rows)

    assert scan(spec, Selection(NOTHING)).repeats == {2: 1, 4: 2}
    assert [clip.id for clip in clips(spec)] == ["a", "b", "c"]
    found = letters(spec)
    assert [letter.row for letter in found] == [2, 4]
    assert len({letter.row_key for letter in found}) == 2


def test_run_skips_rows_whose_letter_stands_and_retry_takes_only_those(tmp_path: Path) -> None:
    spec = spec_of(tmp_path / "m.parquet", [{"id": i, "prompt": "x"} for i in "abc"])
    keys = {clip.id: clip.row_key for clip in clips(spec)}
    known = done_with(letters=[keys["b"]])

    assert scan(spec, Selection(known)).outcomes == {"pending": 2, "standing": 1}
    assert scan(spec, Selection(known, retry=True)).outcomes == {"pending": 1, "unasked": 2}


def test_units_without_pending_rows_are_not_read_again(tmp_path: Path) -> None:
    table = pa.table({"id": [f"r{i}" for i in range(10)], "prompt": ["x"] * 10})
    pq.write_table(table, tmp_path / "m.parquet", row_group_size=5)
    spec = PlanSpec(Manifest.open(str(tmp_path / "m.parquet")), GenerationDefaults(), LIMITS)
    done = [clip.clip_id for clip in clips(spec)][:5]

    plan = scan(spec, Selection(done_with(*done)))

    assert [row_group.first_row for row_group in plan.row_groups] == [5]


def test_the_plan_in_words(tmp_path: Path) -> None:
    rows = [{"id": "a", "prompt": "x", "duration_s": 2.0}, {"id": "b", "duration_s": 1.0}]
    plan = scan(spec_of(tmp_path / "m.parquet", rows), Selection(NOTHING))

    said = describe_plan(plan)

    assert said == "2 rows: 1 clip to make (2.0 s of audio), 0 already done, 1 refused now"
