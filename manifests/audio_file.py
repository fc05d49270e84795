"""Opens references, each distinct one once, to say which can't be used and why."""

import io
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from manifests.reader import open_filesystem
from manifests.schema import resolve_uri

# Takes a reference's bytes, returns its length in seconds; a ValueError says what is wrong.
AudioProbe = Callable[[bytes], float]

MAX_REFERENCE_BYTES = 256 * 2**20
_PARALLEL_READS = 8


class Unusable(NamedTuple):
    """Why a reference can't be used."""

    rule: str
    way_out: str


Verdict = float | Unusable  # length in seconds, or what is wrong


class ReferenceOpener:
    """Judges references and remembers the verdicts on those that have an address."""

    def __init__(self, storage_options: Mapping[str, Any], probe: AudioProbe) -> None:
        self._options = storage_options
        self._probe = probe
        self._known: dict[str, Verdict] = {}

    def judge(self, references: Sequence[tuple[str | bytes, str]]) -> list[Verdict]:
        """One verdict per reference.

        Args:
            references: URI or embedded bytes, each with the manifest that relative URIs count from.
        """
        places = [
            resolve_uri(reference, manifest_uri) if isinstance(reference, str) else reference
            for reference, manifest_uri in references
        ]
        unread = {place for place in places if isinstance(place, str)} - self._known.keys()
        with ThreadPoolExecutor(_PARALLEL_READS) as pool:
            self._known.update(zip(unread, pool.map(self._open, unread), strict=True))
        return [
            self._known[place] if isinstance(place, str) else self._open(place) for place in places
        ]

    def _open(self, reference: str | bytes) -> Verdict:
        try:
            data = self._read(reference) if isinstance(reference, str) else reference
            return self._probe(data)
        except FileNotFoundError:
            return Unusable("does not exist", "correct the path, or copy the file there")
        except IsADirectoryError:
            return Unusable("is a folder", "name a file")
        except ValueError as error:
            return Unusable(str(error), "replace the file")
        except Exception as error:  # stores raise what their client libraries raise
            said = f"can't be read ({type(error).__name__}: {error})"
            return Unusable(said, "check the address and the access to it")

    def _read(self, uri: str) -> bytes:
        fs, path = open_filesystem(uri, self._options)
        info = fs.info(path)
        if info["type"] == "directory":
            raise IsADirectoryError(uri)
        size = info["size"] or 0
        if size > MAX_REFERENCE_BYTES:
            raise ValueError(f"has {size} bytes, over the limit of {MAX_REFERENCE_BYTES}")
        data: bytes = fs.cat_file(path)
        return data


def decoded_seconds(data: bytes) -> float:
    """Decodes a file to its end with libsndfile: the default `AudioProbe`."""
    import soundfile

    if not data:
        raise ValueError("is empty (0 bytes)")
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            declared, sample_rate_hz = int(file.frames), int(file.samplerate)
            read = sum(len(block) for block in file.blocks(blocksize=65_536, dtype="float32"))
    except soundfile.LibsndfileError as error:
        raise ValueError(f"is no readable audio ({error.error_string})") from error
    if read == 0:
        raise ValueError("holds no samples")
    if read < declared:
        raise ValueError(f"is truncated: {read} of {declared} samples are there")
    return read / sample_rate_hz
