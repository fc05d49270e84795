"""Our EnCodec against transformers': the same names, the same bits, for each kind of codec."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from transformers import EncodecConfig, EncodecModel
from transformers.models.encodec import modeling_encodec

from musicgen.codec.encodec import Encodec
from musicgen.codec.fast_layers import Elu, pointwise

SMALL = {
    "num_filters": 4,
    "hidden_size": 12,
    "codebook_size": 32,
    "codebook_dim": 12,
    "upsampling_ratios": [4, 3],
    "sampling_rate": 1200,
    "target_bandwidths": [2.0],
}
KINDS: dict[str, dict[str, Any]] = {
    "musicgen's": {"use_causal_conv": False, "use_conv_shortcut": False, "num_residual_layers": 2},
    "causal, with shortcut": {"use_causal_conv": True, "use_conv_shortcut": True},
    "causal, trimmed on both sides": {"use_causal_conv": True, "trim_right_ratio": 0.5},
    "stereo": {"audio_channels": 2, "normalize": True, "use_causal_conv": False},
    "group norm": {"norm_type": "time_group_norm", "use_causal_conv": False},
    "padded with zeros": {"pad_mode": "constant", "use_causal_conv": False},
    "one layer of LSTM, odd ratios": {"num_lstm_layers": 1, "upsampling_ratios": [5, 3]},
}


def theirs(kind: str) -> EncodecModel:
    torch.manual_seed(0)
    model = EncodecModel(EncodecConfig(**SMALL | KINDS[kind])).eval().requires_grad_(False)
    for layer in model.quantizer.layers:
        layer.codebook.embed.normal_()
    return model


@contextmanager
def fast_layers_in(model: EncodecModel, monkeypatch: pytest.MonkeyPatch) -> Iterator[EncodecModel]:
    """transformers' model with our two faster layers, which may differ in the last bit."""
    plain = modeling_encodec.EncodecConv1d.forward

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        narrow = self.conv.kernel_size == self.conv.stride == (1,)
        if narrow and self.norm_type == "weight_norm":
            return pointwise(self.conv, x)
        return plain(self, x)

    with monkeypatch.context() as patch:
        patch.setattr(modeling_encodec.EncodecConv1d, "forward", forward)
        patch.setattr(torch.nn.ELU, "forward", Elu.forward)
        yield model


@pytest.mark.parametrize("kind", KINDS)
def test_codes_and_audio_are_the_same_bits(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = theirs(kind)
    own = Encodec.of(model).eval().requires_grad_(False)

    for n_samples in (1, 7, 600, 601):
        wav = torch.randn(1, model.config.audio_channels, n_samples)
        codes = own.quantizer.encode(own.encoder(wav))  # [K, 1, T]
        audio = own.decoder(own.quantizer.decode(codes))
        with fast_layers_in(model, monkeypatch):
            assert torch.equal(codes, model.quantizer.encode(model.encoder(wav)))
            assert torch.equal(audio, model.decoder(model.quantizer.decode(codes)))


@pytest.mark.parametrize("kind", KINDS)
def test_tensors_have_the_names_of_transformers(kind: str) -> None:
    model = theirs(kind)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}

    own = Encodec(model.config)

    assert {name: tensor.shape for name, tensor in own.state_dict().items()} == shapes


def test_the_layers_that_are_written_anew_are_close_to_torchs() -> None:
    model = theirs("musicgen's")
    own = Encodec.of(model).eval().requires_grad_(False)
    wav = torch.randn(1, 1, 600)

    torch.testing.assert_close(own.encoder(wav), model.encoder(wav), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("norm_type", "layer_norm", "norm_type='layer_norm'; known are weight_norm"),
        ("trim_right_ratio", 0.5, "trim_right_ratio=0.5 needs use_causal_conv"),
    ],
)
def test_what_no_encodec_has_is_refused(name: str, value: Any, message: str) -> None:
    config = EncodecConfig(**SMALL, use_causal_conv=False)
    setattr(config, name, value)

    with pytest.raises(ValueError, match=message):
        Encodec(config)
