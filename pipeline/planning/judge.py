"""What a slice of a manifest asks for and how much of it stands: the part of a scan that runs on
many cores.

Plain rows are named and looked up together; all others go through `Expander`, row by row. Both give
the same ids and the same verdicts.
"""

import queue
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import compress
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from manifests.bulk.plain import PlainRows, Screen, taken
from manifests.bulk.repeats import Digests, Rows, digests_of
from manifests.identity import BulkNames, quoted
from manifests.reader import Manifest, RowGroup
from manifests.row_errors import RowError
from manifests.schema import ROLES, PromptRow, effective, parse_row, resolve_uri
from pipeline.ledger.id_set import ID_BYTES, NO_IDS, Ids, among, pack_ids
from pipeline.planning.clips import DeadLetter, PlannedClip
from pipeline.planning.expand import Expander, Outcome, PlanSpec, Selection

BATCH_ROWS = 8192
TOKEN_THREADS = 16
_MOST_NAMES = 10_000  # sets of parameters that are remembered
IsOver = Callable[[], bool]


@dataclass(frozen=True)
class Slice:
    """Rows of one row group."""

    row_group: int  # its place in the manifest
    start: int  # rows of the group before it
    stop: int

    @property
    def n_rows(self) -> int:
        """How many rows it has."""
        return self.stop - self.start


@dataclass
class Judged:
    """The verdict on one slice.

    Attributes:
        outcomes: Takes by outcome; a row that is refused as a whole counts 1.
        pending_audio_s: Seconds of audio of the pending ones.
        letters: Those that are newly refused.
        clips: Ids of all takes that were looked up among the committed clips.
        rows: Numbers of the rows that have an id, over the whole manifest.
        digests: Of these ids.
        asked_for_audio: Whether a row names audio, so that the verdict hangs on more than the row.
    """

    outcomes: Counter[Outcome] = field(default_factory=Counter)
    pending_audio_s: float = 0.0
    letters: list[DeadLetter] = field(default_factory=list)
    clips: Ids = field(default_factory=lambda: NO_IDS)
    rows: Rows | range = field(default_factory=lambda: range(0))
    digests: Digests = field(default_factory=lambda: NO_IDS)
    asked_for_audio: bool = False


@dataclass(frozen=True)
class _Noting(Selection):
    """A selection that takes note of the clips that it is asked about."""

    asked: list[str] = field(default_factory=list)

    def judge_clip(self, clip_id: str) -> Outcome:
        """See `Selection.judge_clip`."""
        self.asked.append(clip_id)
        return super().judge_clip(clip_id)


class Judge:
    """Judges slices; one per thread.

    Args:
        spec: What turns rows into clips.
        selection: What stands, and what is asked for.
        is_over: Asked between batches; a judge that is told so gives up.
    """

    def __init__(
        self, spec: PlanSpec, selection: Selection, is_over: IsOver = lambda: False
    ) -> None:
        self.spec, self.selection = spec, selection
        self._expander, self._screen = Expander(spec), Screen()
        self._names: dict[int, tuple[PromptRow, BulkNames, float]] = {}
        self._is_over = is_over

    def judge(self, piece: Slice, repeats: Mapping[int, int]) -> Judged:
        """The verdict on a slice.

        Args:
            piece: The slice.
            repeats: For rows whose id stood before, how often it did.
        """
        manifest = self.spec.manifest
        found = _Found(manifest.row_groups[piece.row_group])
        for first_row, batch in _rows_of(manifest, piece):
            if self._is_over():
                break
            plain, others = self._screen.plain_rows(batch)
            found.note(first_row, plain.positions, plain.ids)
            one_by_one = [(position, True) for position in others]
            if repeats:
                plain, repeated = _without_repeats(plain, first_row, repeats)
                one_by_one += [(position, False) for position in repeated]
            one_by_one += [(position, False) for position in self._judge_plain(plain, found)]
            if one_by_one:
                self._judge_others(batch, first_row, sorted(one_by_one), repeats, found)
        return found.judged()

    def _judge_plain(self, plain: PlainRows, found: "_Found") -> list[int]:
        """Judges plain rows; returns the positions of those that `Expander` must judge: in a retry,
        those whose dead letter stands, and all where takes are judged together."""
        if self.spec.judging is not None:
            return list(plain.positions)
        known, standing = self.selection.known, frozenset[int]()
        if self.selection.retry or len(known.letters):
            takes_of = self.spec.defaults.takes_of
            rows = [row for row, own in enumerate(plain.settings) for _ in range(takes_of(own))]
            has_letter = _among(self._keys(plain), known.letters)
            if self.selection.retry:
                asked = {rows[at] for at in np.flatnonzero(has_letter).tolist()}
                found.outcomes["unasked"] += sum(row not in asked for row in rows)
                return [plain.positions[row] for row in asked]
            standing = frozenset(np.flatnonzero(has_letter).tolist())
            found.outcomes["standing"] += len(standing)
        ids, durations_s = self._clips(plain, standing)
        is_done = _among(ids, known.clips)
        found.clips.append(ids)
        found.outcomes["done"] += int(is_done.sum())
        found.outcomes["pending"] += int((~is_done).sum())
        found.pending_audio_s += float(durations_s[~is_done].sum())
        return []

    def _clips(self, plain: PlainRows, without: frozenset[int]) -> tuple[Ids, NDArray[np.float64]]:
        """Ids and lengths of all takes of the rows but those that stand at places in `without`."""
        ids, durations_s, n = [], [], 0
        rows = zip(plain.ids, plain.prompts, plain.seeds, plain.settings, strict=True)
        for id, prompt, given, own in rows:
            names, duration_s = self._names_of(own)
            quoted_id, quoted_prompt = quoted(id), quoted(prompt)
            seed = names.first_seed(quoted_id) if given is None else given
            for take in range(self.spec.defaults.takes_of(own)):
                if n not in without:
                    own_seed = names.seed_of_take(seed, take) if take else seed
                    ids.append(names.clip_id(quoted_id, quoted_prompt, own_seed, take))
                    durations_s.append(duration_s)
                n += 1
        return _packed(ids), np.array(durations_s, np.float64)

    def _keys(self, plain: PlainRows) -> Ids:
        """Row keys of all takes of the rows."""
        keys = []
        rows = zip(plain.ids, plain.prompts, plain.seeds, plain.settings, strict=True)
        for id, prompt, seed, own in rows:
            names, _ = self._names_of(own)
            quoted_id, quoted_prompt = quoted(id), quoted(prompt)
            takes = range(self.spec.defaults.takes_of(own))
            keys += [names.row_key(quoted_id, quoted_prompt, seed, take) for take in takes]
        return _packed(keys)

    def _names_of(self, own: PromptRow) -> tuple[BulkNames, float]:
        """What names the clips of rows with these parameters, and their length."""
        held = self._names.get(id(own))  # the row is held beside it, so its address stays its own
        if held is None:
            if len(self._names) >= _MOST_NAMES:
                self._names.clear()
            params = effective(own, self.spec.defaults)
            chosen = self._expander.determining(own, params)
            model, run_seed = self.spec.limits.weights_hash, self.spec.defaults.seed
            names = BulkNames(own.as_written(), chosen, model, run_seed)
            held = self._names[id(own)] = (own, names, params.duration_s)
        return held[1:]

    def _judge_others(
        self,
        batch: pa.RecordBatch,
        first_row: int,
        chosen: list[tuple[int, bool]],
        repeats: Mapping[int, int],
        found: "_Found",
    ) -> None:
        """Judges rows one by one: those at some positions, whose ids are to be noted or not."""
        rows = taken(batch, [position for position, _ in chosen])
        raws = self.spec.manifest.raw_rows(rows)
        self._warm_tokens(raws, found.row_group)
        asked: list[str] = []
        selection = _Noting(self.selection.known, self.selection.retry, asked)
        for (position, is_new), raw in zip(chosen, raws, strict=True):
            if self._is_over():
                return
            number = first_row + position
            parsed = parse_row(raw, source=found.row_group.source, row=number)
            if parsed[0] is not None:
                references = parsed[0].references().values()
                found.asked_for_audio |= any(isinstance(uri, str) for uri in references)
                if is_new:
                    found.note(first_row, [position], [parsed[0].id])
            repeat = repeats.get(number, 0)
            for outcome, item in self._expander.expand_parsed(
                raw, parsed, number, repeat, selection
            ):
                found.add(outcome, item)
        found.clips.append(pack_ids(asked))

    def _warm_tokens(self, raws: list[dict[str, Any]], row_group: RowGroup) -> None:
        """Asks for the tokens of remote references side by side; what is wrong is said later."""
        named = {raw.get(f"{role}_uri") for raw in raws for role in ROLES}
        uris = [uri for uri in named if isinstance(uri, str)]
        remote = [uri for uri in uris if "://" in resolve_uri(uri, row_group.uri)]
        side_by_side(partial(self._ask_for_token, row_group), remote, self._is_over)

    def _ask_for_token(self, row_group: RowGroup, uri: str) -> None:
        with suppress(RowError):
            self._expander.token(uri, row_group)


@dataclass
class _Found:
    """A verdict while it grows."""

    row_group: RowGroup
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    pending_audio_s: float = 0.0
    letters: list[DeadLetter] = field(default_factory=list)
    clips: list[Ids] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    digests: list[Digests] = field(default_factory=list)
    asked_for_audio: bool = False

    def note(self, first_row: int, positions: list[int], ids: list[str]) -> None:
        """Takes note of the ids of some rows."""
        self.numbers += [first_row + position for position in positions]
        self.digests.append(digests_of(ids))

    def add(self, outcome: Outcome, item: PlannedClip | DeadLetter | None) -> None:
        """Counts what one take has come to."""
        self.outcomes[outcome] += 1
        if isinstance(item, DeadLetter):
            self.letters.append(item)
        elif isinstance(item, PlannedClip):
            self.pending_audio_s += item.spec.params.duration_s

    def judged(self) -> Judged:
        """The verdict."""
        numbers = np.array(self.numbers, np.int64)
        return Judged(
            +self.outcomes,
            self.pending_audio_s,
            self.letters,
            _joined(self.clips),
            _as_range(numbers),
            _joined(self.digests),
            self.asked_for_audio,
        )


def slices_of(
    manifest: Manifest, most_rows: int, whole: Collection[int] = frozenset()
) -> list[Slice]:
    """The manifest in order, in pieces of a row group at most; row groups in `whole` stay so."""
    return [
        Slice(index, start, min(start + step, row_group.n_rows))
        for index, row_group in enumerate(manifest.row_groups)
        for step in [row_group.n_rows if index in whole else most_rows]
        for start in range(0, row_group.n_rows, step)
    ]


def side_by_side(action: Callable[[str], None], items: list[str], is_over: IsOver) -> None:
    """Runs an action on all items in daemon threads: a process that ends does not wait for them."""
    waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
    for item in items:
        waiting.put(item)

    def work() -> None:
        while not is_over():
            try:
                action(waiting.get_nowait())
            except queue.Empty:
                return

    threads = [
        threading.Thread(target=work, daemon=True) for _ in range(min(TOKEN_THREADS, len(items)))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive() and not is_over():
            thread.join(0.1)


def _rows_of(manifest: Manifest, piece: Slice) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The known columns of the rows of a slice, with the number of each batch's first row."""
    row_group = manifest.row_groups[piece.row_group]
    start, stop = row_group.first_row + piece.start, row_group.first_row + piece.stop
    for first_row, batch in manifest.read_row_group(
        row_group, batch_rows=BATCH_ROWS, columns=manifest.known_columns
    ):
        begin, end = max(start - first_row, 0), min(stop - first_row, batch.num_rows)
        if begin < end:
            yield first_row + begin, batch.slice(begin, end - begin)
        if first_row + batch.num_rows >= stop:
            return


def _without_repeats(
    plain: PlainRows, first_row: int, repeats: Mapping[int, int]
) -> tuple[PlainRows, list[int]]:
    """The rows that repeat no id, and the positions of the others."""
    keep = [first_row + position not in repeats for position in plain.positions]
    if all(keep):
        return plain, []
    columns = (plain.positions, plain.ids, plain.prompts, plain.seeds, plain.settings)
    kept = PlainRows(*(list(compress(column, keep)) for column in columns))  # type: ignore[arg-type]
    return kept, [at for at, stays in zip(plain.positions, keep, strict=True) if not stays]


def _among(ids: Ids, known: Ids) -> NDArray[np.bool_]:
    """Which ids occur in a sorted array. Sorted questions are answered several times as fast."""
    found = np.zeros(len(ids), bool)
    if len(known):
        order = np.argsort(ids)
        found[order] = among(ids[order], known)
    return found


def _packed(ids: list[bytes]) -> Ids:
    return np.frombuffer(b"".join(ids), f"S{ID_BYTES}")


def _joined(arrays: list[Ids]) -> Ids:
    return np.concatenate([NO_IDS, *arrays])


def _as_range(rows: Rows) -> Rows | range:
    """Numbers that follow on each other take no memory."""
    if len(rows) and (np.diff(rows) == 1).all():
        return range(int(rows[0]), int(rows[-1]) + 1)
    return rows
