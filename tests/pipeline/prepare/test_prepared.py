"""What travels from the prepare pool to a replica arrives as it was sent."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from manifests.schema import EffectiveParams
from pipeline.planning.clips import ClipSpec, DeadLetter, JudgedTake
from pipeline.prepare.prepared import (
    ROW_BYTES,
    PreparedClip,
    extra_field,
    from_table,
    to_table,
    without_empty_rows,
)

SPEC = ClipSpec(
    clip_id="c" * 32,
    row_key="d" * 32,
    id="café/1",
    take=2,
    row=17,
    source="demo.parquet",
    prompt=None,
    params=EffectiveParams(2.5, True, 250, 0.0, 1.0, 3.0, None, style_eval_q=3),
    seed=None,
    seed_used=2**63 - 1,
    references={"melody": "blake2b:00"},
    reference_uris={"melody": "s3://bucket/tune.flac"},
    row_json='{"id":"café/1"}',
)
NO_EXTRAS = pa.table({"nothing": [0, 0]}).select([])


def sent(rows: list[PreparedClip | DeadLetter], extras: pa.Table = NO_EXTRAS) -> list[object]:
    return [row for row, _ in from_table(to_table(rows, extras))]


def test_a_spec_and_a_dead_letter_arrive_as_they_were_sent() -> None:
    letter = SPEC.dead_letter("prepare", ValueError("too long"))
    clip, arrived = sent([PreparedClip(SPEC, n_frames=125), letter])

    assert isinstance(clip, PreparedClip)
    assert (clip.spec, clip.n_frames, clip.n_windows) == (SPEC, 125, 1)
    assert (clip.melody, clip.continuation, clip.style, clip.separation) == (None,) * 4
    assert arrived == letter
    assert letter.message == "demo.parquet row 17 (id=café/1): too long"
    assert letter.error_class == "UnsuitableRowError"


@pytest.mark.parametrize("channels", [1, 2])
def test_arrays_keep_their_shape_and_numbers(channels: int) -> None:
    samples = np.arange(10 * channels, dtype=np.float32).reshape(channels, 10) / 7
    melody = np.arange(6, dtype=np.uint8).reshape(2, 3)  # [W, n]
    whole = PreparedClip(
        *(SPEC, 125, 2, "htdemucs"), melody=melody, continuation=samples, style=samples[:, :4]
    )
    (clip,) = sent([whole])

    assert isinstance(clip, PreparedClip)
    assert (clip.n_windows, clip.separation) == (2, "htdemucs")
    for name in ("melody", "continuation", "style"):
        given, arrived = getattr(whole, name), getattr(clip, name)
        assert arrived.dtype == given.dtype
        assert np.array_equal(arrived, given)


def test_a_melody_of_one_window_is_flat() -> None:
    melody = np.arange(6, dtype=np.uint8)  # [n]
    (clip,) = sent([PreparedClip(SPEC, 125, melody=melody)])
    assert isinstance(clip, PreparedClip)
    assert np.array_equal(clip.melody, melody)


def test_extra_columns_arrive_under_their_own_names() -> None:
    fields = [extra_field(pa.field(name, pa.string())) for name in ("kind", "extra.kind")]
    extras = pa.table([["calm", None], ["a", "b"]], schema=pa.schema(fields))
    rows = [PreparedClip(SPEC, 1), replace(SPEC, id="b").dead_letter("prepare", ValueError("x"))]

    found = [found for _, found in from_table(to_table(rows, extras))]

    assert [table.to_pylist() for table in found] == [
        [{"kind": "calm", "extra.kind": "a"}],
        [{"kind": None, "extra.kind": "b"}],
    ]


def test_a_block_of_rows_is_bounded_in_bytes_too() -> None:
    """Ray cuts blocks by rows, and 8 clips may each begin with a quarter of an hour of audio."""
    large = np.zeros((1, 3 * ROW_BYTES // 4 + 1), np.float32)  # [1, N]: three times ROW_BYTES
    rows = [
        PreparedClip(replace(SPEC, id=f"r{n}"), 1, continuation=large if n % 2 else None)
        for n in range(12)
    ]
    extras = pa.table({"extra.n": [*range(12)]})

    table = to_table(rows, extras)
    blocks = [table.slice(at, 8) for at in range(0, len(table), 8)]
    found = [each for block in blocks for each in from_table(block)]

    assert len(table) == 12 + 6 * 3
    assert [row.spec.id for row, _ in found if isinstance(row, PreparedClip)] == [
        f"r{n}" for n in range(12)
    ]
    assert [extra["n"][0].as_py() for _, extra in found] == [*range(12)]
    assert (
        max(
            sum(row.nbytes for row, _ in from_table(block) if isinstance(row, PreparedClip))
            for block in blocks
        )
        <= 8 * ROW_BYTES + large.nbytes
    )
    assert len(without_empty_rows(table)) == 12


def take(number: int, row: int = 17, stands: bool = False) -> PreparedClip:
    spec = replace(SPEC, take=number, row=row, clip_id=f"{row:016x}{number:016x}")
    tune = np.array([0, -1, 11], np.int8)
    return PreparedClip(spec, 125, tune=tune, judged=JudgedTake("e" * 32, 1, stands))


def test_takes_that_are_judged_together_are_one_row_of_the_table() -> None:
    """So that blocks, which are cut by rows, never part them."""
    alone = PreparedClip(SPEC, n_frames=50)
    rows = [take(0), take(1, stands=True), take(2), alone, take(0, 18), take(3, 18), alone]
    extras = pa.table({"extra.n": list(range(len(rows)))})

    table = to_table(rows, extras)
    arrived = [*from_table(table)]

    assert table.num_rows == 4
    found = [clip for clip, _ in arrived if isinstance(clip, PreparedClip)]
    assert [(clip.spec, clip.judged) for clip in found] == [(row.spec, row.judged) for row in rows]
    assert [clip.tune is None for clip in found] == [row.tune is None for row in rows]
    np.testing.assert_array_equal(found[1].tune, [0, -1, 11])
    assert [extra["n"][0].as_py() for _, extra in arrived] == [0, 0, 0, 3, 4, 4, 6]


def test_large_takes_that_are_judged_together_take_room_once() -> None:
    style = np.zeros((1, ROW_BYTES // 4 * 2), np.float32)
    rows = [replace(take(0), style=style), replace(take(1), style=style), take(0, 18)]
    table = to_table(rows, pa.table({"extra.n": [0, 1, 2]}))
    assert table.num_rows == 1 + 2 + 1
    assert table["extra.n"].to_pylist() == [0, 0, 0, 2]
    assert [clip.spec.clip_id for clip, _ in from_table(table)] == [r.spec.clip_id for r in rows]  # type: ignore[union-attr]
