"""What a run has to do: manifest minus ledger, computed without a model and without Ray.

Rows stream: the driver holds 16 bytes per row, never the rows.
"""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifests.identity import id_digest
from manifests.reader import Manifest, RowGroup
from manifests.row_errors import RowError
from manifests.schema import ROLES, parse_row, resolve_uri
from pipeline.ledger.id_set import NO_IDS, DoneSet, Ids, pack_ids
from pipeline.planning.clips import DeadLetter, PlannedClip
from pipeline.planning.expand import Expander, Outcome, PlanSpec, Selection
from pipeline.telemetry.words import counted

SCAN_ROWS = 2_000
SCAN_THREADS = 16


@dataclass
class Plan:
    """Counts of one pass over a manifest, in clips (a row that is refused as a whole counts 1)."""

    n_rows: int = 0
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    pending_audio_s: float = 0.0
    row_groups: list[RowGroup] = field(default_factory=list)  # those with something pending
    letters: list[DeadLetter] = field(default_factory=list)  # newly refused
    repeats: dict[int, int] = field(default_factory=dict)  # row number to repeat, duplicates only

    @property
    def total(self) -> int:
        return sum(self.outcomes.values())

    @property
    def pending(self) -> int:
        return self.outcomes["pending"]


def scan(spec: PlanSpec, selection: Selection) -> Plan:
    """One streaming pass over the manifest: what is done, refused, and left to do.

    References are looked at (once per distinct URI, in threads), since they are part of a clip's
    identity; nothing is decoded.
    """
    manifest = spec.manifest
    plan = Plan(n_rows=manifest.n_rows, repeats=find_repeats(manifest))
    expander = Expander(spec)
    with ThreadPoolExecutor(SCAN_THREADS) as pool:
        for row_group in manifest.row_groups:
            pending_before = plan.pending
            for first_row, batch in manifest.read_row_group(row_group, batch_rows=SCAN_ROWS):
                raws = manifest.raw_rows(batch)
                _warm_tokens(expander, raws, row_group, pool)
                for number, raw in enumerate(raws, start=first_row):
                    repeat = plan.repeats.get(number, 0)
                    _count(plan, expander.expand(raw, number, repeat, selection))
            if plan.pending > pending_before:
                plan.row_groups.append(row_group)
    return plan


def wanted_clips(spec: PlanSpec) -> Ids:
    """Ids of all clips that a manifest asks for, made or not, sorted."""
    expander, repeats = Expander(spec), find_repeats(spec.manifest)
    nothing = Selection(DoneSet(NO_IDS, NO_IDS))
    found: list[str] = []
    for row_group in spec.manifest.row_groups:
        for first_row, batch in spec.manifest.read_row_group(row_group, batch_rows=SCAN_ROWS):
            for number, raw in enumerate(spec.manifest.raw_rows(batch), start=first_row):
                results = expander.expand(raw, number, repeats.get(number, 0), nothing)
                found += [item.spec.clip_id for _, item in results if isinstance(item, PlannedClip)]
    return np.unique(pack_ids(found))


def describe_plan(plan: Plan, retry: bool = False) -> str:
    """One line for people: what stands, and what is left to do."""
    o = plan.outcomes
    parts = [f"{counted(o['pending'], 'clip')} to make ({plan.pending_audio_s:.1f} s of audio)"]
    parts.append(f"{o['done']} already done")
    if o["standing"]:
        parts.append(f"{o['standing']} skipped, they failed before (`retry` tries them again)")
    if o["refused"]:
        parts.append(f"{o['refused']} refused now")
    if retry:
        parts.append(f"{o['unasked']} not asked for")
    return f"{counted(plan.n_rows, 'row')}: " + ", ".join(parts)


def _count(plan: Plan, results: Iterator[tuple[Outcome, PlannedClip | DeadLetter | None]]) -> None:
    for outcome, item in results:
        plan.outcomes[outcome] += 1
        if isinstance(item, DeadLetter):
            plan.letters.append(item)
        elif isinstance(item, PlannedClip):
            plan.pending_audio_s += item.spec.params.duration_s


def _warm_tokens(
    expander: Expander, raws: list[dict[str, Any]], row_group: RowGroup, pool: ThreadPoolExecutor
) -> None:
    """Asks for the tokens of remote references side by side; errors show up where rows expand."""
    named = {raw.get(f"{role}_uri") for raw in raws for role in ROLES}
    uris = [
        uri for uri in named if isinstance(uri, str) and "://" in resolve_uri(uri, row_group.uri)
    ]

    def ask(uri: str) -> None:
        try:
            expander.token(uri, row_group)
        except RowError:
            return

    list(pool.map(ask, uris))


def find_repeats(manifest: Manifest) -> dict[int, int]:
    """Row numbers whose id stood in an earlier row, with how often it did: {row: 1, 2, ...}."""
    digests = np.empty(manifest.n_rows, dtype="S16")
    numbers = np.empty(manifest.n_rows, dtype=np.int64)
    n = 0
    for row_group in manifest.row_groups:
        for first_row, batch in manifest.read_row_group(row_group, batch_rows=SCAN_ROWS):
            for number, id in enumerate(_ids(manifest.raw_rows(batch)), start=first_row):
                if id is not None:
                    digests[n] = id_digest(id)
                    numbers[n] = number
                    n += 1
    return _repeats_in(digests[:n], numbers[:n])


def _ids(raws: list[dict[str, Any]]) -> list[str | None]:
    """Ids of some rows; None where the row is invalid and will be refused anyway."""
    rows = (parse_row(raw, source="", row=0)[0] for raw in raws)
    return [None if row is None else row.id for row in rows]


def _repeats_in(digests: NDArray[np.bytes_], numbers: NDArray[np.int64]) -> dict[int, int]:
    order = np.argsort(digests, kind="stable")
    ordered = digests[order]
    same = np.flatnonzero(ordered[1:] == ordered[:-1]) + 1
    repeats: dict[int, int] = {}
    for position in same:
        before = repeats.get(int(numbers[order[position - 1]]), 0)
        repeats[int(numbers[order[position]])] = before + 1
    return repeats
