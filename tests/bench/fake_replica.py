"""A replica without a model: every clip is done at once, and its file is the same few bytes.

All else is the product's: Ray, the prepare pool, the replica's threads, the attempt record, rows,
parts and the ledger.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch

from musicgen.engine.engine import ROWS_PER_SLOT
from musicgen.engine.request import EngineOutput
from pipeline.replica import decode_loop, postprocess, worker
from pipeline.replica.actor import Replica
from pipeline.replica.messages import ReplicaSettings
from pipeline.replica.task import ClipTask

FILE = b"the same bytes for each clip " * 40
WAVEFORM = 0.1 * torch.sin(torch.arange(3_200) / 10).reshape(1, -1)  # [C, N] 0.1 s
CODES = torch.zeros(4, 5, dtype=torch.int64)  # [K, T]


class FakeEngine:
    """The engine's methods that the decode loop uses; a step finishes all that is in it."""

    def __init__(self, slots: int) -> None:
        self.n_rows = ROWS_PER_SLOT * slots
        self.n_steps = 0
        self.n_busy_rows = 0
        self.on_admit: Callable[[str], None] = lambda key: None
        self._keys: list[str] = []

    @property
    def has_room(self) -> bool:
        """Whether a request would enter at the next step."""
        return len(self._keys) * ROWS_PER_SLOT < self.n_rows

    def submit(self, request: Any) -> None:
        """Takes a request."""
        self._keys.append(request.key)

    def step(self) -> list[EngineOutput]:
        """Admits and finishes everything."""
        keys, self._keys = self._keys, []
        for key in keys:
            self.on_admit(key)
        self.n_steps += 1
        self.n_busy_rows += ROWS_PER_SLOT * len(keys)
        return [EngineOutput(key, CODES, None, 1) for key in keys]

    def close(self) -> None:
        """Nothing."""


class FakeReplica(Replica):
    """The real replica around a fake engine, without codec, loudness and encoding."""

    def __init__(self, settings: ReplicaSettings) -> None:
        slots = settings.config.engine.slots
        decode_loop.make_engine = lambda model, config: FakeEngine(int(slots))  # type: ignore
        worker.request_of = _request_of  # type: ignore[assignment]
        made = postprocess.measure(WAVEFORM.numpy(), 32_000)
        postprocess.measure = lambda wav, rate: made
        postprocess.encode = lambda *_, **__: FILE  # type: ignore[assignment]
        super().__init__(settings)
        assert self.worker is not None, self.broken
        self.worker.model.decode = lambda codes, piece_frames: WAVEFORM  # type: ignore[method-assign]


def _request_of(task: ClipTask, model: Any) -> Any:
    return SimpleNamespace(key=task.spec.clip_id)
