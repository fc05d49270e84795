"""The queue in front of a replica: no clip is worked on before the attempt record names it.

Clips are admitted in groups, so that the record costs one small object per group. Suspects are
admitted when no other clip is in hand, and no other clip is admitted until they are through: see
`ledger.attempts`.
"""

import threading
from itertools import islice
from typing import Generic, TypeVar

from pipeline.ledger.attempts import GROUPS, AttemptLog

T = TypeVar("T")


class AdmissionQueue(Generic[T]):
    """A queue of clips by id.

    Args:
        log: The attempt record of this process.
        group: How many clips are admitted together at most.
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
        """Whether suspects are in hand: they are committed as soon as they are made."""
        return self._isolating

    def put(self, clip_id: str, row: T) -> bool:
        """Adds a clip; False where the queue is closed."""
        with self._changed:
            if not self._closed:
                self._held[clip_id] = row
                self._changed.notify_all()
            return not self._closed

    def next_group(self) -> list[T]:
        """Waits for clips that may be worked on; the record names them on return. An empty list
        means that the queue is closed."""
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
        """A clip is finished or given up, and can no longer end this process."""
        with self._changed:
            self._inside.pop(clip_id, None)
            self._suspects.pop(clip_id, None)
            self._isolating = self._isolating and bool(self._inside)
            self._changed.notify_all()

    def close(self) -> list[T]:
        """Admits nothing more; returns the clips that were waiting."""
        with self._changed:
            self._closed, held = True, [*self._held.values()]
            self._held.clear()
            self._changed.notify_all()
            return held

    def _choose(self) -> list[str]:
        """Ids of the clips to admit next: none while suspects are in hand, and none while other
        clips are in hand and the next ones are suspects."""
        if self._isolating:
            return []
        suspects = (clip_id for clip_id in self._held if clip_id in self._suspects)
        if chosen := [*islice(suspects, self._together)]:
            return [] if self._inside else chosen
        return [*islice(self._held, self._group)]
