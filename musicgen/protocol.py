"""What the engine is asked for, what it answers, and what it refuses."""

from dataclasses import dataclass, field

from torch import Tensor

from musicgen.conditioning.fuser import ClipConditions
from musicgen.config import GUIDANCE_ROWS, LMConfig, SamplingParams


class NonFiniteLogitsError(RuntimeError):
    """A clip's logits became NaN or infinite."""


@dataclass(frozen=True)
class Request:
    """One clip to generate.

    Attributes:
        key: Names the clip in its result.
        conditions: What it is conditioned on.
        n_frames: Its length T, the prompt included.
        seed: Key of its noise, 0 .. 2^63 - 1.
        sampling: How its tokens are chosen and guided.
        prompt_codes: Codes [K, T0] that it continues, T0 < T, or None.
    """

    key: str
    conditions: ClipConditions
    n_frames: int
    seed: int
    sampling: SamplingParams = field(default_factory=SamplingParams)
    prompt_codes: Tensor | None = None

    @property
    def n_prompt(self) -> int:
        """Frames T0 that are given."""
        return 0 if self.prompt_codes is None else self.prompt_codes.shape[-1]

    @property
    def n_rows(self) -> int:
        """Rows that the clip occupies."""
        return GUIDANCE_ROWS[self.sampling.guidance]


@dataclass(frozen=True)
class Finished:
    """The outcome of one request.

    Attributes:
        key: The request's.
        codes: int64 [K, T] on the CPU, the prompt included; None if the clip failed.
        error: Why it failed, or None.
        n_steps: Decode steps that it took part in.
    """

    key: str
    codes: Tensor | None
    error: Exception | None
    n_steps: int


@dataclass(frozen=True)
class Limits:
    """What an engine was made for.

    Attributes:
        n_rows: Rows R.
        max_frames: Longest clip.
        max_text_tokens: Longest text.
    """

    n_rows: int
    max_frames: int
    max_text_tokens: int


def check_request(request: Request, cfg: LMConfig, limits: Limits) -> None:
    """Raise ValueError for a request that could never run."""
    where = f"clip {request.key}"
    if request.n_rows > limits.n_rows:
        raise ValueError(
            f"{where}: {request.sampling.guidance} guidance needs {request.n_rows} rows, the "
            f"engine has {limits.n_rows} (2 per slot); raise --slots to "
            f"{-(-request.n_rows // 2)} or more"
        )
    if not 1 <= request.n_frames <= limits.max_frames:
        raise ValueError(f"{where}: n_frames={request.n_frames} must lie in 1..{limits.max_frames}")
    if not 0 <= request.seed < 2**63:
        raise ValueError(f"{where}: seed={request.seed} must lie in 0..2^63-1")
    _check_prompt(request, cfg, where)
    _check_text(request.conditions.text, cfg, limits, where)
    _check_melody(request.conditions, cfg, where)


def _check_prompt(request: Request, cfg: LMConfig, where: str) -> None:
    codes = request.prompt_codes
    if codes is None:
        return
    if codes.dim() != 2 or codes.shape[0] != cfg.n_codebooks or not codes.shape[1]:
        raise ValueError(
            f"{where}: prompt_codes {tuple(codes.shape)} must be [{cfg.n_codebooks}, T0 >= 1]"
        )
    if codes.shape[1] >= request.n_frames:
        raise ValueError(
            f"{where}: the prompt has {codes.shape[1]} frames, the whole clip only "
            f"{request.n_frames}; lengthen the clip or shorten the prompt"
        )
    if int(codes.min()) < 0 or int(codes.max()) >= cfg.card:
        raise ValueError(f"{where}: prompt_codes must lie in 0..{cfg.card - 1}")


def _check_text(text: Tensor, cfg: LMConfig, limits: Limits, where: str) -> None:
    if text.dim() != 2 or text.shape[1] != cfg.dim or not len(text):
        raise ValueError(f"{where}: text {tuple(text.shape)} must be [L >= 1, {cfg.dim}]")
    if len(text) > limits.max_text_tokens:
        raise ValueError(
            f"{where}: the prompt has {len(text)} tokens, the engine takes "
            f"{limits.max_text_tokens}; shorten the prompt"
        )


def _check_melody(conditions: ClipConditions, cfg: LMConfig, where: str) -> None:
    if cfg.chroma is None:
        if conditions.audio is not None:
            raise ValueError(f"{where}: this model takes no melody; use a melody model")
        return
    expected = (cfg.chroma.chroma_length, cfg.dim)
    for name, part in (("audio", conditions.audio), ("null_audio", conditions.null_audio)):
        if part is not None and tuple(part.shape) != expected:
            raise ValueError(f"{where}: {name} {tuple(part.shape)} must be {list(expected)}")
    if conditions.null_audio is None:
        raise ValueError(f"{where}: a melody model needs null_audio {list(expected)}")
