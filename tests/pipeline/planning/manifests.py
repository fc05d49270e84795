"""Manifests of odd rows, and their plan row by row: what a scan must come to."""

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from manifests.reader import Manifest
from manifests.schema import GenerationDefaults, parse_row
from pipeline.ledger.id_set import NO_IDS, DoneSet, pack_ids
from pipeline.planning.clips import DeadLetter, PlannedClip
from pipeline.planning.expand import Expander, ModelLimits, PlanSpec, Selection

LIMITS = ModelLimits("toy", "f" * 32, frozenset({"melody", "continuation"}))
NOTHING = DoneSet(NO_IDS, NO_IDS)
Draw = Callable[[random.Random], Any]

TEXTS = (
    *(
        "a",
        "0",
        " ",
        "",
        "\t",
        "\n",
        "x\ty",
        'say "hi"',
        "back\\slash",
        "\u2028",
        "\u00a0",
        "\u3000",
    ),
    *("日本語", "🎹", "e\u0301", "\u200b", "\x7f", "\x00", "\ue000id\ue000", "null", "a" * 256),
    *("b" * 257, "c" * 4000, "d" * 4001, "\ufeffbom", "\x85", " lead", "trail ", "</script>"),
)


def one_of(*values: Any) -> Draw:
    return lambda draw: draw.choice(values)


def some_text(draw: random.Random) -> str | None:
    kind = draw.randrange(10)
    if kind == 0:
        return None
    if kind < 4:
        return draw.choice(TEXTS)
    return f"{draw.choice(TEXTS)[:9]}{draw.randrange(10**9)}"


NUMBERS = one_of(
    *(None, None, 0.0, -0.0, 1.0, 0.1, 2.5, 1e-9, 100.0, 100.1, 3600.0, 3600.5, -1.0, 250.0),
    *(float("nan"), float("inf"), 1.0000000000000002, 10.0, 10.0, 10.0, 1e300),
)
INTEGERS = one_of(None, 0, 1, 1, 1, 2, 3, 10, 100, 1000, 1001, -1, 250, 2**31, 2**53 + 1, 2**63 - 1)
# Column to Arrow type to what may stand there: the types that `usable_columns` admits.
COLUMNS: Mapping[str, Mapping[pa.DataType, Draw]] = {
    "id": {
        pa.string(): some_text,
        pa.large_string(): some_text,
        pa.dictionary(pa.int32(), pa.string()): some_text,
        pa.int64(): one_of(None, 0, -5, 7, 2**62),
        pa.uint8(): one_of(0, 1, 255),
    },
    "prompt": {
        pa.string(): some_text,
        pa.string_view(): some_text,
        pa.dictionary(pa.int8(), pa.string()): one_of(None, "x", "y", " "),
        pa.null(): one_of(None),
    },
    "seed": {
        pa.int64(): INTEGERS,
        pa.uint64(): one_of(None, 0, 5, 2**63 - 1, 2**63, 2**64 - 1),
        pa.int8(): one_of(None, 0, 1, -1),
        pa.float64(): one_of(
            None, 0.0, 1.0, 1.5, -1.0, 2.0**62, 2.0**63, float("nan"), float("inf")
        ),
        pa.float32(): one_of(None, 3.0, float("nan")),
        pa.null(): one_of(None),
    },
    "takes": {
        pa.int64(): one_of(None, 1, 1, 2, 3, 5, 0, 1001),
        pa.float64(): one_of(None, 1.0, 2.0, 2.5, float("nan")),
    },
    "top_k": {pa.int64(): INTEGERS, pa.float64(): NUMBERS},
    "use_sampling": {
        pa.bool_(): one_of(None, True, False),
        pa.dictionary(pa.int8(), pa.bool_()): one_of(True, False),
    },
    "melody_uri": {pa.string(): one_of(*[None] * 20, "a.wav", "gone.wav", "", " ", "hf://x")},
    "style_uri": {pa.string(): one_of(*[None] * 30, "a.wav")},
    "melody_audio": {
        pa.binary(): one_of(*[None] * 9, b"", b"RIFF"),
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]): one_of(
            *[None] * 9,
            {"bytes": b"RIFF", "path": None},
            {"bytes": None, "path": "a.wav"},
            {"bytes": None, "path": None},
        ),
    },
    **{
        name: {pa.float64(): NUMBERS, pa.float32(): NUMBERS, pa.int64(): INTEGERS}
        for name in ("duration_s", "cfg_coef", "cfg_coef_beta", "temperature", "top_p")
    },
}


def odd_table(draw: random.Random, n_rows: int) -> pa.Table:
    """Some columns, each of one of its types."""
    arrays = {}
    for name, kinds in COLUMNS.items():
        if name != "prompt" and draw.random() < 0.4:
            continue
        kind = draw.choice([*kinds])
        values = [kinds[kind](draw) for _ in range(n_rows)]
        plain = kind.value_type if pa.types.is_dictionary(kind) else kind
        array = pa.array(values, plain)
        arrays[name] = array.dictionary_encode().cast(kind) if plain != kind else array
    return pa.table(arrays)


def spec_of(path: Path, table: pa.Table, row_group_size: int, **defaults: Any) -> PlanSpec:
    pq.write_table(table, path, row_group_size=row_group_size)
    return PlanSpec(Manifest.open(str(path)), GenerationDefaults(**defaults), LIMITS)


@dataclass
class RowByRow:
    """A plan as `Expander` makes it, without any of what makes a scan fast."""

    outcomes: Counter[str] = field(default_factory=Counter)
    audio_s: float = 0.0
    letters: list[DeadLetter] = field(default_factory=list)
    clips: list[PlannedClip] = field(default_factory=list)
    repeats: dict[int, int] = field(default_factory=dict)
    groups: set[int] = field(default_factory=set)  # first rows of those with something pending


def plan_row_by_row(spec: PlanSpec, selection: Selection | None = None) -> RowByRow:
    selection = selection or Selection(NOTHING)
    found, expander, seen = RowByRow(), Expander(spec), Counter[str]()
    for row_group in spec.manifest.row_groups:
        for first_row, batch in spec.manifest.read_row_group(row_group):
            for number, raw in enumerate(spec.manifest.raw_rows(batch), start=first_row):
                row, _ = parse_row(raw, source="", row=0)
                repeat = 0
                if row is not None:
                    repeat, seen[row.id] = seen[row.id], seen[row.id] + 1
                if repeat:
                    found.repeats[number] = repeat
                for outcome, item in expander.expand(raw, number, repeat, selection):
                    found.outcomes[outcome] += 1
                    if isinstance(item, DeadLetter):
                        found.letters.append(item)
                    elif item is not None:
                        found.clips.append(item)
                        found.audio_s += item.spec.params.duration_s
                    if outcome == "pending":
                        found.groups.add(row_group.first_row)
    return found


def standing(clip_ids: Sequence[str], row_keys: Sequence[str]) -> DoneSet:
    return DoneSet(np.unique(pack_ids(clip_ids)), np.unique(pack_ids(row_keys)))


def some_stand(draw: random.Random, found: RowByRow) -> DoneSet:
    """A ledger in which about a third of what the manifest asks for is done, and a third failed."""
    done = [clip.spec.clip_id for clip in found.clips if draw.random() < 0.3]
    keys = [clip.spec.row_key for clip in found.clips] + [each.row_key for each in found.letters]
    return standing(done, [key for key in keys if draw.random() < 0.3])
