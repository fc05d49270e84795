"""Feature extractors for the audio of a style: MERT's last hidden states, or EnCodec's codes.

MERT-v1-95M is a HuBERT without its extras (no constant-Q branch, no relaxed attention): the same
modules, the same tensor names. So transformers' own HubertModel runs it, and the code in MERT's
repository is never executed.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from musicgen.audio import resample
from musicgen.codec.codec import CompressionModel

if TYPE_CHECKING:
    from transformers import HubertModel


class MertFeatures(nn.Module):
    """MERT as a feature extractor.

    Args:
        model: The MERT, with its weights.
        sample_rate_hz: Sample rate of its input.
    """

    def __init__(self, model: "HubertModel", sample_rate_hz: int = 24_000) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.sample_rate_hz = sample_rate_hz

    @torch.no_grad()
    def forward(self, wav: Tensor, sample_rate_hz: int) -> Tensor:
        """Hidden states [n, feature_dim] of `wav` [C, N], which is not normalised."""
        mono = resample(wav.mean(dim=0), sample_rate_hz, self.sample_rate_hz)  # [N]
        hidden: Tensor = self.model(mono[None]).last_hidden_state  # [1, n, feature_dim]
        return hidden[0]


class CodecFeatures(nn.Module):
    """The model's own EnCodec as a feature extractor."""

    def __init__(self, codec: CompressionModel) -> None:
        super().__init__()
        self.codec = codec

    @torch.no_grad()
    def forward(self, wav: Tensor, sample_rate_hz: int) -> Tensor:
        """Codes [K, n] of `wav` [C, N]."""
        mono = resample(wav.mean(dim=0, keepdim=True), sample_rate_hz, self.codec.sample_rate)
        return self.codec.quantize(mono)
