"""The decode step with fused kernels between its matrix products.

The same function of weights and state as `musicgen.engine.step.decode_step`, in 13 launches a layer
with cross-attention and 9 without, and 4 beside them. No launch depends on how long rows are, on
how long their texts are or on what their filters keep, so that one graph serves all steps of an
engine, except for those in which a clip filters by top-p.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from musicgen.engine.kernels.attention import attend, attend_text
from musicgen.engine.kernels.layer import add_and_norm, embed_rows, gelu_
from musicgen.engine.kernels.product import int8_product
from musicgen.engine.kernels.sampling import decide_tokens
from musicgen.engine.kernels.table import Configuration, capability_of, configuration
from musicgen.engine.linear import Matrix
from musicgen.engine.step import DecodeState, StepShape, decide
from musicgen.engine.weights import LayerTensors, LayerWeights, NormTensors, StepWeights
from musicgen.lm.int8 import Int8Matrix
from musicgen.lm.sampling import FilterShape


@dataclass(frozen=True)
class _Rows:
    """The rows of a step: their indices, how many from the first one may see a text, and the cell
    that each appends."""

    index: Tensor
    n_texts: int
    position: Tensor


class FusedStep:
    """Runs decode steps over one state; the alternative to `musicgen.engine.step.EagerDecode`.

    Args:
        weights: The model, its linear maps not packed.
        state: The rows.
        launch: How kernels are launched; None takes the table's entry for the device.

    Raises:
        Exception: A first small kernel did not run; what, is Triton's to say.
    """

    name = "triton"

    def __init__(
        self, weights: StepWeights, state: DecodeState, launch: Configuration | None = None
    ) -> None:
        assert weights.head_tensor is not None
        self._weights, self._state, self._heads = weights, state, weights.head_tensor
        self._launch = launch or configuration(capability_of(weights.device))
        self._every = torch.arange(len(state.step), device=weights.device)
        with torch.cuda.device_of(self._every):  # type: ignore[no-untyped-call]
            gelu_(torch.zeros(16, device=weights.device), self._launch)

    def static_part(self, shape: StepShape) -> StepShape:
        """What launches depend on, which is top-p alone: all rows are launched, and programs of
        those without a clip, a text or a token to decide leave after a cell or at once."""
        n_rows, cross = len(self._every), self._state.cross_caches
        return StepShape(
            n_keys=self._state.caches[0].n_cells,
            n_cross_keys=cross[0].n_cells if cross else 0,
            n_leads=n_rows,
            n_texts=n_rows,
            filters=shape.filters if shape.filters.top_p else FilterShape(),
        )

    def __call__(self, shape: StepShape) -> None:
        """One decode step, in place."""
        # Triton launches on the current device.
        with torch.cuda.device_of(self._every):  # type: ignore[no-untyped-call]
            self.decide(shape, self.logits(shape))

    def decide(self, shape: StepShape, logits: Tensor) -> None:
        """Decide the next tokens by `logits` [R, K, card], write them, go to the next step."""
        state = self._state
        if shape.filters.top_p:
            decide(state, shape, logits.float())
        else:
            decide_tokens(state, logits, shape.n_leads, self._launch)
        state.step += state.running

    def logits(self, shape: StepShape) -> Tensor:
        """Logits [R, K, card] of the current step, in the products' format."""
        weights, state = self._weights, self._state
        norms = [layer.norm1 for layer in weights.layers[1:]] + [weights.out_norm]
        x, normed, position = embed_rows(
            *(weights, state, self._every, weights.layers[0].norm1, self._launch)
        )
        rows = _Rows(self._every, shape.n_texts, position)
        for i, (layer, norm) in enumerate(zip(weights.layers, norms, strict=True)):
            normed = self._layer(i, layer, x, normed, rows, norm)
        logits = self._product(normed, self._heads)
        return logits.view(len(x), weights.cfg.n_codebooks, weights.cfg.card)

    def _layer(
        self,
        i: int,
        layer: LayerWeights,
        x: Tensor,
        normed: Tensor,
        rows: _Rows,
        norm: NormTensors,
    ) -> Tensor:
        """Layer `i` from `normed`, the first norm of `x`; adds to `x` in place and returns `norm`
        of the sum."""
        state, launch, tensors = self._state, self._launch, _tensors(layer)
        qkv = self._product(normed, tensors.qkv)
        branch = self._product(
            attend(qkv, state.caches[i], rows.index, rows.position, launch), tensors.out
        )
        if layer.cross is not None and tensors.cross_query is not None:
            assert tensors.cross_out is not None
            normed = add_and_norm(x, branch, layer.cross.norm, launch)[: rows.n_texts]
            query = self._product(normed, tensors.cross_query)
            seen = attend_text(query, state.cross_caches[i], rows.index, state.n_cross, launch)
            branch = self._product(seen, tensors.cross_out)
        normed = add_and_norm(x, branch, layer.norm2, launch)
        hidden = gelu_(self._product(normed, tensors.linear1), launch)
        return add_and_norm(x, self._product(hidden, tensors.linear2), norm, launch)

    def _product(self, x: Tensor, matrix: Matrix) -> Tensor:
        """`x` [n, in] times the transpose of `matrix` [out, in], in the format of `x`."""
        if isinstance(matrix, Int8Matrix):
            return int8_product(x, matrix, self._launch)
        return F.linear(x, matrix)


def _tensors(layer: LayerWeights) -> LayerTensors:
    assert layer.tensors is not None
    return layer.tensors
