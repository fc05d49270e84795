"""Makes the classifier of voices that ships with the bundled model.

    python -m musicgen.tiny.training.voices

It learns from pieces of the kind that the model was trained on, as they are and after its codec.
"""

import argparse

import torch

from musicgen.model import MusicGen
from musicgen.tiny.measures import VOICES_FILE, VoiceClassifier
from musicgen.tiny.training.pieces import random_piece, rng_of
from musicgen.tiny.training.synth import FRAME_RATE_HZ, VOICES

SEED, STREAM = 0, 34
CLIPS_PER_VOICE, CLIP_S = 120, (3.0, 5.0, 10.0)


def fit(model: MusicGen, clips_per_voice: int = CLIPS_PER_VOICE) -> VoiceClassifier:
    """The classifier of a model's music."""
    wanted = dict.fromkeys(VOICES, clips_per_voice)
    clips, index = [], 0
    while any(wanted.values()):
        n_frames = round(CLIP_S[index % len(CLIP_S)] * FRAME_RATE_HZ)
        piece = random_piece(rng_of(SEED, STREAM, index), n_frames)
        index += 1
        if not wanted[piece.voice]:
            continue
        wanted[piece.voice] -= 1
        wav = torch.from_numpy(piece.audio())
        codes, _ = model.compression_model.encode(wav[None, None].to(model.device))
        clips += [(wav, piece.voice), (model.decode(codes[0])[0, : len(wav)], piece.voice)]
    return VoiceClassifier.fit(clips)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="tiny")
    model = MusicGen.get_pretrained(parser.parse_args().model, device="cpu", max_slots=1)
    VOICES_FILE.write_text(fit(model).to_json(), encoding="utf-8")


if __name__ == "__main__":
    main()
