"""EnCodec (Défossez et al. 2022, arXiv:2210.13438), for inference.

A SEANet encoder and decoder around a residual vector quantizer. Its tensors have the names of
transformers' `EncodecModel`, and its results are the same bits, but for the layers that are written
anew for the CPU (`fast_layers`). transformers' own model is not used here, because to import its
code takes longer than to import torch.
"""

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from musicgen.codec.fast_layers import Elu, pointwise
from musicgen.modules.unfilled import unfilled

if TYPE_CHECKING:
    from transformers import EncodecConfig

NORMS = ("weight_norm", "time_group_norm")


class Conv(nn.Module):
    """A convolution whose input is padded so that its output has ceil(N / stride) positions."""

    def __init__(
        self,
        config: "EncodecConfig",
        channels: tuple[int, int],
        width: int,
        stride: int = 1,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        self.causal, self.pad_mode = config.use_causal_conv, config.pad_mode
        self.stride = stride
        self.padding = (width - 1) * dilation + 1 - stride
        self.conv: nn.Module = _with_norm(
            self, config, nn.Conv1d(*channels, width, stride=stride, dilation=dilation)
        )
        self.pointwise = width == stride == 1 and config.norm_type == "weight_norm"

    def forward(self, x: Tensor) -> Tensor:
        """[B, C', ceil(N / stride)] of `x` [B, C, N]."""
        if self.pointwise:
            return pointwise(self.conv, x)
        to_fill = -x.shape[-1] % self.stride  # the last step may have less input than a stride
        right = 0 if self.causal else self.padding // 2
        x = self.conv(_padded(x, self.padding - right, right + to_fill, self.pad_mode))
        return _normed(self, x)


class TransposedConv(nn.Module):
    """A transposed convolution whose output is trimmed to N · stride positions."""

    def __init__(
        self, config: "EncodecConfig", channels: tuple[int, int], width: int, stride: int
    ) -> None:
        super().__init__()
        if not config.use_causal_conv and config.trim_right_ratio != 1:
            raise ValueError(
                f"trim_right_ratio={config.trim_right_ratio} needs use_causal_conv=true in the "
                "codec's configuration"
            )
        surplus = width - stride
        self.right = (
            math.ceil(surplus * config.trim_right_ratio) if config.use_causal_conv else surplus // 2
        )
        self.left = surplus - self.right
        self.conv = _with_norm(self, config, nn.ConvTranspose1d(*channels, width, stride))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C', N · stride] of `x` [B, C, N]."""
        x = _normed(self, self.conv(x))
        return x[..., self.left : x.shape[-1] - self.right]


def _with_norm(owner: nn.Module, config: "EncodecConfig", conv: nn.Module) -> nn.Module:
    """The convolution with its weight norm, or `owner` with a norm of what comes out of it."""
    if config.norm_type == "weight_norm":
        normed: nn.Module = weight_norm(conv)
        return normed
    if config.norm_type == "time_group_norm":
        owner.norm = nn.GroupNorm(1, conv.out_channels)  # type: ignore[arg-type]
        return conv
    raise ValueError(f"a codec with norm_type={config.norm_type!r}; known are {', '.join(NORMS)}")


def _normed(owner: Any, x: Tensor) -> Tensor:
    """What `_with_norm` gave to `owner`, if anything, applied to `x`."""
    return owner.norm(x) if hasattr(owner, "norm") else x


def _padded(x: Tensor, left: int, right: int, mode: str) -> Tensor:
    """`x` [B, C, N] with `left` and `right` more positions. Reflection needs more positions than it
    adds; what is too short for it gets zeros behind it first."""
    if mode != "reflect":
        return nn.functional.pad(x, (left, right), mode)
    missing = max(0, max(left, right) + 1 - x.shape[-1])
    x = nn.functional.pad(nn.functional.pad(x, (0, missing)) if missing else x, (left, right), mode)
    return x[..., : x.shape[-1] - missing]


class Recurrence(nn.Module):
    """An LSTM over the positions, with a residual around it."""

    def __init__(self, config: "EncodecConfig", width: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(width, width, config.num_lstm_layers)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, N] of the same shape."""
        steps = x.permute(2, 0, 1)  # [N, B, C]
        return (self.lstm(steps)[0] + steps).permute(1, 2, 0)  # type: ignore[no-any-return]


class Residual(nn.Module):
    """Two convolutions, the second of width 1, with a residual around them."""

    def __init__(self, config: "EncodecConfig", width: int, dilation: int) -> None:
        super().__init__()
        hidden = width // config.compress
        self.block = nn.ModuleList(
            [
                Elu(),
                Conv(config, (width, hidden), config.residual_kernel_size, dilation=dilation),
                Elu(),
                Conv(config, (hidden, width), 1),
            ]
        )
        self.shortcut = (
            Conv(config, (width, width), 1) if config.use_conv_shortcut else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, N] of the same shape."""
        y = x
        for layer in self.block:
            y = layer(y)
        return self.shortcut(x) + y  # type: ignore[no-any-return]


class Layers(nn.Module):
    """Layers one after the other."""

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        """The output [B, C', N'] of the last layer for `x` [B, C, N]."""
        for layer in self.layers:
            x = layer(x)
        return x


def encoder(config: "EncodecConfig") -> Layers:
    """Audio [B, C, N] to latents [B, D, T]."""
    width = config.num_filters
    layers: list[nn.Module] = [Conv(config, (config.audio_channels, width), config.kernel_size)]
    for ratio in reversed(config.upsampling_ratios):
        layers += _residuals(config, width)
        layers += [Elu(), Conv(config, (width, 2 * width), 2 * ratio, stride=ratio)]
        width *= 2
    layers += [Recurrence(config, width), Elu()]
    layers += [Conv(config, (width, config.hidden_size), config.last_kernel_size)]
    return Layers(layers)


def decoder(config: "EncodecConfig") -> Layers:
    """Latents [B, D, T] to audio [B, C, N]."""
    width = config.num_filters * 2 ** len(config.upsampling_ratios)
    layers: list[nn.Module] = [Conv(config, (config.hidden_size, width), config.kernel_size)]
    layers += [Recurrence(config, width)]
    for ratio in config.upsampling_ratios:
        layers += [Elu(), TransposedConv(config, (width, width // 2), 2 * ratio, stride=ratio)]
        width //= 2
        layers += _residuals(config, width)
    layers += [Elu(), Conv(config, (width, config.audio_channels), config.last_kernel_size)]
    return Layers(layers)


def _residuals(config: "EncodecConfig", width: int) -> list[nn.Module]:
    growth = config.dilation_growth_rate
    return [Residual(config, width, growth**i) for i in range(config.num_residual_layers)]


class Codebook(nn.Module):
    """Vectors [card, D]; those of `inited`, `cluster_size` and `embed_avg` are of the training."""

    def __init__(self, config: "EncodecConfig") -> None:
        super().__init__()
        card, dim = config.codebook_size, config.codebook_dim
        self.register_buffer("inited", torch.ones(1))
        self.register_buffer("cluster_size", torch.zeros(card))
        self.register_buffer("embed", torch.zeros(card, dim))
        self.register_buffer("embed_avg", torch.zeros(card, dim))
        self.embed: Tensor

    def nearest(self, latents: Tensor) -> Tensor:
        """Index [B, T] of the vector nearest to each of `latents` [B, D, T]."""
        points = latents.permute(0, 2, 1)  # [B, T, D]
        flat = points.reshape(-1, points.shape[-1])  # [B·T, D]
        table = self.embed.t()  # [D, card]
        squares = flat.pow(2).sum(1, keepdim=True)
        closeness = -(squares - 2 * flat @ table + table.pow(2).sum(0, keepdim=True))
        return closeness.max(dim=-1).indices.view(points.shape[:-1])

    def vectors(self, codes: Tensor) -> Tensor:
        """The vectors [B, D, T] of `codes` [B, T]."""
        return nn.functional.embedding(codes, self.embed).permute(0, 2, 1)


class Quantizer(nn.Module):
    """Residual quantizers: each codes what those before it have left over."""

    def __init__(self, config: "EncodecConfig") -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Module() for _ in range(config.num_quantizers))
        for layer in self.layers:
            layer.codebook = Codebook(config)

    @property
    def _codebooks(self) -> list[Codebook]:
        return [layer.codebook for layer in self.layers]  # type: ignore[misc]

    def encode(self, latents: Tensor) -> Tensor:
        """Codes [K, B, T] of latents [B, D, T]."""
        codes = []
        for codebook in self._codebooks:
            codes.append(codebook.nearest(latents))
            latents = latents - codebook.vectors(codes[-1])
        return torch.stack(codes)

    def decode(self, codes: Tensor) -> Tensor:
        """Latents [B, D, T] of codes [K', B, T], of which the last residuals may be left out."""
        latents = torch.zeros((), device=codes.device)
        for codebook, own in zip(self._codebooks, codes, strict=False):
            latents = latents + codebook.vectors(own)
        return latents


class Encodec(nn.Module):
    """An EnCodec without its weights.

    Args:
        config: Its sizes.

    Raises:
        ValueError: A norm or a trimming that no EnCodec has.
    """

    def __init__(self, config: "EncodecConfig") -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder(config)
        self.decoder = decoder(config)
        self.quantizer = Quantizer(config)

    @classmethod
    def of(cls, model: Any) -> "Encodec":
        """This class for a loaded `EncodecModel` of transformers, with the same tensors."""
        if isinstance(model, cls):
            return model
        with unfilled("cpu"):
            own = cls(model.config)
        own.load_state_dict(model.state_dict(), assign=True)
        return own
