"""EnCodec: audio to codes and back, one clip at a time, so that no clip depends on another.

Long clips are decoded in pieces whose samples are those of a single decode: the LSTM's state is
carried from piece to piece, and each piece includes as many frames of its neighbours as the
receptive field of the convolutions needs. Beside the audio, memory does not grow with the clip.
"""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from musicgen.codec.encodec import Encodec
from musicgen.config import ArgumentError

if TYPE_CHECKING:
    from transformers import EncodecModel

WHOLE_FRAMES = 1500  # 30 s at 50 Hz: one window of the language model is decoded as a whole
PIECE_FRAMES = 1000  # longer clips are decoded in pieces of this length


class CompressionModel(nn.Module):
    """An EnCodec with the methods of AudioCraft's CompressionModel.

    A stereo MusicGen has a mono codec: left and right are encoded separately and their codebooks
    are interleaved (1L, 1R, 2L, 2R, …).

    Args:
        model: the EnCodec, with its weights: our own, or transformers'.
        channels: 1 or 2; 2 with a mono `model` interleaves.
    """

    def __init__(self, model: "Encodec | EncodecModel", channels: int = 1) -> None:
        super().__init__()
        config = model.config
        if config.chunk_length_s is not None:
            raise ValueError(
                f"an EnCodec that works in chunks (chunk_length_s={config.chunk_length_s}) is no "
                "codec of a MusicGen"
            )
        self.interleaved = channels == 2 and config.audio_channels == 1
        if channels != config.audio_channels and not self.interleaved:
            raise ValueError(f"a codec of {config.audio_channels} channels can't code {channels}")
        if self.interleaved and config.normalize:
            raise ValueError("interleaved stereo needs a codec without normalisation")
        self.model = Encodec.of(model).eval().requires_grad_(False)
        self.channels = channels
        self.sample_rate: int = config.sampling_rate  # Hz
        self.hop_samples = math.prod(config.upsampling_ratios)
        self.frame_rate: int = self.sample_rate // self.hop_samples  # Hz
        self.cardinality: int = config.codebook_size
        self.total_codebooks = len(self.model.quantizer.layers) * (2 if self.interleaved else 1)
        self.num_codebooks = self.total_codebooks

    def set_num_codebooks(self, n: int) -> None:
        """Lets `encode` return only the first `n` codebooks."""
        if not 1 <= n <= self.total_codebooks or (self.interleaved and n % 2):
            raise ArgumentError(
                f"num_codebooks={n}: the codec has 1 … {self.total_codebooks}"
                + (", in pairs of left and right" if self.interleaved else "")
            )
        self.num_codebooks = n

    def get_left_right_codes(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """The codes [B, K/2, T] of the left and of the right channel, of interleaved codes.

        Raises:
            ArgumentError: This codec does not interleave, or `codes` are not [B, K, T] with an even
                number of codebooks.
        """
        if not self.interleaved or codes.ndim != 3 or codes.shape[1] % 2:
            raise ArgumentError(
                "left and right are apart in codes [batch, 2, 4, … codebooks, frames] of a codec "
                f"that interleaves them; this one has {self.channels} channels, the codes are "
                f"{list(codes.shape)}"
            )
        return codes[:, ::2], codes[:, 1::2]

    @torch.no_grad()
    def decode_latent(self, codes: Tensor) -> Tensor:
        """What the decoder reads: vectors [B, D, T] of codes [B, K, T], of a codec that does not
        interleave."""
        if self.interleaved:
            raise ArgumentError("left and right have latents of their own: get_left_right_codes")
        latents: Tensor = self.model.quantizer.decode(codes.transpose(0, 1))
        return latents

    @torch.no_grad()
    def encode(self, wav: Tensor) -> tuple[Tensor, Tensor | None]:
        """Encode audio.

        Args:
            wav: Audio [B, C, N] at `sample_rate`.

        Returns:
            Codes int64 [B, K, T] with T = ceil(N / hop), and the scale [B, 1] by which a codec that
            normalises has divided the audio; None otherwise (as in all released MusicGens).

        Raises:
            ArgumentError: `wav` has another shape or no samples.
        """
        if wav.ndim != 3 or wav.shape[1] != self.channels or wav.shape[2] == 0:
            raise ArgumentError(
                f"encode wants [batch, {self.channels}, samples > 0], got {list(wav.shape)}"
            )
        coded = [self._encode_clip(clip) for clip in wav]
        scales = [scale for _, scale in coded if scale is not None]
        codes = torch.stack([codes for codes, _ in coded])  # [B, K, T]
        return codes, torch.stack(scales) if scales else None

    @torch.no_grad()
    def decode(
        self, codes: Tensor, scale: Tensor | None = None, *, piece_frames: int | None = None
    ) -> Tensor:
        """Decode codes; a clip gives the same bits in any batch.

        Clips of more than `WHOLE_FRAMES` frames are decoded in pieces, which gives the samples of a
        single decode to within 1e-6.

        Args:
            codes: int64 [B, K, T].
            scale: What `encode` returned, [B, 1] or None.
            piece_frames: Decodes every clip that is longer in pieces of this length, for less
                memory; None as above.

        Returns:
            Audio float32 [B, C, T·hop].

        Raises:
            ValueError: `codes` has another shape, or a code is out of range.
        """
        if codes.ndim != 3 or not 1 <= codes.shape[1] <= self.total_codebooks:
            raise ValueError(
                f"decode wants [batch, 1 … {self.total_codebooks}, frames], got {list(codes.shape)}"
            )
        if codes.numel() and not (codes.min() >= 0 and codes.max() < self.cardinality):
            raise ValueError(f"codes lie in 0 … {self.cardinality - 1}; got {codes.max()} as well")
        clips = [self._decode_clip(clip, piece_frames) for clip in codes]
        wav = clips[0][None] if len(clips) == 1 else torch.stack(clips)  # [B, C, N]
        return wav if scale is None else wav * scale[:, :, None]

    def _encode_clip(self, wav: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.interleaved:
            pair = [self.quantize(channel[None]) for channel in wav]  # 2 · [K/2, T]
            codes = torch.stack(pair, dim=1).flatten(0, 1)  # [K, T]
            return codes[: self.num_codebooks], None
        scale = None
        if self.model.config.normalize:
            scale = wav.mean(dim=0).square().mean().sqrt()[None] + 1e-8  # [1]
            wav = wav / scale
        return self.quantize(wav)[: self.num_codebooks], scale

    def _decode_clip(self, codes: Tensor, piece_frames: int | None) -> Tensor:
        if self.interleaved:
            sides = [self._dequantize(codes[side::2], piece_frames) for side in (0, 1)]
            return torch.cat(sides)  # [2, N]
        return self._dequantize(codes, piece_frames)

    def quantize(self, wav: Tensor) -> Tensor:
        """Codes [K, T] of `wav` [C, N], which has the EnCodec's own channels (not interleaved)."""
        latents = self.model.encoder(wav[None])  # [1, D, T]
        codes: Tensor = self.model.quantizer.encode(latents)  # [K, 1, T]
        return codes[:, 0]

    def _dequantize(self, codes: Tensor, piece_frames: int | None = None) -> Tensor:
        if codes.shape[-1] > (piece_frames or WHOLE_FRAMES):
            pieces = PieceDecoder(self.model, codes, piece_frames or PIECE_FRAMES)
            return self._join(pieces, codes)  # [C, N]
        latents = self.model.quantizer.decode(codes[:, None])  # [1, D, T]
        wav: Tensor = self.model.decoder(latents)  # [1, C, N]
        return wav[0]

    def _join(self, pieces: "PieceDecoder", codes: Tensor) -> Tensor:
        channels = self.model.config.audio_channels
        wav = torch.empty(channels, codes.shape[-1] * self.hop_samples, device=codes.device)
        done = 0
        for piece in pieces:
            wav[:, done : done + piece.shape[-1]] = piece
            done += piece.shape[-1]
        return wav


class PieceDecoder:
    """Decodes `codes` [K, T] in pieces; iterating gives consecutive pieces of audio [C, n].

    The convolutions behind the LSTM have a receptive field of `reach` frames to either side, so a
    piece of the LSTM's output decides the audio up to `reach` frames before the piece's end.
    """

    def __init__(self, model: Encodec, codes: Tensor, piece: int = PIECE_FRAMES) -> None:
        layers = list(model.decoder.layers)
        self.quantizer = model.quantizer
        recurrence: Any = layers[1]
        self.first, self.lstm, self.rest = layers[0], recurrence.lstm, layers[2:]
        self.hop = math.prod(model.config.upsampling_ratios)
        self.lead, self.reach = _reach(layers[:1]), _reach(layers[2:])
        self.codes, self.piece = codes, piece

    def __iter__(self) -> Iterator[Tensor]:
        n_frames, done, state = self.codes.shape[-1], 0, None
        seen, seen_from = None, 0  # output of the LSTM that is still needed, and its first frame
        for start in range(0, n_frames, self.piece):
            end = min(start + self.piece, n_frames)
            out, state = self._recur(start, end, state)  # [1, W, piece]
            seen = out if seen is None else torch.cat([seen, out], dim=-1)
            certain = end if end == n_frames else end - self.reach
            if certain > done:
                wav = self._convolve(seen)  # [C, n]
                yield wav[:, (done - seen_from) * self.hop : (certain - seen_from) * self.hop]
                done = certain
            keep_from = max(done - self.reach, 0)
            seen, seen_from = seen[..., keep_from - seen_from :], keep_from

    def _recur(
        self, start: int, end: int, state: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Output [1, W, end - start] and new state of the first convolution and the LSTM."""
        left = max(start - self.lead, 0)
        latents = self.quantizer.decode(self.codes[:, None, left : end + self.lead])  # [1, D, n]
        x = self.first(latents)[..., start - left : end - left]  # [1, W, n]
        steps = x.permute(2, 0, 1)  # [n, 1, W]
        out, state = self.lstm(steps, state)
        return (out + steps).permute(1, 2, 0), state

    def _convolve(self, x: Tensor) -> Tensor:
        for layer in self.rest:
            x = layer(x)
        return x[0]


def _reach(layers: list[nn.Module]) -> int:
    """An upper bound of the receptive field of `layers`, in frames to either side."""
    frames, rate = 1.0, 1  # rate: positions per frame
    for layer in (module for outer in layers for module in outer.modules()):
        if isinstance(layer, nn.ConvTranspose1d):
            frames += math.ceil(layer.kernel_size[0] / layer.stride[0]) / rate
            rate *= layer.stride[0]
        elif isinstance(layer, nn.Conv1d):
            frames += (layer.kernel_size[0] - 1) * layer.dilation[0] / rate
    return math.ceil(frames)
