"""Sets of 128-bit ids as sorted arrays: ten million take 160 MB, shared by Ray without a copy."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Literal

import numpy as np
import numpy.typing as npt

ID_BYTES = 16
Ids = npt.NDArray[np.bytes_]
_Halves = npt.NDArray[np.uint64]
NO_IDS: Ids = np.empty(0, f"S{ID_BYTES}")
# Sorted runs of ids are merged up to this length, so that no single addition takes long.
LONGEST_MERGE = 1 << 18


@dataclass(frozen=True, eq=False)
class DoneSet:
    """What needs no work: committed clips by `clip_id`, standing dead letters by `row_key`."""

    clips: Ids
    """sorted, unique"""
    letters: Ids
    """sorted, unique"""
    rulings: Ids = field(default_factory=lambda: NO_IDS)
    """what is ruled of takes that were judged, as `ruling_key` names it: sorted, unique"""

    def __len__(self) -> int:
        return len(self.clips)

    def contains(self, clip_id: str) -> bool:
        """Whether this clip is committed."""
        return bool(self.contains_many([clip_id])[0])

    def contains_many(self, clip_ids: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Which of these clips are committed."""
        return among(pack_ids(clip_ids), self.clips)

    def has_letter(self, row_key: str) -> bool:
        """Whether a dead letter of this row stands."""
        return bool(self.has_letters([row_key])[0])

    def has_letters(self, row_keys: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Of which of these rows a dead letter stands."""
        return among(pack_ids(row_keys), self.letters)

    def has_ruling(self, clip_id: str, ruling: str, *, kept: bool) -> bool:
        """Whether a take was judged that way, and kept or set aside."""
        wanted = np.array([ruling_key(clip_id, ruling, kept)], f"S{ID_BYTES}")
        return bool(among(wanted, self.rulings)[0])


def ruling_key(clip_id: str, ruling: str, kept: bool) -> bytes:
    """Names what is ruled of a take."""
    return blake2b(f"{clip_id}{ruling}{kept:d}".encode(), digest_size=ID_BYTES).digest()


class GrowingIds:
    """A set of ids that grows. Safe for several threads.

    It is a list of sorted runs, each more than twice as long as the next, as in a log-structured
    merge tree: an id is merged at most log2(LONGEST_MERGE) times, and a look is a binary search in
    each run. Runs of LONGEST_MERGE ids stay as they are: a million ids are four of them. A run is
    sorted by the first half of the ids alone, as numbers, which are found several times as fast as
    bytes.
    """

    def __init__(self) -> None:
        self._runs: tuple[_Halves, ...] = ()  # replaced as a whole, so that readers need no lock
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return sum(len(run) for run in self._runs)

    @property
    def n_runs(self) -> int:
        """How many sorted runs a look searches."""
        return len(self._runs)

    def add(self, ids: Ids) -> None:
        """Adds ids; those that are in it already do no harm."""
        if not len(ids):
            return
        with self._lock:
            runs, new = list(self._runs), _sorted(_halves(ids))
            while runs and len(runs[-1]) <= 2 * len(new) and len(runs[-1]) < LONGEST_MERGE:
                new = _sorted(np.concatenate([runs.pop(), new]))
            self._runs = (*runs, new)

    def among(self, ids: Ids) -> npt.NDArray[np.bool_]:
        """Which `ids` are in it."""
        wanted, found = _halves(ids), np.zeros(len(ids), bool)
        for run in self._runs:
            found |= _in_run(wanted, run)
        return found


def searcher(known: Ids) -> Callable[[Ids], npt.NDArray[np.bool_]]:
    """As `among`, for many searches in one sorted array, of which it makes a copy of numbers."""
    run = _halves(known, order="F")
    return lambda ids: _in_run(_halves(ids), run) if len(run) else np.zeros(len(ids), bool)


def sorted_unique(ids: Ids) -> Ids:
    """`np.unique` of ids, which sorts numbers in the place of bytes."""
    halves = _halves(ids)
    order = np.argsort(halves[:, 0])
    first = halves[order, 0]
    if (first[1:] == first[:-1]).any():  # the same id twice, or by chance the same first half
        return np.unique(ids)
    return ids[order]


def _halves(ids: Ids, order: Literal["C", "F"] = "C") -> _Halves:
    """Ids as two numbers each, [n, 2]."""
    pairs = np.ascontiguousarray(ids).view(">u8").reshape(-1, 2)
    return pairs.astype(np.uint64, order=order)


def _sorted(halves: _Halves) -> _Halves:
    """By the first half; the columns lie apart in memory, so that the search is local."""
    order = np.argsort(halves[:, 0], kind="stable")
    return np.asfortranarray(halves[order])


def _in_run(wanted: _Halves, run: _Halves) -> npt.NDArray[np.bool_]:
    """Which ids stand in a sorted run."""
    first, second = run[:, 0], run[:, 1]
    at = first.searchsorted(wanted[:, 0])
    found = np.zeros(len(wanted), bool)
    while True:  # more than twice only where different ids have the same first half
        here = at.clip(max=len(run) - 1)
        same = (first[here] == wanted[:, 0]) & (here == at) & ~found
        if not same.any():
            return found
        found |= same & (second[here] == wanted[:, 1])
        at = at + 1


def pack_ids(ids: Sequence[str]) -> Ids:
    """Ids of 32 hex digits as an array of 16 bytes each."""
    if any(len(text) != 2 * ID_BYTES for text in ids):
        raise ValueError(f"ids have {2 * ID_BYTES} hex digits, got {list(ids)[:3]}")
    return np.frombuffer(bytes.fromhex("".join(ids)), f"S{ID_BYTES}")


def among(ids: Ids, known: Ids) -> npt.NDArray[np.bool_]:
    """Which `ids` occur in the sorted array `known`."""
    if not len(known):
        return np.zeros(len(ids), bool)
    at = np.minimum(np.searchsorted(known, ids), len(known) - 1)
    found: npt.NDArray[np.bool_] = known[at] == ids
    return found
