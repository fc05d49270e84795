"""References that can be used come back as samples; those that can't explain themselves."""

from __future__ import annotations

import io
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from numpy.typing import NDArray

from manifests.audio_file import (
    MAX_REFERENCE_BYTES,
    Heard,
    ReferenceOpener,
    check_audible,
    decode_reference,
    locate,
    open_audio,
    peak_of,
)
from manifests.row_errors import BadReferenceError, ReferenceNotFoundError
from manifests.uris.policy import ReferenceAccess

RATE_HZ = 32_000


def music(channels: int = 1, n_samples: int = 4000) -> NDArray[np.float32]:
    rng = np.random.default_rng(7)
    return rng.uniform(-0.9, 0.9, (channels, n_samples)).astype(np.float32)  # [C, N]


def written(
    container: str, subtype: str, wav: NDArray[np.float32], rate_hz: int = RATE_HZ
) -> bytes:
    buffer = io.BytesIO()
    sf.write(buffer, wav.T, rate_hz, format=container, subtype=subtype)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("container", "subtype"),
    [("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III"), ("AIFF", "PCM_16"),
     ("WAV", "FLOAT"), ("WAV", "PCM_U8"), ("FLAC", "PCM_16")],
)  # fmt: skip
def test_the_usual_formats_are_read(container: str, subtype: str) -> None:
    wav, rate_hz = decode_reference(
        written(container, subtype, music(2, 48_000), 48_000), "melody.x"
    )
    assert (wav.shape[0], rate_hz, str(wav.dtype)) == (2, 48_000, "float32")
    assert abs(wav.shape[1] - 48_000) <= 2400  # MP3 pads its ends
    assert wav.flags.c_contiguous


def test_a_silent_reference_is_allowed() -> None:
    data = written("FLAC", "PCM_16", np.zeros((1, 100), np.float32))
    assert not decode_reference(data, "melody.flac")[0].any()


def long_wav() -> bytes:
    return written("WAV", "PCM_16", np.zeros((1, 901 * 100), np.float32), 100)


def nan_wav() -> bytes:
    return written("WAV", "FLOAT", np.full((1, 100), np.nan, np.float32))


BAD_REFERENCES = {
    "empty": (b"", "the file is empty"),
    "text": (b"this is a letter, not music" * 50, "not an audio file that can be read"),
    "m4a": (b"\x00\x00\x00\x20ftypM4A " + b"\0" * 500, "MP4/M4A/AAC is not supported; convert"),
    "flac cut short": (written("FLAC", "PCM_16", music())[:-900], "truncated"),
    "flac header only": (written("FLAC", "PCM_16", music())[:30], "damaged or truncated"),
    "wav cut short": (written("WAV", "PCM_16", music())[:-100], "truncated: 100 bytes are missing"),
    "wav header only": (written("WAV", "PCM_16", music())[:20], "damaged or truncated"),
    "no samples": (written("WAV", "PCM_16", music(1, 0)), "holds no audio samples"),
    "too long": (long_wav(), "901 s of audio exceeds the limit of 900 s"),
    "NaN": (nan_wav(), "holds NaN or infinite"),
    "9 channels": (written("WAV", "PCM_16", music(9, 9)), "9 channels exceed the limit of 8"),
}


@pytest.mark.parametrize("name", BAD_REFERENCES)
def test_a_bad_reference_says_where_and_what(name: str) -> None:
    data, message = BAD_REFERENCES[name]
    with pytest.raises(BadReferenceError, match="s3://bucket/melody") as caught:
        decode_reference(data, "s3://bucket/melody")
    assert message in str(caught.value)


def test_a_sample_bomb_is_refused_before_it_is_decoded() -> None:
    silent = written("FLAC", "PCM_16", np.zeros((8, 655_350), np.float32), 655_350)
    data = bytearray(silent)  # a FLAC header that claims 600 s at 655 kHz in 8 channels: 12 GB
    n_samples = 600 * 655_350
    data[21] = (data[21] & 0xF0) | (n_samples >> 32)
    data[22:26] = (n_samples & 0xFFFF_FFFF).to_bytes(4, "big")
    with pytest.raises(BadReferenceError, match="over the limit of 172800000"):
        decode_reference(bytes(data), "bomb.flac")


@pytest.mark.parametrize("size", [0xFFFF_FFFF, 0x7FFF_FFFF])
def test_a_wav_written_into_a_pipe_promises_no_size(size: int) -> None:
    data = bytearray(written("WAV", "PCM_16", music()))
    at = data.index(b"data") + 4
    data[at : at + 4] = size.to_bytes(4, "little")
    assert decode_reference(bytes(data), "pipe.wav")[0].shape == music().shape


def test_a_file_of_too_many_bytes_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(BadReferenceError, match="more than the limit of 268,435,456"):
        decode_reference(bytes(MAX_REFERENCE_BYTES + 1), "embedded audio")


def test_silence_is_refused_where_a_model_would_follow_it() -> None:
    quiet = peak_of(np.full((2, 10), -9e-5, np.float32))
    loud = peak_of(np.array([[0.0, -0.5], [0.25, 0.0]], np.float32))
    assert loud == 0.5
    for role in ("melody", "style"):
        check_audible(role, loud)
        with pytest.raises(BadReferenceError, match=f"the {role} is silent"):
            check_audible(role, quiet)
    check_audible("continuation", quiet)


def test_relative_references_count_from_the_manifest() -> None:
    assert locate("a/b.wav", "/set/m.parquet") == "/set/a/b.wav"
    assert locate("a.wav", "s3://bucket/set/m.parquet") == "s3://bucket/set/a.wav"
    assert locate("https://host/a.wav", "/set/m.parquet") == "https://host/a.wav"
    assert locate(b"bytes", "/set/m.parquet") == b"bytes"


def test_each_distinct_reference_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(written("WAV", "PCM_16", music()))
    manifest = str(tmp_path / "m.parquet")
    counted = "tests.manifests.isolation.handlers:make_counting_listener"
    with closing(ReferenceOpener(ReferenceAccess(), counted)) as opener:
        for _ in range(2):
            verdicts = opener.judge([(name, manifest) for name in ("a.wav", "b.wav") * 50])
            assert all(isinstance(verdict, Heard) for verdict in verdicts[::2])
            assert all(isinstance(verdict, ReferenceNotFoundError) for verdict in verdicts[1::2])
    for name in ("a.wav", "b.wav"):
        assert (tmp_path / f"{name}.reads").read_text() == "read\n"


@pytest.mark.parametrize(
    ("kind", "coding"), [("MP3", "MPEG_LAYER_III"), ("OGG", "VORBIS"), ("FLAC", "PCM_24")]
)
@pytest.mark.parametrize("channels", [1, 2])
def test_blocks_hold_the_same_samples_as_the_whole(kind: str, coding: str, channels: int) -> None:
    noise = np.random.default_rng(0).uniform(-0.4, 0.4, (600_000, channels))
    buffer = io.BytesIO()
    with sf.SoundFile(buffer, "w", 44_100, channels, coding, format=kind) as file:
        for start in range(0, len(noise), 4096):
            file.write(noise[start : start + 4096])
    data = buffer.getvalue()
    whole, _ = sf.read(io.BytesIO(data), dtype="float32", always_2d=True)

    with open_audio(data, "noise") as audio:
        blocks = list(audio.blocks())
        assert len(blocks) > 1
        assert np.array_equal(np.concatenate(blocks, axis=1), whole.T)
        assert audio.peak == peak_of(whole)
    with open_audio(data, "noise") as audio:
        assert np.array_equal(audio.first(1000), whole.T[:, :1000])
        assert audio.n_samples == len(whole)
