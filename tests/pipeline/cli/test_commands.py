"""The command line: clear errors with exit codes, fast where no model is needed."""

import json
import re
import subprocess
import sys
from pathlib import Path

import click
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from pipeline.cli.options import given_flags
from pipeline.cli.root import main
from pipeline.config import SECTIONS

ROOT = Path(__file__).parents[3]


def invoke(*args: str) -> Result:
    return CliRunner().invoke(main, list(args))


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "m.parquet"
    pq.write_table(
        pa.table({"id": ["a", "b"], "prompt": ["x", "y"], "duration_s": [1.0, 2.0]}), path
    )
    return path


def run_args(manifest: Path, *more: str) -> list[str]:
    return ["run", "--manifest", str(manifest), "--output", str(manifest.parent / "o"), *more]


BAD_RUNS = {
    "no manifest": (["--manifest", "no.parquet", "--model", "tiny"], r"no\.parquet: not found"),
    "no such model": (["--model", "huge"], r"model 'huge': no such folder"),
    "no model": ([], r"model is missing; give --model"),
    "nonsense slots": (
        ["--model", "tiny", "--slots", "0"],
        r"slots=0 must be a whole number from 1 to 1024, or auto",
    ),
    "credentials": (
        ["--model", "tiny", "--storage-option", "secret=abc"],
        r"storage option secret: credentials are not accepted here.*AWS_SECRET_ACCESS_KEY",
    ),
    "unknown protocol": (["--model", "tiny", "--output", "ftp://x/y"], r"ftp:// is not one of"),
    "fp16 on cpu": (
        ["--model", "tiny", "--dtype", "fp16", "--device", "cpu"], r"dtype=fp16 needs a GPU",
    ),
    "no config": (["--model", "tiny", "--config", "none.yaml"], r"none.yaml: cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_RUNS)
def test_bad_input_as_a_whole_exits_2_with_one_message(case: str, manifest: Path) -> None:
    args, message = BAD_RUNS[case]

    result = invoke(*run_args(manifest, *args))

    assert result.exit_code == 2, result.output
    assert re.search(message, result.output), result.output
    assert "Traceback" not in result.output
    assert "abc" not in result.output


def test_a_misspelt_key_of_the_config_names_its_neighbour(tmp_path: Path, manifest: Path) -> None:
    config = tmp_path / "job.yaml"
    config.write_text("slotz: 3\ngeneration:\n  top_kk: 5\n")

    result = invoke(*run_args(manifest, "--model", "tiny", "--config", str(config)))

    assert result.exit_code == 2
    assert "unknown key slotz; did you mean slots in the section engine?" in result.output
    assert "unknown key generation.top_kk; did you mean top_k?" in result.output


def test_a_misspelt_column_is_an_error_unless_listed(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    pq.write_table(pa.table({"prompt": ["x"], "promt": ["y"]}), path)

    refused = invoke("plan", "--manifest", str(path), "--model", "tiny")
    listed = invoke("plan", "--manifest", str(path), "--model", "tiny", "--extra-column", "promt")

    assert refused.exit_code == 2
    assert "promt" in refused.output
    assert "prompt" in refused.output
    assert listed.exit_code == 0, listed.output


@pytest.mark.parametrize("command", ["status", "verify", "compact", "gc", "report", "retry"])
def test_an_output_that_does_not_exist_exits_2(command: str, manifest: Path) -> None:
    more = ["--manifest", str(manifest), "--model", "tiny"] if command == "retry" else []

    result = invoke(command, "--output", str(manifest.parent / "none"), *more)

    assert result.exit_code == 2
    assert "no such output" in result.output


@pytest.mark.s3
@pytest.mark.usefixtures("s3")
def test_a_bucket_that_does_not_exist_exits_2(manifest: Path) -> None:
    status = invoke("status", "--output", "s3://no-such-bucket-here/x")
    run = invoke(*run_args(manifest, "--model", "tiny", "--output", "s3://no-such-bucket-here/x"))

    assert (status.exit_code, run.exit_code) == (2, 2), run.output
    assert "no-such-bucket-here" in run.output
    assert "Traceback" not in run.output


def test_plan_without_an_output_counts_everything(manifest: Path) -> None:
    result = invoke("plan", "--manifest", str(manifest), "--model", "tiny", "--json")

    counts = json.loads(result.output)
    assert (counts["rows"], counts["pending"], counts["pending_audio_s"]) == (2, 2, 3.0)


def test_plan_says_which_rows_would_fail(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    pq.write_table(pa.table({"id": ["ab12"], "prompt": ["x"], "duration_s": [4500.0]}), path)

    result = invoke("plan", "--manifest", str(path), "--model", "tiny")

    assert "m.parquet row 0 (id=ab12): duration_s=4500.0 exceeds 3600 s" in result.output


def test_manifest_check_reports_every_error_and_writes_the_rejects(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    rows = [
        {"id": "a", "prompt": "x", "duration_s": -1, "seed": -5},
        {"id": "b", "prompt": "fine"},
        {"id": "b", "prompt": "again"},
        {"id": "c"},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))

    result = invoke("manifest", "check", str(path))

    assert result.exit_code == 2
    for expected in ("duration_s=-1", "seed=-5", "id=b", "id=c"):
        assert expected in result.output
    rejects = pq.read_table(tmp_path / "in.jsonl.rejects.parquet")
    assert sorted(rejects["row"].to_pylist()) == [0, 2, 3]


def test_manifest_build_then_check(tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text("id,prompt,duration_s,mood\na,calm,1.5,sad\nb,fast,,\n")
    target = tmp_path / "sub" / "out.parquet"
    target.parent.mkdir()

    built = invoke("manifest", "build", str(source), str(target))
    checked = invoke("manifest", "check", str(target), "--model", "tiny")

    assert (built.exit_code, checked.exit_code) == (0, 0), built.output + checked.output
    assert pq.read_table(target)["duration_s"].to_pylist() == [1.5, None]


def test_every_command_has_help_with_an_example() -> None:
    def walk(command: click.Command, path: tuple[str, ...]) -> None:
        text = invoke(*path, "--help").output
        assert "Example" in text or isinstance(command, click.Group), path
        for name, child in getattr(command, "commands", {}).items():
            walk(child, (*path, name))

    walk(main, ())


def test_the_help_of_run_groups_the_flags_by_section() -> None:
    text = invoke("run", "--help").output
    headings = re.findall(r"^\S.*\(section (\w+)\):$", text, re.MULTILINE)
    assert headings == list(SECTIONS)
    parts = text.partition("(section parts):\n")[2].partition("(section audio):")[0]
    assert re.findall(r"^  (--[a-z-]+)", parts, re.MULTILINE) == [
        "--part-clips", "--part-seconds", "--part-megabytes", "--audio", "--metadata-clips",
    ]  # fmt: skip
    assert "  --local " in text.partition("(section")[0]


@pytest.mark.parametrize(
    ("flags", "runtime"),
    [([], None), (["--local"], "local"), (["--runtime", "local"], "local")],
)
def test_local_means_the_runtime_local(flags: list[str], runtime: str | None) -> None:
    for command in ("run", "retry"):
        context = main.commands[command].make_context(command, list(flags))
        assert given_flags(context.params).get("runtime") == runtime


@pytest.mark.parametrize(
    ("flags", "score"),
    [([], None), (["--score", "melody,key"], "melody,key"),
     (["--score", "melody", "--score", "clap=models/clap"], "melody,clap=models/clap")],
)  # fmt: skip
def test_scorers_may_be_named_in_one_flag_or_in_several(
    flags: list[str], score: str | None
) -> None:
    context = main.commands["run"].make_context("run", list(flags))
    assert given_flags(context.params).get("score") == score


def test_local_and_the_runtime_ray_exclude_each_other(manifest: Path) -> None:
    result = invoke(*run_args(manifest, "--local", "--runtime", "ray"))
    assert result.exit_code == 2
    assert "--local and --runtime ray exclude each other" in result.output


def test_every_flag_of_run_is_described() -> None:
    for option in main.commands["run"].params:
        assert isinstance(option, click.Option)
        assert option.help, option.name


CHECK = """
import sys
from click.testing import CliRunner
from pipeline.cli.root import main
result = CliRunner().invoke(main, sys.argv[1:])
heavy = [name for name in ("torch", "ray", "transformers", "datasets") if name in sys.modules]
print(result.exit_code, heavy)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "args",
    [
        ["run", "--manifest", "{bad}", "--output", "{out}", "--model", "tiny"],
        ["run", "--manifest", "{good}", "--output", "{out}", "--model", "nonsense"],
        ["plan", "--manifest", "{good}", "--model", "tiny"],
        ["manifest", "check", "{bad}"],
        ["status", "--output", "{out}"],
    ],
)
def test_what_needs_no_model_imports_nothing_heavy(
    args: list[str], manifest: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.parquet"
    bad.write_bytes(b"not parquet")
    names = {"good": str(manifest), "bad": str(bad), "out": str(tmp_path / "o")}
    filled = [arg.format(**names) for arg in args]

    done = subprocess.run(
        [sys.executable, "-c", CHECK, *filled],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )

    assert done.stdout.strip().endswith("[]"), done.stdout
