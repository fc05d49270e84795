"""Which clips a report shows: a seeded sample, the suspicious ones, all takes of one row."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice, zip_longest
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

MAX_WORST = 8
MAX_TAKES = 6


@dataclass(frozen=True)
class Flag:
    """One way in which a clip is suspicious."""

    title: str
    column: str
    limit: float
    phrase: str
    """Format string of the measured value."""
    badness: Callable[[NDArray[np.float64]], NDArray[np.float64]] = np.abs
    """Maps values to numbers that are larger for worse clips. A clip is flagged if its number is
    above that of the limit; NaN never is."""


FLAGS = (
    Flag("ends in silence", "early_silence_s", 1.0, "{:.1f} s of silence at the end"),
    Flag("mostly silent", "silence_ratio", 0.5, "{:.0%} silent"),
    Flag("clipped", "clip_ratio", 0.001, "{:.2%} of samples clipped"),
    Flag("very quiet", "loudness_lufs", -40.0, "{:.1f} LUFS", np.negative),
    Flag("very loud", "loudness_lufs", -6.0, "{:.1f} LUFS", np.positive),
    Flag("noise-like", "spectral_flatness", 0.4, "as flat as noise ({:.2f})"),
    Flag("offset", "dc_offset", 0.02, "offset {:+.3f}"),
)


def numbers(table: pa.Table, column: str) -> NDArray[np.float64]:
    """A numeric column [n] as float64, null as NaN."""
    values = pc.cast(table.column(column), pa.float64()).combine_chunks()
    return np.asarray(values.to_numpy(zero_copy_only=False), dtype=np.float64)


def sample_rows(clips: pa.Table, n: int, seed: int) -> list[int]:
    """Row numbers of n clips, stratified over prompts: no prompt gives two as long as another that
    gave none is left. Which prompt and which of its clips is decided by a hash of the seed, so the
    choice does not depend on the layout of the parts, and a dataset that grows keeps most of it."""
    ids = clips.column("clip_id").to_pylist()
    prompts = clips.column("prompt").to_pylist()
    strata: dict[str, list[int]] = {}
    for row, (prompt, id) in enumerate(zip(prompts, clips.column("id").to_pylist(), strict=True)):
        strata.setdefault(f"prompt {prompt}" if prompt else f"row {id}", []).append(row)
    names = list(strata)
    first = [names[at] for at in _lowest_hashes(names, n, seed)]
    queues = []
    for name in first:
        rows = strata[name]
        queues.append([rows[at] for at in _lowest_hashes([ids[row] for row in rows], n, seed)])
    turns = (row for turn in zip_longest(*queues) for row in turn if row is not None)
    return list(islice(turns, n))


def _lowest_hashes(names: Iterable[str], n: int, seed: int) -> list[int]:
    key = seed.to_bytes(8, "big", signed=True)

    def rank(item: tuple[int, str]) -> bytes:
        return hashlib.blake2b(item[1].encode(), digest_size=8, key=key).digest()

    return [row for row, _ in heapq.nsmallest(n, enumerate(names), key=rank)]


def flagged(clips: pa.Table) -> dict[str, NDArray[np.intp]]:
    """Row numbers by flag title, the worst first; a flag without clips is absent. Clips that were
    kept although they failed their quality checks come first."""
    found: dict[str, NDArray[np.intp]] = {}
    kept = np.flatnonzero(pc.is_valid(clips.column("qc_failed")).to_numpy())
    if kept.size:
        found["failed its checks"] = kept
    for flag in FLAGS:
        badness = flag.badness(numbers(clips, flag.column))
        limit = float(flag.badness(np.array([flag.limit]))[0])
        rows = np.flatnonzero(badness > limit)  # NaN compares false
        if rows.size:
            found[flag.title] = rows[np.argsort(-badness[rows], kind="stable")]
    return found


def worst_rows(flags: dict[str, NDArray[np.intp]], limit: int = MAX_WORST) -> list[int]:
    """The worst clip of each flag, then the second worst of each, until `limit` are chosen."""
    chosen: dict[int, None] = {}
    depth = 0
    while len(chosen) < limit and any(rows.size > depth for rows in flags.values()):
        for rows in flags.values():
            if rows.size > depth and len(chosen) < limit:
                chosen[int(rows[depth])] = None
        depth += 1
    return list(chosen)


def phrases(row: dict[str, Any]) -> list[str]:
    """What is suspicious about one clip, in words."""
    said = [f"failed QC: {row['qc_failed']}"] if row["qc_failed"] else []
    for flag in FLAGS:
        value = row[flag.column]
        if value is None:
            continue
        badness = flag.badness(np.array([value, flag.limit]))
        if badness[0] > badness[1]:
            said.append(flag.phrase.format(value))
    return said


def take_rows(clips: pa.Table, seed: int, limit: int = MAX_TAKES) -> list[int]:
    """Row numbers of all takes of one manifest row, by take. It is the row with the most takes; the
    seed decides between several.

    Of a take that was made twice (its row was edited) the newest clip is chosen. The list is empty
    where no row has two takes.
    """
    if clips.num_rows == 0:
        return []
    counts = clips.group_by("id").aggregate([("take", "count_distinct")])
    most = pc.max(counts.column("take_count_distinct")).as_py()
    if most < 2:
        return []
    tied = counts.filter(pc.equal(counts.column("take_count_distinct"), most))
    names = sorted(tied.column("id").to_pylist())
    chosen = names[_lowest_hashes(names, 1, seed)[0]]
    rows = np.flatnonzero(pc.equal(clips.column("id"), chosen).to_numpy())
    takes = clips.select(["take", "created_at"]).take(pa.array(rows)).to_pylist()
    newest: dict[int, tuple[Any, int]] = {}
    for row, found in zip(rows, takes, strict=True):
        if found["take"] not in newest or found["created_at"] > newest[found["take"]][0]:
            newest[found["take"]] = (found["created_at"], int(row))
    return [newest[take][1] for take in sorted(newest)][:limit]


@dataclass(frozen=True)
class FailureGroup:
    """Dead letters of one error class in one stage."""

    error_class: str
    stage: str
    count: int
    messages: tuple[tuple[str, int, tuple[str, ...]], ...]
    """(message, how often, some row ids), the most frequent first."""
    n_other_messages: int


def failure_groups(failed: pa.Table, messages: int = 4, ids: int = 5) -> list[FailureGroup]:
    """Groups dead letters, the largest group first."""
    groups: dict[tuple[str, str], dict[str, list[str]]] = {}
    wanted = failed.select(["error_class", "stage", "message", "id", "source", "row"])
    for letter in wanted.to_pylist():
        name = letter["id"] or f"{letter['source']} row {letter['row']}"
        by_message = groups.setdefault((letter["error_class"], letter["stage"]), {})
        by_message.setdefault(letter["message"], []).append(name)
    found = []
    for (error_class, stage), by_message in groups.items():
        ranked = sorted(by_message.items(), key=lambda item: (-len(item[1]), item[0]))
        shown = tuple((text, len(rows), tuple(rows[:ids])) for text, rows in ranked[:messages])
        count = sum(len(rows) for rows in by_message.values())
        hidden = max(0, len(ranked) - messages)
        found.append(FailureGroup(error_class, stage, count, shown, hidden))
    return sorted(found, key=lambda group: (-group.count, group.error_class, group.stage))
