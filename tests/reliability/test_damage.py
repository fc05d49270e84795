"""What a run has written is damaged: parts, audio, records, the lease, the cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pipeline import ledger
from pipeline.cli.root import main
from pipeline.storage import Storage, open_storage
from tests.integration.jobs import run_here, write_manifest
from tests.reliability.attempts import attempt
from tests.reliability.outcomes import Admissions, Outcome, fault

pytestmark = pytest.mark.slow


IDS = [f"r{i}" for i in range(6)]


def rows(n: int) -> list[dict[str, object]]:
    return [{"id": f"r{i}", "prompt": f"song {i}", "duration_s": 0.1} for i in range(n)]


@pytest.fixture
def made(tmp_path: Path, admissions: Admissions) -> Storage:
    """An output of four clips in two parts; what is begun counts from here on."""
    output = f"file://{tmp_path}/out"
    run_here(write_manifest(tmp_path / "m.parquet", rows(4)), output, part_clips=2)
    return open_storage(output)


def tear_part(storage: Storage) -> None:
    path = ledger.list_parts(storage)[0].path
    storage.put(path, storage.get(path)[:100])


def damage_audio(storage: Storage) -> None:
    first, second = ledger.read_clips(storage, ["audio_path"])["audio_path"].to_pylist()[:2]
    storage.put(first, b"damaged")
    storage.delete([second])


@pytest.mark.parametrize(
    ("harm", "says", "redone_at_most"),
    [
        pytest.param(
            tear_part,
            "moved a part that can't be read to damaged/part-…; `run` makes again what is missing",
            2,
            marks=fault("data/part", "a part is cut short", "after a run; `verify --repair`, run"),
        ),
        pytest.param(
            damage_audio, "wrong size: audio/…missing: audio/…2 clips taken out", 2,
            marks=fault(
                "data/audio", "an audio file is overwritten, another one deleted",
                "after a run; `verify --repair`, run",
            ),
        ),
    ],
)  # fmt: skip
def test_what_is_damaged_is_repaired_and_made_again(
    harm: Callable[[Storage], Any],
    says: str,
    redone_at_most: int,
    made: Storage,
    tmp_path: Path,
    outcome: Outcome,
) -> None:
    harm(made)
    found = CliRunner().invoke(main, ["verify", "--output", made.root])
    repaired = CliRunner().invoke(main, ["verify", "--output", made.root, "--repair"])
    code, _ = attempt(run_here, tmp_path / "m.parquet", made.root)

    outcome.told(says, repaired.output)
    exits = [found.exit_code, repaired.exit_code, code]
    outcome.ended(made, IDS[:4], exits=exits, redone_at_most=redone_at_most)


@fault("data/record", "the record of a run is cut short", "between two runs")
def test_a_damaged_record_is_left_out(made: Storage, tmp_path: Path, outcome: Outcome) -> None:
    (record,) = made.list("runs")
    made.put(record.path, made.get(record.path)[:50])

    code, said = attempt(run_here, write_manifest(tmp_path / "m.parquet", rows(6)), made.root)

    (standing,) = ledger.read_runs(made)
    assert (standing["state"], standing["done"]) == ("done", 2)
    outcome.told("runs/….json is not the record of a run and is left out", said)
    outcome.ended(made, IDS, exits=[code])


@fault("data/lease", "the lease file is cut short", "between two runs; the file deleted, run")
def test_a_damaged_lease_is_named(made: Storage, tmp_path: Path, outcome: Outcome) -> None:
    manifest = write_manifest(tmp_path / "m.parquet", rows(6))
    lease = made.list("lease")[-1].path
    made.put(lease, made.get(lease)[:50])
    refused, said = attempt(run_here, manifest, made.root)
    made.delete([lease])
    code, _ = attempt(run_here, manifest, made.root)

    outcome.told(
        "lease/00000001.json is not a lease file (…); if no run is writing there, delete it", said
    )
    outcome.ended(made, IDS, exits=[refused, code])


@fault("data/attempts", "attempt records hold what is none", "between two runs of one `--run-id`")
def test_damaged_attempt_records_are_not_believed(
    made: Storage, tmp_path: Path, outcome: Outcome
) -> None:
    manifest = write_manifest(tmp_path / "m.parquet", rows(6))
    run_id = ledger.read_runs(made)[-1]["run_id"]
    made.put(f"attempts/{run_id}/0123456789ab-000000.json", b"{torn")
    made.put(f"attempts/{run_id}/ffffffffffff-000000.json", b"[1, 2]")

    code, said = attempt(run_here, manifest, made.root, run_id=run_id)

    outcome.told("6 rows: 2 clips to make", said)
    outcome.ended(made, IDS, exits=[code])
