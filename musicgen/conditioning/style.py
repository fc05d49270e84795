"""The style conditioner (Rouard et al. 2024): a few seconds of audio become a prefix.

Features of an excerpt (MERT's or EnCodec's, see `features`) pass a bidirectional transformer, are
normalised by running statistics, downsampled, and quantised by a residual quantiser: the fewer of
its codebooks are used, the less of the audio is passed on.
"""

from hashlib import blake2b

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from musicgen.config import StyleConfig
from musicgen.modules.transformer import Layer, sinusoid


class StyleConditioner(nn.Module):
    """Turns the features of one excerpt into a prefix; parameter names are AudioCraft's.

    Args:
        cfg: Shape and default parameters.
        output_dim: Width D of the language model.
    """

    def __init__(self, cfg: StyleConfig, output_dim: int) -> None:
        super().__init__()
        self.cfg = cfg
        self.embed: nn.Module = (
            nn.Linear(cfg.feature_dim, cfg.dim)
            if cfg.features == "mert"
            else nn.ModuleList(
                nn.Embedding(cfg.feature_bins, cfg.dim) for _ in range(cfg.encodec_n_q)
            )
        )
        self.transformer = StyleTransformer(cfg.dim, cfg.n_heads, cfg.n_layers, cfg.ffn_dim)
        self.batch_norm = nn.BatchNorm1d(cfg.dim, affine=False)
        self.rvq = ResidualQuantizer(cfg.n_codebooks, cfg.bins, cfg.dim)
        self.output_proj = nn.Linear(cfg.dim, output_dim)

    @torch.no_grad()
    def forward(self, features: Tensor, params: StyleConfig | None = None) -> Tensor:
        """The prefix [P, D] of an excerpt.

        Args:
            features: MERT's states [n, feature_dim] or EnCodec's codes [q, n].
            params: `eval_q`, `ds_factor` and `encodec_n_q` to use in place of the model's own.
        """
        params = params or self.cfg
        x = self.transformer(self.embedded(features, params.encodec_n_q))  # [n, W]
        x = x[:: params.ds_factor]  # [P, W]: what follows looks at each frame by itself
        x = self.rvq(self.normalised(x), params.eval_q)  # [P, W]
        projected: Tensor = self.output_proj(x)  # [P, D]
        return projected

    def embedded(self, features: Tensor, n_q: int) -> Tensor:
        """Features at the transformer's width: [n, W]."""
        if not isinstance(self.embed, nn.ModuleList):
            projected: Tensor = self.embed(features)
            return projected
        if n_q > min(len(self.embed), len(features)):
            raise ValueError(
                f"encodec_n_q={n_q}: the style reader hears {len(self.embed)} codebooks of "
                f"EnCodec's {len(features)}; lower it"
            )
        tables = [self.embed[k](features[k]) for k in range(n_q)]
        return torch.stack(tables).sum(dim=0)

    def normalised(self, x: Tensor) -> Tensor:
        """Zero mean and unit variance by the statistics of the training: [n, W]."""
        norm = self.batch_norm  # not called: in training mode a clip would depend on others
        return F.batch_norm(x, norm.running_mean, norm.running_var, eps=norm.eps)


class StyleTransformer(nn.Module):
    """Pre-norm layers in which every frame sees every other; no norm at the end."""

    def __init__(self, dim: int, n_heads: int, n_layers: int, ffn_dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            Layer(dim, n_heads, ffn_dim, cross=False) for _ in range(n_layers)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Runs `x` [n, W]."""
        positions = torch.arange(len(x), device=x.device)
        x = (x + sinusoid(positions, x.shape[-1], x.dtype))[None]  # [1, n, W]
        for layer in self.layers:
            assert isinstance(layer, Layer)
            seen = layer.norm1(x)
            x = x + layer.self_attn(seen, memory=seen)  # given a memory, attention is not causal
            x = x + layer.linear2(F.gelu(layer.linear1(layer.norm2(x))))
        return x[0]


class ResidualQuantizer(nn.Module):
    """A residual quantiser: each codebook quantises the error that the ones before it left."""

    def __init__(self, n_codebooks: int, bins: int, dim: int) -> None:
        super().__init__()
        self.vq = nn.Module()
        self.vq.layers = nn.ModuleList(_Quantizer(bins, dim) for _ in range(n_codebooks))

    def forward(self, x: Tensor, n_q: int) -> Tensor:
        """The sum of the nearest entries of the first `n_q` codebooks: [n, W] -> [n, W]."""
        total = torch.zeros_like(x)
        for layer in self.vq.get_submodule("layers").children():
            if n_q == 0:
                break
            nearest = layer.get_submodule("_codebook")(x - total)  # [n, W]
            total, n_q = total + nearest, n_q - 1
        return total


class _Quantizer(nn.Module):
    def __init__(self, bins: int, dim: int) -> None:
        super().__init__()
        self._codebook = _Codebook(bins, dim)


class _Codebook(nn.Module):
    """Entries of one codebook; all but `embed` are statistics of its training."""

    embed: Tensor

    def __init__(self, bins: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("inited", torch.ones(1))
        self.register_buffer("cluster_size", torch.zeros(bins))
        self.register_buffer("embed", torch.zeros(bins, dim))
        self.register_buffer("embed_avg", torch.zeros(bins, dim))

    def forward(self, x: Tensor) -> Tensor:
        """The entry nearest to each row of `x` [n, W]."""
        closeness = 2 * x @ self.embed.T - self.embed.square().sum(dim=1)  # [n, bins]
        return self.embed[closeness.argmax(dim=1)]


def excerpt_start(seed: int, window: int, n_samples: int, n_excerpt: int) -> int:
    """The first sample of an excerpt, chosen by a hash of the clip's seed and the window's index.

    Args:
        seed: The seed of the clip.
        window: Index of the window, 0 in a clip of one window.
        n_samples: Samples of the audio.
        n_excerpt: Samples of the excerpt.

    Raises:
        ValueError: The audio is shorter than the excerpt.
    """
    if n_samples < n_excerpt:
        raise ValueError(f"audio of {n_samples} samples holds no excerpt of {n_excerpt}")
    digest = blake2b(f"style:{seed}:{window}".encode(), digest_size=16).digest()
    return int.from_bytes(digest) % (n_samples - n_excerpt + 1)
