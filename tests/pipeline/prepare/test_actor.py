"""A reference that crashes, hangs or takes all memory is one dead letter; its neighbours live."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import soundfile as sf

from manifests.audio_file import ReferenceOpener
from manifests.reader import Manifest
from manifests.row_errors import RowError
from manifests.uris.policy import ReferenceAccess, ReferencePolicy
from pipeline import job, ledger
from pipeline.config_file import load_config
from pipeline.ledger.id_set import NO_IDS
from pipeline.planning.expand import PlanSpec
from pipeline.planning.model_limits import inspect_model, limits_of
from pipeline.prepare.actor import RAW_ROW_BYTES, Prepare, in_portions, read_rows
from pipeline.prepare.messages import PrepareSettings
from pipeline.prepare.prepared import PreparedClip, from_table
from pipeline.storage import open_storage
from tests.integration.jobs import TINY, ids_and_takes, problems, run_here, write_manifest
from tests.pipeline.prepare.references import (
    HARMS,
    LIMITS,
    WORDS,
    HarmedPrepare,
    harmful_rows,
    write_bomb,
)
from tests.pipeline.prepare.test_prepared import SPEC
from tests.reliability.outcomes import Outcome, fault


def prepare_all(manifest: Path, kind: type[Prepare] = Prepare, **flags: Any) -> tuple[Any, Any]:
    """The actor and the table that it is given."""
    config = load_config(None, TINY | {"manifest": str(manifest), "output": "/nowhere"} | flags)
    info, opened = inspect_model(config), Manifest.open(str(manifest))
    spec = PlanSpec(opened, config.generation, limits_of(info), {}, config.references)
    groups = pa.table({"row_group": list(range(len(opened.row_groups)))})
    table = pa.concat_tables(list(read_rows(opened, groups)))
    return kind(PrepareSettings(spec, info, {}, False), lambda: (NO_IDS, NO_IDS)), table


@fault(
    "rows/references", "references that crash, hang or fill the process that reads them",
    "3 of 20 rows",
)  # fmt: skip
@pytest.mark.slow
def test_harmful_references_are_kept_out_of_a_local_run_and_check_says_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outcome: Outcome
) -> None:
    monkeypatch.setattr(job, "Prepare", HarmedPrepare)
    rows = harmful_rows(tmp_path)
    manifest = write_manifest(tmp_path / "m.parquet", rows)
    output = f"file://{tmp_path}/out"

    summary = run_here(manifest, output, **LIMITS)

    assert (summary.tally.clips, summary.tally.failed) == (17, 3)
    assert ids_and_takes(output) == [(r["id"], 0) for i, r in enumerate(rows) if i not in HARMS]
    assert problems(output) == []
    letters = {row["id"]: row for row in ledger.read_dead_letters(open_storage(output)).to_pylist()}
    assert {row["stage"] for row in letters.values()} == {"prepare"}
    outcome.told("(id=r03): …reading it ended two processes", letters["r03"]["message"])
    wanted = [row["id"] for row in rows]
    outcome.ended(output, wanted, exits=[summary.exit_code], letters=letters.keys())
    access = ReferenceAccess(ReferencePolicy(**LIMITS))
    listener = "tests.manifests.isolation.handlers:make_harmed_listener"
    with closing(ReferenceOpener(access, listener)) as opener:
        verdicts = opener.judge([(row["melody_uri"], str(manifest)) for row in rows])
    for at, (row, verdict) in enumerate(zip(rows, verdicts, strict=True)):
        if at not in HARMS:
            assert not isinstance(verdict, RowError)
            continue
        letter = letters[row["id"]]
        error_class, words = WORDS[HARMS[at]]
        assert letter["error_class"] == error_class == type(verdict).__name__
        assert words in letter["message"]
        assert letter["message"].endswith(f"): {verdict}")


@contextmanager
def peak_mb() -> Iterator[list[float]]:
    """Watches the memory of the descendants of this process that are new; the list gets what they
    took at most, pages that several have in common counted once."""
    peak, over = [0.0], threading.Event()
    others = set(descendants(os.getpid()))  # those of other tests

    def watch() -> None:
        while not over.wait(0.02):
            new = set(descendants(os.getpid())) - others
            peak[0] = max(peak[0], sum(map(_pss_mb, new)))

    thread = threading.Thread(target=watch)
    thread.start()
    yield peak
    over.set()
    thread.join()


def descendants(pid: int) -> list[int]:
    """The processes below one, but for those of a Ray of other tests, which starts some at will."""
    found: list[int] = []
    if _is_raylet(pid):
        return found
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(child) for child in task.read_text().split()]
        except OSError:  # the thread has ended
            continue
        for child in children:
            found += [child, *descendants(child)]
    return found


def _is_raylet(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip() == "raylet"
    except OSError:
        return False


def _pss_mb(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # it has ended
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


@pytest.mark.long
def test_memory_stays_within_the_setting_whatever_the_references_decode_to(tmp_path: Path) -> None:
    """Each of these files has 184 MB once decoded, and would need 2.5 GB of working memory if a
    melody of 30 s at 192 kHz were resampled as a whole; a process may take 256 MB."""
    write_bomb(tmp_path / "bomb.flac", duration_s=240)
    rows: list[dict[str, Any]] = []
    for at in range(3):
        (tmp_path / f"{at}.flac").symlink_to("bomb.flac")
        role, length_s = ("melody", 0.3) if at == 0 else ("continuation", 250.0 if at == 1 else 0.3)
        row = {"id": f"r{at}", "prompt": "x", "duration_s": length_s, f"{role}_uri": f"{at}.flac"}
        rows.append(row)
    actor, table = prepare_all(write_manifest(tmp_path / "m.parquet", rows), prepare_memory_mb=1280)
    assert (tmp_path / "bomb.flac").stat().st_size < 2**20

    with closing(actor), peak_mb() as peak:
        prepared = [row for out in actor(table) for row, _ in from_table(out)]

    clips = [row for row in prepared if isinstance(row, PreparedClip)]
    (letter,) = (row for row in prepared if not isinstance(row, PreparedClip))
    assert sorted(clip.spec.id for clip in clips) == ["r0", "r1"]
    assert "continuation has 240.00 s, but duration_s=0.3 includes it" in letter.message
    assert 100 < peak[0] < 1280


@pytest.mark.slow
def test_takes_and_rows_that_hear_the_same_are_one_piece_of_work(tmp_path: Path) -> None:
    rows = harmful_rows(tmp_path, n_rows=2)
    rows = [row | {"takes": 3, "melody_uri": "tune-0.wav"} for row in rows]
    rows.append(rows[0] | {"id": "longer", "takes": 1, "duration_s": 0.4})
    rows.append({"id": "plain", "prompt": "x", "duration_s": 0.3})
    actor, table = prepare_all(write_manifest(tmp_path / "m.parquet", rows))
    asked: list[Any] = []
    answers = actor.readers.answers
    actor.readers.answers = lambda works: answers(asked.extend(works) or asked)

    with closing(actor):
        prepared = [row for out in actor(table) for row, _ in from_table(out)]

    assert len(asked) == 2
    assert [row.spec.id for row in prepared] == ["longer", "plain", *["r00"] * 3, *["r01"] * 3]
    assert len({row.melody.tobytes() for row in prepared[2:]}) == 1


def test_rows_without_references_start_no_process(tmp_path: Path) -> None:
    rows = [{"id": f"r{i}", "prompt": "x", "duration_s": 0.3} for i in range(3)]
    actor, table = prepare_all(write_manifest(tmp_path / "m.parquet", rows))
    with closing(actor):
        (out,) = actor(table)
        assert out.num_rows == 3
        assert actor.readers.server_pid is None
        (empty,) = actor(table.slice(0, 0))
        assert empty.schema == out.schema


def test_an_error_that_no_rule_foresees_is_its_rows_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"id": f"r{i}", "prompt": "x", "duration_s": 0.3} for i in range(3)]
    actor, table = prepare_all(write_manifest(tmp_path / "m.parquet", rows))
    expand = actor.expander.expand

    def broken(raw: Any, number: int, *rest: Any) -> Any:
        if number == 1:
            raise KeyError("what")
        return expand(raw, number, *rest)

    monkeypatch.setattr(actor.expander, "expand", broken)
    with closing(actor):
        prepared = [row for out in actor(table) for row, _ in from_table(out)]

    (letter,) = (row for row in prepared if not isinstance(row, PreparedClip))
    assert (letter.stage, letter.error_class, letter.id) == ("prepare", "KeyError", "r1")
    assert letter.message == "m.parquet row 1 (id=r1): KeyError: 'what'"
    assert len(prepared) == 3


def test_tables_are_cut_by_bytes() -> None:
    audio = np.zeros((1, 2**20), np.float32)  # 4 MB
    large = [PreparedClip(SPEC, 1, continuation=audio) for _ in range(20)]
    assert [len(portion) for portion in in_portions(large)] == [8, 8, 4]
    assert [len(portion) for portion in in_portions([PreparedClip(SPEC, 1)] * 500)] == [500]
    assert list(in_portions([])) == [[]]


@pytest.mark.slow
def test_blocks_of_rows_with_embedded_audio_are_cut_by_bytes(tmp_path: Path) -> None:
    """Ray cuts by rows: rows of nulls behind a large one take the room of its bytes."""
    tune = tmp_path / "tune.wav"
    sf.write(tune, np.random.default_rng(0).uniform(-0.5, 0.5, 160_000), 16_000)
    rows: list[dict[str, Any]] = [
        {"id": f"r{i}", "prompt": "x", "duration_s": 0.3} for i in range(4)
    ]
    rows[1]["melody_audio"] = tune.read_bytes()

    actor, table = prepare_all(write_manifest(tmp_path / "m.parquet", rows))

    n_empty = tune.stat().st_size // RAW_ROW_BYTES
    assert n_empty >= 2
    assert table["row"].to_pylist() == [0, 1, *[None] * n_empty, 2, 3]
    assert max(table.slice(i, 1).nbytes for i in range(len(table)) if i != 1) < RAW_ROW_BYTES
    with closing(actor):
        prepared = [row for out in actor(table) for row, _ in from_table(out)]
    assert sorted(row.spec.id for row in prepared) == ["r0", "r1", "r2", "r3"]
    (heard,) = (row for row in prepared if row.melody is not None)
    assert heard.spec.id == "r1"


@pytest.mark.slow
def test_processes_end_with_the_job(tmp_path: Path) -> None:
    before = set(descendants(os.getpid()))
    rows = harmful_rows(tmp_path, n_rows=2)
    run_here(write_manifest(tmp_path / "m.parquet", rows), f"file://{tmp_path}/out")
    ends = time.monotonic() + 10
    while set(descendants(os.getpid())) - before:
        assert time.monotonic() < ends
        time.sleep(0.05)
