"""Sweeps: every combination once, ids that stay, samples that repeat."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from manifests.build import build
from manifests.reader import ManifestError
from manifests.sources.sweep import Sweep, draw
from manifests.sources.sweep_flags import make_sweep


def sweep(*matrix: str, has_rows: bool = False, **flags: Any) -> Sweep:
    given = {"wordlists": (), "template": None, "sample": None, "seed": 0} | flags
    found = make_sweep(matrix, storage_options={}, has_rows=has_rows, **given)
    assert found is not None
    return found


def built(tmp_path: Path, found: Sweep, *sources: str) -> list[dict[str, Any]]:
    out = tmp_path / "m.parquet"
    summary = build(list(sources), str(out), sweep=found)
    assert (summary.issues, summary.column_faults) == ((), ())
    rows: list[dict[str, Any]] = pq.read_table(out).to_pylist()
    assert len(rows) == summary.n_rows
    return rows


def ids(rows: list[dict[str, Any]]) -> list[str]:
    return [row["id"] for row in rows]


def test_every_combination_is_a_row_with_its_columns_and_prompt(tmp_path: Path) -> None:
    found = sweep(
        "genre=jazz,techno", "cfg_coef=2,3.5", "bpm=90", template="a {genre} track at {bpm} bpm"
    )
    rows = built(tmp_path, found)
    assert [(row["genre"], row["cfg_coef"], row["bpm"], row["prompt"]) for row in rows] == [
        ("jazz", 2.0, 90, "a jazz track at 90 bpm"),
        ("jazz", 3.5, 90, "a jazz track at 90 bpm"),
        ("techno", 2.0, 90, "a techno track at 90 bpm"),
        ("techno", 3.5, 90, "a techno track at 90 bpm"),
    ]
    assert ids(rows)[:2] == ["bpm-90_cfg_coef-2_genre-jazz", "bpm-90_cfg_coef-3.5_genre-jazz"]
    schema = pq.read_schema(tmp_path / "m.parquet")
    assert (schema.field("cfg_coef").type, schema.field("bpm").type) == (pa.float64(), pa.int64())


def test_a_row_keeps_its_id_whatever_else_is_in_the_sweep(tmp_path: Path) -> None:
    names = "mood=drum & bass,calm"
    few = built(tmp_path, sweep(names, "cfg_coef=3", template="{mood}"))
    many = built(tmp_path, sweep("cfg_coef=1,2,3.0", names + ",drum-bass", template="{mood}"))
    by_id = {row["id"]: row for row in many}
    assert len(by_id) == len(many) == 9
    for row in few:
        assert by_id[row["id"]] == row
    assert ids(few)[1] == "cfg_coef-3_mood-calm"
    assert ids(few)[0].startswith("cfg_coef-3_mood-drum-bass-")


def test_words_come_from_a_file(tmp_path: Path) -> None:
    words = tmp_path / "genres.txt"
    words.write_text("\ufeff# what we like\nbossa nova\n\n  jazz  \njazz\n", encoding="utf-8")
    found = sweep(wordlists=[f"genre={words}"], template="{genre}")
    assert [row["prompt"] for row in built(tmp_path, found)] == ["bossa nova", "jazz"]


def test_values_with_commas_stand_in_quotes(tmp_path: Path) -> None:
    found = sweep('prompt="calm, slow", fast,"say ""go"""')
    assert [row["prompt"] for row in built(tmp_path, found)] == ["calm, slow", "fast", 'say "go"']


def test_a_sweep_over_a_table_makes_rows_of_each_row(tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text("id,instrument,melody_uri\none,flute,a.wav\ntwo,organ,\n")
    found = sweep("cfg_coef=2,4", template="a {instrument}, {{live}}", has_rows=True)
    rows = built(tmp_path, found, str(source))
    assert [(row["id"], row["prompt"], row["melody_uri"], row["cfg_coef"]) for row in rows] == [
        ("one_cfg_coef-2", "a flute, {live}", "a.wav", 2.0),
        ("one_cfg_coef-4", "a flute, {live}", "a.wav", 4.0),
        ("two_cfg_coef-2", "a organ, {live}", None, 2.0),
        ("two_cfg_coef-4", "a organ, {live}", None, 4.0),
    ]


def test_rows_without_an_id_get_one_of_their_content(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('{"prompt": "a", "n": 1}\n{"prompt": "b", "n": 1}\n')
    both = built(tmp_path, sweep("takes=1,2", has_rows=True), str(source))
    source.write_text('{"prompt": "b", "n": 1}\n')
    one = built(tmp_path, sweep("takes=1,2", has_rows=True), str(source))
    assert len(set(ids(both))) == 4
    assert ids(one) == ids(both)[2:]


def test_a_template_whose_column_is_empty_is_an_issue_of_the_row(tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text("id,mood\na,calm\nb,\n")
    found = sweep(template="{mood} music", has_rows=True)
    summary = build(str(source), str(tmp_path / "m.parquet"), sweep=found)
    (issue,) = summary.issues
    assert (
        "in.csv line 3 row 1: the template '{mood} music' needs a value for mood" in issue.message
    )


@pytest.mark.parametrize("count", [1, 3, 11, 12])
def test_a_sample_is_drawn_without_repeats_and_in_order(count: int) -> None:
    drawn = draw(12, count, seed=5)
    assert len(set(drawn)) == count
    assert drawn == sorted(drawn) == draw(12, count, seed=5)
    assert set(drawn) <= set(range(12))


def test_samples_of_other_seeds_differ_and_are_even() -> None:
    assert draw(10**12, 5, seed=1) != draw(10**12, 5, seed=2)
    hits = [0] * 20
    for seed in range(400):
        for number in draw(20, 5, seed):
            hits[number] += 1
    assert sum(hits) == 2000
    assert 60 < min(hits) <= max(hits) < 145  # 100 expected, 8.7 the standard deviation


def test_a_sample_of_a_sweep_has_the_rows_of_the_whole(tmp_path: Path) -> None:
    axes = ("genre=a,b,c,d,e", "bpm=60,90,120")
    whole = built(tmp_path, sweep(*axes, template="{genre} {bpm}"))
    some = built(tmp_path, sweep(*axes, template="{genre} {bpm}", sample=4, seed=9))
    again = built(tmp_path, sweep(*axes, template="{genre} {bpm}", sample=4, seed=9))
    assert len(some) == 4
    assert some == again == [row for row in whole if row in some]


def test_a_sample_over_a_table_draws_rows_and_values(tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text("id,prompt\n" + "".join(f"r{n},p\n" for n in range(50)))
    rows = built(tmp_path, sweep("cfg_coef=2,3,4", sample=20, has_rows=True), str(source))
    assert len(rows) == len(set(ids(rows))) == 20
    assert len({row["id"].split("_")[0] for row in rows}) > 5


def test_a_sample_of_more_than_there_are_is_all_and_said(tmp_path: Path) -> None:
    summary = build([], str(tmp_path / "m.parquet"), sweep=sweep("prompt=a,b", sample=9))
    assert (summary.n_rows, summary.notes) == (
        2,
        ("--sample 9: there are 2 combinations, all are taken",),
    )


def test_a_huge_sweep_is_sampled_without_being_made(tmp_path: Path) -> None:
    axes = [f"{name}={','.join(map(str, range(1000)))}" for name in ("x", "y", "z", "w")]
    rows = built(tmp_path, sweep(*axes, template="{x} {y} {z} {w}", sample=50))
    assert len(set(ids(rows))) == 50


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("a {mood} track", "nothing gives mood .given: genre.; add --matrix 'mood=...'"),
        ("a {genre track", "expected '}'"),
        ("a {0} track", "0. is not the name of a column"),
        ("a {genre.upper} track", "is not the name of a column"),
        ("a {genre!r} track", "is not the name of a column"),
    ],
)
def test_templates_that_can_not_be_filled(template: str, words: str) -> None:
    with pytest.raises(ManifestError, match=words):
        sweep("genre=jazz", template=template)


def test_a_prompt_can_not_come_from_two_places() -> None:
    with pytest.raises(ManifestError, match="--template writes the prompt; keep one of the two"):
        sweep("prompt=a,b", template="x")


def test_an_axis_that_looks_like_a_column_is_a_fault(tmp_path: Path) -> None:
    summary = build([], str(tmp_path / "m.parquet"), sweep=sweep("cfg_coeff=2,3", "prompt=a"))
    assert summary.out_uri is None
    assert "'cfg_coeff' looks like 'cfg_coef'" in summary.column_faults[0]


def test_long_values_give_short_ids_that_differ(tmp_path: Path) -> None:
    long = ",".join(f"{'very ' * 20}long {n}" for n in range(3))
    rows = built(tmp_path, sweep(f"prompt={long}", *(f"axis_{n}={'x' * 39}" for n in range(9))))
    assert len(set(ids(rows))) == 3
    assert max(map(len, ids(rows))) <= 200
