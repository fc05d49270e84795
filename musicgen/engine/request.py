"""Requests to the engine, its outputs, options and limits, and the checks of a request."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from musicgen.conditioning.fuser import ClipConditions
from musicgen.config import GUIDANCE_ROWS, LMConfig, SamplingParams
from musicgen.engine.step import round_up
from musicgen.lm import delay_pattern
from musicgen.lm.sampling import uniform
from musicgen.windows import Window

ROWS_PER_SLOT = 2


class NonFiniteLogitsError(RuntimeError):
    """The logits of a clip became NaN or infinite."""


@dataclass(frozen=True, eq=False)
class WindowStart:
    """What a window's row begins with, and what it was made of.

    Attributes:
        seed: The clip's.
        window: Which one.
        codes: All codes of the clip so far [K, known], or None.
        table: Tokens and noise, int64 [2, K, S] on the host, the noise by its bits, in memory from
            which a GPU copies without waiting.
    """

    seed: int
    window: Window
    codes: Tensor | None
    table: Tensor

    @classmethod
    def of(
        cls,
        cfg: LMConfig,
        seed: int,
        window: Window,
        codes: Tensor | None,
        device: torch.device,
    ) -> "WindowStart":
        """That of a window of a model of that shape, for an engine on `device`."""
        opening = None if codes is None else codes[:, window.first_frame :]  # [K, T0]
        tokens = delay_pattern.open_sequence(
            opening, window.n_frames, cfg.delays, cfg.special_token
        )
        noise = uniform(seed, cfg.n_codebooks, window.n_frames, window.first_frame)
        noise = delay_pattern.build(noise, cfg.delays, 0)  # float64 [K, S]
        table = torch.stack([tokens, noise.view(torch.int64)])
        if device.type == "cuda":
            table = table.pin_memory()
        return cls(seed, window, codes, table)

    def fits(self, seed: int, window: Window, codes: Tensor | None) -> bool:
        """Whether it was made of these; a request that was copied with changes may differ."""
        return (seed, window) == (self.seed, self.window) and codes is self.codes


@dataclass(frozen=True)
class Request:
    """One clip to generate.

    Attributes:
        key: Names the clip in its output.
        conditions: Text and audio that condition its first window.
        n_frames: Its length T in frames, the prompt included.
        seed: Key of its noise, 0 .. 2^63 - 1.
        sampling: How its tokens are chosen and guided.
        prompt_codes: Codes [K, T0] that it continues, T0 < T, or None.
        windows: The windows that it is made in; an empty tuple is one window over the whole clip.
        later_conditions: Conditions of the window with a given index >= 1, computed when that
            window begins; None keeps those of the first.
        start: The beginning of the first window, made beforehand; the engine makes one where it is
            None or does not fit.
        ready: On a GPU, the event (`cuda.mark`) after which the conditions are there; None takes
            the moment of `Engine.submit`.
    """

    key: str
    conditions: ClipConditions
    n_frames: int
    seed: int
    sampling: SamplingParams = field(default_factory=SamplingParams)
    prompt_codes: Tensor | None = None
    windows: tuple[Window, ...] = ()
    later_conditions: Callable[[int], ClipConditions] | None = None
    start: WindowStart | None = None
    ready: Any = None

    @property
    def plan(self) -> tuple[Window, ...]:
        """The windows of the clip, at least one."""
        return self.windows or (Window(0, 0, self.n_frames, self.n_prompt),)

    def n_steps(self, max_delay: int) -> int:
        """Decode steps of all windows, for codebooks that lag by up to `max_delay` steps."""
        return sum(window.n_new + max_delay for window in self.plan)

    def conditions_of(self, window: Window) -> ClipConditions:
        """Text and audio that condition `window`."""
        if window.index == 0 or self.later_conditions is None:
            return self.conditions
        return self.later_conditions(window.index)

    @property
    def n_prompt(self) -> int:
        """Frames T0 of the prompt."""
        return 0 if self.prompt_codes is None else self.prompt_codes.shape[-1]

    @property
    def n_rows(self) -> int:
        """Rows that the clip occupies."""
        return GUIDANCE_ROWS[self.sampling.guidance]


@dataclass(frozen=True)
class EngineOutput:
    """The outcome of one request.

    Attributes:
        key: The request's.
        codes: int64 [K, T] on the CPU, the prompt included; None if the clip failed.
        error: The reason if the clip failed, else None.
        n_steps: Decode steps that the clip took part in, over all of its windows.
    """

    key: str
    codes: Tensor | None
    error: Exception | None
    n_steps: int


@dataclass(frozen=True)
class EngineOptions:
    """What is fixed when an engine is made.

    Attributes:
        slots: Clips with single guidance that run side by side.
        max_frames: Frames of the longest window.
        max_text_tokens: Tokens of the longest text.
        max_audio_frames: Frames of the longest melody or style prefix; None takes the model's.
        dtype: fp32, bf16, or (GPU only) fp16.
        packed: Whether linear layers run from packed weights; None where the device can.
        graphs: Whether steps run as CUDA graphs; None where there is CUDA.
        kernels: What computes a step: `eager`, torch's own operators; `triton`, fused kernels;
            `auto`, those where the device is a CUDA GPU and Triton is installed.
        longest_first: Whether the longest waiting clip is admitted next; else the first one.
    """

    slots: int
    max_frames: int
    max_text_tokens: int = 512
    max_audio_frames: int | None = None
    dtype: str = "fp32"
    packed: bool | None = None
    graphs: bool | None = None
    kernels: str = "auto"
    longest_first: bool = False

    def __post_init__(self) -> None:
        if self.slots < 1:
            raise ValueError(f"--slots {self.slots}: the engine needs at least 1")

    @property
    def n_rows(self) -> int:
        """Rows R of the engine."""
        return ROWS_PER_SLOT * self.slots


@dataclass(frozen=True)
class Limits:
    """The largest request that an engine can run.

    Attributes:
        n_rows: Rows R.
        max_frames: Longest window.
        max_text_tokens: Longest text.
        max_audio_frames: Longest melody or style prefix.
    """

    n_rows: int
    max_frames: int
    max_text_tokens: int
    max_audio_frames: int

    def n_cells(self, cfg: LMConfig) -> int:
        """Cache cells of a row: the longest prefix and window, in whole blocks."""
        n_prefix = 0 if cfg.fuse == "cross" else self.max_audio_frames + self.max_text_tokens
        return round_up(n_prefix + delay_pattern.n_steps(self.max_frames, cfg.delays))


def check_request(request: Request, cfg: LMConfig, limits: Limits) -> None:
    """Raise ValueError for a request that could never run."""
    where = f"clip {request.key}"
    if request.n_rows > limits.n_rows:
        raise ValueError(
            f"{where}: {request.sampling.guidance} guidance needs {request.n_rows} rows, the "
            f"engine has {limits.n_rows} (2 per slot); raise --slots to "
            f"{-(-request.n_rows // 2)} or more"
        )
    if not 0 <= request.seed < 2**63:
        raise ValueError(f"{where}: seed={request.seed} must lie in 0..2^63-1")
    _check_prompt(request, cfg, where)
    _check_windows(request, limits, where)
    check_conditions(request.conditions, cfg, limits, where)


def check_conditions(conditions: ClipConditions, cfg: LMConfig, limits: Limits, where: str) -> None:
    """Raise ValueError for conditions that this model can't take."""
    _check_text(conditions.text, cfg, limits, where)
    _check_audio(conditions, cfg, limits, where)


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


def _check_windows(request: Request, limits: Limits, where: str) -> None:
    known = request.n_prompt
    for window in request.plan:
        if not 1 <= window.n_frames <= limits.max_frames:
            name = "n_frames" if not request.windows else f"n_frames of window {window.index}"
            raise ValueError(
                f"{where}: {name}={window.n_frames} must lie in 1..{limits.max_frames}"
            )
        if window.first_frame + window.n_prompt != known or window.n_new < 1:
            raise ValueError(f"{where}: {window} does not begin where frame {known} is the next")
        known = window.end
    if known != request.n_frames:
        raise ValueError(f"{where}: its windows end at frame {known} of {request.n_frames}")


def _check_text(text: Tensor, cfg: LMConfig, limits: Limits, where: str) -> None:
    if text.dim() != 2 or text.shape[1] != cfg.dim or not len(text):
        raise ValueError(f"{where}: text {tuple(text.shape)} must be [L >= 1, {cfg.dim}]")
    if len(text) > limits.max_text_tokens:
        raise ValueError(
            f"{where}: the prompt has {len(text)} tokens, the engine takes "
            f"{limits.max_text_tokens}; shorten the prompt"
        )


def _check_audio(conditions: ClipConditions, cfg: LMConfig, limits: Limits, where: str) -> None:
    audio, null = conditions.audio, conditions.null_audio
    if not cfg.max_audio_frames:
        if audio is not None:
            raise ValueError(f"{where}: this model takes no melody; use a melody or style model")
        return
    kind, at_most = ("melody", "") if cfg.chroma is not None else ("style", "up to ")
    wanted = f"[{at_most}{limits.max_audio_frames}, {cfg.dim}]"
    if null is None:
        raise ValueError(f"{where}: a {kind} model needs null_audio {wanted}")
    for name, part in (("null_audio", null), ("audio", audio)):
        if part is None:
            continue
        right = part.dim() == 2 and part.shape[1] == cfg.dim
        if not right or not _fits(len(part), cfg, limits):
            raise ValueError(f"{where}: {name} {tuple(part.shape)} must be {wanted}")
    if audio is not None and len(audio) != len(null):
        raise ValueError(
            f"{where}: audio has {len(audio)} frames, null_audio {len(null)}; they stand for each "
            "other and must be of one length"
        )


def _fits(n_audio: int, cfg: LMConfig, limits: Limits) -> bool:
    """Whether a prefix has a length that the model can take: a melody's is always the same."""
    if cfg.chroma is not None:
        return n_audio == cfg.chroma.chroma_length
    return 1 <= n_audio <= limits.max_audio_frames
