"""EnCodec, against numbers that AudioCraft computed with a small one."""

import re

import pytest
import torch
from transformers import EncodecConfig, EncodecModel

from musicgen.codec import codec as codec_module
from musicgen.codec.codec import CompressionModel, PieceDecoder
from musicgen.codec.fast_layers import Elu
from tests.musicgen.checkpoint_files import golden

CLOSE = {"atol": 1e-6, "rtol": 1e-5}


@pytest.fixture(scope="module")
def cases() -> dict:
    return golden("encodec_cases.pt")


def encodec(pad_mode: str = "constant", *, normalize: bool = False) -> EncodecModel:
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
    return model


def codec(
    pad_mode: str = "constant", *, normalize: bool = False, channels: int = 1
) -> CompressionModel:
    """The same as our code runs it."""
    return CompressionModel(encodec(pad_mode, normalize=normalize), channels)


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


def test_our_elu_is_torchs() -> None:
    x = torch.cat([torch.linspace(-30, 30, 4001), torch.tensor([0.0, -1e-9, 1e-9, -1e4, 1e4])])
    torch.testing.assert_close(Elu()(x), torch.nn.functional.elu(x), atol=1e-7, rtol=0)
    assert Elu()(torch.tensor([float("nan")])).isnan()


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
    assert (mono.total_codebooks, stereo.total_codebooks) == (4, 8)


def test_interleaved_stereo_needs_a_codec_without_normalisation() -> None:
    with pytest.raises(ValueError, match="needs a codec without normalisation"):
        codec(normalize=True, channels=2)


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


@pytest.mark.parametrize("piece", [1, 2, 5, 64, 89, 200])
@pytest.mark.parametrize("pad_mode", ["constant", "reflect"])
@torch.no_grad()
def test_pieces_give_the_samples_of_one_decode(pad_mode: str, piece: int) -> None:
    """In float64, so that nothing but rounding could hide behind the tolerance."""
    model = codec(pad_mode).model.double()
    for n_frames in (1, 7, 90):
        codes = torch.randint(32, (4, n_frames), generator=torch.Generator().manual_seed(n_frames))
        whole = model.decoder(model.quantizer.decode(codes[:, None]))[0]
        pieces = torch.cat(list(PieceDecoder(model, codes, piece)), dim=-1)
        torch.testing.assert_close(pieces, whole, atol=1e-13, rtol=0)


def test_a_long_clip_is_decoded_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    for channels in (1, 2):
        model = codec(channels=channels)
        codes = torch.randint(
            32, (2, 4 * channels, 300), generator=torch.Generator().manual_seed(4)
        )
        whole = model.decode(codes)
        with monkeypatch.context() as patch:
            patch.setattr(codec_module, "WHOLE_FRAMES", 299)
            pieces = model.decode(codes)
        assert pieces.shape == whole.shape == (2, channels, 300 * 640)
        torch.testing.assert_close(pieces, whole, atol=1e-6, rtol=0)


def test_memory_does_not_grow_with_the_clip() -> None:
    """No piece sees more of the clip than itself and what the convolutions reach."""
    longest = 0

    def note(module: torch.nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        nonlocal longest
        longest = max(longest, output.shape[-1])

    model = codec().model
    pieces = PieceDecoder(model, torch.zeros(4, 1000).long(), piece=50)
    for layer in pieces.rest:
        layer.register_forward_hook(note)
    assert sum(piece.shape[-1] for piece in pieces) == 1000 * 640
    assert longest <= (50 + 2 * pieces.reach) * 640
