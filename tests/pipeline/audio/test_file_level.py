"""The level of the file: what a player measures is what the row says, in every format.

Measured on the decoded file by our own meter, by torchaudio's, and by ffmpeg's ebur128.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import torch
import torchaudio
from numpy.typing import NDArray

from manifests.audio_file import decode_reference
from pipeline.audio.encode import Coding, encode, mp3_gain
from pipeline.audio.level import to_level
from pipeline.audio.loudness import integrated_loudness
from pipeline.audio.measure import measure
from pipeline.audio.settings import AudioSettings

CODINGS = [
    *(Coding("flac"), Coding("flac", 24), Coding("wav"), Coding("ogg"), Coding("opus")),
    *(Coding("mp3", mp3_kbps=kbps) for kbps in (96, 128, 160, 192, 224, 256, 320)),
]
every_coding = pytest.mark.parametrize(
    "coding", CODINGS, ids=lambda c: f"{c.fmt}-{c.mp3_kbps if c.fmt == 'mp3' else c.bits}"
)


def music(rate_hz: int, channels: int, seconds: float = 3.0) -> NDArray[np.float32]:
    """Plucked notes with overtones; the channels differ."""
    t = np.arange(int(rate_hz * seconds)) / rate_hz
    wav = np.zeros((channels, t.size))
    for beat in range(int(seconds * 4)):
        since = t - beat / 4
        envelope = np.where(since >= 0, np.exp(-5 * np.maximum(since, 0)), 0)
        for channel in range(channels):
            hz = 220 * 2 ** ((beat * 5 + channel * 7) % 12 / 12)
            for overtone in range(1, 6):
                wav[channel] += envelope * np.sin(2 * np.pi * hz * overtone * since) / overtone**2
    return (0.2 * wav).astype(np.float32)  # [C, N]


def by_torchaudio(wav: NDArray[np.float32], rate_hz: int) -> float:  # [C, N]
    """An independent meter. Its filters are not quite those of the standard: it reads 0.13 LU low
    at 32 kHz."""
    return float(torchaudio.functional.loudness(torch.from_numpy(wav), rate_hz))


def ebur128(path: Path) -> float:
    """What ffmpeg says of a file, in steps of 0.1 LU."""
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        "-hide_banner",
        "-nostats",
        "-i",
        str(path),
        "-af",
        "ebur128",
        "-f",
        "null",
    ]
    done = subprocess.run([*command, "-"], capture_output=True, text=True, check=True)
    return float(re.findall(r"I:\s+(-?[\d.]+) LUFS", done.stderr)[-1])


@every_coding
@pytest.mark.parametrize(("rate_hz", "channels"), [(32_000, 1), (48_000, 2), (16_000, 1)])
def test_the_file_is_as_loud_as_its_row_says(
    coding: Coding, rate_hz: int, channels: int, tmp_path: Path
) -> None:
    rate_hz = coding.rate_hz(rate_hz)
    wav = music(rate_hz, channels)
    made = measure(wav, rate_hz)
    row = to_level(wav, rate_hz, made, AudioSettings(normalize="loudness", target_lufs=-20.0))
    assert row.measures.loudness_lufs == pytest.approx(-20.0, abs=0.01)

    data = encode(row.wav, rate_hz, coding)
    decoded, _ = decode_reference(data, "clip")  # [C, N]
    heard, _ = integrated_loudness(decoded, rate_hz)
    assert heard == pytest.approx(row.measures.loudness_lufs, abs=0.1)
    assert by_torchaudio(decoded, rate_hz) == pytest.approx(
        by_torchaudio(row.wav, rate_hz), abs=0.1
    )
    assert by_torchaudio(decoded, rate_hz) == pytest.approx(row.measures.loudness_lufs, abs=0.2)

    at_the_models_level = (decoded * 10 ** (-row.gain_db / 20)).astype(np.float32)
    assert made.loudness_lufs is not None
    assert integrated_loudness(at_the_models_level, rate_hz)[0] == pytest.approx(
        made.loudness_lufs, abs=0.1
    )
    path = tmp_path / f"clip.{coding.fmt}"
    path.write_bytes(data)
    # 0.1 LU, and half a step of what ffmpeg prints
    assert ebur128(path) == pytest.approx(row.measures.loudness_lufs, abs=0.15)


@pytest.mark.parametrize("kbps", [96, 192, 320])
def test_mp3_keeps_a_clip_that_reaches_full_scale(kbps: int) -> None:
    """Making up for the gain of the encoder clips nothing."""
    t = np.arange(32_000) / 32_000
    wav = np.sin(2 * np.pi * 440 * t).astype(np.float32)[None]  # [1, N]
    decoded, _ = decode_reference(encode(wav, 32_000, Coding("mp3", mp3_kbps=kbps)), "clip")
    assert np.abs(decoded - wav)[:, 4000:-4000].max() < 0.02


def test_the_gain_of_the_encoder_is_found_and_repeats() -> None:
    found = {kbps: mp3_gain(kbps, 32_000, 1) for kbps in (64, 128, 192, 320)}
    assert all(0.85 <= gain <= 1.05 for gain in found.values()), found
    mp3_gain.cache_clear()
    assert {kbps: mp3_gain(kbps, 32_000, 1) for kbps in found} == found
