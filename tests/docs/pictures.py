"""The README's pictures: two clips of `make demo` as the report draws them, larger.

python -m tests.docs.pictures out/demo
"""

import sys
from pathlib import Path

from manifests.audio_file import decode_reference
from pipeline.audio.pictures import spectrogram_png
from pipeline.ledger import read_clips
from pipeline.ledger.clip_audio import AudioReader
from pipeline.storage import open_storage

PICTURES = Path(__file__).parents[2] / "manifests" / "examples" / "pictures"
SHOWN = ("ode-flute", "ode-bell")  # one melody, two voices
WIDTH, HEIGHT = 720, 160


def write_pictures(output: str, folder: Path = PICTURES) -> list[Path]:
    """Spectrograms of the clips in `SHOWN`, as PNG files."""
    storage = open_storage(output)
    reader = AudioReader(storage)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for row in read_clips(storage).to_pylist():
        if row["id"] in SHOWN:
            wav, sample_rate_hz = decode_reference(reader.read(row), row["id"])
            path = folder / f"{row['id']}.png"
            path.write_bytes(spectrogram_png(wav, sample_rate_hz, WIDTH, HEIGHT))
            paths.append(path)
    assert len(paths) == len(SHOWN), f"{output} has {len(paths)} of the clips {SHOWN}"
    return paths


if __name__ == "__main__":
    write_pictures(sys.argv[1])
