"""The model alone, under AudioCraft's names: no manifest, no job, no Ray.

    python examples/musicgen_api.py out/example-clips

A script that was written for AudioCraft runs after its import is changed.
"""

import logging
import sys
from pathlib import Path

import torch

from musicgen import MusicGen
from musicgen.audio import audio_write

FLUTE, BELL = "C major, slow flute melody", "A minor, calm bell melody"

log = logging.getLogger("musicgen_api")


def main(folder: str) -> list[Path]:
    """Two clips of text, then the first of them goes on."""
    model = MusicGen.get_pretrained("tiny", device="cpu")
    model.set_generation_params(duration=2.0, top_k=50, temperature=0.6, cfg_coef=2.5)
    audio = model.generate([FLUTE, BELL], seeds=[1, 2])
    assert isinstance(audio, torch.Tensor)  # [B, C, N]
    model.set_generation_params(duration=3.0, top_k=50, temperature=0.6, cfg_coef=2.5)
    longer = model.generate_continuation(audio[0], model.sample_rate, [FLUTE], seeds=[3])
    paths = []
    for name, clip in zip(("flute", "bell", "flute-goes-on"), [*audio, *longer], strict=True):
        path = audio_write(Path(folder) / name, clip, model.sample_rate, strategy="loudness")
        log.info("%s: %.1f s", path, clip.shape[-1] / model.sample_rate)
        paths.append(path)
    return paths


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main(sys.argv[1] if len(sys.argv) > 1 else "out/example-clips")
