"""Samples to file bytes and back: FLAC and WAV out, any libsndfile format in.

Bytes repeat: the same samples, format and comment give the same file, which the audio file names
(a hash of the bytes) and the comparison of resumed runs rely on.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import soundfile as sf
from numpy.typing import NDArray

from pipeline.config import AudioFormat

MEDIA_TYPES: dict[str, str] = {"flac": "audio/flac", "wav": "audio/wav"}  # key = file extension
MAX_REFERENCE_S = 15 * 60
MAX_REFERENCE_CHANNELS = 8
MAX_REFERENCE_SAMPLES = MAX_REFERENCE_S * 192_000  # all channels together: 690 MB once decoded

_READABLE = "WAV, FLAC, OGG (Vorbis or Opus), MP3 or AIFF"


def encode(
    wav: NDArray[np.float32],
    sample_rate_hz: int,
    fmt: AudioFormat = "flac",
    bits: int = 16,
    comment: str = "",
) -> bytes:
    """Encodes one clip; what exceeds full scale is clipped, never wrapped.

    Args:
        wav: [C, N] samples, 1.0 = full scale.
        sample_rate_hz: Rate of `wav`.
        fmt: "flac" or "wav".
        bits: 16 or 24 bits per sample.
        comment: Text for the file's comment tag (the provenance JSON).

    Raises:
        ValueError: Unknown format or bits, wrong shape, or NaN or infinite samples.
    """
    if fmt not in MEDIA_TYPES:
        raise ValueError(f"audio format {fmt!r} is unknown; choose one of {sorted(MEDIA_TYPES)}")
    if bits not in (16, 24):
        raise ValueError(f"bits={bits} is not supported; choose 16 or 24")
    if wav.ndim != 2 or wav.size == 0:
        raise ValueError(f"audio must be [channels, samples] and not empty, got {wav.shape}")
    if not np.isfinite(wav).all():
        raise ValueError("audio holds NaN or infinite samples and can't be encoded")
    buffer = io.BytesIO()
    with sf.SoundFile(
        buffer,
        "w",
        samplerate=sample_rate_hz,
        channels=wav.shape[0],
        format=fmt.upper(),
        subtype=f"PCM_{bits}",
    ) as file:
        if comment:
            file.comment = comment
        file.write(_quantise(wav, bits).T)  # [N, C]
    return buffer.getvalue()


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
    for name, start, size in _riff_chunks(data):
        if name == b"LIST" and data[start : start + 8] == b"INFOICMT":
            # libsndfile writes a WAV comment of any length, but reads none above 2046 bytes.
            length = int.from_bytes(data[start + 8 : start + 12], "little")
            return data[start + 12 : start + 12 + min(length, size)].rstrip(b"\0").decode()
    with sf.SoundFile(io.BytesIO(data)) as file:
        return str(file.comment)


def decode_reference(data: bytes, where: str) -> tuple[NDArray[np.float32], int]:
    """Decodes a melody, continuation or style reference that a user supplied.

    Args:
        data: The file's bytes.
        where: What the messages call it, usually the URI.

    Returns:
        Samples [C, N] as float32 and their rate in Hz. Silence is allowed.

    Raises:
        ValueError: Empty, not audio, truncated, not finite, or past the limits above.
    """
    if not data:
        raise ValueError(f"{where}: the file is empty (0 bytes); give {_READABLE}")
    try:
        with sf.SoundFile(io.BytesIO(data)) as file:
            _check_header(file, data, where)
            declared: int = file.frames
            samples = file.read(dtype="float32", always_2d=True)  # [N, C]
            rate: int = file.samplerate
    except sf.LibsndfileError as error:
        raise ValueError(f"{where}: {_why_unreadable(data)} ({error.error_string})") from error
    if samples.shape[0] == 0:
        raise ValueError(f"{where}: the file holds no audio samples; give at least one")
    if samples.shape[0] < declared:
        raise ValueError(
            f"{where}: truncated: {samples.shape[0]} of {declared} samples could be read; "
            "copy the file again"
        )
    if not np.isfinite(samples).all():
        raise ValueError(f"{where}: holds NaN or infinite samples; export it again")
    return np.ascontiguousarray(samples.T), rate  # [C, N]


def _check_header(file: sf.SoundFile, data: bytes, where: str) -> None:
    """Refuses what is too long or cut short before any sample is decoded."""
    duration_s = file.frames / file.samplerate
    if duration_s > MAX_REFERENCE_S:
        raise ValueError(
            f"{where}: {duration_s:.0f} s of audio exceeds the limit of {MAX_REFERENCE_S} s; "
            "cut the part that matters"
        )
    if file.channels > MAX_REFERENCE_CHANNELS:
        raise ValueError(
            f"{where}: {file.channels} channels exceed the limit of {MAX_REFERENCE_CHANNELS}; "
            "mix it down to mono or stereo"
        )
    if file.frames * file.channels > MAX_REFERENCE_SAMPLES:
        raise ValueError(
            f"{where}: {file.channels} channels at {file.samplerate} Hz make "
            f"{file.frames * file.channels} samples, over the limit of {MAX_REFERENCE_SAMPLES}; "
            "cut it or lower its sample rate"
        )
    missing = _missing_wav_bytes(data)
    if missing:
        raise ValueError(f"{where}: truncated: {missing} bytes are missing; copy the file again")


def _missing_wav_bytes(data: bytes) -> int:
    """Bytes that a WAV's data chunk promises beyond the end of the file.

    libsndfile reads such a file to its end without a word. Sizes of 2 GiB and more are what
    programs that write into a pipe leave in the header: nothing is promised then.
    """
    for name, start, size in _riff_chunks(data):
        if name == b"data" and size < 0x7FFF_0000:
            return max(0, start + size - len(data))
    return 0


def _riff_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and declared size of every chunk of a WAV; nothing for other files."""
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        return
    at = 12
    while at + 8 <= len(data):
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        yield data[at : at + 4], at + 8, size
        at += 8 + size + size % 2


def _why_unreadable(data: bytes) -> str:
    if data[4:8] == b"ftyp":
        return f"MP4/M4A/AAC is not supported; convert it to {_READABLE}"
    known = (b"RIFF", b"fLaC", b"OggS", b"FORM", b"ID3")
    if data.startswith(known):
        return "damaged or truncated audio; copy or export the file again"
    return f"not an audio file that can be read; give {_READABLE}"
