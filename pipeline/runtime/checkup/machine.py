"""All checks of one machine, in the order in which they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from musicgen.config import ModelSource
from pipeline.runtime.checkup import hardware, software, store
from pipeline.runtime.checkup.finding import Finding, timed
from pipeline.runtime.checkup.model import checkpoint


@dataclass(frozen=True)
class Asked:
    """What the checks are to look at beside the machine.

    Attributes:
        model: The checkpoint, if one is named.
        output: Root of the dataset, if one is named.
        storage_options: Of the output.
        needs_gpu: Whether the settings ask for a GPU here; without one they can't run.
    """

    model: ModelSource | None = None
    output: str | None = None
    storage_options: dict[str, Any] = field(default_factory=dict)
    needs_gpu: bool = False


@dataclass
class Machine:
    """The checks of this machine; `weights_hash` is known once they ran."""

    asked: Asked
    weights_hash: str | None = None
    model_bytes: int | None = None
    torch: dict[str, Any] = field(default_factory=dict)

    def findings(self, *, starts_ray: bool = True) -> Iterator[Finding]:
        """Every check, as it comes to its end.

        Args:
            starts_ray: Whether a run would start a Ray of its own here.
        """
        checks: list[Callable[[], Iterator[Finding]]] = [software.python, software.packages]
        checks += [self._torch, self._checkpoint, self._gpus, self._memory]
        if starts_ray:
            checks += [hardware.rays_needs, hardware.ports]
        checks += [self._output, software.optional]
        yield from timed(checks)

    def _torch(self) -> Iterator[Finding]:
        self.torch, found = software.probe_torch()
        yield from found

    def _checkpoint(self) -> Iterator[Finding]:
        if self.asked.model is not None:
            found, self.model_bytes, self.weights_hash = checkpoint(self.asked.model)
            yield from found

    def _gpus(self) -> Iterator[Finding]:
        yield from hardware.gpus(self.torch, self.model_bytes, needed=self.asked.needs_gpu)

    def _memory(self) -> Iterator[Finding]:
        yield from hardware.memory(self.model_bytes)

    def _output(self) -> Iterator[Finding]:
        if self.asked.output is not None:
            yield from store.output(self.asked.output, self.asked.storage_options)
