"""Sets of 128-bit ids as sorted arrays: ten million take 160 MB, shared by Ray without a copy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

ID_BYTES = 16
Ids = npt.NDArray[np.bytes_]
NO_IDS: Ids = np.empty(0, f"S{ID_BYTES}")


@dataclass(frozen=True, eq=False)
class DoneSet:
    """What needs no work: committed clips by `clip_id`, standing dead letters by `row_key`."""

    clips: Ids
    """sorted, unique"""
    letters: Ids
    """sorted, unique"""

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
