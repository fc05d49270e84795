"""Where rows wait before a replica works on them: none passes before the attempt record names it.

Rows pass in groups, so that the record costs one small object per group. Suspects pass when all
others are out, and nobody else until they are out again: see `ledger.attempts`.
"""

import threading
from itertools import islice
from typing import Generic, TypeVar

from pipeline.ledger.attempts import GROUPS, AttemptLog

T = TypeVar("T")


class AdmissionQueue(Generic[T]):
    """A queue of rows by clip id.

    Args:
        log: This replica's record.
        group: Rows that pass together at most.
    """

    def __init__(self, log: AttemptLog, group: int) -> None:
        self._log, self._group = log, group
        self._held: dict[str, T] = {}
        self._inside: dict[str, None] = {}  # in hand, in the order in which they passed
        self._suspects = dict.fromkeys(log.now.suspects)
        self._together = max(1, -(-len(self._suspects) // GROUPS))  # suspects
        self._isolating = False
        self._closed = False
        self._changed = threading.Condition()

    @property
    def isolating(self) -> bool:
        """Whether suspects are inside: they are committed as soon as they are made."""
        return self._isolating

    def put(self, clip_id: str, row: T) -> bool:
        """Adds a row; False where the gate is closed."""
        with self._changed:
            if not self._closed:
                self._held[clip_id] = row
                self._changed.notify_all()
            return not self._closed

    def next_group(self) -> list[T]:
        """Waits for rows that may pass; the record names them on return. None: it is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._choose())
            group = self._choose()
            if not group:
                return []
            self._isolating = group[0] in self._suspects
            rows = [self._held.pop(clip_id) for clip_id in group]
            self._inside |= dict.fromkeys(group)
            inside, suspects = [*self._inside], [*self._suspects]
        self._log.record_in_hand(inside, alone=len(inside) == 1, suspects=suspects)
        return rows

    def out(self, clip_id: str) -> None:
        """A row has become a clip or a dead letter, and this process lives."""
        with self._changed:
            self._inside.pop(clip_id, None)
            self._suspects.pop(clip_id, None)
            self._isolating = self._isolating and bool(self._inside)
            self._changed.notify_all()

    def close(self) -> list[T]:
        """Nothing passes any more; the rows that have waited."""
        with self._changed:
            self._closed, held = True, [*self._held.values()]
            self._held.clear()
            self._changed.notify_all()
            return held

    def _choose(self) -> list[str]:
        """The rows whose turn it is; none while suspects are inside, or others and it is theirs."""
        if self._isolating:
            return []
        suspects = (clip_id for clip_id in self._held if clip_id in self._suspects)
        if chosen := [*islice(suspects, self._together)]:
            return [] if self._inside else chosen
        return [*islice(self._held, self._group)]
