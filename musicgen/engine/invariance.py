"""Whether the bits of a clip depend on the number of slots, as the machine answers it.

An engine computes all of its rows together, and which kernel a library takes for a matrix product
may depend on how many they are. Within one number of rows a clip's bits depend on nothing else.
"""

from dataclasses import replace
from typing import Literal

import torch

from musicgen.engine.request import ROWS_PER_SLOT
from musicgen.engine.step import KEY_BLOCK, DecodeState, StepShape, round_up, step_logits
from musicgen.engine.weights import StepWeights
from musicgen.lm.sampling import FilterShape

BitsDependOn = Literal["nothing", "slots", "run"]
MOST_CELLS, N_TEXT = 192, 20  # of the rows that are compared


@torch.no_grad()
def differing_slots(weights: StepWeights, slots: int) -> tuple[int, ...]:
    """Numbers of slots below `slots` at which a step gives a row other bits than at `slots`.

    A step of one layer is run over random caches; the other layers have the same shapes.
    """
    one = replace(weights, layers=weights.layers[:1])
    generator = torch.Generator().manual_seed(0)
    n_rows, card = ROWS_PER_SLOT * slots, weights.cfg.card
    tokens = torch.randint(card, (n_rows, weights.cfg.n_codebooks), generator=generator)
    n_cells = min(MOST_CELLS, len(weights.positions) // KEY_BLOCK * KEY_BLOCK)
    whole = DecodeState.idle(one, n_rows, n_cells, 2)
    for cache in whole.caches + whole.cross_caches:
        for part in (cache.keys, cache.values):
            part.copy_(torch.randn(part.shape, generator=generator))
    tokens = tokens.to(weights.device)
    expected = _logits(one, whole, tokens, n_rows)
    return tuple(
        n
        for n in range(1, slots)
        if not torch.equal(
            _logits(one, whole, tokens, ROWS_PER_SLOT * n), expected[: ROWS_PER_SLOT * n]
        )
    )


def _logits(
    weights: StepWeights, whole: DecodeState, tokens: torch.Tensor, n_rows: int
) -> torch.Tensor:
    """Logits [n_rows, K, card] of a step over the first rows of `whole`."""
    n_cells = whole.caches[0].n_cells
    state = DecodeState.idle(weights, n_rows, n_cells, 2)
    for own, theirs in zip(
        state.caches + state.cross_caches, whole.caches + whole.cross_caches, strict=True
    ):
        own.keys.copy_(theirs.keys[:n_rows])
        own.values.copy_(theirs.values[:n_rows])
    state.n_prefix.fill_(n_cells - 2)
    state.n_cross.fill_(N_TEXT)
    shape = StepShape(
        n_keys=n_cells,
        n_cross_keys=round_up(N_TEXT, weights.text_block),
        n_leads=n_rows,
        n_texts=n_rows,
        filters=FilterShape(),
    )
    return step_logits(weights, state, shape, tokens[:n_rows])


def bits_depend_on(weights: StepWeights, slots: int) -> BitsDependOn:
    """What the bits of a clip depend on beside itself, for engines of up to so many slots."""
    return "slots" if differing_slots(weights, slots) else "nothing"
