"""EnCodec, against numbers that AudioCraft computed with a small one."""

import re

import pytest
import torch
from transformers import EncodecConfig, EncodecModel

from musicgen.codec import CompressionModel
from tests.musicgen.checkpoints import golden

CLOSE = {"atol": 1e-6, "rtol": 1e-5}


@pytest.fixture(scope="module")
def cases() -> dict:
    return golden("encodec_cases.pt")


def codec(
    pad_mode: str = "constant", *, normalize: bool = False, channels: int = 1
) -> CompressionModel:
    """The reference's codec: its weights under transformers' names."""
    config = EncodecConfig(
        sampling_rate=32_000,
        num_filters=4,
        hidden_size=16,
        codebook_size=32,
        upsampling_ratios=[8, 5, 4, 4],
        target_bandwidths=[1.0],
        use_causal_conv=False,
        use_conv_shortcut=False,
        normalize=normalize,
        pad_mode=pad_mode,
    )
    model = EncodecModel(config)
    state = golden("encodec_encoder.pt") | golden("encodec_decoder.pt")
    model.load_state_dict({renamed(name): tensor for name, tensor in state.items()}, strict=True)
    return CompressionModel(model, channels)


def renamed(name: str) -> str:
    name = re.sub(r"^(encoder|decoder)\.model\.", r"\1.layers.", name)
    name = re.sub(r"\.(conv\.conv|convtr\.convtr)\.", ".conv.", name)
    name = re.sub(
        r"^quantizer\.vq\.layers\.(\d+)\._codebook", r"quantizer.layers.\1.codebook", name
    )
    return name.replace("weight_g", "parametrizations.weight.original0").replace(
        "weight_v", "parametrizations.weight.original1"
    )


@pytest.mark.parametrize("length", ["exact", "odd", "short"])
@pytest.mark.parametrize("pad_mode", ["constant", "reflect"])
def test_codes_and_audio_equal_the_reference(cases: dict, pad_mode: str, length: str) -> None:
    model, case = codec(pad_mode), cases[f"{pad_mode}_{length}"]
    codes, scale = model.encode(cases[f"constant_{length}"]["wav"])
    assert torch.equal(codes, case["codes"])
    assert scale is None
    torch.testing.assert_close(model.decode(codes), case["decoded"], **CLOSE)


def test_a_normalising_codec_returns_its_scale(cases: dict) -> None:
    model, case = codec(normalize=True), cases["renorm_exact"]
    codes, scale = model.encode(cases["constant_exact"]["wav"])
    assert torch.equal(codes, case["codes"])
    assert scale is not None
    torch.testing.assert_close(scale, case["scale"])
    torch.testing.assert_close(model.decode(codes, scale), case["decoded"], **CLOSE)


def test_stereo_interleaves_left_and_right(cases: dict) -> None:
    model, case = codec(channels=2), cases["stereo_exact"]
    codes, _ = model.encode(case["wav"])
    assert torch.equal(codes, case["codes"])
    torch.testing.assert_close(model.decode(codes), case["decoded"], **CLOSE)
    left, _ = codec().encode(case["wav"][:, :1])
    assert torch.equal(codes[:, ::2], left)


def test_it_speaks_of_itself_under_the_reference_names() -> None:
    mono, stereo = codec(), codec(channels=2)
    assert (mono.frame_rate, mono.sample_rate, mono.channels) == (50, 32_000, 1)
    assert (mono.cardinality, mono.num_codebooks, stereo.num_codebooks) == (32, 4, 8)


def test_fewer_codebooks_are_the_first_ones(cases: dict) -> None:
    model, wav = codec(), cases["constant_exact"]["wav"]
    everything, _ = model.encode(wav)
    model.set_num_codebooks(2)
    two, _ = model.encode(wav)
    assert torch.equal(two, everything[:, :2])
    assert model.decode(two).shape == wav.shape
    with pytest.raises(ValueError, match="num_codebooks=5"):
        model.set_num_codebooks(5)


def test_a_clip_has_the_same_bits_in_any_batch(cases: dict) -> None:
    model, codes = codec(), cases["constant_odd"]["codes"]
    together = model.decode(codes)
    for clip, wav in zip(codes, together, strict=True):
        assert torch.equal(model.decode(clip[None])[0], wav)


@pytest.mark.parametrize(
    "codes",
    [torch.full((1, 4, 3), 32), torch.full((1, 4, 3), -1), torch.zeros(4, 3).long()],
)
def test_codes_that_are_none_are_refused(codes: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"decode wants|codes lie in"):
        codec().decode(codes)


@pytest.mark.parametrize("shape", [(1, 2, 640), (1, 1, 0), (1, 640)])
def test_audio_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="encode wants"):
        codec().encode(torch.zeros(shape))
