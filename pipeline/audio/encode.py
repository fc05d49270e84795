"""Samples to file bytes: FLAC, WAV, MP3, Vorbis and Opus.

Bytes repeat: the same samples, format and tags give the same file, which the audio file names (a
hash of the bytes) and the comparison of resumed runs rely on.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import soundfile as sf
from numpy.typing import NDArray

from manifests.audio_file import chunks, riff_chunks
from pipeline.audio.settings import AudioFormat
from pipeline.audio.tags import id3_tag, with_serial_number

MEDIA_TYPES: dict[AudioFormat, str] = {  # key = file extension
    "flac": "audio/flac",
    "wav": "audio/wav",
    "mp3": "audio/mpeg",
    "ogg": "audio/ogg",
    "opus": "audio/ogg",
}
_CODERS: dict[AudioFormat, tuple[str, str]] = {  # libsndfile's names for container and coding
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
}
_MP3_RATES_HZ = (8000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
OPUS_RATE_HZ = 48_000  # what every Opus decoder gives, whatever went in
MAX_TITLE = 120  # characters
GAIN_TONE_HZ = 440.0  # of the tone by which the gain of the MP3 encoder is measured
WRITE_SAMPLES = 2**20  # at once: libsndfile's Vorbis encoder takes long clips onto its stack


@dataclass(frozen=True)
class Coding:
    """How clips become files.

    Attributes:
        bits: Per sample of FLAC and WAV.
        mp3_kbps: Constant bitrate of MP3, for both channels together.
        ogg_quality: Of Vorbis and Opus, above 0 up to 1; None leaves it to the codec.
    """

    fmt: AudioFormat = "flac"
    bits: int = 16
    mp3_kbps: int = 192
    ogg_quality: float | None = None

    def __post_init__(self) -> None:
        if self.fmt not in MEDIA_TYPES:
            raise ValueError(
                f"audio format {self.fmt!r} is unknown; choose one of {sorted(MEDIA_TYPES)}"
            )
        if self.bits not in (16, 24):
            raise ValueError(f"bits={self.bits} is not supported; choose 16 or 24")

    def rate_hz(self, made_hz: int) -> int:
        """Rate of the file for audio at `made_hz`: the same wherever the format has it."""
        if self.fmt == "opus":
            return OPUS_RATE_HZ
        if self.fmt == "mp3":
            return next((rate for rate in _MP3_RATES_HZ if rate >= made_hz), _MP3_RATES_HZ[-1])
        return made_hz


def encode(
    wav: NDArray[np.float32],
    sample_rate_hz: int,
    coding: Coding,
    *,
    comment: str = "",
    title: str = "",
) -> bytes:
    """Encodes one clip; what exceeds full scale is clipped, never wrapped.

    Args:
        wav: [C, N] samples, 1.0 = full scale, at a rate that the format has (`Coding.rate_hz`).
        sample_rate_hz: Rate of `wav`.
        comment: Text for the file's comment tag (the provenance JSON).
        title: Text for its title tag; the first `MAX_TITLE` characters count.

    Raises:
        ValueError: A rate that the format does not have, a wrong shape, NaN or infinite samples.
    """
    if coding.rate_hz(sample_rate_hz) != sample_rate_hz:
        raise ValueError(
            f"{coding.fmt} has no {sample_rate_hz} Hz; resample to {coding.rate_hz(sample_rate_hz)}"
        )
    if wav.ndim != 2 or wav.size == 0:
        raise ValueError(f"audio must be [channels, samples] and not empty, got {wav.shape}")
    if not np.isfinite(wav).all():
        raise ValueError("audio holds NaN or infinite samples and can't be encoded")
    title = " ".join(title[:MAX_TITLE].split())
    if coding.fmt in ("flac", "wav"):
        container, subtype = coding.fmt.upper(), f"PCM_{coding.bits}"
        return _write(wav, sample_rate_hz, container, subtype, comment, title, bits=coding.bits)
    clipped = np.clip(wav, -1.0, 1.0)
    container, subtype = _CODERS[coding.fmt]
    if coding.fmt == "mp3":
        # libsndfile writes UTF-8 into fields that it declares Latin-1, so the tag is ours.
        mp3_level = _mp3_level(coding.mp3_kbps, sample_rate_hz)
        gain = mp3_gain(coding.mp3_kbps, sample_rate_hz, clipped.shape[0])
        # LAME computes in floats, so what then exceeds full scale is not clipped.
        samples = clipped if gain == 1.0 else (clipped / np.float32(gain)).astype(np.float32)
        data = _write(samples, sample_rate_hz, container, subtype, level=mp3_level)
        return id3_tag(comment, title) + data
    level = None if coding.ogg_quality is None else 1.0 - coding.ogg_quality
    data = _write(clipped, sample_rate_hz, container, subtype, comment, title, level)
    return with_serial_number(data, 0)


def _write(
    samples: NDArray[Any],
    sample_rate_hz: int,
    container: str,
    subtype: str,
    comment: str = "",
    title: str = "",
    level: float | None = None,
    bits: int | None = None,
) -> bytes:
    """One file of samples [C, N]; `level` is libsndfile's compression level, 0 is the best. With
    `bits` they become integers here."""
    buffer = io.BytesIO()
    with sf.SoundFile(
        buffer,
        "w",
        samplerate=sample_rate_hz,
        channels=samples.shape[0],
        format=container,
        subtype=subtype,
        compression_level=level,
        bitrate_mode="CONSTANT" if container == "MP3" else None,
    ) as file:
        if title:
            file.title = title
        if comment:
            file.comment = comment
        for start in range(0, samples.shape[1], WRITE_SAMPLES):
            piece = samples[:, start : start + WRITE_SAMPLES]
            file.write((piece if bits is None else _quantise(piece, bits)).T)  # [N, C]
    return buffer.getvalue()


@cache
def mp3_gain(kbps: int, sample_rate_hz: int, channels: int) -> float:
    """What LAME multiplies samples with, in hundredths: 0.95 to 1, by a table of bitrates of its
    own, which may change. Therefore it is measured, once per process and kind of file."""
    seconds = np.arange(sample_rate_hz) / sample_rate_hz
    tone = (0.25 * np.sin(2 * np.pi * GAIN_TONE_HZ * seconds)).astype(np.float32)
    wav = np.tile(tone, (channels, 1))  # [C, N]
    level = _mp3_level(kbps, sample_rate_hz)
    data = _write(wav, sample_rate_hz, *_CODERS["mp3"], level=level)
    decoded, _ = sf.read(io.BytesIO(data), dtype="float32", always_2d=True)  # [N, C]
    middle = slice(sample_rate_hz // 4, 3 * sample_rate_hz // 4)
    ratio = np.sqrt(np.mean(decoded[middle] ** 2) / np.mean(tone[middle] ** 2))
    return round(float(ratio), 2)


def _mp3_level(kbps: int, sample_rate_hz: int) -> float:
    """The compression level that stands for a bitrate: libsndfile spreads 0..1 over those that
    MPEG-1 has, or MPEG-2 at rates below 32 kHz; what is not among them becomes the nearest."""
    lowest, highest = (32, 320) if sample_rate_hz >= 32_000 else (8, 160)
    level = (highest - min(kbps, highest)) / (highest - lowest)
    return min(level, 0.999)  # libsndfile refuses 1.0


def _quantise(wav: NDArray[np.float32], bits: int) -> NDArray[np.integer]:
    """Rounds half to even to PCM here, so that no libsndfile build can change the bytes."""
    full_scale = 2 ** (bits - 1)
    scaled = np.rint(wav.astype(np.float64) * full_scale)
    pcm: NDArray[np.int32] = np.clip(scaled, -full_scale, full_scale - 1).astype(np.int32)  # [C, N]
    if bits == 16:
        return pcm.astype(np.int16)
    return pcm * np.int32(2**8)  # libsndfile takes the upper 24 bits


def read_comment(data: bytes) -> str:
    """The comment tag of an encoded file, "" where it has none."""
    for name, start, size in riff_chunks(data):
        if name == b"LIST" and data[start : start + 4] == b"INFO":
            # libsndfile writes a WAV comment of any length, but reads none above 2046 bytes.
            for field, at, length in chunks(data, start + 4, min(start + size, len(data))):
                if field == b"ICMT":
                    return data[at : at + length].rstrip(b"\0").decode()
    with sf.SoundFile(io.BytesIO(data)) as file:
        return str(file.comment)
