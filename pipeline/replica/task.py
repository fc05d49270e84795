"""A row of a Ray task on its way through a replica, and what the engine is asked for it."""

from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from musicgen.config import SamplingParams
from musicgen.engine.engine import Request
from musicgen.model import MusicGen
from musicgen.request_builder import GenerationRequest
from pipeline.prepare.actor import SAMPLING


@dataclass
class ClipTask:
    """One row on its way through the stations."""

    spec: dict[str, Any]
    prepared: dict[str, Any]  # the row of the prepared table, extras included
    ray_task: "RayTask"
    twins: list["ClipTask"] = field(
        default_factory=list
    )  # the same clip, asked for again meanwhile
    request: Request | None = None  # while it is in the engine
    codes: torch.Tensor | None = None  # [K, T]
    retake: int = 0  # how often the clip was made again
    admitted_at: float | None = None  # when it entered the engine, monotonic seconds

    @property
    def clip_id(self) -> str:
        clip_id: str = self.spec["clip_id"]
        return clip_id


class RayTask:
    """The rows of one Ray task: done when each of them is durable."""

    def __init__(self, n_rows: int) -> None:
        self.unfinished = n_rows  # rows that are not yet waiting for a commit
        self.uncommitted = n_rows
        self.statuses: list[dict[str, Any]] = []
        self.done: Future[None] = Future()
        if not n_rows:
            self.done.set_result(None)


def request_of(task: ClipTask, model: MusicGen) -> Request:
    """What the engine needs for a clip: text, melody, style and opening are encoded here.

    Raises:
        ValueError: The row asks for what the model can't make.
    """
    spec, prepared = task.spec, task.prepared
    generation = spec["generation"]
    melody = None
    if prepared["melody"] is not None:
        melody = torch.frombuffer(bytearray(prepared["melody"]), dtype=torch.uint8).long()
        if spec["n_windows"] > 1:
            melody = melody.reshape(spec["n_windows"], -1)
    return model.make_request(
        GenerationRequest(
            key=spec["clip_id"],
            prompt=spec["prompt"],
            n_frames=spec["n_frames"],
            seed=spec["seed_used"],
            sampling=SamplingParams(**{name: generation[name] for name in SAMPLING}),
            melody_chroma=melody,
            style=_samples(prepared["style"], model.audio_channels),
            continuation=_samples(prepared["continuation"], model.audio_channels),
            extend_stride_s=generation["extend_stride_s"],
        )
    )


def _samples(data: bytes | None, channels: int) -> torch.Tensor | None:
    """float32 [C, N] of a reference."""
    if data is None:
        return None
    return torch.from_numpy(np.frombuffer(data, np.float32).copy().reshape(channels, -1))


class DeadlineError(RuntimeError):
    """A clip was not ready in time."""

    def __init__(self, took_s: float, limit_s: float) -> None:
        super().__init__(
            f"taken out of the engine {took_s:.1f} s after its admission, {limit_s:g} s are "
            "allowed: shorten the clip or raise --row-timeout-s, then `musicgen-batch retry`"
        )
