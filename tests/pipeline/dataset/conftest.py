"""Outputs in the three layouts, made once for the tests that only read them."""

from pathlib import Path

import pytest

from tests.pipeline.dataset.outputs import make_output

FOLDERS = {"files": "demo", "parquet": "inside", "webdataset": "tars"}


@pytest.fixture(scope="session")
def three_layouts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `out/demo` (audio in files), `out/inside` (in parts) and `out/tars`."""
    folder = tmp_path_factory.mktemp("layouts")
    for mode, name in FOLDERS.items():
        storage = make_output(folder / "out" / name, mode)  # type: ignore[arg-type]
        storage.put("audio/00/" + "0" * 32 + "-00000000.flac", b"that no part names")
    return folder


@pytest.fixture
def empty_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where `datasets` keeps what it reads: a folder of this test."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    return tmp_path / "datasets"
