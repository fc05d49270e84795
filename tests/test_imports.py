"""The direction of imports between folders, and who may touch Ray and the model.

`FOLDERS` is the order in which a newcomer reads the code: a folder, or a file beside the folders,
imports only itself and what stands before it. Three more sentences are checked: only `runtime`, the
exporter and `submit` import Ray; only `replica`, `prepare`, `models` and the scorers import the
model; no import runs in a circle.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

FOLDERS = {
    "manifests": [
        *("redaction", "identity", "messages", "schema", "row_errors", "uris", "columns", "bulk"),
        *("reader", "sources", "build", "isolation", "audio_file", "check"),
    ],
    "musicgen": [
        *("config", "windows", "registry", "audio", "modules", "codec"),
        *(
            "conditioning",
            "lm",
            "engine",
            "checkpoints",
            "attributes",
            "request_builder",
            "loaded",
            "model",
            "audiogen",
            "tiny",
        ),
    ],
    "pipeline": [
        *("audio", "storage", "telemetry", "ledger", "config", "config_file", "planning"),
        *(
            "prepare",
            "replica",
            "run_record",
            "dataset",
            "runtime",
            "report",
            "job",
            "processor",
            "cli",
        ),
    ],
}
MAY_IMPORT = {
    "manifests": {"manifests"},
    "musicgen": {"musicgen"},
    "pipeline": {"manifests", "musicgen", "pipeline"},
}
MOST_ENTRIES = {"manifests": 18, "musicgen": 18, "pipeline": 18}
# Free of torch, so that the driver's checks stay fast.
LIGHT_MUSICGEN = ("musicgen.checkpoints.describe", "musicgen.registry", "musicgen.config")
IMPORTS_THE_MODEL = (
    *("pipeline.replica", "pipeline.prepare", "pipeline.cli.models", "pipeline.audio.scores"),
)
IMPORTS_RAY = (
    *("pipeline.runtime", "pipeline.telemetry.ray_exporter", "pipeline.cli.submit"),
    "pipeline.processor",  # for types alone: see the light modules below
)


def modules() -> Iterator[tuple[str, Path]]:
    """Full names and files of all modules of the three packages."""
    for package in FOLDERS:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


@cache
def imported(path: Path) -> frozenset[str]:
    """Full names of the modules that a file imports, at any depth of the code."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                base = ROOT / full.replace(".", "/")
                is_module = base.with_suffix(".py").exists() or base.is_dir()
                names.add(full if is_module else node.module)
    return frozenset(names)


def within(name: str, folders: tuple[str, ...]) -> bool:
    return any(name == folder or name.startswith(f"{folder}.") for folder in folders)


def folder_of(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


@pytest.mark.parametrize("package", FOLDERS)
def test_every_folder_has_a_place_and_there_are_few(package: str) -> None:
    entries = {
        path.stem
        for path in (ROOT / package).iterdir()
        if path.suffix == ".py" or (path.is_dir() and any(path.rglob("*.py")))
    } - {"__init__"}
    assert entries == set(FOLDERS[package])
    everything = [p for p in (ROOT / package).iterdir() if p.name != "__pycache__"]
    assert len(everything) <= MOST_ENTRIES[package]


@pytest.mark.parametrize("package", FOLDERS)
def test_folders_import_only_what_stands_before_them(package: str) -> None:
    order = [*FOLDERS[package], "__init__"]
    for name, path in modules():
        if name.split(".")[0] != package:
            continue
        position = order.index(folder_of(name))
        for other in imported(path):
            if other.startswith(f"{package}."):
                assert order.index(folder_of(other)) <= position, f"{name} imports {other}"


def test_packages_import_only_what_they_may() -> None:
    for name, path in modules():
        packages = {full.partition(".")[0] for full in imported(path)} & set(FOLDERS)
        assert packages <= MAY_IMPORT[name.split(".")[0]], name


def test_nothing_that_ships_imports_how_the_bundled_model_is_made() -> None:
    made = ("musicgen.tiny.training", "musicgen.tiny.evaluation")
    for name, path in modules():
        if not within(name, made):
            assert not [other for other in imported(path) if within(other, made)], name


def test_no_import_runs_in_a_circle() -> None:
    known = dict(modules())
    TopologicalSorter(
        {
            name: {n for n in imported(path) if n in known and n != name}
            for name, path in known.items()
        }
    ).prepare()  # raises CycleError, which names the circle


def test_only_some_files_of_the_job_touch_the_model_or_ray() -> None:
    for name, path in modules():
        if not name.startswith("pipeline"):
            continue
        names = imported(path)
        heavy = {n for n in names if n.startswith("musicgen.") and not within(n, LIGHT_MUSICGEN)}
        assert not heavy or within(name, IMPORTS_THE_MODEL), f"{name} imports {heavy}"
        rays = {n for n in names if within(n, ("ray",))}
        assert not rays or within(name, IMPORTS_RAY), f"{name} imports {rays}"


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("manifests.check", ("torch", "ray")),
        ("musicgen.checkpoints.describe", ("torch", "ray")),
        ("pipeline.planning.scan", ("torch", "ray")),
        # It is imported where readers are forked; pyarrow's allocator has a thread.
        ("pipeline.prepare.references", ("torch", "ray", "pyarrow")),
        ("manifests.audio_file", ("torch", "ray", "pyarrow", "numpy", "soundfile")),
        # The driver, and what Ray's workers import before they know what they are to do.
        ("pipeline", ("torch", "ray", "pyarrow", "pydantic")),
        ("pipeline.job", ("torch", "ray", "transformers")),
        ("pipeline.audio.scores.scoring", ("torch", "ray", "transformers", "pyarrow")),
        ("pipeline.processor", ("torch", "ray", "transformers")),
        ("pipeline.runtime.local", ("torch", "ray", "transformers")),
        pytest.param(
            "pipeline.runtime.ray_dataset", ("torch", "transformers"), marks=pytest.mark.slow
        ),
    ],
)
def test_light_modules_load_nothing_heavy(module: str, heavy: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "[]"
