"""Files and rows for tests of the prepare pool."""

from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf

from pipeline.prepare.actor import Prepare

# By row; tests/manifests/isolation/handlers.py does it.
HARMS = {3: "crash", 10: "hang", 17: "take:600"}
WORDS = {
    "crash": (
        "CrashingReferenceError",
        "reading it ended two processes (the last one: killed by signal 11, SIGSEGV)",
    ),
    "hang": ("SlowReferenceError", "was not read within 3 s, twice"),
    "take:600": ("GreedyReferenceError", "reading it needs more than 256 MB of memory"),
}
LIMITS = {"prepare_timeout_s": 2.0, "reference_timeout_s": 1.0, "prepare_memory_mb": 1280}


class HarmedPrepare(Prepare):
    """A prepare actor to whose processes some files do harm; the product has no setting for it."""

    reader = "tests.manifests.isolation.handlers:make_harmed_reader"


def harmful_rows(folder: Path, n_rows: int = 20) -> list[dict[str, Any]]:
    """Rows with a melody each, three of which do harm."""
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 3200)
    rows = []
    for at in range(n_rows):
        name = f"harm-{HARMS[at]}-{at}.wav" if at in HARMS else f"tune-{at}.wav"
        sf.write(folder / name, noise, 16_000)
        row = {"id": f"r{at:02d}", "prompt": f"song {at}", "duration_s": 0.2, "melody_uri": name}
        rows.append(row)
    return rows


def write_bomb(path: Path, duration_s: int, rate_hz: int = 192_000) -> None:
    """A FLAC of some hundred kilobytes that decodes to hundreds of megabytes."""
    block = np.full(rate_hz, 0.25, np.float32)
    with sf.SoundFile(path, "w", rate_hz, 1, "PCM_16", format="FLAC") as file:
        for _ in range(duration_s):
            file.write(block)
