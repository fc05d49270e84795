"""Which clips wait, which ones run, in which rows, and which one is admitted next.

The scheduler is bookkeeping on the host: it touches no weights and no caches. Clips are admitted in
the order of submission, or the longest first; a clip that is too wide for the free rows holds up
those behind it, so that none waits for ever. A clip's leading row, which sees the text and whose
tokens are sampled, is the first free one; the rows that guidance compares it with are the last free
ones. A clip of several windows returns to the head of the queue after each of them.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from musicgen.engine.request import Request
from musicgen.windows import Window


@dataclass(eq=False)
class ClipProgress:
    """A request and what has been made of it.

    Attributes:
        request: The clip.
        codes: The codes [K, known] that are known so far, the prompt included, or None.
        n_windows: Windows that are complete.
        n_steps: Decode steps that the clip has taken part in.
    """

    request: Request
    codes: Tensor | None
    n_windows: int = 0
    n_steps: int = 0

    @property
    def window(self) -> Window:
        """The window that runs now, or next."""
        return self.request.plan[self.n_windows]

    @property
    def n_frames_left(self) -> int:
        """Frames that the remaining windows will add."""
        return sum(window.n_new for window in self.request.plan[self.n_windows :])

    @property
    def complete(self) -> bool:
        """Whether all windows are complete."""
        return self.n_windows == len(self.request.plan)

    def add(self, codes: Tensor) -> None:
        """Record the `codes` [K, T] of the current window and move on to the next one."""
        new = codes[:, self.window.n_prompt :]
        self.codes = new if self.codes is None else torch.cat([self.codes, new], dim=1)
        self.n_windows += 1


@dataclass(eq=False)
class RunningClip:
    """A clip that holds rows.

    Attributes:
        progress: The clip.
        rows: Its rows, the leading one first.
        n_text: Cells of its text.
        position: The cache cell that its next step fills.
        n_steps_left: Steps until its window is complete.
    """

    progress: ClipProgress
    rows: list[int]
    n_text: int
    position: int
    n_steps_left: int


class Scheduler:
    """The queue of an engine and its rows.

    Attributes:
        n_rows: Rows of the engine.
        longest_first: Whether the longest waiting clip is admitted next; else the first one.
        waiting: Clips that wait for rows, the first to be admitted first.
        running: Clips that hold rows, in the order of admission.
        free_rows: Rows that no clip holds, ascending.
    """

    def __init__(self, n_rows: int, *, longest_first: bool = False) -> None:
        self.n_rows = n_rows
        self.longest_first = longest_first
        self.waiting: deque[ClipProgress] = deque()
        self.running: list[RunningClip] = []
        self.free_rows = list(range(n_rows))

    @property
    def has_room(self) -> bool:
        """Whether a row is free that no waiting clip will take."""
        return sum(clip.request.n_rows for clip in self.waiting) < len(self.free_rows)

    def submit(self, request: Request) -> None:
        """Queue a request behind all others."""
        self.waiting.append(ClipProgress(request, request.prompt_codes))

    def return_to_queue(self, clips: Sequence[ClipProgress]) -> None:
        """Queue `clips`, which have windows left, before all others and in their own order."""
        self.waiting.extendleft(reversed(clips))

    def next_clip(self) -> ClipProgress | None:
        """Take the clip that is admitted next out of the queue; None if there are no rows for it.

        It holds no rows yet: `take_rows` reserves them.
        """
        if not self.waiting:
            return None
        clip = self.waiting[0]
        if self.longest_first:
            clip = max(self.waiting, key=lambda waiting: waiting.n_frames_left)
        if clip.request.n_rows > len(self.free_rows):
            return None
        self.waiting.remove(clip)
        return clip

    def take_rows(self, n: int) -> list[int]:
        """Reserve the first free row and the last `n` - 1 ones; the first of them leads."""
        lead = self.free_rows.pop(0)
        return [lead, *(self.free_rows.pop() for _ in range(n - 1))]

    def end(self, clip: RunningClip) -> None:
        """Free the rows of a clip."""
        self.running.remove(clip)
        self.free_rows = sorted(self.free_rows + clip.rows)

    def drop_waiting(self, key: str) -> int:
        """Take the clips called `key` out of the queue and return how many there were."""
        before = len(self.waiting)
        self.waiting = deque(clip for clip in self.waiting if clip.request.key != key)
        return before - len(self.waiting)

    def clear(self) -> None:
        """Forget every clip and free all rows."""
        self.waiting.clear()
        self.running.clear()
        self.free_rows = list(range(self.n_rows))
