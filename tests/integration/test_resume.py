"""Reruns: a manifest that grows or changes, dead letters, two runs on one output."""

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pipeline.cli.root import main
from pipeline.ledger.lease import Lease, LeaseHeldError
from pipeline.ledger.maintain import compact
from pipeline.storage import open_storage
from tests.integration.jobs import (
    EXAMPLES,
    Cli,
    clips,
    ids_and_takes,
    problems,
    read_json,
    run_here,
    wait_until,
    write_manifest,
)


def rows(n: int, start: int = 0) -> list[dict[str, object]]:
    return [
        {"id": f"r{i:02d}", "prompt": f"song {i}", "duration_s": 0.1}
        for i in range(start, start + n)
    ]


class TestRerun:
    def test_growth_and_an_edit_make_exactly_what_is_new(
        self, tmp_path: Path, output_root: str
    ) -> None:
        manifest = tmp_path / "m.parquet"
        run_here(write_manifest(manifest, rows(12)), output_root)
        before = {row["clip_id"]: row["audio_path"] for row in clips(output_root)}

        edited = rows(22)
        edited[5]["prompt"] = "another song"
        summary = run_here(write_manifest(manifest, edited), output_root)

        assert summary.tally.clips == 11
        after = {row["clip_id"]: row["audio_path"] for row in clips(output_root)}
        assert len(after) == 12 + 11
        assert before.items() <= after.items()
        assert problems(output_root) == []

    def test_a_finished_manifest_starts_nothing(self, tmp_path: Path) -> None:
        manifest, output = write_manifest(tmp_path / "m.parquet", rows(3)), f"file://{tmp_path}/out"
        run_here(manifest, output)

        summary = run_here(manifest, output)

        assert (summary.plan.pending, summary.tally.clips) == (0, 0)
        assert summary.plan.outcomes["done"] == 3
        assert len(open_storage(output).list("runs")) == 1

    def test_order_and_compaction_do_not_matter(self, tmp_path: Path) -> None:
        manifest, output = tmp_path / "m.parquet", f"file://{tmp_path}/out"
        run_here(write_manifest(manifest, rows(9)), output, part_clips=2)
        storage = open_storage(output)
        with Lease.acquire(storage) as lease:
            assert compact(storage, lease).n_parts_after == 1

        summary = run_here(write_manifest(manifest, rows(9)[::-1]), output)

        assert summary.plan.pending == 0
        assert len(clips(output)) == 9

    def test_retry_makes_exactly_the_clip_whose_melody_was_mended(self, tmp_path: Path) -> None:
        melody, output = tmp_path / "tune.flac", f"file://{tmp_path}/out"
        melody.write_bytes(b"this is not audio")
        table = [*rows(3), {"id": "m", "melody_uri": "tune.flac", "duration_s": 0.1}]
        table.append({"id": "still-bad", "melody_uri": "nowhere.flac", "duration_s": 0.1})
        manifest = write_manifest(tmp_path / "m.parquet", table)
        first = run_here(manifest, output)
        assert (first.tally.clips, first.dead_letters_standing) == (3, 2)
        again = run_here(manifest, output)
        assert again.plan.pending == 0
        assert again.plan.outcomes["standing"] == 2

        shutil.copy(EXAMPLES / "audio" / "scale.flac", melody)
        retried = run_here(manifest, output, retry=True)

        assert retried.tally.clips == 1
        assert retried.dead_letters_standing == 1
        assert ids_and_takes(output) == [("m", 0), *((f"r0{i}", 0) for i in range(3))]
        assert run_here(manifest, output).plan.outcomes["standing"] == 1

    def test_of_duplicate_ids_the_first_row_is_made(self, tmp_path: Path) -> None:
        table = [*rows(2), {"id": "r00", "prompt": "a double", "duration_s": 0.1}, *rows(1)]
        output = f"file://{tmp_path}/out"

        summary = run_here(write_manifest(tmp_path / "m.parquet", table), output)

        assert (summary.tally.clips, summary.dead_letters_standing) == (2, 2)
        assert {row["prompt"] for row in clips(output)} == {"song 0", "song 1"}

    def test_an_output_that_is_being_written_is_refused(self, tmp_path: Path) -> None:
        manifest, output = write_manifest(tmp_path / "m.parquet", rows(1)), f"file://{tmp_path}/out"
        with Lease.acquire(open_storage(output), ttl_s=1.0) as lease:
            lease.start_heartbeat()
            with pytest.raises(LeaseHeldError):
                run_here(manifest, output, lease_ttl_s=1.0)


class TestAfterwards:
    def test_prune_keeps_what_the_manifest_asks_for(self, tmp_path: Path) -> None:
        """Edited and edited back: the newest clip of the row is not the one that is wanted."""
        manifest, output = tmp_path / "m.parquet", f"file://{tmp_path}/out"
        for prompt in ("old words", "new words"):
            row = {"id": "a", "prompt": prompt, "duration_s": 0.1}
            run_here(write_manifest(manifest, [row]), output)
        write_manifest(manifest, [{"id": "a", "prompt": "old words", "duration_s": 0.1}])

        args = ["compact", "--prune", "--output", output, "--manifest", str(manifest)]
        result = CliRunner().invoke(main, args)

        assert result.exit_code == 0, result.output
        assert [row["prompt"] for row in clips(output)] == ["old words"]
        assert run_here(manifest, output).plan.pending == 0

    def test_retry_takes_back_the_letter_of_a_clip_that_is_there(self, tmp_path: Path) -> None:
        """A reference that was out of reach for a while: its clip had been made before."""
        melody, output = tmp_path / "tune.flac", f"file://{tmp_path}/out"
        shutil.copy(EXAMPLES / "audio" / "scale.flac", melody)
        row = {"id": "m", "melody_uri": "tune.flac", "duration_s": 0.1}
        manifest = write_manifest(tmp_path / "m.parquet", [row])
        run_here(manifest, output)
        away = melody.rename(tmp_path / "away.flac")
        assert run_here(manifest, output).dead_letters_standing == 1
        away.rename(melody)

        assert run_here(manifest, output, retry=True).tally.clips == 0

        again = run_here(manifest, output)
        assert (again.dead_letters_standing, again.plan.outcomes["done"]) == (0, 1)


@contextmanager
def audio_held_back() -> Iterator[tuple[str, threading.Event]]:
    """A server of the example audio: its address, and the event for which every request but the
    first waits. The first is the plan's, the others are the run's."""
    may_send, n_before = threading.Event(), count()

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(EXAMPLES / "audio"))

        def do_GET(self) -> None:
            if next(n_before) > 0:
                may_send.wait()
            super().do_GET()

        def log_message(self, *args: object) -> None:
            """Be silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", may_send
    finally:
        may_send.set()
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("local", [True, pytest.param(False, marks=pytest.mark.long)])
def test_a_second_run_exits_4_and_with_wait_follows(local: bool, tmp_path: Path, cli: Cli) -> None:
    refused = [rows(1, start=20)[0] | {"duration_s": 9999.0}]  # a dead letter: takes no replica
    second = write_manifest(tmp_path / "second.parquet", refused)
    output = f"file://{tmp_path}/out"

    with audio_held_back() as (address, may_send):
        held_back = {"id": "h", "melody_uri": f"{address}/scale.flac", "duration_s": 0.1}
        first = write_manifest(tmp_path / "first.parquet", [*rows(7), held_back])
        where = {"local": True} if local else {}
        where |= {"allow_private_hosts": True, "reference_idle_timeout_s": 110.0}
        running = cli.start(*cli.job("run", first, output, **where))
        while not open_storage(output).list("runs"):
            time.sleep(0.05)
            assert running.poll() is None, cli.said(running)
        code, out, said = cli.run("status", "--output", output, "--json")
        assert code == 0, said
        assert read_json(out)["last_run"]["state"] == "running"

        code, _, said = cli.run(*cli.job("run", second, output, local=True))
        assert code == 4, said
        assert "lease" in said

        waiting = cli.start(*cli.job("run", second, output, wait=True, local=True))
        wait_until(lambda: "lease" in cli.said(waiting))
        may_send.set()
        assert waiting.wait(timeout=120) == 3, cli.said(waiting)
        assert running.wait(timeout=120) == 0, cli.said(running)
    ours = ("8 rows: ", "progress: ", "this job waits")
    said = cli.said(running).splitlines()
    assert [text for text in said if not text.startswith(ours)] == [], "a line of Ray's own"
    assert len(clips(output)) == 8
    assert problems(output) == []
