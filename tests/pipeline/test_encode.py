"""Files that hold exactly the samples, in bytes that repeat; references that explain themselves."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest
import soundfile as sf
from numpy.typing import NDArray

from pipeline.encode import decode_reference, encode, read_comment

RATE_HZ = 32_000
FORMATS = [("flac", 16), ("flac", 24), ("wav", 16), ("wav", 24)]
every_format = pytest.mark.parametrize(("fmt", "bits"), FORMATS)


def music(channels: int = 1, n_samples: int = 4000) -> NDArray[np.float32]:
    rng = np.random.default_rng(7)
    return rng.uniform(-0.9, 0.9, (channels, n_samples)).astype(np.float32)  # [C, N]


def on_grid(bits: int, channels: int) -> NDArray[np.float32]:
    """Every kind of value that the format can hold, both ends included."""
    full_scale = 2 ** (bits - 1)
    rng = np.random.default_rng(1)
    pcm = rng.integers(-full_scale, full_scale, (channels, 4000))
    pcm[:, :4] = [-full_scale, full_scale - 1, 0, -1]
    wav: NDArray[np.float32] = (pcm / full_scale).astype(np.float32)
    return wav


@every_format
@pytest.mark.parametrize("channels", [1, 2])
def test_what_the_format_can_hold_comes_back_exactly(fmt: Any, bits: int, channels: int) -> None:
    wav = on_grid(bits, channels)
    decoded, rate_hz = decode_reference(encode(wav, RATE_HZ, fmt, bits), "clip")
    assert rate_hz == RATE_HZ
    np.testing.assert_array_equal(decoded, wav)


@every_format
def test_other_samples_are_rounded_to_the_nearest_step(fmt: Any, bits: int) -> None:
    decoded, _ = decode_reference(encode(music(2), RATE_HZ, fmt, bits), "clip")
    assert np.abs(decoded - music(2)).max() <= 0.5001 * 2.0 ** (1 - bits)


@every_format
def test_the_file_is_what_its_name_says(fmt: Any, bits: int) -> None:
    info = sf.info(io.BytesIO(encode(music(2), RATE_HZ, fmt, bits)))
    assert (info.format, info.subtype, info.channels) == (fmt.upper(), f"PCM_{bits}", 2)


@every_format
@pytest.mark.parametrize("n_samples", [1, 320, 640, 4095, 4096, 4097])
def test_the_number_of_samples_is_exact(fmt: Any, bits: int, n_samples: int) -> None:
    data = encode(music(1, n_samples), RATE_HZ, fmt, bits)
    assert sf.info(io.BytesIO(data)).frames == n_samples
    assert decode_reference(data, "clip")[0].shape == (1, n_samples)


@every_format
def test_beyond_full_scale_is_clipped_and_never_wraps(fmt: Any, bits: int) -> None:
    wav = np.array([[1.0, 1.5, 100.0, -1.0, -1.5, -100.0]], np.float32)
    decoded, _ = decode_reference(encode(wav, RATE_HZ, fmt, bits), "clip")
    top = 1.0 - 2.0 ** (1 - bits)
    np.testing.assert_array_equal(decoded, np.array([[top] * 3 + [-1.0] * 3], np.float32))


@every_format
def test_bytes_repeat(fmt: Any, bits: int) -> None:
    first = encode(music(2), RATE_HZ, fmt, bits, "made by a machine")
    assert encode(music(2), RATE_HZ, fmt, bits, "made by a machine") == first
    assert encode(music(2), RATE_HZ, fmt, bits, "made by another") != first


@every_format
@pytest.mark.parametrize("length", [1, 2046, 2047, 30_000])
def test_the_comment_tag_carries_provenance_of_any_length(fmt: Any, bits: int, length: int) -> None:
    provenance = json.dumps({"prompt": "señal ♫ " + "x" * length}, ensure_ascii=False)
    data = encode(music(), RATE_HZ, fmt, bits, provenance)
    assert json.loads(read_comment(data)) == json.loads(provenance)
    assert decode_reference(data, "clip")[0].shape == music().shape


@every_format
def test_without_a_comment_there_is_none(fmt: Any, bits: int) -> None:
    assert read_comment(encode(music(), RATE_HZ, fmt, bits)) == ""


@every_format
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_non_finite_samples_are_refused(fmt: Any, bits: int, bad: float) -> None:
    with pytest.raises(ValueError, match="NaN or infinite"):
        encode(np.array([[0.0, bad]], np.float32), RATE_HZ, fmt, bits)


def test_unknown_formats_name_the_choice() -> None:
    with pytest.raises(ValueError, match=r"'mp4' is unknown; choose one of \['flac', 'wav'\]"):
        encode(music(), RATE_HZ, "mp4")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="bits=32 is not supported; choose 16 or 24"):
        encode(music(), RATE_HZ, "wav", 32)
    with pytest.raises(ValueError, match=r"\[channels, samples\]"):
        encode(np.zeros((1, 0), np.float32), RATE_HZ)


# --- references -----------------------------------------------------------------------------------


def written(container: str, subtype: str, wav: NDArray[np.float32], rate_hz: int = 48_000) -> bytes:
    buffer = io.BytesIO()
    sf.write(buffer, wav.T, rate_hz, format=container, subtype=subtype)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("container", "subtype"),
    [("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III"), ("AIFF", "PCM_16"),
     ("WAV", "FLOAT"), ("WAV", "PCM_U8"), ("FLAC", "PCM_16")],
)  # fmt: skip
def test_the_usual_formats_are_read(container: str, subtype: str) -> None:
    wav, rate_hz = decode_reference(written(container, subtype, music(2, 48_000)), "melody.x")
    assert (wav.shape[0], rate_hz, str(wav.dtype)) == (2, 48_000, "float32")
    assert abs(wav.shape[1] - 48_000) <= 2400  # MP3 pads its ends
    assert wav.flags.c_contiguous


def test_a_silent_reference_is_allowed() -> None:
    data = encode(np.zeros((1, 100), np.float32), RATE_HZ)
    assert not decode_reference(data, "melody.flac")[0].any()


def long_wav() -> bytes:
    return encode(np.zeros((1, 901 * 100), np.float32), 100, "wav")


def nan_wav() -> bytes:
    return written("WAV", "FLOAT", np.full((1, 100), np.nan, np.float32))


BAD_REFERENCES = {
    "empty": (b"", "the file is empty"),
    "text": (b"this is a letter, not music" * 50, "not an audio file that can be read"),
    "m4a": (b"\x00\x00\x00\x20ftypM4A " + b"\0" * 500, "MP4/M4A/AAC is not supported; convert"),
    "flac cut short": (encode(music(), RATE_HZ)[:-900], "truncated"),
    "flac header only": (encode(music(), RATE_HZ)[:30], "damaged or truncated"),
    "wav cut short": (encode(music(), RATE_HZ, "wav")[:-100], "truncated: 100 bytes are missing"),
    "wav header only": (encode(music(), RATE_HZ, "wav")[:20], "damaged or truncated"),
    "no samples": (written("WAV", "PCM_16", music(1, 0)), "holds no audio samples"),
    "too long": (long_wav(), "901 s of audio exceeds the limit of 900 s"),
    "NaN": (nan_wav(), "holds NaN or infinite"),
    "9 channels": (written("WAV", "PCM_16", music(9, 9)), "9 channels exceed the limit of 8"),
}


@pytest.mark.parametrize("name", BAD_REFERENCES)
def test_a_bad_reference_says_where_and_what(name: str) -> None:
    data, message = BAD_REFERENCES[name]
    with pytest.raises(ValueError, match="s3://bucket/melody") as caught:
        decode_reference(data, "s3://bucket/melody")
    assert message in str(caught.value)


def test_a_sample_bomb_is_refused_before_it_is_decoded() -> None:
    silent = encode(np.zeros((8, 655_350), np.float32), 655_350)
    data = bytearray(silent)  # a FLAC header that claims 600 s at 655 kHz in 8 channels: 12 GB
    n_samples = 600 * 655_350
    data[21] = (data[21] & 0xF0) | (n_samples >> 32)
    data[22:26] = (n_samples & 0xFFFF_FFFF).to_bytes(4, "big")
    with pytest.raises(ValueError, match="over the limit of 172800000"):
        decode_reference(bytes(data), "bomb.flac")


@pytest.mark.parametrize("size", [0xFFFF_FFFF, 0x7FFF_FFFF])
def test_a_wav_written_into_a_pipe_promises_no_size(size: int) -> None:
    data = bytearray(encode(music(), RATE_HZ, "wav"))
    at = data.index(b"data") + 4
    data[at : at + 4] = size.to_bytes(4, "little")
    assert decode_reference(bytes(data), "pipe.wav")[0].shape == music().shape
