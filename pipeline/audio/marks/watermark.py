"""AudioSeal: a watermark that its detector finds in the samples, also after coding and cutting.

The package and its weights are not part of this program. AudioSeal hears 16 kHz; only the mark is
resampled and added to the clip at the clip's own rate. torch is imported where it is used.
"""

from __future__ import annotations

import hashlib
import math
import os
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.audio.marks.settings import GENERATOR, MESSAGE_BITS, MarksError, MarksSettings

if TYPE_CHECKING:
    from torch import Tensor

MARK_HZ = 16_000  # what AudioSeal was trained at
PIECE_SAMPLES = 30 * MARK_HZ  # marked at once: memory does not grow with the clip
SHORTEST_PIECE = MARK_HZ  # what is shorter joins the piece before it
PLACES = ("AUDIOSEAL_CACHE_DIR", "XDG_CACHE_HOME")  # where AudioSeal looks, in this order


class Watermark:
    """Adds AudioSeal's mark to clips; several threads may use it.

    Args:
        model: AudioSeal's generator (`AudioSeal.load_generator`).
        strength: Factor of the mark.
        message: 16 bits that it carries.
    """

    def __init__(self, model: Any, strength: float = 1.0, message: int = 0) -> None:
        import torch

        self._model, self.strength = model.eval(), strength
        bits = [message >> bit & 1 for bit in reversed(range(MESSAGE_BITS))]
        self._message = torch.tensor([bits])  # without one, AudioSeal draws one at random
        self.name = f"{GENERATOR} (audioseal {_release()}, weights {_digest(model)})"

    def __call__(self, wav: NDArray[np.float32], sample_rate_hz: int) -> NDArray[np.float32]:
        """The marked samples of `wav` [C, N]; each channel carries the same message."""
        import torch
        from torchaudio.functional import resample

        with torch.inference_mode():
            heard = torch.from_numpy(wav)  # [C, N]
            mark = self._mark(resample(heard, sample_rate_hz, MARK_HZ))  # [C, n]
            mark = resample(mark, MARK_HZ, sample_rate_hz)[:, : wav.shape[1]]
            mark = torch.nn.functional.pad(mark, (0, wav.shape[1] - mark.shape[1]))
            marked: NDArray[np.float32] = (heard + self.strength * mark).numpy()
        return marked

    def _mark(self, heard: Tensor) -> Tensor:
        """The mark of samples [C, n] at 16 kHz: [C, n]."""
        import torch

        n_samples = heard.shape[1]
        n_pieces = max(1, math.ceil((n_samples - SHORTEST_PIECE) / PIECE_SAMPLES))
        edges = [*range(0, n_pieces * PIECE_SAMPLES, PIECE_SAMPLES), n_samples]
        message = self._message.expand(len(heard), -1)
        marks = [
            self._model.get_watermark(
                heard[:, None, start:stop],  # [C, 1, n]
                sample_rate=MARK_HZ,
                message=message,
            )[:, 0]
            for start, stop in pairwise(edges)
        ]
        return torch.cat(marks, dim=1)


def load_watermark(settings: MarksSettings) -> Watermark | None:
    """The watermark of a job; None without one.

    Raises:
        MarksError: The package or its weights are missing; the message says where they belong.
    """
    if settings.watermark == "none":
        return None
    settings.check_packages()
    # Read when the package is imported: else it compiles its layers for minutes, in each process.
    os.environ.setdefault("NO_TORCH_COMPILE", "1")
    from audioseal import AudioSeal

    try:
        model = AudioSeal.load_generator(GENERATOR)
    except Exception as error:  # of its own, of torch, of the network, of the file
        reason = str(error).partition("\n")[0]
        raise MarksError(
            f"--watermark audioseal: the weights of {GENERATOR} can't be loaded "
            f"({type(error).__name__}: {reason}); AudioSeal looks for them in {weights_folder()} "
            "and fetches them from huggingface.co/facebook/audioseal where they are missing: give "
            f"this node the network or the files, or set {PLACES[0]}"
        ) from error
    return Watermark(model, settings.watermark_strength, settings.watermark_message)


def weights_folder() -> str:
    """Where AudioSeal keeps its weights on this machine."""
    place = next((os.environ[name] for name in PLACES if os.environ.get(name)), None)
    return os.path.join(place or os.path.expanduser("~/.cache"), "audioseal")  # noqa: PTH111, PTH118


def _release() -> str:
    try:
        return version("audioseal")
    except PackageNotFoundError:
        return "unknown"


def _digest(model: Any) -> str:
    """16 hex digits over the weights, which the package does not name by version."""
    found = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]
