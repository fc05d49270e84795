"""Stereo by a mono codec, under the reference's name."""

import pytest
import torch

from musicgen.checkpoints.debug import debug_models
from musicgen.codec.codec import CompressionModel
from musicgen.codec.stereo import InterleaveStereoCompressionModel

HOP = 1280


@pytest.fixture(scope="module")
def mono() -> CompressionModel:
    return debug_models("debug")[2]


@pytest.fixture(scope="module")
def wav() -> torch.Tensor:
    return 0.3 * torch.randn(2, 2, 5 * HOP, generator=torch.Generator().manual_seed(0))


def test_it_is_what_a_loaded_stereo_model_has(mono: CompressionModel, wav: torch.Tensor) -> None:
    theirs, ours = InterleaveStereoCompressionModel(mono), CompressionModel(mono.model, channels=2)
    codes, scale = theirs.encode(wav)
    assert scale is None
    assert torch.equal(codes, ours.encode(wav)[0])
    assert torch.equal(theirs.decode(codes), ours.decode(codes))
    left, right = theirs.get_left_right_codes(codes)
    assert torch.equal(left, mono.encode(wav[:, :1])[0])
    assert torch.equal(right, mono.encode(wav[:, 1:])[0])
    assert all(map(torch.equal, ours.get_left_right_codes(codes), (left, right)))
    assert (theirs.num_codebooks, theirs.total_codebooks, theirs.cardinality) == (8, 4, 400)
    assert (theirs.channels, theirs.sample_rate, theirs.frame_rate) == (2, 32_000, 25)


def test_frames_can_be_interleaved_instead(mono: CompressionModel, wav: torch.Tensor) -> None:
    codec = InterleaveStereoCompressionModel(mono, per_timestep=True)
    codes, _ = codec.encode(wav)
    assert codes.shape == (2, 4, 10)
    assert (codec.num_codebooks, codec.num_virtual_steps, codec.frame_rate) == (4, 2, 50)
    left, right = codec.get_left_right_codes(codes)
    assert torch.equal(left, mono.encode(wav[:, :1])[0])
    assert torch.equal(codes[..., 0::2], left)
    assert torch.equal(codes[..., 1::2], right)
    apart = InterleaveStereoCompressionModel(mono)
    assert torch.equal(codec.decode(codes), apart.decode(apart.encode(wav)[0]))


def test_the_number_of_codebooks_is_set_before_the_interleaving(wav: torch.Tensor) -> None:
    codec = InterleaveStereoCompressionModel(debug_models("debug")[2])
    everything, _ = codec.encode(wav)
    codec.set_num_codebooks(2)
    assert codec.num_codebooks == 4
    assert torch.equal(codec.encode(wav)[0], everything[:, :4])
    for kind in (AssertionError, ValueError):
        with pytest.raises(kind, match="num_codebooks=5: the codec has 1 … 4"):
            codec.set_num_codebooks(5)


@pytest.mark.parametrize("kind", [AssertionError, ValueError])
def test_what_is_not_stereo_is_refused(mono: CompressionModel, kind: type[Exception]) -> None:
    codec = InterleaveStereoCompressionModel(mono)
    with pytest.raises(kind, match=r"wants stereo \[batch, 2, samples\], got \[1, 1, 9\]"):
        codec.encode(torch.zeros(1, 1, 9))
    with pytest.raises(kind, match="has 2 channels, wanted is a mono one"):
        InterleaveStereoCompressionModel(CompressionModel(mono.model, channels=2))
    with pytest.raises(kind, match="of a codec that interleaves them"):
        mono.get_left_right_codes(torch.zeros(1, 4, 9))
    with pytest.raises(kind, match="encode wants"):
        mono.encode(torch.zeros(1, 2, 9))


def test_latents_are_what_the_decoder_reads(mono: CompressionModel) -> None:
    codes = torch.randint(400, (1, 4, 5), generator=torch.Generator().manual_seed(1))
    latents = mono.decode_latent(codes)
    assert latents.shape == (1, 32, 5)
    torch.testing.assert_close(mono.model.decoder(latents), mono.decode(codes))
