"""`manifest build` and `manifest check` as people call them, and `plan` with prices."""

import gzip
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from pipeline.cli.root import main

ROOT = Path(__file__).parents[3]
NAMES = ("id", "prompt", "duration_s")
ROWS = [("a", "calm piano", 1.5), ("b", "fast drums; brushes", 2.0), ("c", "café jazz", 0.5)]


def invoke(*args: str, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(main, list(args), input=stdin)


def lines(delimiter: str) -> str:
    rows = [NAMES, *((i, f'"{p}"', str(d)) for i, p, d in ROWS)]
    return "".join(delimiter.join(row) + "\n" for row in rows)


def jsonl() -> str:
    return "".join(
        json.dumps(dict(zip(("id", "prompt", "duration_s"), r, strict=True))) + "\n" for r in ROWS
    )


def write_all(folder: Path) -> list[Path]:
    """The same rows in every form."""
    folder.mkdir()
    columns = pa.table(
        dict(zip(("id", "prompt", "duration_s"), zip(*ROWS, strict=True), strict=True))
    )
    texts = {
        "comma.csv": lines(",").encode(),
        "semicolon.csv": lines(";").encode("utf-8-sig"),
        "pipe.csv": lines("|").encode("utf-16"),
        "latin.csv": lines(",").encode("latin-1"),
        "tabs.tsv": lines("\t").encode(),
        "rows.jsonl": jsonl().encode(),
        "rows.json": f"[{','.join(jsonl().splitlines())}]".encode(),
        "rows.jsonl.gz": gzip.compress(jsonl().encode()),
        "rows.csv.zst": bytes(pa.compress(lines(",").encode(), codec="zstd", asbytes=True)),
    }
    for name, data in texts.items():
        (folder / name).write_bytes(data)
    book = openpyxl.Workbook()
    for row in [NAMES, *ROWS]:
        assert book.active is not None
        book.active.append(row)
    book.save(folder / "book.xlsx")
    pq.write_table(columns, folder / "rows.parquet")
    with pa.ipc.new_file(str(folder / "rows.arrow"), columns.schema) as writer:
        writer.write_table(columns)
    return sorted(folder.iterdir())


def test_every_form_becomes_the_same_manifest_and_check_agrees(tmp_path: Path) -> None:
    sources = write_all(tmp_path / "in")
    assert len(sources) == 12
    for source in sources:
        target = tmp_path / f"{source.name}.parquet"
        built = invoke("manifest", "build", str(source), str(target))
        assert built.exit_code == 0, built.output
        assert f"{target}: 3 rows, 3 clips\n" in built.output
        rows = pq.read_table(target).to_pylist()
        assert [(r["id"], r["prompt"], r["duration_s"]) for r in rows] == ROWS, source.name
        for checked in (source, target):
            result = invoke("manifest", "check", str(checked))
            assert (result.exit_code, "3 rows, 3 clips, no errors" in result.output) == (0, True)


@pytest.mark.slow  # starts a process
def test_standard_input_through_a_pipe(tmp_path: Path) -> None:
    target = tmp_path / "m.parquet"
    packed = gzip.compress(jsonl().encode())
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", "manifest", "build", "-", str(target)],
        input=packed, capture_output=True, cwd=ROOT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert pq.read_table(target).num_rows == 3
    again = invoke("manifest", "check", "-", stdin=jsonl().encode())
    assert (again.exit_code, again.output) == (0, "-: 3 rows, 3 clips, no errors\n")


def test_check_reports_what_build_reports_and_writes_the_rejects(tmp_path: Path) -> None:
    source = tmp_path / "in.tsv"
    source.write_text("name\tcaption\nx\tfine\ny\t\nz\tgood\n")
    flags = ["--map", "prompt=caption", "--map", "id=name", "--map", "duration_s=9"]
    built = invoke("manifest", "build", str(source), str(tmp_path / "m.parquet"), *flags)
    checked = invoke("manifest", "check", str(source), *flags)
    assert (built.exit_code, checked.exit_code) == (2, 2)
    fault = "in.tsv line 3 row 1 (id=y): prompt=null is empty and the row has no reference either"
    for result in (built, checked):
        assert fault in result.output
        assert "prompt is column 'caption', id is column 'name', duration_s is 9.0 in every" in (
            result.output
        )
    rejects = pq.read_table(tmp_path / "in.tsv.rejects.parquet").to_pylist()
    assert [(row["row"], row["line"], row["id"]) for row in rejects] == [(1, 3, "y")]
    assert not (tmp_path / "m.parquet").exists()


def test_a_sweep_needs_no_table(tmp_path: Path) -> None:
    words = tmp_path / "moods.txt"
    words.write_text("calm\nwild\n")
    target = tmp_path / "m.parquet"
    args = ["--matrix", "genre=jazz,techno", "--matrix", "cfg_coef=2,3,4", "--wordlist"]
    args += [f"mood={words}", "--template", "a {mood} {genre} track"]
    whole = invoke("manifest", "build", *args, str(target))
    assert whole.exit_code == 0, whole.output
    assert "12 rows, 12 clips, extra columns: genre, mood" in whole.output
    rows = {row["id"]: row for row in pq.read_table(target).to_pylist()}
    assert rows["cfg_coef-2_genre-jazz_mood-calm"]["prompt"] == "a calm jazz track"
    some = invoke("manifest", "build", *args, "--sample", "5", "--seed", "3", str(target))
    assert some.exit_code == 0, some.output
    drawn = pq.read_table(target).to_pylist()
    assert len(drawn) == 5
    assert all(rows[row["id"]] == row for row in drawn)
    assert invoke("manifest", "check", str(target)).exit_code == 0


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "m.parquet"
    pq.write_table(pa.table({"id": ["a", "b"], "prompt": ["x", "y"]}), path)
    return path


def test_plan_prices_an_output_that_does_not_exist_yet(manifest: Path) -> None:
    flags = ["--per-gpu-hour", "3", "--per-gb-month", "0.02", "--per-1000-requests", "0.005"]
    args = ["plan", "--manifest", str(manifest), "--model", "tiny", "--gpus-per-replica", "1"]
    for output in ([], ["--output", str(manifest.parent / "none" / "{run_id}")]):
        result = invoke(*args, *output, *flags)
        assert result.exit_code == 0, result.output
        assert "2 rows: 2 clips to make (20.0 s of audio), 0 already done" in result.output
        assert "assumed, from the table of known speeds" in result.output
        assert "GPU-hours: " in result.output
        assert "for GPUs, 0.00 for storage per month, " in result.output
        assert "(USD)" in result.output
    assert not (manifest.parent / "none").exists()
    found = json.loads(invoke(*args, *flags, "--json").output)
    assert (found["pending"], found["money"]["currency"]) == (2, "USD")
    assert found["gpu_hours"] > 0
    assert found["money"]["gpus"] == pytest.approx(3 * found["gpu_hours"])


def test_plan_takes_prices_from_the_settings_file(manifest: Path) -> None:
    config = manifest.parent / "job.yaml"
    config.write_text("model: tiny\nprice: {currency: EUR, per_gb_month: 1000}\n")
    result = invoke("plan", "--config", str(config), "--manifest", str(manifest))
    assert result.exit_code == 0, result.output
    assert "for storage per month (EUR)" in result.output
    config.write_text("model: tiny\nprice: {per_gpu_hour: -1}\n")
    refused = invoke("plan", "--config", str(config), "--manifest", str(manifest))
    assert refused.exit_code == 2
    assert "price.per_gpu_hour=-1 must be at least 0; correct --per-gpu-hour" in refused.output


def test_plan_and_check_take_a_folder_and_a_glob_of_manifests(manifest: Path) -> None:
    folder = manifest.parent / "many"
    folder.mkdir()
    for name in "ab":
        pq.write_table(
            pa.table({"prompt": [f"{name}{n}" for n in range(3)]}), folder / f"{name}.parquet"
        )
    (folder / "README.md").write_text("two files")
    for address, n_rows in (
        (str(folder), 6),
        (f"{folder}/*.parquet", 6),
        (f"{folder}/[a].parquet", 3),
    ):
        planned = invoke("plan", "--manifest", address, "--model", "tiny", "--json")
        assert json.loads(planned.output)["pending"] == n_rows
        checked = invoke("manifest", "check", address)
        assert f"{n_rows} rows, {n_rows} clips, no errors" in checked.output, checked.output


def test_placeholders_stand_in_addresses(manifest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    today = datetime.now(UTC).strftime("%Y-%m-%d")
    manifest.rename(manifest.parent / f"m-{today}.parquet")
    monkeypatch.setenv("PLACE", str(manifest.parent))
    planned = invoke("plan", "--manifest", "${PLACE}/m-{date}.parquet", "--model", "tiny", "--json")
    assert json.loads(planned.output)["rows"] == 2
    status = invoke("status", "--output", "${PLACE}/{date}")
    assert (status.exit_code, f"{manifest.parent}/{today}: no such output" in status.output) == (
        2,
        True,
    )
    unknown = invoke("status", "--output", "out/{run_id}")
    assert unknown.exit_code == 2
    assert "{run_id} is the id of a run, and this command makes none" in unknown.output
    unset = invoke("run", "--manifest", "${NOWHERE_AT_ALL}/m", "--output", "o", "--model", "tiny")
    assert unset.exit_code == 2
    assert "the environment variable NOWHERE_AT_ALL is not set; set it" in unset.output
