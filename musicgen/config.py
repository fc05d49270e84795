"""Plain configuration of the model and of one clip's sampling. Free of torch."""

import math
from dataclasses import dataclass
from typing import Literal

GuidanceKind = Literal["none", "single", "double"]
FuseMethod = Literal["cross", "prepend"]

GUIDANCE_ROWS: dict[GuidanceKind, int] = {"none": 1, "single": 2, "double": 3}


def n_frames(duration_us: int, frame_rate_hz: int) -> int:
    """Frames of a clip: rounded half up in integer microseconds, at least 1."""
    return max(1, (duration_us * frame_rate_hz + 500_000) // 1_000_000)


@dataclass(frozen=True)
class SamplingParams:
    """How one clip's tokens are chosen, under AudioCraft's names and defaults.

    Attributes:
        use_sampling: Draw tokens; False takes the most likely one.
        temperature: Divides the logits; 0 takes the most likely token.
        top_k: Keep the k most likely tokens (and ties with the last of them); 0, or at least
            the codebook size, keeps all.
        top_p: Keep the most likely tokens until their sum exceeds this; takes precedence over
            `top_k`; 0 is off.
        cfg_coef: Guidance strength; 1 is none.
        cfg_coef_beta: Strength of the text within double guidance; None is single guidance.
    """

    use_sampling: bool = True
    temperature: float = 1.0
    top_k: int = 250
    top_p: float = 0.0
    cfg_coef: float = 3.0
    cfg_coef_beta: float | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ValueError(f"temperature={self.temperature} must be a finite number >= 0")
        if self.top_k < 0:
            raise ValueError(f"top_k={self.top_k} must be >= 0 (0 keeps every token)")
        if not 0 <= self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p} must lie in 0..1 (0 is off)")
        if not math.isfinite(self.cfg_coef):
            raise ValueError(f"cfg_coef={self.cfg_coef} must be a finite number (1 is no guidance)")
        if self.cfg_coef_beta is not None and not math.isfinite(self.cfg_coef_beta):
            raise ValueError(f"cfg_coef_beta={self.cfg_coef_beta} must be a finite number or unset")

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is taken instead of a draw."""
        return not self.use_sampling or self.temperature == 0

    @property
    def guidance(self) -> GuidanceKind:
        """Which guidance these parameters ask for; it decides how many rows a clip occupies."""
        if self.cfg_coef_beta is not None:
            return "double"
        return "none" if self.cfg_coef == 1 else "single"


@dataclass(frozen=True)
class ChromaConfig:
    """The chromagram of a melody model.

    Attributes:
        n_fft: Window and transform length in samples.
        hop_length: Samples between frames.
        n_chroma: Pitch classes.
        chroma_length: Frames of the prefix: those of one full-length clip.
        sample_rate_hz: Rate at which the melody is analysed.
    """

    n_fft: int
    hop_length: int
    n_chroma: int
    chroma_length: int
    sample_rate_hz: int


@dataclass(frozen=True)
class LMConfig:
    """Shape of the language model.

    Attributes:
        dim: Model width D.
        n_heads: Attention heads H; D / H is the head width.
        n_layers: Transformer layers.
        ffn_dim: Width of the feed-forward layer.
        n_codebooks: Token streams K.
        card: Tokens per codebook; `card` itself is the special token.
        delays: Steps by which each codebook lags, one per codebook, the smallest 0.
        text_dim: Width of the text encoder.
        fuse: Whether text enters by cross-attention or, with the melody, as a prefix.
        chroma: Chromagram of a melody model, else None.
    """

    dim: int
    n_heads: int
    n_layers: int
    ffn_dim: int
    n_codebooks: int
    card: int
    delays: tuple[int, ...]
    text_dim: int
    fuse: FuseMethod
    chroma: ChromaConfig | None = None

    def __post_init__(self) -> None:
        if self.dim % self.n_heads or self.dim % 2 or self.dim < 4:
            raise ValueError(
                f"dim={self.dim} must be even and a multiple of n_heads={self.n_heads}"
            )
        if len(self.delays) != self.n_codebooks:
            raise ValueError(
                f"delays={self.delays} must name one delay per codebook, {self.n_codebooks}"
            )
        if min(self.delays) != 0:
            raise ValueError(f"delays={self.delays} must start at 0")
        if self.fuse not in ("cross", "prepend"):
            raise ValueError(f"fuse={self.fuse!r} must be 'cross' or 'prepend'")
        if self.chroma is not None and self.fuse != "prepend":
            raise ValueError("a chroma condition needs fuse='prepend'")

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.dim // self.n_heads

    @property
    def special_token(self) -> int:
        """Token that stands where the delay pattern holds no frame."""
        return self.card

    @property
    def max_delay(self) -> int:
        """Largest delay: steps by which the last codebook lags."""
        return max(self.delays)
