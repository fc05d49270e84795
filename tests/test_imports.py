"""The direction of imports: a file imports only files to its left, a package those before it.

The lists below are the order in which a newcomer reads the code; a new file needs a place in them.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

READING_ORDER = {
    "manifests": "identity faults schema columns reader texts build probe check",
    "musicgen": """
        errors config longform family
        checkpoints.hub checkpoints.audiocraft checkpoints.audiocraft_config checkpoints.integrity
        checkpoints.parts files
        allocator audio codebooks codec_layers codec transformer
        conditioning.text conditioning.separation conditioning.chroma conditioning.features
        conditioning.style conditioning.fuser conditioning.attributes
        sampling guidance lm precision weights cache step prefill stepper protocol engine
        checkpoints.transformers_names checkpoints.submodels checkpoints.load checkpoints.convert
        inputs runner loaded model
        tiny.synth tiny.pieces tiny.vocabulary tiny.measures tiny.recipe tiny.schedule tiny.isometry
        tiny.codec tiny.tokens tiny.alignment tiny.untrained tiny.language tiny.figures tiny.joints
        tiny.card tiny.export tiny.train tiny.evaluate tiny.tunes
    """,
    "pipeline": """
        qc config job_yaml
        storage.errors storage.filesystems storage.local_files storage.range_file storage.store
        storage.references storage
        ledger.lease ledger.tables ledger.parts ledger.done_set ledger.book ledger.attempts
        ledger.verify ledger.maintain ledger
        expand plan checkpoint settings quality level containers encode listen prepare records
        finish logs metrics commit loading slots timing watchdog gate work token_loop closing
        stations exporter replica seat cluster progress drain runs
        report.pictures report.highlights report.cards report.page report
        job
        cli.options cli.errors cli.manifest cli.models cli.submit cli.upkeep cli.root
    """,
}
ORDER = {package: text.split() for package, text in READING_ORDER.items()}
MAY_IMPORT = {
    "manifests": {"manifests"},
    "musicgen": {"musicgen"},
    "pipeline": {"manifests", "musicgen", "pipeline"},
}
SCRIPTS = {"cli.__main__"}
# Free of torch, so that the driver's checks stay fast.
LIGHT_MUSICGEN = {"musicgen.files", "musicgen.family"}
IMPORTS_THE_MODEL = {
    *(
        "listen",
        "prepare",
        "records",
        "finish",
        "loading",
        "slots",
        "work",
        "token_loop",
        "closing",
        "stations",
        "cli.models",
    ),
}
IMPORTS_RAY = {
    "cluster",
    "exporter",
    "seat",
    "job",
    "cli.submit",
}  # the actors' work knows nothing of Ray


def modules(package: str) -> dict[str, Path]:
    """Module name below the package to its file. A folder's `__init__` comes after its files;
    scripts that nothing imports are left out."""
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT / package).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name in SCRIPTS or (path.name == "__init__.py" and not imported(path)):
            continue
        if name:
            found[name] = path
    return found


def imported(path: Path) -> set[str]:
    """Full names of the modules that a file imports, at any depth of the code."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                is_module = (ROOT / full.replace(".", "/")).with_suffix(".py").exists()
                names.add(full if is_module else node.module)
    return names


@pytest.mark.parametrize("package", ORDER)
def test_every_file_has_a_place(package: str) -> None:
    assert sorted(ORDER[package]) == sorted(modules(package))


@pytest.mark.parametrize("package", ORDER)
def test_files_import_only_to_their_left(package: str) -> None:
    order = ORDER[package]
    for name, path in modules(package).items():
        left = set(order[: order.index(name)])
        ours = {full.partition(".")[2] for full in imported(path) if full.startswith(package + ".")}
        wrong = (ours & set(order)) - left
        assert not wrong, f"{package}/{name} imports to its right: {wrong}"


@pytest.mark.parametrize("package", ORDER)
def test_packages_import_only_what_they_may(package: str) -> None:
    for name, path in modules(package).items():
        packages = {full.partition(".")[0] for full in imported(path)} & set(ORDER)
        assert packages <= MAY_IMPORT[package], f"{package}/{name}"


def test_only_some_files_of_the_job_touch_the_model_or_ray() -> None:
    for name, path in modules("pipeline").items():
        names = imported(path)
        heavy = {n for n in names if n.startswith("musicgen.")} - LIGHT_MUSICGEN
        heavy = {n for n in heavy if not n.startswith("musicgen.files.")}
        assert not heavy or name in IMPORTS_THE_MODEL, f"pipeline/{name} imports {heavy}"
        assert "ray" not in names or name in IMPORTS_RAY, f"pipeline/{name} imports ray"


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("manifests.check", ("torch", "ray")),
        ("musicgen.files", ("torch", "ray")),
        ("pipeline.plan", ("torch", "ray")),
        # The driver, and what Ray's workers import before they know what they are to do.
        ("pipeline.job", ("torch", "transformers")),
    ],
)
def test_light_modules_load_nothing_heavy(module: str, heavy: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "[]"
