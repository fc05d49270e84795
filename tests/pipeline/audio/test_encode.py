"""Files that hold exactly the samples, in bytes that repeat."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest
import soundfile as sf
from numpy.typing import NDArray

from manifests.audio_file import decode_reference
from pipeline.audio.encode import Coding, encode, read_comment

RATE_HZ = 32_000
FLAC, WAV = Coding("flac"), Coding("wav")
EXACT = [Coding("flac", 16), Coding("flac", 24), Coding("wav", 16), Coding("wav", 24)]
LOSSY = [Coding("mp3"), Coding("ogg"), Coding("opus"), Coding("opus", ogg_quality=1.0)]


def name(coding: Coding) -> str:
    return f"{coding.fmt}-{coding.bits}" if coding in EXACT else coding.fmt


exact_formats = pytest.mark.parametrize("coding", EXACT, ids=name)
every_format = pytest.mark.parametrize("coding", EXACT + LOSSY, ids=name)


def music(channels: int = 1, n_samples: int = 4000) -> NDArray[np.float32]:
    rng = np.random.default_rng(7)
    return rng.uniform(-0.9, 0.9, (channels, n_samples)).astype(np.float32)  # [C, N]


def encoded(wav: NDArray[np.float32], coding: Coding, **tags: str) -> bytes:
    """The file of `wav`, taken to be at the rate that the format has."""
    return encode(wav, coding.rate_hz(RATE_HZ), coding, **tags)


def on_grid(bits: int, channels: int) -> NDArray[np.float32]:
    """Every kind of value that the format can hold, both ends included."""
    full_scale = 2 ** (bits - 1)
    rng = np.random.default_rng(1)
    pcm = rng.integers(-full_scale, full_scale, (channels, 4000))
    pcm[:, :4] = [-full_scale, full_scale - 1, 0, -1]
    wav: NDArray[np.float32] = (pcm / full_scale).astype(np.float32)
    return wav


@exact_formats
@pytest.mark.parametrize("channels", [1, 2])
def test_what_the_format_can_hold_comes_back_exactly(coding: Coding, channels: int) -> None:
    wav = on_grid(coding.bits, channels)
    decoded, rate_hz = decode_reference(encoded(wav, coding), "clip")
    assert rate_hz == RATE_HZ
    np.testing.assert_array_equal(decoded, wav)


@exact_formats
def test_other_samples_are_rounded_to_the_nearest_step(coding: Coding) -> None:
    decoded, _ = decode_reference(encoded(music(2), coding), "clip")
    assert np.abs(decoded - music(2)).max() <= 0.5001 * 2.0 ** (1 - coding.bits)


@pytest.mark.parametrize("coding", LOSSY, ids=name)
@pytest.mark.parametrize("channels", [1, 2])
def test_lossy_formats_hold_about_the_samples_at_the_same_time(
    coding: Coding, channels: int
) -> None:
    rate_hz = coding.rate_hz(RATE_HZ)
    t = np.arange(rate_hz) / rate_hz
    swell = 0.4 * (1 + 0.5 * np.sin(2 * np.pi * 3 * t))
    tones = [swell * np.sin(2 * np.pi * hz * t) for hz in (440, 554)]
    wav = np.stack(tones[:channels]).astype(np.float32)  # [C, N]

    decoded, found_hz = decode_reference(encoded(wav, coding), "clip")

    assert (found_hz, decoded.shape) == (rate_hz, wav.shape)
    assert np.abs(decoded - wav)[:, 2000:-2000].max() < 0.03


@every_format
def test_the_file_is_what_its_name_says(coding: Coding) -> None:
    info = sf.info(io.BytesIO(encoded(music(2), coding)))
    kinds = {"mp3": ("MP3", "MPEG_LAYER_III"), "ogg": ("OGG", "VORBIS"), "opus": ("OGG", "OPUS")}
    expected = kinds.get(coding.fmt, (coding.fmt.upper(), f"PCM_{coding.bits}"))
    assert (info.format, info.subtype, info.channels) == (*expected, 2)


@every_format
@pytest.mark.parametrize("n_samples", [1, 320, 4095, 4097])
def test_the_number_of_samples_is_exact(coding: Coding, n_samples: int) -> None:
    data = encoded(music(1, n_samples), coding)
    assert sf.info(io.BytesIO(data)).frames == n_samples
    assert decode_reference(data, "clip")[0].shape == (1, n_samples)


@exact_formats
def test_beyond_full_scale_is_clipped_and_never_wraps(coding: Coding) -> None:
    wav = np.array([[1.0, 1.5, 100.0, -1.0, -1.5, -100.0]], np.float32)
    decoded, _ = decode_reference(encoded(wav, coding), "clip")
    top = 1.0 - 2.0 ** (1 - coding.bits)
    np.testing.assert_array_equal(decoded, np.array([[top] * 3 + [-1.0] * 3], np.float32))


@every_format
def test_bytes_repeat(coding: Coding) -> None:
    first = encoded(music(2), coding, comment="made by a machine", title="a song")
    assert encoded(music(2), coding, comment="made by a machine", title="a song") == first
    assert encoded(music(2), coding, comment="made by another", title="a song") != first
    assert encoded(music(2), coding, comment="made by a machine", title="the song") != first


@every_format
@pytest.mark.parametrize("length", [1, 2046, 2047, 30_000])
def test_the_tags_carry_title_and_provenance_of_any_length(coding: Coding, length: int) -> None:
    provenance = json.dumps({"prompt": "señal ♫ " + "x" * length}, ensure_ascii=False)
    data = encoded(music(), coding, comment=provenance, title="señal ♫\nx")
    assert json.loads(read_comment(data)) == json.loads(provenance)
    with sf.SoundFile(io.BytesIO(data)) as file:
        assert file.title == "señal ♫ x"
    assert decode_reference(data, "clip")[0].shape == music().shape


@every_format
def test_without_a_comment_there_is_none(coding: Coding) -> None:
    assert read_comment(encoded(music(), coding)) == ""
    assert read_comment(encoded(music(), coding, title="only a title")) == ""


@every_format
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_non_finite_samples_are_refused(coding: Coding, bad: float) -> None:
    with pytest.raises(ValueError, match="NaN or infinite"):
        encoded(np.array([[0.0, bad]], np.float32), coding)


def test_formats_that_are_not_there_name_the_choice() -> None:
    with pytest.raises(ValueError, match=r"'mp4' is unknown; choose one of \['flac', 'mp3', 'ogg'"):
        Coding("mp4")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="bits=32 is not supported; choose 16 or 24"):
        Coding("wav", 32)
    with pytest.raises(ValueError, match=r"\[channels, samples\]"):
        encode(np.zeros((1, 0), np.float32), RATE_HZ, FLAC)


@pytest.mark.parametrize(
    ("fmt", "made_hz", "file_hz"),
    [("flac", 12_345, 12_345), ("mp3", 32_000, 32_000), ("mp3", 20_000, 22_050),
     ("mp3", 96_000, 48_000), ("ogg", 24_000, 24_000), ("opus", 32_000, 48_000)],
)  # fmt: skip
def test_a_rate_that_a_format_lacks_becomes_one_that_it_has(
    fmt: Any, made_hz: int, file_hz: int
) -> None:
    assert Coding(fmt).rate_hz(made_hz) == file_hz
    if made_hz != file_hz:
        with pytest.raises(ValueError, match=f"{fmt} has no {made_hz} Hz; resample to {file_hz}"):
            encode(music(), made_hz, Coding(fmt))


@pytest.mark.parametrize("rate_hz", [24_000, 32_000])
@pytest.mark.parametrize("kbps", [64, 128, 160])
def test_mp3_has_the_bitrate_that_was_asked_for(rate_hz: int, kbps: int) -> None:
    data = encode(music(1, 4 * rate_hz), rate_hz, Coding("mp3", mp3_kbps=kbps))
    assert len(data) * 8 / 4 / 1000 == pytest.approx(kbps, rel=0.03)


@pytest.mark.parametrize("fmt", ["ogg", "opus"])
def test_more_quality_takes_more_bytes(fmt: Any) -> None:
    sizes = [
        len(encoded(music(1, 48_000), Coding(fmt, ogg_quality=quality)))
        for quality in (0.1, 0.5, 1.0)
    ]
    assert sizes[0] * 1.3 < sizes[1] < sizes[2] / 1.3
