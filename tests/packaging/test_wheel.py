"""The wheel holds what it should, and a job runs from it beside files that bear our names."""

import os
import signal
import subprocess
import sys
import sysconfig
import tempfile
import venv
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest

from tests.integration.jobs import clips

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
# What a user's folder may hold by chance; importing any of them is an error.
HOSTILE_FILES = ("musicgen.py", "pipeline.py", "manifests/__init__.py", "manifests/schema.py")
HOSTILE_CODE = "raise ImportError('a file of the user was imported: ' + __file__)\n"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the tracked files: what lies about in a checkout must not get in."""
    source = tmp_path_factory.mktemp("source")
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, check=True,
    )  # fmt: skip
    for name in tracked.stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    out = tmp_path_factory.mktemp("dist")
    command = ["wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run(
        [sys.executable, "-m", "pip", *command, "--wheel-dir", str(out), str(source)], check=True
    )
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture
def installed(wheel: Path, tmp_path: Path) -> Path:
    """The `bin` folder of a new environment: the wheel, and the dependencies of this environment.

    Those come as a folder of links, since this environment's own folder also holds a link to the
    checkout.
    """
    place = tmp_path / "env"
    venv.create(place, with_pip=False, symlinks=True)
    dependencies = tmp_path / "dependencies"
    dependencies.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if entry.suffix != ".pth" and "musicgen_batch" not in entry.name:
            (dependencies / entry.name).symlink_to(entry)
    python = place / "bin" / "python"
    asked = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = Path(subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip())
    (site / "dependencies.pth").write_text(f"{dependencies}\n")
    command = ["install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", "--python", str(python), *command], check=True)
    return place / "bin"


def test_the_wheel_holds_code_types_checkpoint_template_and_examples(names: set[str]) -> None:
    wanted = {
        *(f"{package}/py.typed" for package in ("manifests", "musicgen", "pipeline")),
        *(
            str(path.relative_to(ROOT))
            for folder in ("musicgen/tiny/checkpoint", "manifests/examples")
            for path in (ROOT / folder).rglob("*")
            if path.is_file()
        ),
        *(str(path.relative_to(ROOT)) for path in (ROOT / "pipeline").rglob("*.j2")),
        *(
            str(path.relative_to(ROOT))
            for package in ("manifests", "musicgen", "pipeline")
            for path in (ROOT / package).rglob("*.py")
            if not path.is_relative_to(ROOT / "musicgen/tiny")
        ),
    }
    assert wanted <= names
    assert any(name.endswith(".j2") for name in wanted)
    assert "musicgen/tiny/checkpoint/model.safetensors" in wanted


def test_the_wheel_holds_no_tests_and_no_training(names: set[str]) -> None:
    folders = {name.partition("/")[0] for name in names}
    assert {name for name in folders if not name.endswith(".dist-info")} == {
        "manifests", "musicgen", "pipeline"
    }  # fmt: skip
    unwanted = ("musicgen/tiny/training", "musicgen/tiny/evaluation", "/__pycache__/")
    assert [name for name in names if any(part in name for part in unwanted)] == []


@pytest.mark.long
@pytest.mark.ray
def test_a_job_runs_from_the_wheel_beside_files_with_our_names(
    installed: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "hostile"
    for name in HOSTILE_FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(HOSTILE_CODE)
    (folder / "songs.csv").write_text("id,prompt,duration_s\na,a slow waltz,0.1\nb,rain,0.1\n")
    unset = ("PYTHONPATH", "RAY_ADDRESS")
    env = {name: value for name, value in os.environ.items() if name not in unset}

    def run(*args: str) -> None:
        process = subprocess.Popen(
            [str(installed / "musicgen-batch"), *args],
            cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True,
        )  # fmt: skip
        try:
            said, _ = process.communicate(timeout=200)
        finally:  # Ray's processes belong to the same group
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        assert process.returncode == 0, said

    with tempfile.TemporaryDirectory(prefix="mg") as ray_tmp:  # short: it holds Unix sockets
        env["RAY_TMPDIR"] = ray_tmp
        run("manifest", "build", "songs.csv", "songs.parquet")
        run("run", "--manifest", "songs.parquet", "--output", "music", "--model", "tiny")

    assert sorted(row["id"] for row in clips(str(folder / "music"))) == ["a", "b"]
