"""Our T5 encoder against transformers': the same names, the same bits, for each kind of T5."""

from typing import Any

import pytest
import torch
from transformers import T5Config, T5EncoderModel

from musicgen.conditioning.t5 import T5Encoder

SMALL = {
    "vocab_size": 50,
    "d_model": 24,
    "d_kv": 8,
    "d_ff": 40,
    "num_layers": 3,
    "num_heads": 4,
    "relative_attention_num_buckets": 12,
    "relative_attention_max_distance": 30,
}
KINDS: dict[str, dict[str, Any]] = {
    "T5": {"feed_forward_proj": "relu"},
    "T5 v1.1": {"feed_forward_proj": "gated-gelu"},
    "gated with SiLU": {"feed_forward_proj": "gated-silu"},
    "width of heads apart from the model's": {"d_kv": 5, "layer_norm_epsilon": 1e-3},
}


def theirs(kind: str) -> T5EncoderModel:
    torch.manual_seed(0)
    model = T5EncoderModel(T5Config(**SMALL | KINDS[kind])).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.normal_(std=0.3)
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_states_are_the_same_bits(kind: str) -> None:
    model = theirs(kind)
    own = T5Encoder.of(model).eval().requires_grad_(False)

    for length in (1, 2, 17, 100):  # 100 is beyond the largest distance
        ids = torch.randint(0, 50, (1, length))
        expected = model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
        assert torch.equal(own(ids), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_tensors_have_the_names_of_transformers(kind: str) -> None:
    model = theirs(kind)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}

    own = T5Encoder(model.config)

    assert {name: tensor.shape for name, tensor in own.state_dict().items()} == shapes
    assert own.encoder.embed_tokens is own.shared


def test_an_activation_that_no_t5_has_is_refused() -> None:
    config = T5Config(**SMALL)
    config.dense_act_fn = "mish"

    with pytest.raises(ValueError, match="activation 'mish'; known are relu, gelu"):
        T5Encoder(config)
