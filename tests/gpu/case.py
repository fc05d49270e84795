"""What a check is, what it is given, and what comes of it."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

Figures = dict[str, Any]
Verdict = Literal["PASS", "FAIL", "SKIP"]


class CheckSkipped(Exception):  # noqa: N818
    """The check does not apply here; the message says why."""


class CheckFailed(Exception):  # noqa: N818
    """The check found a fault.

    Args:
        message: What, where, and by how much.
        figures: What was measured all the same.
    """

    def __init__(self, message: str, figures: Figures | None = None) -> None:
        super().__init__(message)
        self.figures = figures or {}


def require(held: bool, message: str, figures: Figures | None = None) -> None:
    """Fail the check unless `held`."""
    if not held:
        raise CheckFailed(message, figures)


@dataclass(frozen=True)
class Context:
    """Where checks run.

    Attributes:
        device: Of the models.
        tiny: Whether models are tiny: the script is tried, nothing is measured.
        ends_at: When the running check should be done, monotonic seconds.
    """

    device: "torch.device"
    tiny: bool
    ends_at: float = float("inf")

    @property
    def on_cuda(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.type == "cuda"

    @property
    def dtype(self) -> str:
        """The number format of a job on this device."""
        return "fp16" if self.on_cuda else "fp32"

    @property
    def left_s(self) -> float:
        """Seconds that the running check has left."""
        return self.ends_at - time.monotonic()

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.on_cuda:
            import torch  # the process that only asks for outcomes does without

            torch.cuda.synchronize(self.device)

    def free_bytes(self) -> int:
        """Memory of the device that is free; without a GPU, enough for what is tiny."""
        if not self.on_cuda:
            return 1 << 30
        import torch

        return torch.cuda.mem_get_info(self.device)[0]


@dataclass(frozen=True)
class Check:
    """One question to the device.

    Attributes:
        name: By which the report calls it.
        run: Answers it with figures, or raises `CheckFailed` or `CheckSkipped`.
        budget_s: After three times as many seconds it counts as hung. A check that measures stops
            by itself when they are over.
        needs_cuda: Whether it says nothing on a CPU.
    """

    name: str
    run: Callable[[Context], Figures]
    budget_s: float
    needs_cuda: bool = False


@dataclass(frozen=True)
class Outcome:
    """What came of a check.

    Attributes:
        name: The check's.
        verdict: PASS, FAIL or SKIP.
        seconds: That it took.
        message: Why it failed or was skipped.
        figures: What it measured.
    """

    name: str
    verdict: Verdict
    seconds: float
    message: str = ""
    figures: Figures = field(default_factory=dict)


def outcome_of(check: Check, context: Context) -> Outcome:
    """Run a check; whatever it raises is its outcome."""
    started = time.monotonic()
    limited = Context(context.device, context.tiny, started + check.budget_s)
    if check.needs_cuda and not context.on_cuda:
        return Outcome(check.name, "SKIP", 0.0, "needs a CUDA device")
    verdict: Verdict = "PASS"
    message, figures = "", {}
    try:
        figures = check.run(limited)
        context.wait()
    except CheckSkipped as reason:
        verdict, message = "SKIP", str(reason)
    except CheckFailed as fault:
        verdict, message, figures = "FAIL", str(fault), fault.figures
    except Exception as error:
        verdict, message = "FAIL", f"{type(error).__name__}: {error}"
    return Outcome(check.name, verdict, time.monotonic() - started, message, figures)
