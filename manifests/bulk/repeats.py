"""Rows that repeat the id of an earlier row: one search for building, checking and planning."""

from array import array
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from manifests.identity import id_digest

DIGEST_BYTES = 16
ROWS_PER_PARTITION = 1 << 21
MOST_PARTITIONS = 256
Digests = NDArray[np.bytes_]
Rows = NDArray[np.int64]


class Repeat(NamedTuple):
    """What is said of a row whose id an earlier row has."""

    first_row: int  # the first with this id
    times: int  # how many stand before it: 1, 2, ...


class RowIds:
    """The ids of rows, as digests of 128 bits: two ids that differ have the same digest with a
    chance of 10^-20 among 10^9 rows. Rows may come in any order; 24 bytes each are held, or 16
    where all rows of a piece have an id."""

    def __init__(self) -> None:
        self._pieces: list[tuple[Rows | range, Digests]] = []
        self._rows, self._digests = array("q"), bytearray()

    def note(self, id: str, row: int) -> None:
        """Takes note of one row."""
        self._rows.append(row)
        self._digests += id_digest(id)

    def note_many(self, rows: Rows | range, digests: Digests) -> None:
        """Takes note of rows.

        Args:
            rows: Their numbers.
            digests: `digests_of` their ids.
        """
        self._pieces.append((rows, digests))

    def repeats(self) -> dict[int, Repeat]:
        """The rows that repeat an id, by number.

        Digests are sorted in partitions, so that no second copy of all of them is needed.
        """
        single = (np.array(self._rows, np.int64), np.frombuffer(bytes(self._digests), "S16"))
        pieces = [*self._pieces, single]
        n_rows = sum(len(rows) for rows, _ in pieces)
        n_partitions = 1
        while n_partitions < MOST_PARTITIONS and n_rows > n_partitions * ROWS_PER_PARTITION:
            n_partitions *= 2
        found: dict[int, Repeat] = {}
        for partition in range(n_partitions):
            found.update(_repeats_in(pieces, partition, n_partitions))
        return dict(sorted(found.items()))


def digests_of(ids: Iterable[str]) -> Digests:
    """Ids as `RowIds` compares them."""
    return np.frombuffer(b"".join([id_digest(id) for id in ids]), f"S{DIGEST_BYTES}")


def _repeats_in(
    pieces: list[tuple[Rows | range, Digests]], partition: int, n_partitions: int
) -> Iterator[tuple[int, Repeat]]:
    """The repeats among the digests whose first byte belongs to the partition."""
    chosen = [_first_bytes(digests) % n_partitions == partition for _, digests in pieces]
    halves = np.concatenate(
        [_first_halves(digests[mask]) for (_, digests), mask in zip(pieces, chosen, strict=True)]
    )
    halves.sort()
    doubled = np.unique(halves[1:][halves[1:] == halves[:-1]])
    del halves
    if not len(doubled):
        return
    rows, digests = [], []
    for (numbers, all_digests), mask in zip(pieces, chosen, strict=True):
        at = np.flatnonzero(mask)
        at = at[np.isin(_first_halves(all_digests[at]), doubled)]
        rows.append(np.asarray(numbers, np.int64)[at] if len(at) else np.empty(0, np.int64))
        digests.append(all_digests[at])
    yield from _repeats_among(np.concatenate(rows), np.concatenate(digests))


def _repeats_among(rows: Rows, digests: Digests) -> Iterator[tuple[int, Repeat]]:
    order = np.lexsort((rows, digests))
    rows, digests = rows[order], digests[order]
    at = np.arange(len(rows))
    begins = np.ones(len(rows), bool)
    begins[1:] = digests[1:] != digests[:-1]
    first = np.maximum.accumulate(np.where(begins, at, 0))
    for position in np.flatnonzero(~begins).tolist():
        first_at = int(first[position])
        yield int(rows[position]), Repeat(int(rows[first_at]), position - first_at)


def _first_bytes(digests: Digests) -> NDArray[np.uint8]:
    return _contiguous(digests).view(np.uint8)[::DIGEST_BYTES]


def _first_halves(digests: Digests) -> NDArray[np.uint64]:
    return np.asarray(_contiguous(digests).view(np.uint64)[::2])


def _contiguous(digests: Digests) -> Digests:
    return np.ascontiguousarray(digests)
