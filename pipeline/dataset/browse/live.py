"""Keeps what the page shows current while somebody looks at it."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pipeline import ledger
from pipeline.dataset.browse.index import ClipIndex
from pipeline.ledger.parts import list_parts
from pipeline.ledger.schema import SCORES_SCHEMA
from pipeline.ledger.scores import read_scores
from pipeline.storage import ObjectInfo, Storage, StorageError

log = logging.getLogger(__name__)

INTERVAL_S = 1.5  # between two looks at a store that answers at once
PATIENCE = 10  # a look that took longer is followed by a pause of so many times its length
SCORE_COLUMNS = ("clip_id", "scorer", "score", "created_at")
IDLE_S = 90.0  # nobody asks: nothing is listed


@dataclass(frozen=True)
class Shown:
    """What is known beside the clips.

    Attributes:
        letters: The dead letters that stand, the latest first.
        runs: The run records, the oldest first.
        is_loading: Whether parts are still being read for the first time.
        problem: What the store said when it was asked last; None where it answered.
        version: Grows with every change of these.
    """

    letters: pa.Table = field(default_factory=ledger.FAILED_SCHEMA.empty_table)
    runs: tuple[dict[str, Any], ...] = ()
    is_loading: bool = True
    problem: str | None = None
    version: int = 0


class Watcher:
    """A thread that reads new parts, dead letters and run records.

    Args:
        storage: Root of the output.
        index: Takes the clips.
        interval_s: Shortest pause between two looks.
    """

    def __init__(self, storage: Storage, index: ClipIndex, interval_s: float = INTERVAL_S) -> None:
        self._storage, self._index, self._interval_s = storage, index, interval_s
        self.shown = Shown()
        self._records: list[ObjectInfo] = []
        self._failed: tuple[str, ...] | None = None
        self._clips_at_letters = -1
        self._scored: list[ObjectInfo] = []
        self._scores = SCORES_SCHEMA.empty_table()
        self._clips_at_scores = -1
        self._asked_at = time.monotonic()
        self._wake = threading.Event()
        self._is_over = False
        self._thread = threading.Thread(target=self._watch, name="watching", daemon=True)

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def touch(self) -> None:
        """Somebody looks at the page."""
        was_idle = time.monotonic() - self._asked_at > IDLE_S
        self._asked_at = time.monotonic()
        if was_idle:
            self._wake.set()

    def stop(self) -> None:
        """Ends it, after the part that is being read."""
        self._is_over = True
        self._index.cancel()
        self._wake.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._is_over:
            started = time.monotonic()
            if started - self._asked_at <= IDLE_S:
                self.look()
            took_s = time.monotonic() - started
            self._wake.wait(max(self._interval_s, PATIENCE * took_s if took_s > 1 else 0))
            self._wake.clear()

    def look(self) -> None:
        """Reads what is new; a store that fails is asked again later."""
        try:
            records = self._storage.list("runs")
            if records != self._records:
                self._show(runs=tuple(ledger.read_runs(self._storage)))
                self._records = records
            self._index.refresh()
            self._read_scores()
            self._show(is_loading=False, problem=None)
            self._read_letters()
        except StorageError as error:
            log.warning("%s", error)
            self._show(problem=str(error))
        except Exception:
            if not self._is_over:
                log.exception("the output could not be read")
                self._show(problem="the output could not be read: see the terminal")

    def _read_scores(self) -> None:
        """What the command `score` has added, for the clips that are read by now."""
        parts = list_parts(self._storage, "scores")
        if parts != self._scored:
            self._scores = read_scores(self._storage, SCORE_COLUMNS)
            self._scored, self._clips_at_scores = parts, -1
        if len(self._scores) and self._index.counts.version != self._clips_at_scores:
            self._index.score(self._scores)
            self._clips_at_scores = self._index.counts.version

    def _read_letters(self) -> None:
        """Which dead letters stand depends on the clips that came after them."""
        failed = tuple(info.path for info in list_parts(self._storage, "failed"))
        n_clips = self._index.counts.version
        mended = bool(len(self.shown.letters)) and n_clips != self._clips_at_letters
        if failed == self._failed and not mended:
            return
        letters = ledger.read_dead_letters(self._storage) if failed else None
        self._failed, self._clips_at_letters = failed, n_clips
        if letters is None:
            letters = ledger.FAILED_SCHEMA.empty_table()
        self._show(letters=letters.sort_by([("created_at", "descending")]))

    def _show(self, **changes: Any) -> None:
        old = vars(self.shown)
        if any(name == "letters" or old[name] != value for name, value in changes.items()):
            self.shown = Shown(**(old | changes | {"version": self.shown.version + 1}))
