"""Which takes are made where the takes of a row are judged together."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.audio.scores.choose import ruling_of
from pipeline.audio.scores.protocol import ScorerIdentity
from pipeline.ledger import SETTLED
from pipeline.ledger.id_set import ID_BYTES, NO_IDS, DoneSet, pack_ids, ruling_key
from pipeline.planning.clips import ClipSpec, DeadLetter, PlannedClip
from pipeline.planning.expand import Judging, PlanSpec, Selection
from pipeline.planning.scan import scan
from tests.pipeline.planning.test_scan import items, spec_of

JUDGE = ScorerIdentity("melody", "built in", "a" * 32)
TAKES, KEEP = 4, 1
RULING = ruling_of(KEEP, TAKES, JUDGE)


def judged(path: Path, keep: int = KEEP, **row: Any) -> PlanSpec:
    rows = [{"id": "a", "prompt": "x", "takes": TAKES} | row]
    return replace(spec_of(path, rows), judging=Judging(keep, JUDGE))


@pytest.fixture
def spec(tmp_path: Path) -> PlanSpec:
    return judged(tmp_path / "m.parquet")


@pytest.fixture
def takes(spec: PlanSpec) -> list[ClipSpec]:
    return [item.spec for item in items(spec) if isinstance(item, PlannedClip)]


def known(
    committed: Iterable[ClipSpec] = (),
    kept: Iterable[ClipSpec] = (),
    aside: Iterable[ClipSpec] = (),
    letters: Iterable[ClipSpec] = (),
    ruling: str = RULING,
) -> DoneSet:
    keys = [ruling_key(clip.clip_id, ruling, True) for clip in kept]
    keys += [ruling_key(clip.clip_id, ruling, False) for clip in aside]
    return DoneSet(
        np.unique(pack_ids([clip.clip_id for clip in committed])),
        np.unique(pack_ids([clip.row_key for clip in letters])),
        np.unique(np.array(keys, f"S{ID_BYTES}")) if keys else NO_IDS,
    )


def made(spec: PlanSpec, stands: DoneSet, retry: bool = False) -> dict[int, bool | None]:
    """The takes that are made: whether each stands, None where it is made alone."""
    selection = Selection(stands, retry)
    found = {}
    for item in items(spec, selection):
        if isinstance(item, PlannedClip):
            found[item.spec.take] = None if item.judged is None else item.judged.stands
            assert item.judged is None or (item.judged.ruling, item.judged.keep) == (RULING, KEEP)
    plan = scan(spec, selection)
    assert plan.pending == len(found)  # the driver counts what is prepared
    return found


def test_nothing_stands(spec: PlanSpec) -> None:
    assert made(spec, known()) == dict.fromkeys(range(TAKES), False)


def test_all_is_judged(spec: PlanSpec, takes: list[ClipSpec]) -> None:
    stands = known([takes[2]], kept=[takes[2]], aside=[takes[0], takes[1], takes[3]])
    assert made(spec, stands) == {}
    assert scan(spec, Selection(stands)).outcomes == {"done": TAKES}


def test_the_kept_take_is_not_committed_yet(spec: PlanSpec, takes: list[ClipSpec]) -> None:
    """A run ended between the scores and the clips."""
    stands = known(kept=[takes[2]], aside=[takes[0], takes[1], takes[3]])
    assert made(spec, stands) == {2: None}


def test_a_clip_stands_that_was_never_judged(spec: PlanSpec, takes: list[ClipSpec]) -> None:
    assert made(spec, known([takes[1]])) == {0: False, 1: True, 2: False, 3: False}


def test_another_ruling_counts_for_nothing(spec: PlanSpec, takes: list[ClipSpec]) -> None:
    for other in (
        ruling_of(2, TAKES, JUDGE),
        ruling_of(KEEP, TAKES + 1, JUDGE),
        ruling_of(KEEP, TAKES, replace(JUDGE, digest="b" * 32)),
    ):
        stands = known([takes[0]], kept=[takes[0]], aside=takes[1:], ruling=other)
        assert made(spec, stands) == {0: True, 1: False, 2: False, 3: False}


def test_a_take_that_was_kept_once_stays_kept(spec: PlanSpec, takes: list[ClipSpec]) -> None:
    """Two replicas may have judged the same row, with other bits on other machines."""
    stands = known([takes[0]], kept=[takes[0], takes[1]], aside=takes)
    assert made(spec, stands) == {1: None}


def test_a_standing_dead_letter_leaves_the_others_to_be_judged(
    spec: PlanSpec, takes: list[ClipSpec]
) -> None:
    assert made(spec, known(letters=[takes[1]])) == {0: False, 2: False, 3: False}
    ruled = known([takes[0]], kept=[takes[0]], aside=takes[2:], letters=[takes[1]])
    assert made(spec, ruled) == {}
    assert scan(spec, Selection(ruled)).outcomes == {"done": 3, "standing": 1}


def test_a_retry_judges_the_whole_row_again(spec: PlanSpec, takes: list[ClipSpec]) -> None:
    stands = known([takes[0]], kept=[takes[0]], aside=takes[2:], letters=[takes[1]])
    assert made(spec, stands, retry=True) == {0: True, 1: False, 2: False, 3: False}
    assert scan(spec, Selection(known(), retry=True)).outcomes == {"unasked": TAKES}


def test_a_retry_takes_letters_back_where_all_is_judged(
    spec: PlanSpec, takes: list[ClipSpec]
) -> None:
    stands = known([takes[0]], kept=[takes[0]], aside=takes[1:], letters=[takes[1]])
    found = items(spec, Selection(stands, retry=True))
    assert {item.stage for item in found if isinstance(item, DeadLetter)} == {SETTLED}
    assert made(spec, stands, retry=True) == {}


def test_rows_with_no_more_takes_than_are_kept_are_as_ever(tmp_path: Path) -> None:
    for takes in (1, 2):
        spec = judged(tmp_path / f"{takes}.parquet", keep=2, takes=takes)
        clips = [item for item in items(spec) if isinstance(item, PlannedClip)]
        assert [clip.judged for clip in clips] == [None] * takes


def test_judging_enters_no_identity(tmp_path: Path, takes: list[ClipSpec]) -> None:
    plain = replace(judged(tmp_path / "n.parquet"), judging=None)
    assert [item.spec.clip_id for item in items(plain) if isinstance(item, PlannedClip)] == [
        take.clip_id for take in takes
    ]


def test_how_many_takes_a_row_has_may_be_a_setting(tmp_path: Path) -> None:
    rows = [{"id": "a", "prompt": "x", "takes": None}, {"id": "b", "prompt": "x", "takes": 1}]
    spec = spec_of(tmp_path / "m.parquet", rows, takes=3)
    clips = [item.spec for item in items(spec) if isinstance(item, PlannedClip)]
    assert Counter(clip.id for clip in clips) == {"a": 3, "b": 1}
    assert scan(spec, Selection(known())).outcomes == {"pending": 4}
    written = spec_of(tmp_path / "n.parquet", [{"id": "a", "prompt": "x", "takes": 3}])
    named = [item.spec for item in items(written) if isinstance(item, PlannedClip)]
    assert [(c.clip_id, c.row_key) for c in named] == [(c.clip_id, c.row_key) for c in clips[:3]]
