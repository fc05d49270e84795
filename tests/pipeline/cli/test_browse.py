"""The command `browse`, as far as it refuses; the page itself is tested beside its server."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pipeline.cli.root import main
from pipeline.dataset.browse import serve


def browse(*given: str) -> Result:
    return CliRunner().invoke(main, ["browse", "--no-open", *given])


@pytest.fixture
def output(tmp_path: Path) -> str:
    (tmp_path / "out" / "clips").mkdir(parents=True)
    return str(tmp_path / "out")


def test_an_output_that_is_not_there(tmp_path: Path) -> None:
    done = browse("--output", str(tmp_path / "none"))
    assert done.exit_code == 2
    assert "no such output" in done.output


@pytest.mark.parametrize("host", ["0.0.0.0", "10.1.2.3", "example.org", "::"])
def test_other_machines_are_not_let_in(output: str, host: str) -> None:
    done = browse("--output", output, "--host", host)
    assert done.exit_code == 2
    assert f"--host {host} is not this machine alone" in done.output
    assert "ssh -L" in done.output


def test_a_port_that_is_taken(output: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = browse("--output", output, "--port", str(taken.getsockname()[1]))
    assert done.exit_code == 2
    assert "takes a free one" in done.output


def test_a_missing_package_is_named_with_what_brings_it(
    output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "PACKAGES", ("duckdb", "no_such_package"))
    done = browse("--output", output)
    assert done.exit_code == 2
    assert "no_such_package: pip install 'musicgen-batch[browse]'" in done.output


def test_the_help_has_an_example() -> None:
    done = browse("--help")
    assert done.exit_code == 0
    assert "musicgen-batch browse --output out/demo" in done.output
