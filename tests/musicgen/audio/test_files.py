"""Audio files with the reference's parameters."""

import math
from pathlib import Path

import pytest
import soundfile as sf
import torch
from torch import Tensor

from musicgen.audio import audio_info, audio_read, audio_write, f32_pcm, i16_pcm

pytestmark = pytest.mark.slow  # seconds, all together

RATE_HZ = 32_000


def music(seconds: float = 1.0, channels: int = 1) -> Tensor:
    at = torch.arange(int(seconds * RATE_HZ)) / RATE_HZ
    sound = sum(torch.sin(math.tau * 220 * n * at) / n for n in (1, 2, 3, 5))
    return 0.2 * torch.stack([sound * (1 - 0.3 * side) for side in range(channels)])


@pytest.mark.parametrize(
    ("fmt", "coding", "error"),
    [
        ("wav", "PCM_16", 2e-5),
        ("flac", "PCM_24", 2e-7),
        ("mp3", "MPEG_LAYER_III", None),
        ("ogg", "VORBIS", None),
    ],
)
def test_what_is_written_is_read_back(
    tmp_path: Path, fmt: str, coding: str, error: float | None
) -> None:
    wav = music(channels=2)
    path = audio_write(tmp_path / "new" / "clip", wav, RATE_HZ, fmt, strategy="none")
    assert path == tmp_path / "new" / f"clip.{fmt}"
    assert sf.info(path).subtype == coding
    read, rate_hz = audio_read(path)
    assert (read.shape, read.dtype, rate_hz) == (wav.shape, torch.float32, RATE_HZ)
    if error is not None:
        torch.testing.assert_close(read, wav, atol=error, rtol=0)
    assert float(read.square().mean().sqrt() / wav.square().mean().sqrt()) == pytest.approx(1, 0.06)
    info = audio_info(path)
    assert (info.sample_rate, info.duration, info.channels) == (RATE_HZ, 1.0, 2)


def test_the_level_is_brought_to_the_strategys(tmp_path: Path) -> None:
    one_channel = music()[0]
    path = audio_write(tmp_path / "a", one_channel, RATE_HZ)  # peak, 1 dB of headroom
    assert float(audio_read(path)[0].abs().max()) == pytest.approx(10 ** (-1 / 20), abs=1e-4)
    path = audio_write(
        tmp_path / "b", one_channel, RATE_HZ, strategy="loudness", loudness_compressor=True
    )
    assert float(audio_read(path)[0].abs().max()) < 1


def test_bitrates_are_those_that_were_asked_for(tmp_path: Path) -> None:
    wav = music(8.0, channels=2) + 0.05 * torch.randn(
        2, 8 * RATE_HZ, generator=torch.Generator().manual_seed(0)
    )
    for fmt, asked in (("mp3", {"mp3_rate": 128}), ("ogg", {"ogg_rate": 128})):
        path = audio_write(tmp_path / "a", wav, RATE_HZ, format=fmt, **asked)
        assert path.stat().st_size * 8 / 8.0 / 1000 == pytest.approx(128, rel=0.06)


def test_a_stretch_of_a_file_is_read_and_filled_up(tmp_path: Path) -> None:
    wav = music()
    path = audio_write(tmp_path / "a", wav, RATE_HZ, "flac", normalize=False)
    part, _ = audio_read(path, seek_time=0.25, duration=0.5)
    torch.testing.assert_close(part, wav[:, 8_000:24_000], atol=2e-7, rtol=0)
    padded, _ = audio_read(path, 0.75, 0.5, pad=True)
    assert padded.shape == (1, 16_000)
    assert not padded[:, 8_000:].any()
    assert audio_read(path, 0.75, 0.5)[0].shape == (1, 8_000)
    with pytest.raises(AssertionError, match=r"seek_time=2 s lies outside of the file's 1 s"):
        audio_read(path, seek_time=2.0)


def test_names_and_folders_are_made_as_asked(tmp_path: Path) -> None:
    assert audio_write(tmp_path / "raw", music(0.1), RATE_HZ, add_suffix=False).name == "raw"
    with pytest.raises(FileNotFoundError):
        audio_write(tmp_path / "none" / "a", music(0.1), RATE_HZ, make_parent_dir=False)


def test_nothing_is_left_of_what_can_not_be_written(tmp_path: Path) -> None:
    for kind in (RuntimeError, ValueError):
        with pytest.raises(kind, match="format='aiff' is unknown; choose wav, flac"):
            audio_write(tmp_path / "a", music(), RATE_HZ, "aiff")
    for kind in (AssertionError, ValueError):
        with pytest.raises(kind, match="wav has floats"):
            audio_write(tmp_path / "a", torch.ones(1, 9, dtype=torch.int16), RATE_HZ)
        with pytest.raises(kind, match="not finite"):
            audio_write(tmp_path / "a", torch.full((1, 9), math.nan), RATE_HZ)
    with pytest.raises(ValueError, match=r"one clip \[C, N\] or \[N\], got \[1, 1, 9\]"):
        audio_write(tmp_path / "a", torch.ones(1, 1, 9), RATE_HZ)
    with pytest.raises(TypeError, match="audio_write\\(\\) knows no argument stratgy"):
        audio_write(tmp_path / "a", music(), RATE_HZ, stratgy="peak")
    with pytest.raises(sf.LibsndfileError):
        audio_write(tmp_path / "a", music(), 1_000, "mp3")
    assert list(tmp_path.iterdir()) == []


def test_pcm_goes_there_and_back() -> None:
    codes = torch.tensor([-(2**15), -1, 0, 5, 2**15 - 1], dtype=torch.int16)
    assert torch.equal(i16_pcm(f32_pcm(codes)), codes)
    assert i16_pcm(torch.tensor([1.0, -1.0])).tolist() == [2**15 - 1, -(2**15)]
    assert f32_pcm(torch.tensor([2**30], dtype=torch.int32)).tolist() == [0.5]
    floats = torch.tensor([0.25])
    assert f32_pcm(floats) is floats
    with pytest.raises(AssertionError, match="floats in -1 … 1"):
        i16_pcm(torch.tensor([1.5]))
    with pytest.raises(ValueError, match=r"got torch\.uint8"):
        f32_pcm(torch.tensor([1], dtype=torch.uint8))
