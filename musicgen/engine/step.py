"""One decode step over R rows: a pure function of weights, state and static shapes.

Everything that a step reads or writes lies in tensors that are allocated once (`DecodeState`); no
operation of a step waits for the host, and none has a shape that depends on data. A row's numbers
are the same bits in every row position, with any neighbours and for every `StepShape` that is large
enough: keys are read in multiples of `KEY_BLOCK` with the tail masked, which leaves the sums
unchanged, and every matrix product used here gives a row the same bits at any place in the batch.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from musicgen.engine.kv_cache import Cache, empty_cache
from musicgen.engine.weights import StepWeights
from musicgen.lm.delay_pattern import UNKNOWN
from musicgen.lm.guidance import RowGuidance, mix
from musicgen.lm.sampling import FilterShape, RowSampling, choose

KEY_BLOCK = 64


def round_up(n: int, block: int = KEY_BLOCK) -> int:
    """The next multiple of `block`."""
    return -(-n // block) * block


@dataclass(frozen=True)
class StepShape:
    """The static sizes of a step; two steps of equal shape launch the same kernels.

    Attributes:
        n_keys: Cache cells that self-attention reads, a multiple of `KEY_BLOCK`.
        n_cross_keys: Text cells that cross-attention reads, a multiple of
            `StepWeights.text_block`.
        n_leads: How many rows, from the first one, may lead a clip: those whose tokens are chosen.
        n_texts: How many of the rows that are computed, from the first one, may see a text.
        filters: What the sampling filters need.
        double: Whether any clip has double guidance.
        n_rows: How many rows are computed, those in `DecodeState.rows`; None computes all rows in
            their order. The logits of rows that are not computed are 0.
    """

    n_keys: int
    n_cross_keys: int
    n_leads: int
    n_texts: int
    filters: FilterShape
    double: bool = True
    n_rows: int | None = None


@dataclass
class DecodeState:
    """What R rows carry from step to step.

    A row that no clip holds stays at step 0 of a sequence of special tokens: it is computed with
    the others, and its result is never read.

    Attributes:
        rows: Where not all rows are computed, those that are: the first `StepShape.n_rows` entries
            of int64 [R].
        caches: Self-attention, one per layer.
        cross_caches: Cross-attention, one per layer; none on a prepend model.
        n_cross: Text cells that a row sees, at least 1: int64 [R].
        n_prefix: Cells before a row's step 0: int64 [R].
        step: The step that a row feeds next: int64 [R].
        running: 1 where a clip holds the row, else 0: int64 [R].
        sequence: Delayed tokens, `UNKNOWN` where still to be decided: int64 [R, K, S].
        noise: The number that decides each of them, float64 [R, K, S].
        failed: Whether the row's clip ever had a logit that is not finite: bool [R].
        guidance: How the rows of a clip are mixed.
        sampling: How rows are sampled.
    """

    rows: Tensor
    caches: list[Cache]
    cross_caches: list[Cache]
    n_cross: Tensor
    n_prefix: Tensor
    step: Tensor
    running: Tensor
    sequence: Tensor
    noise: Tensor
    failed: Tensor
    guidance: RowGuidance
    sampling: RowSampling

    @classmethod
    def idle(cls, weights: StepWeights, n_rows: int, n_cells: int, n_steps: int) -> "DecodeState":
        """A state in which no clip holds a row."""
        cfg, device = weights.cfg, weights.device
        n_cross = sum(layer.cross is not None for layer in weights.layers)
        counts = torch.zeros(n_rows, dtype=torch.int64, device=device)
        shape = (n_rows, cfg.n_codebooks, n_steps)
        return cls(
            rows=torch.arange(n_rows, device=device),
            caches=[empty_cache(n_rows, n_cells, weights, KEY_BLOCK) for _ in weights.layers],
            cross_caches=[
                empty_cache(n_rows, KEY_BLOCK, weights, weights.text_block) for _ in range(n_cross)
            ],
            n_cross=counts + 1,
            n_prefix=counts.clone(),
            step=counts.clone(),
            running=counts,
            sequence=torch.full(shape, cfg.special_token, dtype=torch.int64, device=device),
            noise=torch.zeros(shape, dtype=torch.float64, device=device),
            failed=torch.zeros(n_rows, dtype=torch.bool, device=device),
            guidance=RowGuidance.idle(n_rows, device),
            sampling=RowSampling.idle(n_rows, device),
        )

    def begin(
        self, rows: list[int], sequence: Tensor, noise: Tensor, *, n_prefix: int, step: int
    ) -> None:
        """Give `rows` to a clip: its tokens and noise [K, S] on this device, the cells before its
        step 0, and the step that it feeds first."""
        n_steps = sequence.shape[-1]
        for row in rows:  # by slices: an index of the host would be copied to the device
            self.sequence[row, :, :n_steps] = sequence
            self.n_prefix[row].fill_(n_prefix)
            self.step[row].fill_(step)
            self.running[row].fill_(1)
            self.failed[row].fill_(False)
        self.noise[rows[0], :, :n_steps] = noise  # the others take the leading row's tokens

    def clear(self, rows: list[int], special_token: int, *, wipe: bool) -> None:
        """Make `rows` idle; `wipe` also removes values (NaN) that a mask would not hide."""
        for row in rows:
            self.running[row].fill_(0)
            self.step[row].fill_(0)
            self.n_prefix[row].fill_(0)
            self.n_cross[row].fill_(1)
            self.sequence[row].fill_(special_token)
        if wipe:
            for cache in self.caches + self.cross_caches:
                cache.wipe(rows)


def decode_step(weights: StepWeights, state: DecodeState, shape: StepShape) -> None:
    """Run one decode step in place: feed each row's current step and decide its next tokens."""
    tokens = _column(state.sequence, state.step)  # [R, K]
    decide(state, shape, step_logits(weights, state, shape, tokens))
    state.step += state.running


def decide(state: DecodeState, shape: StepShape, logits: Tensor) -> None:
    """Decide each row's next tokens by `logits` float32 [R, K, card] and write them."""
    leads = slice(shape.n_leads)
    mixed = mix(logits, state.guidance, shape.n_leads, double=shape.double)  # [leads, K, card]
    state.failed[leads] |= ~mixed.isfinite().flatten(1).all(1)
    following = state.step + 1
    noise = _column(state.noise[leads], following[leads])  # [leads, K]
    chosen = choose(mixed, state.sampling.first(shape.n_leads), noise, shape.filters)  # [leads, K]
    chosen = chosen[state.guidance.lead.clamp(max=shape.n_leads - 1)]  # [R, K]; idle rows: any
    known = _column(state.sequence, following)
    decided = torch.where(known == UNKNOWN, chosen, known)
    state.sequence.scatter_(2, _index(following, decided), decided[..., None])


def step_logits(
    weights: StepWeights, state: DecodeState, shape: StepShape, tokens: Tensor
) -> Tensor:
    """Logits float32 [R, K, card] of `tokens` [R, K], whose keys and values the caches get."""
    n_all, n_texts, n_heads = len(tokens), shape.n_texts, weights.cfg.n_heads
    position, n_cross = state.n_prefix + state.step, state.n_cross  # [R] each
    rows, some = torch.arange(n_all, device=tokens.device), None
    if shape.n_rows is not None:  # from here on, n rows instead of R
        rows = some = state.rows[: shape.n_rows]
        tokens, position, n_cross = tokens[rows], position[rows], n_cross[rows]
    n_rows = len(tokens)
    written = state.caches[0].cells_to_write(rows, position)
    seen = state.caches[0].cells_to_read(position + 1, shape.n_keys, some)
    if state.cross_caches:
        texts = None if some is None else some[:n_texts]
        text = state.cross_caches[0].cells_to_read(n_cross[:n_texts], shape.n_cross_keys, texts)
    x = weights.embed(tokens) + weights.positions[position]  # [n, D]

    for index, layer in enumerate(weights.layers):
        cache = state.caches[index]

        def attend(qkv: Tensor, cache: Cache = cache) -> Tensor:
            q, k, v = qkv.view(n_rows, 3, n_heads, -1).unbind(1)  # [n, H, D / H] each
            cache.append(written, k, v)
            return cache.attend(q, seen)

        def attend_cross(query: Tensor, index: int = index) -> Tensor:
            q = query.view(n_texts, n_heads, -1)  # [texts, H, D / H]
            return state.cross_caches[index].attend(q, text)

        x = layer(x, attend, attend_cross, n_texts)  # [n, D]
    logits = weights.logits(x)
    if some is None:
        return logits
    return logits.new_zeros(n_all, *logits.shape[1:]).index_copy_(0, some, logits)


def _index(column: Tensor, like: Tensor) -> Tensor:
    return column[:, None, None].expand(*like.shape, 1)  # [R, K, 1]


def _column(table: Tensor, column: Tensor) -> Tensor:
    """Entry `column` [R] of `table` [R, K, S] in each row: [R, K]."""
    return table.gather(2, column[:, None, None].expand(-1, table.shape[1], 1))[..., 0]
