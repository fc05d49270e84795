"""What reference audio can be used: every limit stands here, for `manifest check` and the job.

numpy and soundfile are imported where a file is decoded, so that a manifest can be checked without
them as long as nobody asks for its audio.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from manifests.isolation.pool import ReaderPool, Work
from manifests.isolation.process import Factory
from manifests.isolation.server import Note
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
LISTENER = f"{__name__}:make_listener"
SILENT_PEAK = 1e-4  # of a melody or style, full scale = 1

_READABLE = "WAV, FLAC, OGG (Vorbis or Opus), MP3 or AIFF"
_BLOCK_SAMPLES = 2**19  # of all channels, decoded at once


def locate(reference: str | bytes, manifest_uri: str) -> str | bytes:
    """A reference as `load_reference` takes it: its whole URI, or its bytes where it is embedded.

    Args:
        reference: What the row gives.
        manifest_uri: The manifest's file, which relative URIs count from.
    """
    return reference if isinstance(reference, bytes) else resolve_uri(reference, manifest_uri)


@contextmanager
def open_reference(
    place: str | bytes, access: ReferenceAccess, token: str | None = None
) -> Iterator[AudioStream]:
    """Opens a reference to be decoded: the only way by which `manifest check` and the job do so.

    Args:
        place: A whole URI, or the bytes of an embedded file (see `locate`).
        access: How references may be opened.
        token: What names the content that is expected; None takes any.

    Raises:
        RowError: It is not there, can't be read, has changed, or is no audio within the limits.
    """
    data = read_reference(place, access, token)
    with open_audio(data, name_of(place)) as audio:
        yield audio


def name_of(place: str | bytes) -> str:
    """What messages call a reference."""
    return EMBEDDED if isinstance(place, bytes) else shown_uri(place)


def decode_reference(data: bytes, where: str) -> tuple[Samples, int]:
    """Decodes audio as a whole; what a user supplied is decoded in blocks (see `open_audio`).

    Args:
        data: The file's bytes.
        where: What the messages call it, usually the URI.

    Returns:
        Samples [C, N] as float32 and their rate in Hz.

    Raises:
        BadReferenceError: As `AudioStream`.
    """
    with open_audio(data, where) as audio:
        return audio.first(audio.n_declared), audio.rate_hz


@contextmanager
def open_audio(data: bytes, where: str) -> Iterator[AudioStream]:
    """Opens a melody, continuation or style reference that a user supplied.

    Raises:
        BadReferenceError: Empty, not audio, truncated, not finite, or past the limits above.
    """
    import soundfile as sf

    class Forward(sf.SoundFile):  # type: ignore[misc]
        """It is read from front to end; soundfile would seek after each block, and a decoder of MP3
        starts anew where it was sought to, with other samples."""

        def seekable(self) -> bool:
            return False

    if not data:
        raise BadReferenceError(f"{where}: the file is empty (0 bytes); give {_READABLE}")
    if len(data) > MAX_REFERENCE_BYTES:
        raise BadReferenceError(
            f"{where} has {len(data):,} bytes, more than the limit of {MAX_REFERENCE_BYTES:,}; "
            "cut or compress it"
        )
    try:
        with Forward(io.BytesIO(data)) as file:
            _check_header(file, data, where)
            yield AudioStream(file, where)
    except sf.LibsndfileError as error:
        raise BadReferenceError(
            f"{where}: {_why_unreadable(data)} ({error.error_string})"
        ) from error


class AudioStream:
    """The samples of a reference as they are decoded. Silence is allowed (see `check_audible`).

    Args:
        file: Opened by `open_audio`, its header checked.
        where: What the messages call it.

    Attributes:
        rate_hz: Its sample rate.
        channels: How many it has.
        n_declared: Samples per channel by its header.
        n_samples: Samples per channel that were decoded so far.
        peak: The largest distance from zero among these, full scale = 1.
    """

    def __init__(self, file: sf.SoundFile, where: str) -> None:
        self._file, self._where = file, where
        self.rate_hz: int = file.samplerate
        self.channels: int = file.channels
        self.n_declared: int = file.frames
        self.n_samples, self.peak = 0, 0.0

    def blocks(self) -> Iterator[Samples]:
        """All samples, [C, n] at a time, as float32; each is looked at, whoever wants it or not.

        Raises:
            BadReferenceError: Of the whole: no samples, fewer than declared, or not finite.
        """
        import numpy as np

        is_finite = True
        n_block = max(1, _BLOCK_SAMPLES // self.channels)
        while self.n_samples < self.n_declared:
            n_wanted = min(n_block, self.n_declared - self.n_samples)
            read = self._file.read(n_wanted, dtype="float32", always_2d=True)  # [n, C]
            if not len(read):
                break
            self.n_samples += len(read)
            is_finite = is_finite and bool(np.isfinite(read).all())
            self.peak = max(self.peak, peak_of(read))
            yield np.ascontiguousarray(read.T)
            if len(read) < n_wanted:
                break
        if self.n_samples == 0:
            raise BadReferenceError(
                f"{self._where}: the file holds no audio samples; give at least one"
            )
        if self.n_samples < self.n_declared:
            raise BadReferenceError(
                f"{self._where}: truncated: {self.n_samples} of {self.n_declared} samples could be "
                "read; copy the file again"
            )
        if not is_finite:
            raise BadReferenceError(
                f"{self._where}: holds NaN or infinite samples; export it again"
            )

    def first(self, n_kept: int) -> Samples:
        """The first samples [C, n], at most `n_kept`; the others are decoded and dropped."""
        import numpy as np

        kept = np.empty((self.channels, min(n_kept, self.n_declared)), np.float32)
        n_done = 0
        for block in self.blocks():
            n_more = min(block.shape[1], kept.shape[1] - n_done)
            kept[:, n_done : n_done + n_more] = block[:, :n_more]
            n_done += n_more
        return kept[:, :n_done]


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
    """Reads references side by side, in processes of their own; what has an address is read once,
    and its verdict is kept.

    Args:
        access: How references may be opened.
        listener: Makes the handler of these processes; another than `make_listener` for tests.
    """

    def __init__(self, access: ReferenceAccess, listener: str = LISTENER) -> None:
        policy = access.policy
        self._limit_s = policy.reading_limit_s(1)
        self._pool = ReaderPool(Factory(listener, (access.plain(),)), policy.readers_mb)
        self._known: dict[str, Verdict] = {}

    def judge(self, references: Sequence[tuple[str | bytes, str]]) -> list[Verdict]:
        """One verdict per reference.

        Args:
            references: URI or embedded bytes, each with the manifest that relative URIs count from.
        """
        places = [locate(reference, manifest_uri) for reference, manifest_uri in references]
        found: dict[str | bytes, Verdict] = dict(self._known.items())
        unread = [place for place in dict.fromkeys(places) if place not in found]
        heard = self._pool.answers(Work(place, self._limit_s) for place in unread)
        found.update(zip(unread, heard, strict=True))
        self._known.update({p: verdict for p, verdict in found.items() if isinstance(p, str)})
        return [found[place] for place in places]

    def close(self) -> None:
        """Ends the processes."""
        self._pool.close()


def make_listener(access: ReferenceAccess) -> Callable[[str | bytes, Note], Heard]:
    """What a process of `ReferenceOpener` does: it decodes a reference and keeps nothing of it."""
    import numpy  # noqa: F401  # both before a process is forked
    import soundfile  # noqa: F401

    def listen(place: str | bytes, note: Note) -> Heard:
        note(name_of(place))
        with open_reference(place, access) as audio:
            for _ in audio.blocks():
                pass
            return Heard(audio.n_samples, audio.rate_hz, audio.peak)

    return listen
