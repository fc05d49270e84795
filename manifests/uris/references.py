"""Audio that a row refers to: what names its content, and its bytes.

`read_uri` and `reference_token` raise errors of the store. `read_reference` and
`identify_reference` raise them as errors of the row, in the words of dead letters.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from manifests.identity import bytes_token
from manifests.row_errors import ReferenceNotFoundError, UnreachableReferenceError
from manifests.uris.errors import RetryPolicy, StorageError, redact, retrying, secrets_in
from manifests.uris.filesystems import OBJECT_STORES, WEB, make_filesystem, split_uri

MAX_REFERENCE_BYTES = 256 * 2**20
PROTOCOLS = ("file", "memory", *WEB, *OBJECT_STORES)


def identify_reference(uri: str, options: Mapping[str, Any]) -> str:
    """`reference_token`, which raises a RowError where the content can't be named."""
    with _errors_of_row(uri):
        return reference_token(uri, options)


def read_reference(uri: str, options: Mapping[str, Any]) -> bytes:
    """`read_uri`, which raises a RowError where the bytes can't be had."""
    with _errors_of_row(uri):
        return read_uri(uri, options)


@contextmanager
def _errors_of_row(uri: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise ReferenceNotFoundError(
            f"{redact(uri)}: no such file; correct the path, then `retry`"
        ) from None
    except StorageError as error:
        raise UnreachableReferenceError(f"{error}; then `retry`") from error


def reference_token(uri: str, options: Mapping[str, Any] | None = None) -> str:
    """A short text that changes when the content behind `uri` does.

    Bytes are hashed where they are near; an object store is asked once for size and ETag. The
    answer is kept for local files only (by path, size and time): ask once per distinct URI.
    """
    protocol, location, info = _stat(uri, options or {})
    if protocol == "file":
        return _local_token(location, int(info["size"]), float(info["mtime"]))
    tag = info.get("ETag") or info.get("etag")
    if protocol in OBJECT_STORES and tag:
        return f"etag:{info['size']}:{str(tag).strip(chr(34))}"
    return bytes_token(read_uri(uri, options))


def read_uri(
    uri: str,
    options: Mapping[str, Any] | None = None,
    *,
    max_bytes: int = MAX_REFERENCE_BYTES,
) -> bytes:
    """The bytes behind `uri`; StorageError where there are none, or more than `max_bytes`."""
    _, location, info = _stat(uri, options or {})
    size = info.get("size")
    if size is not None and int(size) > max_bytes:
        raise StorageError(
            f"{redact(uri)} has {int(size):,} bytes, more than the limit of {max_bytes:,}; "
            "cut or compress it"
        )
    data: bytes = _call(uri, options or {}, lambda fs: fs.cat_file(location))
    return data


def _stat(uri: str, options: Mapping[str, Any]) -> tuple[str, str, dict[str, Any]]:
    protocol, location = split_uri(uri)
    info = dict(_call(uri, options, lambda fs: fs.info(location)))
    if info.get("type") == "directory":
        raise StorageError(f"{redact(uri)} is a folder: name a file in it")
    return protocol, location, info


def _call(uri: str, options: Mapping[str, Any], action: Any) -> Any:
    protocol, _ = split_uri(uri)
    if protocol not in PROTOCOLS:
        raise StorageError(
            f"cannot read {redact(uri)}: {protocol}:// is not known here; give a file, https://, "
            "s3:// or gs:// URI"
        )
    mine = dict(options) if protocol in OBJECT_STORES else {}
    retry = RetryPolicy()

    def attempt() -> Any:
        return action(make_filesystem(protocol, mine, retry))

    try:
        return retrying(attempt, "read", redact(uri), retry, secrets_in(mine))
    except (FileNotFoundError, StorageError):
        raise
    except Exception as error:  # odd protocols raise what their client libraries raise
        said = f"{type(error).__name__}: {error}"
        raise StorageError(
            f"cannot read {redact(uri)}: {redact(said)}; give a file, https://, s3:// or gs:// URI"
        ) from error


@functools.lru_cache(maxsize=65536)
def _local_token(path: str, size: int, mtime_s: float) -> str:
    """The hash of a local file; size and time are part of the key of the cache."""
    return bytes_token(read_uri(path))
