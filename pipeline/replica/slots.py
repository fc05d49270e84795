"""How many clips a replica holds in flight: as many as asked for, or as fit, or fewer once it has
run out of memory."""

import logging
from typing import Literal

import torch

from musicgen.engine.device_errors import is_out_of_memory
from musicgen.engine.engine import ROWS_PER_SLOT, Engine
from musicgen.loaded import LoadedModel
from musicgen.registry import AUTO_SLOTS_AT_MOST, AUTO_SLOTS_ON_CPU

RESERVE_BYTES = 3 << 30  # for the codec, text encoding and the activations of a step

log = logging.getLogger(__name__)


def make_engine(model: LoadedModel, slots: int | Literal["auto"]) -> Engine:
    """The engine of a replica, with fewer slots than asked for where they do not fit."""
    return _largest(model, auto_slots(model) if slots == "auto" else slots)


def auto_slots(model: LoadedModel) -> int:
    """`--slots auto`: what a GPU has room for; a fixed number on a CPU, which is busy with that."""
    fit = model.slots_that_fit(RESERVE_BYTES)
    if fit is None:
        return AUTO_SLOTS_ON_CPU
    return min(max(fit, 1), AUTO_SLOTS_AT_MOST)


def smaller_engine(model: LoadedModel, n_rows: int, error: BaseException) -> Engine:
    """An engine of half as many slots as the one of `n_rows` rows, which ran out of memory and of
    which nothing may be left by now."""
    _empty_cache(model)
    return _largest(model, halve(n_rows // ROWS_PER_SLOT, error))


def _empty_cache(model: LoadedModel) -> None:
    """Gives memory that torch holds and does not use back to the device."""
    if model.device.type == "cuda":
        torch.cuda.empty_cache()


def _largest(model: LoadedModel, slots: int) -> Engine:
    """An engine of `slots`, or of as many halves of them as it takes to fit."""
    while True:
        try:
            return model.make_engine(slots)
        except Exception as error:
            if not is_out_of_memory(error) or slots == 1:
                raise
            slots = halve(slots, error)
        _empty_cache(model)


def halve(slots: int, error: BaseException) -> int:
    """Half the slots, said in the log."""
    log.warning(
        "out of memory with %d slots (%s): going on with %d; set --slots to that to have the same "
        "bits from the start",
        slots,
        str(error).partition("\n")[0],
        slots // 2,
    )
    return slots // 2


def too_big_alone(error: BaseException) -> MemoryError:
    """What a clip fails with that does not fit into a single slot."""
    said = str(error).partition("\n")[0]
    return MemoryError(
        f"out of memory with this clip alone in the engine ({said}); shorten the clip, or take a "
        "smaller --dtype or a device with more memory, then `retry`"
    )
