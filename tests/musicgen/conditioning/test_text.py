"""T5, against numbers that AudioCraft computed, and apart from any batch."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F
from transformers import T5Config, T5EncoderModel

from musicgen.conditioning.text import TextEncoder
from tests.musicgen.checkpoint_files import golden


@pytest.fixture(scope="module")
def numbers() -> dict:
    return golden("t5.pt")


@pytest.fixture
def encoder(numbers: dict) -> TextEncoder:
    model = T5EncoderModel(T5Config(**numbers["t5_config"]))
    model.load_state_dict(numbers["t5_state_dict"], strict=True)
    ids = {case["prompt"]: case["input_ids"][0].tolist() for case in numbers["cases"].values()}
    return TextEncoder(model, lambda prompt: SimpleNamespace(input_ids=ids[prompt]))


@pytest.mark.parametrize("case", ["b1_short", "b1_long"])
def test_projected_states_equal_the_reference(
    numbers: dict, encoder: TextEncoder, case: str
) -> None:
    expected = numbers["cases"][case]["embeds"][0]  # [L, D] of the conditional row
    hidden = encoder.encode(numbers["cases"][case]["prompt"])
    assert hidden is not None
    assert hidden.shape == (len(expected), encoder.dim)
    ours = F.linear(hidden, numbers["projection"]["weight"], numbers["projection"]["bias"])
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-5)


def test_no_text_is_none_and_a_zero_vector_in_the_reference(
    numbers: dict, encoder: TextEncoder
) -> None:
    assert numbers["cases"]["b1_none"]["prompt"] == ""
    assert not numbers["cases"]["b1_none"]["embeds"].any()
    assert encoder.encode("") is None
    assert encoder.encode(None) is None


def test_each_distinct_prompt_runs_once(numbers: dict, encoder: TextEncoder) -> None:
    calls = []
    encoder.model.register_forward_hook(lambda *_: calls.append(1))
    prompts = [case["prompt"] for case in numbers["cases"].values()]
    for prompt in prompts * 3:
        encoder.encode(prompt)
    assert len(calls) == 2  # b1_short, b1_long; the third is ""


def test_a_prompt_over_the_limit_is_refused(numbers: dict, encoder: TextEncoder) -> None:
    encoder.max_tokens = 10
    with pytest.raises(ValueError, match=r"prompt has 15 tokens, limit 10; shorten it"):
        encoder.encode(numbers["cases"]["b1_long"]["prompt"])
