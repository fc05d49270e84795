"""What reference audio can be used: every limit stands here, for `manifest check` and the job.

numpy and soundfile are imported where a file is decoded, so that a manifest can be checked without
them as long as nobody asks for its audio.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

from manifests.redaction import shown_uri
from manifests.row_errors import BadReferenceError, RowError
from manifests.schema import resolve_uri
from manifests.uris.policy import MAX_REFERENCE_BYTES, ReferenceAccess
from manifests.uris.references import EMBEDDED, read_reference

if TYPE_CHECKING:
    import numpy as np
    import soundfile as sf
    from numpy.typing import NDArray

    Samples = NDArray[np.float32]

MAX_REFERENCE_S = 15 * 60
MAX_REFERENCE_CHANNELS = 8
MAX_REFERENCE_SAMPLES = MAX_REFERENCE_S * 192_000  # all channels together: 690 MB once decoded
SILENT_PEAK = 1e-4  # of a melody or style, full scale = 1

_READABLE = "WAV, FLAC, OGG (Vorbis or Opus), MP3 or AIFF"
_PARALLEL_READS = 8


def locate(reference: str | bytes, manifest_uri: str) -> str | bytes:
    """A reference as `load_reference` takes it: its whole URI, or its bytes where it is embedded.

    Args:
        reference: What the row gives.
        manifest_uri: The manifest's file, which relative URIs count from.
    """
    return reference if isinstance(reference, bytes) else resolve_uri(reference, manifest_uri)


def load_reference(
    place: str | bytes, access: ReferenceAccess, token: str | None = None
) -> tuple[Samples, int]:
    """Opens and decodes a reference: the only way by which `manifest check` and the job do so.

    Args:
        place: A whole URI, or the bytes of an embedded file (see `locate`).
        access: How references may be opened.
        token: What names the content that is expected; None takes any.

    Returns:
        Samples [C, N] as float32 and their rate in Hz.

    Raises:
        RowError: It is not there, can't be read, has changed, or is no audio within the limits.
    """
    data = read_reference(place, access, token)
    return decode_reference(data, EMBEDDED if isinstance(place, bytes) else shown_uri(place))


def decode_reference(data: bytes, where: str) -> tuple[Samples, int]:
    """Decodes a melody, continuation or style reference that a user supplied.

    Args:
        data: The file's bytes.
        where: What the messages call it, usually the URI.

    Returns:
        Samples [C, N] as float32 and their rate in Hz. Silence is allowed (see `check_audible`).

    Raises:
        BadReferenceError: Empty, not audio, truncated, not finite, or past the limits above.
    """
    import numpy as np
    import soundfile as sf

    if not data:
        raise BadReferenceError(f"{where}: the file is empty (0 bytes); give {_READABLE}")
    if len(data) > MAX_REFERENCE_BYTES:
        raise BadReferenceError(
            f"{where} has {len(data):,} bytes, more than the limit of {MAX_REFERENCE_BYTES:,}; "
            "cut or compress it"
        )
    try:
        with sf.SoundFile(io.BytesIO(data)) as file:
            _check_header(file, data, where)
            declared: int = file.frames
            samples = file.read(dtype="float32", always_2d=True)  # [N, C]
            rate: int = file.samplerate
    except sf.LibsndfileError as error:
        raise BadReferenceError(
            f"{where}: {_why_unreadable(data)} ({error.error_string})"
        ) from error
    if samples.shape[0] == 0:
        raise BadReferenceError(f"{where}: the file holds no audio samples; give at least one")
    if samples.shape[0] < declared:
        raise BadReferenceError(
            f"{where}: truncated: {samples.shape[0]} of {declared} samples could be read; "
            "copy the file again"
        )
    if not np.isfinite(samples).all():
        raise BadReferenceError(f"{where}: holds NaN or infinite samples; export it again")
    return np.ascontiguousarray(samples.T), rate  # [C, N]


def _check_header(file: sf.SoundFile, data: bytes, where: str) -> None:
    """Refuses what is too long or cut short before any sample is decoded."""
    duration_s = file.frames / file.samplerate
    if duration_s > MAX_REFERENCE_S:
        raise BadReferenceError(
            f"{where}: {duration_s:.0f} s of audio exceeds the limit of {MAX_REFERENCE_S} s; "
            "cut the part that matters"
        )
    if file.channels > MAX_REFERENCE_CHANNELS:
        raise BadReferenceError(
            f"{where}: {file.channels} channels exceed the limit of {MAX_REFERENCE_CHANNELS}; "
            "mix it down to mono or stereo"
        )
    if file.frames * file.channels > MAX_REFERENCE_SAMPLES:
        raise BadReferenceError(
            f"{where}: {file.channels} channels at {file.samplerate} Hz make "
            f"{file.frames * file.channels} samples, over the limit of {MAX_REFERENCE_SAMPLES}; "
            "cut it or lower its sample rate"
        )
    missing = _missing_wav_bytes(data)
    if missing:
        raise BadReferenceError(
            f"{where}: truncated: {missing} bytes are missing; copy the file again"
        )


def _missing_wav_bytes(data: bytes) -> int:
    """Bytes that a WAV's data chunk promises beyond the end of the file.

    libsndfile reads such a file to its end without a word. Sizes of 2 GiB and more are what
    programs that write into a pipe leave in the header: nothing is promised then.
    """
    for name, start, size in riff_chunks(data):
        if name == b"data" and size < 0x7FFF_0000:
            return max(0, start + size - len(data))
    return 0


def _why_unreadable(data: bytes) -> str:
    if data[4:8] == b"ftyp":
        return f"MP4/M4A/AAC is not supported; convert it to {_READABLE}"
    known = (b"RIFF", b"fLaC", b"OggS", b"FORM", b"ID3")
    if data.startswith(known):
        return "damaged or truncated audio; copy or export the file again"
    return f"not an audio file that can be read; give {_READABLE}"


def riff_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and declared size of every chunk of a WAV; nothing for other files."""
    if data[:4] == b"RIFF" and data[8:12] == b"WAVE":
        yield from chunks(data, 12, len(data))


def chunks(data: bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """The chunks between two offsets, as in `riff_chunks`."""
    while at + 8 <= end:
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        yield data[at : at + 4], at + 8, size
        at += 8 + size + size % 2


def peak_of(samples: Samples) -> float:
    """The largest distance from zero, full scale = 1."""
    return float(max(samples.max(), -samples.min()))


def check_audible(role: str, peak: float) -> None:
    """Raises BadReferenceError for a melody or style in which nothing can be heard.

    A model would follow the silence. A continuation may be silent: it is kept as it is.
    """
    if role != "continuation" and peak < SILENT_PEAK:
        raise BadReferenceError(
            f"the {role} is silent (its peak is below {20 * math.log10(SILENT_PEAK):.0f} dBFS): "
            f"there is nothing to follow; give another file, or leave the {role} empty"
        )


class Heard(NamedTuple):
    """What the rules of roles and models must know of a decoded reference."""

    n_samples: int  # per channel
    rate_hz: int
    peak: float


Verdict = Heard | RowError


class ReferenceOpener:
    """Loads references side by side; what has an address is loaded once, its verdict is kept."""

    def __init__(self, access: ReferenceAccess) -> None:
        self._access = access
        self._known: dict[str, Verdict] = {}

    def judge(self, references: Sequence[tuple[str | bytes, str]]) -> list[Verdict]:
        """One verdict per reference.

        Args:
            references: URI or embedded bytes, each with the manifest that relative URIs count from.
        """
        places = [locate(reference, manifest_uri) for reference, manifest_uri in references]
        unread = {place for place in places if isinstance(place, str)} - self._known.keys()
        with ThreadPoolExecutor(_PARALLEL_READS) as pool:
            self._known.update(zip(unread, pool.map(self._hear, unread), strict=True))
        return [
            self._known[place] if isinstance(place, str) else self._hear(place) for place in places
        ]

    def _hear(self, place: str | bytes) -> Verdict:
        try:
            samples, rate_hz = load_reference(place, self._access)
        except RowError as error:
            return error
        return Heard(samples.shape[1], rate_hz, peak_of(samples))
