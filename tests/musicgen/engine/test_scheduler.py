"""The scheduler: which clip is admitted next, and which rows it gets."""

import torch

from musicgen.conditioning.fuser import ClipConditions
from musicgen.config import SamplingParams
from musicgen.engine.engine import Request
from musicgen.engine.scheduler import RunningClip, Scheduler

ROWS = {"none": {"cfg_coef": 1.0}, "single": {"cfg_coef": 3.0}, "double": {"cfg_coef_beta": 2.0}}


def request(key: str, guidance: str = "single", n_frames: int = 8) -> Request:
    conditions = ClipConditions(torch.zeros(1, 8))
    return Request(key, conditions, n_frames, 0, SamplingParams(**ROWS[guidance]))


def admit(scheduler: Scheduler) -> RunningClip | None:
    """Admit the next clip as the engine does."""
    clip = scheduler.next_clip()
    if clip is None:
        return None
    running = RunningClip(clip, scheduler.take_rows(clip.request.n_rows), 1, 0, 8)
    scheduler.running.append(running)
    return running


def test_leading_rows_come_from_the_front_and_the_others_from_the_back() -> None:
    scheduler = Scheduler(8)
    for key, guidance in [("a", "double"), ("b", "single"), ("c", "none")]:
        scheduler.submit(request(key, guidance))
    admitted = [admit(scheduler) for _ in range(3)]
    assert [clip.rows for clip in admitted if clip] == [[0, 7, 6], [1, 5], [2]]
    assert scheduler.free_rows == [3, 4]


def test_rows_of_a_clip_that_ended_are_taken_again_in_order() -> None:
    scheduler = Scheduler(4)
    for key in "abc":
        scheduler.submit(request(key))
    first, second = admit(scheduler), admit(scheduler)
    assert first is not None
    assert second is not None
    assert admit(scheduler) is None
    scheduler.end(first)
    third = admit(scheduler)
    assert third is not None
    assert (third.rows, scheduler.running) == ([0, 3], [second, third])


def test_a_clip_that_is_too_wide_holds_up_the_ones_behind_it() -> None:
    scheduler = Scheduler(4)
    for key, guidance in [("a", "single"), ("wide", "double"), ("narrow", "none")]:
        scheduler.submit(request(key, guidance))
    first = admit(scheduler)
    assert first is not None
    assert scheduler.next_clip() is None
    scheduler.end(first)
    wide = scheduler.next_clip()
    assert wide is not None
    assert wide.request.key == "wide"


def test_the_longest_clip_may_go_first() -> None:
    scheduler = Scheduler(4, longest_first=True)
    for key, n_frames in [("short", 3), ("long", 9), ("middle", 5)]:
        scheduler.submit(request(key, n_frames=n_frames))
    order = [clip.request.key for _ in range(3) if (clip := scheduler.next_clip())]
    assert order == ["long", "middle", "short"]


def test_clips_with_windows_left_return_to_the_head_of_the_queue_in_order() -> None:
    scheduler = Scheduler(4)
    for key in "ab":
        scheduler.submit(request(key))
    first, second = admit(scheduler), admit(scheduler)
    assert first is not None
    assert second is not None
    scheduler.submit(request("c"))
    for clip in (first, second):
        scheduler.end(clip)
    scheduler.return_to_queue([first.progress, second.progress])
    assert [clip.request.key for clip in scheduler.waiting] == ["a", "b", "c"]


def test_there_is_room_while_waiting_clips_leave_a_row_free() -> None:
    scheduler = Scheduler(4)
    scheduler.submit(request("a"))
    assert scheduler.has_room
    scheduler.submit(request("b"))
    assert not scheduler.has_room
    assert scheduler.drop_waiting("a") == 1
    assert scheduler.has_room
