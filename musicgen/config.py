"""Plain data: where a model comes from, its shape, and one clip's sampling. Free of torch."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Literal

GuidanceKind = Literal["none", "single", "double"]
FuseMethod = Literal["cross", "prepend"]
WeightsFormat = Literal["full", "int8"]  # of the language model; full: that of the checkpoint

GUIDANCE_ROWS: dict[GuidanceKind, int] = {"none": 1, "single": 2, "double": 3}


class ArgumentError(ValueError, AssertionError):
    """A wrong argument that AudioCraft refuses with an assertion, so scripts may catch either."""


class WrongModelError(ValueError, RuntimeError):
    """A condition for a model that takes none; AudioCraft refuses it with a RuntimeError."""


MAX_RATIO = 30_000_000  # of two sample rates: the weights of the kernel between them take 120 MB


def resampling_ratio(from_hz: int, to_hz: int) -> tuple[int, int]:
    """The ratio of two sample rates in lowest terms: (down, up).

    Raises:
        ValueError: They have no ratio that is small enough to resample by.
    """
    common = math.gcd(from_hz, to_hz)
    down, up = from_hz // common, to_hz // common
    if down * up > MAX_RATIO:
        raise ValueError(
            f"{from_hz} Hz and {to_hz} Hz have no small ratio ({down}:{up}); store the audio at a "
            "usual sample rate (44100, 48000, …)"
        )
    return down, up


def n_frames(duration_us: int, frame_rate_hz: int) -> int:
    """Frames of a clip: rounded half up in integer microseconds, at least 1."""
    return max(1, (duration_us * frame_rate_hz + 500_000) // 1_000_000)


@dataclass(frozen=True)
class ModelSource:
    """Where a model comes from.

    Attributes:
        name: `tiny`, a short name (`small`, `stereo-melody`, …), a Hugging Face hub id
            (`facebook/musicgen-small`) or a local folder. A folder that is called like a short
            name is written `./small`.
        revision: Branch, tag or commit of a hub id.
        text_encoder: Folder or hub id of a T5 in place of the checkpoint's.
        codec: Folder or hub id of an EnCodec in place of the checkpoint's; a folder with a
            `compression_state_dict.bin` will do.
        style_encoder: Folder or hub id of a MERT in place of the one that a style model names.
        adapter: LoRA adapters that are merged into the language model, in this order, as
            `AdapterSource.of` reads them.
        weights: `int8` rounds the language model's matrices (`musicgen.lm.int8`), after adapters.
    """

    name: str
    revision: str | None = None
    text_encoder: str | None = None
    codec: str | None = None
    style_encoder: str | None = None
    adapter: tuple[str, ...] = ()
    weights: WeightsFormat = "full"

    @classmethod
    def of(cls, source: "ModelSource | str | PathLike[str]") -> "ModelSource":
        """`source` itself, or the source that is no more than a name or, as a path, a folder."""
        if isinstance(source, ModelSource):
            return source
        if isinstance(source, str):
            return cls(source)
        path = Path(source)
        is_rooted = path.is_absolute() or fspath(source).startswith("~")
        return cls(str(path) if is_rooted else f"./{path}")  # never a short name or a hub id


@dataclass(frozen=True)
class AdapterSource:
    """A LoRA adapter as the user names it.

    Attributes:
        name: Its folder or hub id.
        scale: What its change of the weights is multiplied by.
    """

    name: str
    scale: float = 1.0

    @classmethod
    def of(cls, text: str) -> "AdapterSource":
        """Reads `FOLDER` or `FOLDER:SCALE`.

        Raises:
            ValueError: There is no name, or the scale is not finite.
        """
        name, mark, tail = text.rpartition(":")
        try:
            scale = float(tail) if mark else 1.0
        except ValueError:  # a colon that belongs to the name
            mark, scale = "", 1.0
        name = name if mark else text
        if not name or not math.isfinite(scale):
            raise ValueError(
                f"adapter={text!r} is not FOLDER or FOLDER:SCALE with a finite scale, as in "
                "adapters/jazz:0.8"
            )
        return cls(name, scale)

    def moved(self, move: Callable[[str], str | None]) -> "AdapterSource":
        """The same adapter under the name that `move` gives it."""
        return AdapterSource(move(self.name) or self.name, self.scale)

    def __str__(self) -> str:
        """What `of` reads."""
        return (
            self.name if self.scale == 1 and ":" not in self.name else f"{self.name}:{self.scale}"
        )


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
class StyleConfig:
    """The style conditioner of a style model; the defaults are those of the released one.

    Attributes:
        dim: Width of its transformer.
        n_heads: Attention heads of its transformer.
        n_layers: Layers of its transformer.
        ffn_dim: Width of its feed-forward layers.
        n_codebooks: Codebooks of its residual quantiser.
        bins: Entries of each of them.
        eval_q: How many of them are used; fewer pass on less of the style.
        ds_factor: Of every `ds_factor` feature frames one is kept.
        excerpt_length_s: Seconds of the audio that are used.
        features: Which feature extractor reads the audio.
        features_name: Hub id or folder of the feature extractor.
        feature_dim: Width of its features.
        feature_rate_hz: Feature frames per second.
        feature_sample_rate_hz: Sample rate of its input.
        encodec_n_q: Codebooks of EnCodec that are used, if it is the feature extractor.
        feature_bins: Entries of each of those.
        sample_rate_hz: Sample rate of the audio: the model's.
    """

    dim: int = 512
    n_heads: int = 8
    n_layers: int = 8
    ffn_dim: int = 2048
    n_codebooks: int = 6
    bins: int = 1024
    eval_q: int = 3
    ds_factor: int = 15
    excerpt_length_s: float = 3.0
    features: Literal["mert", "encodec"] = "mert"
    features_name: str = "m-a-p/MERT-v1-95M"
    feature_dim: int = 768
    feature_rate_hz: int = 75
    feature_sample_rate_hz: int = 24_000
    encodec_n_q: int = 4
    feature_bins: int = 2048
    sample_rate_hz: int = 32_000

    def __post_init__(self) -> None:
        if not 1 <= self.eval_q <= self.n_codebooks:
            raise ValueError(f"eval_q={self.eval_q} must lie in 1..{self.n_codebooks}")
        if not (math.isfinite(self.excerpt_length_s) and 0 < self.excerpt_length_s <= 30):
            raise ValueError(f"excerpt_length={self.excerpt_length_s} s must lie in 0..30")
        if self.ds_factor < 1:
            raise ValueError(f"ds_factor={self.ds_factor} must be at least 1")
        if self.encodec_n_q < 1:
            raise ValueError(f"encodec_n_q={self.encodec_n_q} must be at least 1")

    @property
    def max_frames(self) -> int:
        """Frames of the prefix, at most: those of one excerpt."""
        n_features = math.ceil(self.excerpt_length_s * self.feature_rate_hz)
        return max(1, -(-n_features // self.ds_factor))


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
        style: Style conditioner of a style model, else None.
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
    style: StyleConfig | None = None

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
        if (self.chroma or self.style) and self.fuse != "prepend":
            raise ValueError("a chroma or style condition needs fuse='prepend'")
        if self.chroma and self.style:
            raise ValueError("a model has a chroma or a style condition, not both")

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.dim // self.n_heads

    @property
    def max_audio_frames(self) -> int:
        """Frames of the melody or style prefix, at most; 0 on a text model."""
        if self.chroma is not None:
            return self.chroma.chroma_length
        return 0 if self.style is None else self.style.max_frames

    @property
    def special_token(self) -> int:
        """The token at places where the delay pattern holds no frame."""
        return self.card

    @property
    def max_delay(self) -> int:
        """Largest delay: steps by which the last codebook lags."""
        return max(self.delays)
