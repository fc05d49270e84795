"""Initialises the codec: the encoder as principal components, the decoder as its transpose.

Each convolution of the encoder begins as the principal components of what it reads, under a sine
window, so that overlapping windows add up again in the decoder. ELU loses what is negative,
so channels come in pairs, x and -x: elu(x) - elu(-x) has both halves. Each convolution reads such
differences and writes such pairs; at the ends stand the wave and the latents.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import EncodecModel

RESIDUAL = 0.1  # how much the residual blocks and the LSTM add at first
LEVEL = 0.15  # of what passes between the layers: small, where ELU is nearly straight
SAMPLED_PATCHES = 20_000


@torch.no_grad()
def initialise(model: EncodecModel, wav: Tensor) -> None:
    """Sets the weights of encoder and decoder from audio `wav` [B, 1, N]."""
    for part in (model.encoder, model.decoder):
        for layer in part.layers:
            _quieten(layer)
    latents = _fill_encoder(model.encoder, wav)
    encoder, decoder = _outer(model.encoder), _outer(model.decoder)
    for index, (conv, twin) in enumerate(zip(decoder, reversed(encoder), strict=True)):
        strided = 0 < index < len(decoder) - 1  # these hold their weights the same way
        conv.weight = twin.weight if strided else twin.weight.transpose(0, 1).flip(-1)
        conv.bias.zero_()
    heard = _levelled(model.decoder, latents)
    decoder[-1].weight = decoder[-1].weight * ((heard * wav).sum() / heard.square().sum())


def _quieten(layer: Any) -> None:
    """Scales a residual block's or an LSTM's output down, so that it adds little to its input."""
    if hasattr(layer, "block"):
        inner = [step.conv for step in layer.block if hasattr(step, "conv")]
        for conv in inner:
            conv.weight = nn.init.orthogonal_(torch.empty_like(conv.weight))
            conv.bias.zero_()
        inner[-1].weight = RESIDUAL * inner[-1].weight
    if hasattr(layer, "lstm"):
        for weight in layer.lstm.parameters():
            weight.mul_(RESIDUAL * 5)  # its output is bounded already


def _outer(part: Any) -> list[Any]:
    """The convolutions between the residual blocks, in order."""
    return [layer.conv for layer in part.layers if hasattr(layer, "conv")]


def _fill_encoder(encoder: Any, x: Tensor) -> Tensor:
    """Principal components, layer by layer; returns the latents, of unit variance."""
    outer = _outer(encoder)
    for layer in encoder.layers:
        if hasattr(layer, "conv"):
            first, last = layer.conv is outer[0], layer.conv is outer[-1]
            layer.conv.weight = _filters(layer.conv, x, not first, not last)
            layer.conv.bias.zero_()
            spread = layer(x).std() / (1 if last else LEVEL)
            layer.conv.weight = layer.conv.weight / spread
        x = layer(x)
    return x


def _filters(conv: nn.Conv1d, x: Tensor, reads_pairs: bool, writes_pairs: bool) -> Tensor:
    """Filters [out, in, width] that keep most of `x` [B, in, N]."""
    n_out, _, width = conv.weight.shape
    if reads_pairs:
        half = x.shape[1] // 2
        x = x[:, :half] - x[:, half:]
    taps = torch.sin(torch.pi * (torch.arange(width) + 0.5) / width)
    if not writes_pairs:  # the latents: frame by frame
        taps = (torch.arange(width) == width // 2).float()
    live = taps > 0
    patches = (x.unfold(-1, width, 1) * taps)[..., live]  # [B, columns, n, live taps]
    patches = patches.transpose(1, 2).flatten(0, 1).flatten(1).double()  # [M, columns · live taps]
    patches = patches[:: max(1, len(patches) // SAMPLED_PATCHES)]
    _, axes = torch.linalg.eigh(patches.T @ patches)  # the strongest last
    rows = n_out // 2 if writes_pairs else n_out
    kept = axes.flip(1)[:, :rows].T  # [at most rows, columns · live taps]
    filters = 0.1 * torch.randn(rows, x.shape[1], width)
    filters[: len(kept)] = 0
    filters[: len(kept), :, live] = kept.float().view(len(kept), x.shape[1], -1)
    filters = filters * taps
    if reads_pairs:
        filters = torch.cat([filters, -filters], dim=1)
    if writes_pairs:
        filters = torch.cat([filters, -filters], dim=0)
    return filters


def _levelled(part: Any, x: Tensor) -> Tensor:
    """Brings the output of every outer convolution to `LEVEL`; returns the last one."""
    for layer in part.layers:
        x = layer(x)
        if hasattr(layer, "conv"):
            spread = x.std() / LEVEL
            layer.conv.weight = layer.conv.weight / spread
            x = x / spread
    return x
