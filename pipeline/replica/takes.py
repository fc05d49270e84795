"""The takes of one manifest row that are judged together: they wait for each other in the replica.

A take that is finished is held with its encoded audio until all takes of its row have come, made
or failed. Then the best are kept, by their scores and take numbers alone, and all of them are
committed together: the scores of all, the audio of those that are kept.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pipeline.audio.scores.choose import best_takes
from pipeline.audio.scores.scoring import Score
from pipeline.planning.clips import DeadLetter, JudgedTake
from pipeline.replica.postprocess import FinishedClip
from pipeline.replica.task import ClipTask


@dataclass(frozen=True)
class Verdict:
    """What becomes of a take.

    Attributes:
        clip: The take as it was made; None where it failed.
        letter: Why it failed.
        kept: Whether it is among the best.
    """

    task: ClipTask
    clip: FinishedClip | None
    letter: DeadLetter | None
    kept: bool

    @property
    def rule(self) -> JudgedTake:
        """How it was judged."""
        assert self.task.clip.judged is not None
        return self.task.clip.judged


@dataclass
class TakeGroup:
    """Takes of one row on their way through a replica. Safe for several threads.

    Attributes:
        tasks: The takes that were let in.
    """

    tasks: list[ClipTask] = field(default_factory=list)
    _ended: dict[int, FinishedClip | DeadLetter] = field(default_factory=dict)  # by take
    _is_abandoned: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def end(
        self, task: ClipTask, outcome: FinishedClip | DeadLetter
    ) -> Sequence[Verdict] | Literal["held", "drained"]:
        """Takes note of how a take has ended.

        Returns:
            What becomes of all of them where it was the last one; `held` where it waits for others,
            which whoever abandons the group is told of; `drained` where that has happened.
        """
        with self._lock:
            if self._is_abandoned:
                return "drained"
            self._ended[task.spec.take] = outcome
            if len(self._ended) < len(self.tasks):
                return "held"
        return self._judge()

    def abandon(self, task: ClipTask) -> list[ClipTask]:
        """A take is left undone, so the others can't be judged.

        Returns:
            Those that wait for it.
        """
        with self._lock:
            if self._is_abandoned:
                return []
            self._is_abandoned = True
            return [each for each in self.tasks if each.spec.take in self._ended and each != task]

    def _judge(self) -> list[Verdict]:
        clips = {t: clip for t, clip in self._ended.items() if isinstance(clip, FinishedClip)}
        scores = {take: judging_score(clip.scores) for take, clip in clips.items()}
        rule = self.tasks[0].clip.judged
        assert rule is not None
        best = best_takes(scores, rule.keep)
        verdicts = []
        for task in self.tasks:
            ended = self._ended[task.spec.take]
            letter = ended if isinstance(ended, DeadLetter) else None
            verdicts.append(
                Verdict(task, clips.get(task.spec.take), letter, task.spec.take in best)
            )
        return verdicts


def judging_score(scores: Sequence[Score]) -> float | None:
    """The score that takes are judged by: that of the first scorer."""
    return scores[0].value


class TakeTable:
    """The takes in a replica that are judged together. Safe for several threads."""

    def __init__(self) -> None:
        self._groups: dict[ClipTask, TakeGroup] = {}
        self._lock = threading.Lock()

    def begin(self, tasks: Iterable[ClipTask]) -> None:
        """Takes of a Ray task come in: those of a row are judged together."""
        rows: dict[int, TakeGroup] = {}
        judged = [task for task in tasks if task.clip.judged is not None]
        for task in judged:
            rows.setdefault(task.spec.row, TakeGroup()).tasks.append(task)
        with self._lock:
            self._groups.update((task, rows[task.spec.row]) for task in judged)

    def end(
        self, task: ClipTask, outcome: FinishedClip | DeadLetter
    ) -> Sequence[Verdict] | Literal["held", "drained"] | None:
        """See `TakeGroup.end`; None for a clip that is kept as it is."""
        with self._lock:
            group = self._groups.get(task)
        if group is None:
            return None
        ended = group.end(task, outcome)
        if ended != "held":
            self._forget([task] if isinstance(ended, str) else group.tasks)
        return ended

    def abandon(self, task: ClipTask) -> list[ClipTask]:
        """A clip is left undone; returns the takes that waited to be judged with it."""
        with self._lock:
            group = self._groups.get(task)
        if group is None:
            return []
        waiting = group.abandon(task)
        self._forget([task, *waiting])
        return waiting

    def _forget(self, tasks: Iterable[ClipTask]) -> None:
        with self._lock:
            for task in tasks:
                self._groups.pop(task, None)
