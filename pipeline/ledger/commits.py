"""What one replica's processes have committed in a run, at a cost that does not grow with the run.

Ray sends a task again to the actor that had it, which it starts anew when its process or node is
lost, or can't be reached. So a clip can be asked for again only from an earlier process of the same
actor, and those are named in the attempt record. The parts of all other replicas are not looked at.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.ledger.id_set import GrowingIds, Ids, pack_ids
from pipeline.ledger.names import Kind, part_path
from pipeline.ledger.parts import list_parts, read_part
from pipeline.ledger.reader import SETTLED
from pipeline.storage import THREADS, ObjectInfo, Storage

# So many of the latest earlier processes may still be at work, cut off from Ray.
WATCHED = 4


@dataclass
class _Earlier:
    """An earlier process, and the number of the part that it would publish next."""

    replica: str
    next_seq: int


class ActorCommits:
    """The clips that the processes of one actor have committed in a run. Safe for several threads.

    Args:
        storage: Root of the output.
        run_id: The run.
        earlier: Names of the processes before this one, the oldest first. Their parts are listed
            and read once, here.

    Attributes:
        letters: Ids of the clips whose dead letters the earlier processes had committed.
        made_clips: Names of the earlier processes that had committed clips.
    """

    def __init__(self, storage: Storage, run_id: str, earlier: Sequence[str] = ()) -> None:
        self._storage, self._run_id = storage, run_id
        self._ids = GrowingIds()
        self._lock = threading.Lock()
        self._watched: list[_Earlier] = []
        self.letters: frozenset[str] = frozenset()
        self.made_clips: frozenset[str] = frozenset()
        if not earlier:
            return
        parts = self._parts_of("clips", earlier)
        with ThreadPoolExecutor(THREADS) as pool:
            for ids in pool.map(self._clips_in, parts):
                self._ids.add(ids)
            named = pool.map(self._letters_in, self._parts_of("failed", earlier))
            self.letters = frozenset(clip_id for ids in named for clip_id in ids)
        self.made_clips = frozenset(map(_replica, parts))
        for replica in earlier[-WATCHED:]:
            published = [_seq(info) for info in parts if _replica(info) == replica]
            self._watched.append(_Earlier(replica, max(published, default=-1) + 1))

    def __len__(self) -> int:
        return len(self._ids)

    def contains(self, clip_id: str) -> bool:
        """Whether this clip is committed."""
        return bool(self.contains_many([clip_id])[0])

    def contains_many(self, clip_ids: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Which of these clips are committed, as far as `look` has seen."""
        return self._ids.among(pack_ids(clip_ids))

    def add(self, clip_ids: Sequence[str]) -> None:
        """Notes what this process has committed."""
        self._ids.add(pack_ids(clip_ids))

    def look(self) -> None:
        """Reads what earlier processes have published since: a request for each that may still be
        at work, and one for each new part."""
        with self._lock:
            for process in self._watched:
                while (info := self._next_part(process)) is not None:
                    self._ids.add(self._clips_in(info))
                    process.next_seq += 1

    def _next_part(self, process: _Earlier) -> ObjectInfo | None:
        """A process numbers its parts without gaps, so there is one name to ask for."""
        path = part_path("clips", self._run_id, process.replica, process.next_seq)
        size = self._storage.size(path)
        return None if size is None else ObjectInfo(path, size, 0.0)

    def _parts_of(self, kind: Kind, processes: Iterable[str]) -> list[ObjectInfo]:
        names = set(processes)
        return [i for i in list_parts(self._storage, kind, self._run_id) if _replica(i) in names]

    def _clips_in(self, info: ObjectInfo) -> Ids:
        return pack_ids(read_part(self._storage, info, ["clip_id"])["clip_id"].to_pylist())

    def _letters_in(self, info: ObjectInfo) -> list[str]:
        table = read_part(self._storage, info, ["clip_id", "stage"])
        return [
            row["clip_id"]
            for row in table.to_pylist()
            if row["stage"] != SETTLED and row["clip_id"]
        ]


def _replica(info: ObjectInfo) -> str:
    return info.path.rsplit("-", 2)[1]


def _seq(info: ObjectInfo) -> int:
    return int(info.path.rsplit("-", 2)[2].removesuffix(".parquet"))
