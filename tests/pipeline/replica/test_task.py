"""The table of clips: every count follows from the states."""

import pytest

from pipeline.ledger.extras import NO_EXTRAS
from pipeline.planning.clips import DeadLetter
from pipeline.prepare.prepared import Prepared, PreparedClip
from pipeline.replica.messages import ClipStatus
from pipeline.replica.task import ClipState, ClipTask, RayTask, TaskTable
from tests.pipeline.prepare.test_prepared import SPEC

LETTER = SPEC.dead_letter("prepare", ValueError("broken"))


def begun(table: TaskTable, *rows: Prepared) -> RayTask:
    """A Ray task whose rows are in the table."""
    ray_task = RayTask()
    ray_task.tasks = [ClipTask(row, NO_EXTRAS, ray_task) for row in rows]
    table.begin(ray_task)
    for task in ray_task.tasks:
        if isinstance(task.prepared, DeadLetter):
            task.state = ClipState.DECODED
        else:
            table.add(task)
    return ray_task


def counts(table: TaskTable) -> tuple[int, int, int]:
    return table.n_waiting, table.n_uncommitted, table.n_in_hand


def test_counts_follow_a_clip_to_its_end() -> None:
    table = TaskTable()
    ray_task = begun(table, PreparedClip(SPEC, 1))
    (task,) = ray_task.tasks
    seen = [counts(table)]
    for state in (ClipState.ADMITTED, ClipState.DECODED, ClipState.FINISHED):
        table.move(task, state)
        seen.append(counts(table))

    assert seen == [(1, 0, 1), (0, 0, 1), (0, 1, 1), (0, 1, 1)]
    assert table.a_ray_task_waits_for_commit()
    assert table.settle(task, ClipStatus("clip", SPEC.clip_id, 1.0)) == [ray_task]
    assert counts(table) == (0, 0, 0)
    assert table.is_idle


def test_a_clip_that_is_made_again_waits_again() -> None:
    table = TaskTable()
    (task,) = begun(table, PreparedClip(SPEC, 1)).tasks
    for state in (ClipState.ADMITTED, ClipState.DECODED, ClipState.WAITING):
        table.move(task, state)
    assert counts(table) == (1, 0, 1)


def test_dead_letters_are_no_clips_but_their_ray_task_waits_for_them() -> None:
    table = TaskTable()
    ray_task = begun(table, LETTER)
    assert counts(table) == (0, 0, 0)
    assert not table.a_ray_task_waits_for_commit()
    table.move(ray_task.tasks[0], ClipState.FINISHED)
    assert table.a_ray_task_waits_for_commit()
    assert table.settle(ray_task.tasks[0], ClipStatus("letter")) == [ray_task]


@pytest.mark.parametrize(
    ("status", "of_the_twin"), [("clip", "known"), ("letter", "known"), ("drained", "drained")]
)
def test_a_clip_that_is_asked_for_twice_is_made_once(status: str, of_the_twin: str) -> None:
    table = TaskTable()
    first = begun(table, PreparedClip(SPEC, 1))
    second = begun(table, PreparedClip(SPEC, 1))
    assert counts(table) == (1, 0, 1)

    made = ClipStatus(status, SPEC.clip_id, 1.0)  # type: ignore[arg-type]
    assert table.settle(first.tasks[0], made) == [first, second]
    assert first.statuses == [made]
    assert [(s.status, s.audio_s) for s in second.statuses] == [
        (of_the_twin, 1.0 if status == "drained" else None)
    ]
    again = begun(table, PreparedClip(SPEC, 1))  # settled clips leave the table
    assert counts(table) == (1, 0, 1)
    assert not again.is_settled


def test_a_ray_task_that_repeats_a_clip_waits_for_its_one_commit() -> None:
    table = TaskTable()
    ray_task = begun(table, PreparedClip(SPEC, 1), PreparedClip(SPEC, 1))
    first, twin = ray_task.tasks
    table.move(first, ClipState.FINISHED)
    assert (twin.state, counts(table)) == (ClipState.FINISHED, (0, 1, 1))
    assert table.a_ray_task_waits_for_commit()
    assert table.settle(first, ClipStatus("clip", SPEC.clip_id, 1.0)) == [ray_task]


def test_a_ray_task_returns_with_its_last_row() -> None:
    table = TaskTable()
    ray_task = begun(table, PreparedClip(SPEC, 1), LETTER)
    clip, letter = ray_task.tasks
    table.move(letter, ClipState.FINISHED)
    assert not table.a_ray_task_waits_for_commit()  # the clip is still in front of the engine
    assert table.settle(letter, ClipStatus("letter")) == []
    table.move(clip, ClipState.FINISHED)
    assert table.settle(clip, ClipStatus("clip", SPEC.clip_id, 1.0)) == [ray_task]


def test_a_replica_that_ended_takes_nothing_more() -> None:
    table = TaskTable()
    ray_task = begun(table, PreparedClip(SPEC, 1))
    assert table.fail(RuntimeError("the device is gone")) == [ray_task]
    with pytest.raises(RuntimeError, match="the device is gone"):
        table.begin(RayTask())
