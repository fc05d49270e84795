"""The melody condition's chromagram, and the signal-to-noise ratio of a codec."""

import torch
from torch import Tensor

from musicgen.conditioning.tune import HOP_LENGTH
from musicgen.tiny.music import FRAME_SAMPLES

# Of the melody condition too. A frame of it lasts 7 of the codec's: in sinusoidal positions of
# width 144 each frequency is 0.878 of the one before, and the 15th after it is a seventh:
# `alignment` needs that.
HOP_FRAMES = HOP_LENGTH // FRAME_SAMPLES


def si_snr_db(heard: Tensor, wanted: Tensor) -> float:
    """Scale-invariant signal-to-noise ratio in dB of `heard` [N] against `wanted` [N]."""
    heard, wanted = heard.double() - heard.double().mean(), wanted.double() - wanted.double().mean()
    target = (heard @ wanted) / (wanted @ wanted).clamp(min=1e-12) * wanted
    noise = (heard - target).square().sum().clamp(min=1e-12)
    return float(10 * torch.log10(target.square().sum().clamp(min=1e-12) / noise))
