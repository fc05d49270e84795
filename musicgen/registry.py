"""The released models: names, shapes, sizes, licence, and the memory that they need. No torch.

Memory of an engine with S slots, in bytes:

    4 * (T5 + EnCodec + MERT)     parameters beside the language model, in fp32
    + w * LM                      the language model as the engine runs it
    + 2 * S * row_bytes           caches of 2 S rows

    row_bytes = 2 * layers * D * (cells + 64 where text is cross-attended) * w
    cells     = (prefix + text + frames + largest delay + 1), up to a multiple of 64

w is the bytes per number: 4 for fp32, else 2. The prefix is the melody's or style's, text is up to
512 tokens (where it is a prefix), frames are those of one window. Activations come on top; they are
small beside this. So does, in a script that keeps `MusicGen.lm` usable, 4 * LM; a job drops it
(`keep_lm=False`).
"""

from dataclasses import dataclass
from typing import Literal

from musicgen.config import ChromaConfig, LMConfig, StyleConfig

LICENCE = "CC-BY-NC-4.0"
SAMPLE_RATE_HZ, FRAME_RATE_HZ, MAX_DURATION_S = 32_000, 50, 30.0
TEXT_DIM, MAX_TEXT_TOKENS, CARD = 768, 512, 2048

T5_PARAMETERS = 109_628_544  # the encoder of t5-base
T5_LARGE_PARAMETERS = 334_939_648  # the encoder of t5-large, which AudioGen reads
CODEC_PARAMETERS = 56_884_674  # facebook/encodec_32khz, mono, also within stereo models
CODEC_16KHZ_PARAMETERS = 56_819_138  # the EnCodec within facebook/audiogen-medium
MERT_PARAMETERS = 94_371_712  # m-a-p/MERT-v1-95M

CHROMA = ChromaConfig(
    n_fft=16_384, hop_length=4_096, n_chroma=12, chroma_length=235, sample_rate_hz=SAMPLE_RATE_HZ
)
BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
KEY_BLOCK = 64
AUTO_SLOTS_AT_MOST = 64  # of `--slots auto` on a GPU: beyond it a step gains little
AUTO_SLOTS_ON_CPU = 8

Kind = Literal["text", "melody", "style"]


@dataclass(frozen=True)
class Member:
    """A released model.

    Attributes:
        name: Short name.
        hub_id: Its repository on the Hugging Face hub.
        channels: Channels of its audio.
        lm: Shape of its language model.
        licence: Licence of its weights.
        sample_rate_hz: Of its audio.
        window_s: Longest window.
        stride_s: Seconds between windows of a longer clip; None: what suits the window
            (`musicgen.windows.default_stride_s`).
        t5_parameters: Parameters of the encoder of its T5.
        codec_parameters: Parameters of its EnCodec.
    """

    name: str
    hub_id: str
    channels: int
    lm: LMConfig
    licence: str = LICENCE
    sample_rate_hz: int = SAMPLE_RATE_HZ
    window_s: float = MAX_DURATION_S
    stride_s: float | None = None
    t5_parameters: int = T5_PARAMETERS
    codec_parameters: int = CODEC_PARAMETERS

    @property
    def kind(self) -> Kind:
        """The condition that it takes beside text; "text" where it takes none."""
        if self.lm.style is not None:
            return "style"
        return "text" if self.lm.chroma is None else "melody"

    @property
    def lm_parameters(self) -> int:
        """Parameters of the language model, its conditioners' projections included."""
        return count_lm(self.lm)

    @property
    def n_parameters(self) -> int:
        """Parameters of all models that are loaded: language model, T5, EnCodec, MERT."""
        features = MERT_PARAMETERS if self.lm.style is not None else 0
        return self.lm_parameters + self.t5_parameters + self.codec_parameters + features

    def stride_in(self, window_s: float) -> float | None:
        """Its stride where that fits into a window of `window_s`, else None."""
        return self.stride_s if self.stride_s is not None and self.stride_s < window_s else None

    def memory_bytes(self, *, dtype: str, slots: int) -> int:
        """Memory of an engine with `slots` slots in `dtype` (see this module's head)."""
        window_frames = int(self.window_s * FRAME_RATE_HZ)
        rows = 2 * slots * row_bytes(self.lm, dtype, window_frames=window_frames)
        beside = 4 * (self.n_parameters - self.lm_parameters)
        return beside + BYTES[dtype] * self.lm_parameters + rows


def count_lm(cfg: LMConfig) -> int:
    """Parameters of a language model of this shape, from the shapes alone."""
    dim = cfg.dim
    attention, norm = 4 * dim * dim, 2 * dim
    layer = attention + 2 * dim * cfg.ffn_dim + 2 * norm
    if cfg.fuse == "cross":
        layer += attention + norm
    tokens = cfg.n_codebooks * (cfg.card + 1) * dim + cfg.n_codebooks * cfg.card * dim
    text = (cfg.text_dim + 1) * dim
    return cfg.n_layers * layer + norm + tokens + text + _count_audio(cfg)


def _count_audio(cfg: LMConfig) -> int:
    if cfg.chroma is not None:
        return (cfg.chroma.n_chroma + 1) * cfg.dim
    if cfg.style is None:
        return 0
    width = cfg.style.dim
    layer = 4 * width * width + 2 * width * cfg.style.ffn_dim + 4 * width
    embed = (cfg.style.feature_dim + 1) * width  # the quantiser's entries are no parameters
    return embed + cfg.style.n_layers * layer + (width + 1) * cfg.dim


def row_bytes(
    cfg: LMConfig,
    dtype: str,
    *,
    window_frames: int = int(MAX_DURATION_S * FRAME_RATE_HZ),
    max_text_tokens: int = MAX_TEXT_TOKENS,
    max_audio_frames: int | None = None,
    longest_text: bool = False,
) -> int:
    """Bytes of the caches of one row, keys and values of all layers, with caches in `dtype`.

    Cross-attention starts with 64 cells and grows with the longest text so far; `longest_text`
    counts the cells of a text of `max_text_tokens` instead.
    """
    n_audio = cfg.max_audio_frames if max_audio_frames is None else max_audio_frames
    n_prefix = 0 if cfg.fuse == "cross" else n_audio + max_text_tokens
    cells = _round_up(n_prefix + window_frames + cfg.max_delay + 1)
    if cfg.fuse == "cross":
        cells += _round_up(max_text_tokens) if longest_text else KEY_BLOCK
    return 2 * cfg.n_layers * cfg.dim * cells * BYTES[dtype]


def _round_up(n: int) -> int:
    return -(-n // KEY_BLOCK) * KEY_BLOCK


def _member(
    name: str, dim: int, n_layers: int, kind: Kind = "text", *, stereo: bool = False
) -> Member:
    lm = LMConfig(
        dim=dim,
        n_heads=dim // 64,
        n_layers=n_layers,
        ffn_dim=4 * dim,
        n_codebooks=8 if stereo else 4,
        card=CARD,
        delays=(0, 0, 1, 1, 2, 2, 3, 3) if stereo else (0, 1, 2, 3),
        text_dim=TEXT_DIM,
        fuse="cross" if kind == "text" else "prepend",
        chroma=CHROMA if kind == "melody" else None,
        style=StyleConfig() if kind == "style" else None,
    )
    return Member(name, f"facebook/musicgen-{name}", 2 if stereo else 1, lm)


AUDIOGEN = Member(
    "audiogen-medium",
    "facebook/audiogen-medium",
    channels=1,
    lm=LMConfig(
        dim=1536, n_heads=24, n_layers=48, ffn_dim=6144, n_codebooks=4, card=CARD,
        delays=(0, 1, 2, 3), text_dim=1024, fuse="cross",
    ),
    sample_rate_hz=16_000,
    window_s=10.0,
    stride_s=2.0,
    t5_parameters=T5_LARGE_PARAMETERS,
    codec_parameters=CODEC_16KHZ_PARAMETERS,
)  # fmt: skip
FAMILY: dict[str, Member] = {
    member.name: member
    for member in (
        _member("small", 1024, 24),
        _member("medium", 1536, 48),
        _member("large", 2048, 48),
        _member("melody", 1536, 48, "melody"),
        _member("melody-large", 2048, 48, "melody"),
        _member("style", 1536, 48, "style"),
        _member("stereo-small", 1024, 24, stereo=True),
        _member("stereo-medium", 1536, 48, stereo=True),
        _member("stereo-large", 2048, 48, stereo=True),
        _member("stereo-melody", 1536, 48, "melody", stereo=True),
        _member("stereo-melody-large", 2048, 48, "melody", stereo=True),
        AUDIOGEN,
    )
}
SHORT_NAMES: dict[str, str] = {name: member.hub_id for name, member in FAMILY.items()}
