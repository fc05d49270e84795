"""Guidance, temperature, top-k and the draw of one token, as one Triton kernel.

A program decides one token: of one codebook of the row that leads a clip. It mixes the logits of
the clip's rows, applies the softmax and top-k, draws by inversion in float64, and writes the token
into all rows of the clip. Programs of other rows leave at once. The arithmetic is that of
`musicgen.lm.guidance.mix` and `musicgen.lm.sampling.choose`, operation by operation and without
fused multiply-adds, so that mixed logits are the same bits. The exponential and the order in which
the softmax adds may differ in the last bit; a token then differs where its random number lies
within that rounding of the edge of two tokens.

Which probability is the k-th largest is found bit by bit: the bits of floats that are not negative
are ordered as the floats are. So ties stay in, as they must, and any k is the same launch. Rows
that filter by top-p need a sort; a step that has one takes the eager functions.
"""

import triton
import triton.language as tl
from torch import Tensor

from musicgen.engine.kernels.table import Configuration
from musicgen.engine.step import DecodeState


@triton.jit
def _kth_largest(probs, k):
    """The `k`-th largest of `probs` float32 [block] in 0 .. 1, which may be padded by zeros."""
    bits = probs.to(tl.int32, bitcast=True)
    found = tl.zeros([1], dtype=tl.int32)
    bit = tl.full([1], 1 << 29, dtype=tl.int32)  # the highest bit of 1.0
    for _ in range(30):
        candidate = found | bit
        n_above = tl.sum((bits >= candidate).to(tl.int32), axis=0)
        found = tl.where(n_above >= k, candidate, found)
        bit = bit >> 1
    return found.to(tl.float32, bitcast=True)


@triton.jit
def _write_token(sequence, row, k, following, token, n_steps, n_codebooks: tl.constexpr):
    """Writes the token of step `following` where it is still to be decided."""
    at = sequence + (row * n_codebooks + k) * n_steps + following
    tl.store(at, token, mask=tl.load(at) < 0)


@triton.jit
def _decide_token(
    logits,
    lead,
    audio,
    null,
    coef,
    beta,
    guided,
    double,
    running,
    greedy,
    temperature,
    top_k,
    step,
    noise,
    failed,
    sequence,
    n_steps,
    n_codebooks: tl.constexpr,
    card: tl.constexpr,
    block: tl.constexpr,
):
    """Decides the token of one codebook after the current step of a clip, and writes it.

    Grid: [rows that may lead, K]. logits [R, K, card]; noise float64 and sequence int64 [R, K, S];
    all others [R].
    """
    row = tl.program_id(0)
    k = tl.program_id(1)
    if tl.load(lead + row) != row:
        return
    if tl.load(running + row) == 0:
        return
    index = tl.arange(0, block)
    inside = index < card
    row_audio = tl.load(audio + row)
    row_null = tl.load(null + row)
    at = (row * n_codebooks + k) * card + index
    at_audio = (row_audio * n_codebooks + k) * card + index
    at_null = (row_null * n_codebooks + k) * card + index
    own = tl.load(logits + at, mask=inside, other=0.0).to(tl.float32)
    without_text = tl.load(logits + at_audio, mask=inside, other=0.0).to(tl.float32)
    without = tl.load(logits + at_null, mask=inside, other=0.0).to(tl.float32)
    pulled = without_text + tl.load(beta + row) * (own - without_text)
    pulled = tl.where(tl.load(double + row), pulled, own)
    mixed = without + tl.load(coef + row) * (pulled - without)
    mixed = tl.where(tl.load(guided + row), mixed, own)
    n_bad = (
        tl.sum((tl.abs(mixed) < float("inf")).to(tl.int32), axis=0) - block
    )  # NaN compares false
    tl.store(failed + row, True, mask=n_bad != 0)

    following = tl.load(step + row) + 1
    at_noise = (row * n_codebooks + k) * n_steps + following
    if tl.load(greedy + row):
        masked = tl.where(inside, mixed, float("-inf"))
        token = tl.argmax(masked, axis=0, tie_break_left=True).to(tl.int64)
    else:
        scaled = tl.div_rn(mixed, tl.load(temperature + row))
        scaled = tl.where(inside, scaled, float("-inf"))
        weight = tl.exp(scaled - tl.max(scaled, axis=0))
        probs = tl.div_rn(weight, tl.sum(weight, axis=0))
        n_kept = tl.load(top_k + row)
        if (n_kept > 0) & (n_kept < card):
            probs = tl.where(probs >= _kth_largest(probs, n_kept), probs, 0.0)
        amount = tl.cumsum(probs.to(tl.float64), axis=0)
        whole = tl.sum(tl.where(index == card - 1, amount, 0.0), axis=0)
        above = (amount > tl.load(noise + at_noise) * whole) & (probs > 0.0)
        token = tl.min(tl.where(above, index, block), axis=0).to(tl.int64)
    token = tl.minimum(token, card - 1)  # in range even where the logits are NaN
    _write_token(sequence, row, k, following, token, n_steps, n_codebooks)
    if row_audio != row:
        _write_token(sequence, row_audio, k, following, token, n_steps, n_codebooks)
    if (row_null != row) & (row_null != row_audio):
        _write_token(sequence, row_null, k, following, token, n_steps, n_codebooks)


def decide_tokens(
    state: DecodeState, logits: Tensor, n_leads: int, configuration: Configuration
) -> None:
    """Decide and write the next tokens of all clips, none of which filters by top-p.

    Args:
        state: The rows; `sequence` and `failed` are written.
        logits: Of all rows [R, K, card], in the products' format.
        n_leads: How many rows, from the first one, may lead a clip.
        configuration: How kernels are launched.
    """
    _, n_codebooks, card = logits.shape
    guidance, sampling = state.guidance, state.sampling
    _decide_token[(n_leads, n_codebooks)](
        *(logits, guidance.lead, guidance.audio, guidance.null, guidance.coef, guidance.beta),
        *(guidance.guided, guidance.double, state.running),
        *(sampling.greedy, sampling.temperature, sampling.top_k),
        *(state.step, state.noise, state.failed, state.sequence, state.sequence.shape[-1]),
        n_codebooks=n_codebooks,
        card=card,
        block=triton.next_power_of_2(card),
        num_warps=configuration.decide_warps,
        enable_fp_fusion=False,
    )
