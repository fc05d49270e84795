"""What the check of an output does to it, and what it says of a store that breaks a promise."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from manifests.uris.errors import StorageError
from pipeline.runtime.checkup.finding import Finding
from pipeline.runtime.checkup.store import output
from pipeline.storage import ObjectInfo, Storage, open_storage

STEPS = ["output write", "output list", "output read", "output create", "clock"]


def found(root: str) -> dict[str, Finding]:
    return {each.check: each for each in output(root, {})}


def test_a_store_in_good_order_is_left_as_it_was(output_root: str) -> None:
    open_storage(output_root).put("clips/part.parquet", b"x")

    checks = found(output_root)

    assert [name for name in checks if name != "output space"] == STEPS
    assert {each.state for name, each in checks.items() if name != "output space"} == {"ok"}
    assert "MB/s" in checks["output write"].found
    assert checks["output write"].took_s > 0
    assert [info.path for info in open_storage(output_root).list(hidden=True)] == [
        "clips/part.parquet"
    ]


def test_folders_that_the_check_made_are_gone(tmp_path: Path) -> None:
    assert found(f"{tmp_path}/a/b")["output create"].state == "ok"
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_others_stays(tmp_path: Path) -> None:
    (tmp_path / "doctor").mkdir()
    (tmp_path / "doctor" / "notes.txt").write_text("mine")

    found(str(tmp_path))

    assert (tmp_path / "doctor" / "notes.txt").read_text() == "mine"


def test_a_place_that_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")

    checks = found(f"{tmp_path}/file/out")

    assert list(checks) == ["output write"]
    assert checks["output write"].state == "wrong"
    assert checks["output write"].way_out.startswith("a file stands where a folder is needed")


def test_a_protocol_that_is_not_known() -> None:
    checks = found("ftp://x/y")
    assert checks["output"].state == "wrong"
    assert "ftp:// is not one of" in checks["output"].found


def every_writer_wins(*_: Any) -> bool:
    return True


def nothing_is_listed(*_: Any, **__: Any) -> list[ObjectInfo]:
    return []


def other_bytes(*_: Any) -> bytes:
    return b"other"


@pytest.mark.parametrize(
    ("method", "broken", "check", "said"),
    [
        ("create_once", every_writer_wins, "output create", "two runs could both write"),
        ("list", nothing_is_listed, "output list", "is not listed"),
        ("get", other_bytes, "output read", "other bytes come back"),
    ],
)
def test_a_store_that_breaks_a_promise(
    method: str,
    broken: Callable[..., Any],
    check: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Storage, method, broken)

    checks = found(str(tmp_path))

    assert list(checks)[-1] == check, "it stops there"
    assert checks[check].state == "wrong"
    assert said in checks[check].found
    assert checks[check].way_out


def test_a_store_that_fails_is_said_with_its_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> bytes:
        raise StorageError("cannot read x: OSError: (5) (the store did not recover)")

    monkeypatch.setattr(Storage, "get", fails)

    assert found(str(tmp_path))["output read"] == Finding(
        "output read", "wrong", "cannot read x: OSError: (5)", "the store did not recover"
    )
