"""Runs a list of clips to its end, for `MusicGen.generate` and the other methods like it."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from heapq import heappop, heappush

from torch import Tensor

from musicgen.engine.engine import ROWS_PER_SLOT, Engine, Request

logger = logging.getLogger(__name__)

MAX_SLOTS = 8
LOGGED_STEPS = 50

Progress = Callable[[int, int], None]  # (steps done, steps in all)


class Runner:
    """Runs requests side by side, whatever their lengths and guidance.

    Args:
        make_engine: Makes an engine of a number of slots; it is kept while that number stays.
        max_slots: Clips that run at once; the others wait until one of them ends.
    """

    def __init__(self, make_engine: Callable[[int], Engine], max_slots: int = MAX_SLOTS) -> None:
        self.max_slots = max_slots
        self._make_engine = make_engine
        self._engine: tuple[int, Engine] | None = None

    def forget(self) -> None:
        """Drop the engine, so that the next run makes a new one."""
        self._engine = None

    @contextmanager
    def apart(self, needed: bool = True) -> Iterator[None]:
        """Within this context, if it is needed, the engine is another one, which is then dropped:
        for a run whose engine is larger than usual."""
        if needed:
            self.forget()
        try:
            yield
        finally:
            if needed:
                self.forget()

    def run(
        self, requests: Sequence[Request], max_delay: int, on_progress: Progress | None
    ) -> list[Tensor]:
        """Run all requests, the longest first.

        Args:
            requests: One per clip, with different keys.
            max_delay: Largest delay of the model's codebooks, in steps.
            on_progress: Called after every step with the steps done and the steps in all.

        Returns:
            Codes [K, T] of each request, in the order of `requests`.

        Raises:
            RuntimeError: A clip failed; the message names it and says why.
        """
        longest_first = sorted(requests, key=lambda request: -request.n_frames)
        widest = sorted((request.n_rows for request in requests), reverse=True)
        slots = -(-sum(widest[: self.max_slots]) // ROWS_PER_SLOT)
        if self._engine is None or self._engine[0] != slots:
            self._engine = None  # its memory is free before the next one is made
            self._engine = (slots, self._make_engine(slots))
        engine = self._engine[1]
        n_total = count_steps(longest_first, engine.n_rows, max_delay)
        codes: dict[str, Tensor] = {}
        n_done = 0
        try:
            for request in longest_first:
                engine.submit(request)
            while len(codes) < len(requests):
                for clip in engine.step():
                    if clip.codes is None:
                        raise RuntimeError(f"clip {clip.key}: {clip.error}") from clip.error
                    codes[clip.key] = clip.codes
                n_done += 1
                if on_progress is not None:
                    on_progress(n_done, n_total)
        except BaseException:
            self._engine = None  # it still holds clips of this run
            raise
        return [codes[request.key] for request in requests]


def count_steps(requests: Sequence[Request], n_rows: int, max_delay: int) -> int:
    """Steps that an engine of `n_rows` rows takes for `requests`, admitted in their order."""
    running: list[tuple[int, int]] = []  # (step at which a clip ends, its rows), soonest first
    now, free = 0, n_rows
    for request in requests:
        while free < request.n_rows:
            now, rows = heappop(running)
            free += rows
        heappush(running, (now + request.n_steps(max_delay), request.n_rows))
        free -= request.n_rows
    return max(end for end, _ in running)


def log_progress(n_done: int, n_total: int) -> None:
    """Logs every 50th step and the last one."""
    if n_done % LOGGED_STEPS == 0 or n_done == n_total:
        logger.info("step %d of %d", n_done, n_total)
