"""Stereo by a mono codec, under AudioCraft's name, for codecs of one's own.

The codec of a loaded stereo model is a `CompressionModel`, which does the same.
"""

import torch
from torch import Tensor, nn

from musicgen.codec.codec import CompressionModel
from musicgen.config import ArgumentError


class InterleaveStereoCompressionModel(nn.Module):
    """Codes left and right apart and interleaves the codes.

    Args:
        model: A mono codec.
        per_timestep: Whether the frames are interleaved, [B, K, 2T], instead of the codebooks,
            [B, 2K, T], as in all released stereo models.

    Raises:
        ArgumentError: The codec is not mono.
    """

    def __init__(self, model: CompressionModel, per_timestep: bool = False) -> None:
        super().__init__()
        if model.channels != 1:
            raise ArgumentError(f"the codec has {model.channels} channels, wanted is a mono one")
        self.model, self.per_timestep = model, per_timestep

    @property
    def total_codebooks(self) -> int:
        """Codebooks of the mono codec."""
        return self.model.total_codebooks

    @property
    def num_codebooks(self) -> int:
        """Codebooks of what `encode` returns."""
        return self.model.num_codebooks * (1 if self.per_timestep else 2)

    def set_num_codebooks(self, n: int) -> None:
        """Lets the mono codec use its first `n` codebooks."""
        self.model.set_num_codebooks(n)

    @property
    def num_virtual_steps(self) -> int:
        """Frames of codes per frame of the mono codec."""
        return 2 if self.per_timestep else 1

    @property
    def frame_rate(self) -> int:
        """Frames of codes per second."""
        return self.model.frame_rate * self.num_virtual_steps

    @property
    def sample_rate(self) -> int:
        """Of the audio, in Hz."""
        return self.model.sample_rate

    @property
    def channels(self) -> int:
        """Left and right."""
        return 2

    @property
    def cardinality(self) -> int:
        """Codes of each codebook."""
        return self.model.cardinality

    def encode(self, wav: Tensor) -> tuple[Tensor, Tensor | None]:
        """Codes [B, 2K, T] or [B, K, 2T] of audio [B, 2, N]; scales [B, 2] of a normalising codec.

        Raises:
            ArgumentError: `wav` has another shape.
        """
        if wav.ndim != 3 or wav.shape[1] != 2:
            raise ArgumentError(f"encode wants stereo [batch, 2, samples], got {list(wav.shape)}")
        (left, left_scale), (right, right_scale) = (
            self.model.encode(side) for side in (wav[:, :1], wav[:, 1:])
        )  # [B, K, T] each
        if self.per_timestep:
            codes = torch.stack([left, right], dim=3).flatten(2)  # [B, K, 2T]
        else:
            codes = torch.stack([left, right], dim=2).flatten(1, 2)  # [B, 2K, T]
        if left_scale is None or right_scale is None:
            return codes, None
        return codes, torch.cat([left_scale, right_scale], dim=1)

    def get_left_right_codes(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """The codes of the left and the right channel, [B, K, T] each."""
        if self.per_timestep:
            return codes[..., ::2], codes[..., 1::2]
        return codes[:, ::2], codes[:, 1::2]

    def decode(self, codes: Tensor, scale: Tensor | None = None) -> Tensor:
        """Audio [B, 2, N] of what `encode` returned."""
        sides = [
            self.model.decode(side, None if scale is None else scale[:, channel : channel + 1])
            for channel, side in enumerate(self.get_left_right_codes(codes))
        ]
        return torch.cat(sides, dim=1)
