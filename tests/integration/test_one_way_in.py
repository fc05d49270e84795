"""`manifest check --read-audio` and `run` refuse the same references, with the same words."""

import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf

from manifests.audio_file import MAX_REFERENCE_BYTES, MAX_REFERENCE_S
from manifests.check import check
from pipeline import ledger
from pipeline.config_file import load_config
from pipeline.planning.model_limits import checked_model, inspect_model
from pipeline.storage import open_storage
from tests.integration.jobs import TINY, clips, run_here, write_manifest
from tests.musicgen.audiocraft_files import save, save_mert, save_t5

RATE_HZ = 16_000
SLOW_HZ = 1000  # keeps long files small


def audio(
    duration_s: float = 0.2, channels: int = 1, kind: str = "WAV", rate_hz: int = RATE_HZ
) -> bytes:
    """A file of noise."""
    shape = (round(duration_s * rate_hz), channels)
    return written(np.random.default_rng(0).uniform(-0.5, 0.5, shape), kind, rate_hz=rate_hz)


def written(samples: np.ndarray[Any, Any], kind: str = "WAV", **how: Any) -> bytes:
    buffer = io.BytesIO()
    sf.write(buffer, samples, how.pop("rate_hz", RATE_HZ), format=kind, **how)
    return buffer.getvalue()


def silence() -> bytes:
    return written(np.zeros((3200, 1)))


def too_many_bytes(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(MAX_REFERENCE_BYTES + 1)  # takes no room


@dataclass(frozen=True)
class Case:
    """A row with one reference.

    Attributes:
        name: Of its row and of the file, without a suffix.
        role: What the reference is for.
        content: The file's bytes, or what makes it; None makes none.
        says: A part of the words that refuse it; None where it is good.
        uri: What the row gives where that is not the file.
        embedded: The bytes stand in the row.
        duration_s: Of the clip.
    """

    name: str
    role: str = "melody"
    content: bytes | Callable[[Path], object] | None = None
    says: str | None = None
    uri: str | None = None
    embedded: bool = False
    duration_s: float = 0.3

    def row(self, folder: Path) -> dict[str, Any]:
        """The row, beside which the file is written."""
        path = folder / self.name
        given = {"id": self.name, "prompt": "a song", "duration_s": self.duration_s}
        if self.embedded:
            return given | {f"{self.role}_audio": self.content}
        if isinstance(self.content, bytes):
            path.write_bytes(self.content)
        elif self.content is not None:
            self.content(path)
        return given | {f"{self.role}_uri": self.uri or self.name}


MELODIES = [
    Case("missing", says="no such file; correct the path"),
    Case("folder", content=Path.mkdir, says="is a folder: name a file in it"),
    Case("empty", content=b"", says="the file is empty (0 bytes)"),
    Case("text", content=b"do re mi " * 50, says="not an audio file that can be read"),
    Case("mp4", content=b"\0\0\0\x18ftypM4A " + bytes(500), says="MP4/M4A/AAC is not supported"),
    Case("cut-wav", content=audio()[:-100], says="truncated: 100 bytes are missing"),
    Case("cut-flac", content=audio(1.0, kind="FLAC")[:-9000], says="truncated"),
    Case("too-long", content=audio(960, rate_hz=SLOW_HZ), says="960 s of audio exceeds"),
    Case("nine-channels", content=audio(channels=9), says="9 channels exceed the limit of 8"),
    Case("nan", content=written(np.full((99, 1), np.nan), subtype="FLOAT"), says="holds NaN"),
    Case("no-samples", content=audio(0), says="holds no audio samples"),
    Case("silent-melody", content=silence(), says="the melody is silent"),
    Case("too-many-bytes", content=too_many_bytes, says="has 268,435,457 bytes, more than"),
    Case("pipe", content=os.mkfifo, says="is a named pipe: name an ordinary file"),
    Case("device", uri="/dev/zero", says="is a device: name an ordinary file"),
    Case("kernel", uri="/proc/self/environ", says="is a file of the kernel (proc)"),
    Case("this-host", uri="http://127.0.0.1:9/a.wav", says="127.0.0.1, a loopback address"),
    Case("metadata", uri="http://169.254.169.254/a", says="a metadata service, which no reference"),
    Case("unknown-scheme", uri="gopher://host/a.wav", says="gopher:// is not known here"),
    Case("unknown-home", uri="file://~no-such-user/a.wav", says="write the whole path"),
    Case("embedded-text", content=b"do re mi", embedded=True, says="embedded audio: not an audio"),
    Case("fills-the-clip", "continuation", audio(0.3), says="continuation has 0.30 s, but"),
    Case("fills-the-last-frame", "continuation", audio(0.299), says="continuation has 0.30 s, but"),
    Case("odd-rate", content=audio(rate_hz=44_101), says="melody: 44101 Hz and 16000 Hz have no"),
    Case("odd-start", "continuation", audio(rate_hz=44_101), says="continuation: 44101 Hz and"),
    Case("a-style", "style", audio(), says="style is not something that tiny takes"),
    Case("good", content=audio()),
    Case("embedded", content=audio(), embedded=True),
    Case("eight-channels", content=audio(channels=8)),
    Case("quiet", content=written(np.full((3200, 1), 0.001))),
    Case("15-minutes", content=audio(MAX_REFERENCE_S, rate_hz=SLOW_HZ)),
    Case("silent-continuation", "continuation", silence()),
    Case("leaves-a-frame", "continuation", audio(0.279)),
]
STYLES = [
    Case("silent-style", "style", silence(), says="the style is silent"),
    Case("missing-style", "style", says="no such file"),
    Case("nine-style", "style", audio(channels=9), says="9 channels exceed"),
    Case("short-style", "style", audio(0.2), says="0.2 s long and an excerpt of 0.5 s is read"),
    Case("good-style", "style", audio(2.0)),
]


@dataclass(frozen=True)
class Verdicts:
    """What both commands say of each row: its message without the place, by id."""

    checked: dict[str, str]
    refused: dict[str, str]
    made: set[str]


def ask_both(folder: Path, cases: list[Case], **model: Any) -> Verdicts:
    manifest = str(write_manifest(folder / "m.parquet", [case.row(folder) for case in cases]))
    output = f"file://{folder}/out"
    settings = TINY | {"manifest": manifest, "output": output} | model
    info = inspect_model(load_config(None, settings))

    report = check(manifest, limits=checked_model(info), read_audio=True)
    run_here(manifest, output, **model)

    letters = ledger.read_dead_letters(open_storage(output)).to_pylist()
    return Verdicts(
        {str(issue.id): after_the_place(issue.message) for issue in report.issues},
        {letter["id"]: after_the_place(letter["message"]) for letter in letters},
        {clip["id"] for clip in clips(output)},
    )


def after_the_place(message: str) -> str:
    """A message without its `file row N (id=...): `."""
    place, _, words = message.partition("): ")
    assert place.startswith("m.parquet row ")
    return words


@pytest.fixture(scope="module")
def melodies(tmp_path_factory: pytest.TempPathFactory) -> Verdicts:
    """All that concerns melodies and continuations, by the bundled model."""
    return ask_both(tmp_path_factory.mktemp("melodies"), MELODIES)


@pytest.fixture(scope="module")
def styles(tmp_path_factory: pytest.TempPathFactory) -> Verdicts:
    """Styles, by a small random model that takes them."""
    folder = tmp_path_factory.mktemp("styles")
    parts = {
        "text_encoder": str(save_t5(folder / "t5")),
        "style_encoder": str(save_mert(folder / "m")),
    }
    return ask_both(folder, STYLES, model=str(save(folder / "model", "style")), **parts)


def judge(case: Case, verdicts: Verdicts) -> None:
    if case.says is None:
        assert verdicts.checked.get(case.name) is None
        assert case.name in verdicts.made, verdicts.refused.get(case.name)
        return
    assert case.says in verdicts.refused[case.name]
    assert verdicts.checked[case.name] == verdicts.refused[case.name]
    assert case.name not in verdicts.made


@pytest.mark.parametrize("case", MELODIES, ids=lambda case: case.name)
def test_check_and_run_agree_on_a_reference(case: Case, melodies: Verdicts) -> None:
    judge(case, melodies)


@pytest.mark.parametrize("case", STYLES, ids=lambda case: case.name)
def test_check_and_run_agree_on_a_style(case: Case, styles: Verdicts) -> None:
    judge(case, styles)
