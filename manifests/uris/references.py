"""Audio that a row refers to: what names its content, and its bytes.

`fetch` and `reference_token` raise errors of the store. `read_reference` and `identify_reference`
raise them as errors of the row, in the words of dead letters.

Local files, and what lies on the web, are named by the hash of their bytes: an ETag of a web server
may be weak, or the same on two machines for two contents. Objects are named by size and ETag.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

from manifests.redaction import redact, secrets_in, secrets_in_uri, shown_uri
from manifests.row_errors import (
    ChangedReferenceError,
    ForbiddenReferenceError,
    ReferenceNotFoundError,
    RowError,
    UnreachableReferenceError,
)
from manifests.uris.errors import RetryPolicy, StorageError, retrying
from manifests.uris.filesystems import OBJECT_STORES, WEB, make_filesystem, split_uri
from manifests.uris.local import read_local, stat_local
from manifests.uris.objects import object_info, object_token, read_object
from manifests.uris.policy import LOCAL, Bounds, Content, ReferenceAccess
from manifests.uris.web import read_web

PROTOCOLS = (*LOCAL, *WEB, *OBJECT_STORES)
EMBEDDED = "embedded audio"  # as messages name what stands in the manifest
T = TypeVar("T")


class Fetched(NamedTuple):
    """A reference as it was read: its bytes, and what names them."""

    data: bytes
    token: str


def identify_reference(uri: str, access: ReferenceAccess) -> str:
    """`reference_token`, which raises a RowError where the content can't be named."""
    with _errors_of_row(uri):
        return reference_token(uri, access)


def read_reference(place: str | bytes, access: ReferenceAccess, token: str | None = None) -> bytes:
    """The bytes of a reference.

    Args:
        place: Its whole URI, or the bytes of an embedded file.
        access: How it may be opened.
        token: What names the content that is expected; None takes any.

    Raises:
        RowError: They can't be had, or are not what was expected.
    """
    if isinstance(place, bytes):
        with _errors_of_row(EMBEDDED):
            Bounds(EMBEDDED, access.policy).check_size(len(place))
        return place
    with _errors_of_row(place):
        fetched = fetch(place, access)
    if token not in (None, fetched.token):
        raise ChangedReferenceError(
            f"{shown_uri(place)}: changed while the job was running: what lies there now is not "
            "what the clip was named after; `retry` makes a clip of what lies there then"
        )
    return fetched.data


@contextmanager
def _errors_of_row(uri: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise ReferenceNotFoundError(
            f"{shown_uri(uri)}: no such file; correct the path, then `retry`"
        ) from None
    except StorageError as error:
        raise UnreachableReferenceError(f"{error}; then `retry`") from error


def reference_token(uri: str, access: ReferenceAccess) -> str:
    """A short text that changes when the content behind `uri` does.

    An object store is asked once for size and ETag; elsewhere the bytes are read and hashed. The
    answer is kept for local files only: ask once per distinct URI.
    """
    bounds, protocol, location = _start(uri, access)
    if protocol in OBJECT_STORES:

        def ask(fs: Any) -> str | None:
            return object_token(object_info(fs, location, bounds))

        token = _in_store(uri, access, bounds, ask)
        if token is not None:
            return token
    elif protocol == "file":
        return _patiently(uri, bounds, lambda: _local_token(location, bounds))
    return _read(uri, access, bounds, keep=False)[1]


def fetch(uri: str, access: ReferenceAccess) -> Fetched:
    """The bytes behind `uri`, and what names them: read once, so that both fit together.

    Raises:
        ForbiddenReferenceError: The policy refuses it.
        StorageError: There are none, or more than the limit, or they took too long.
    """
    bounds, _, _ = _start(uri, access)
    content, token = _read(uri, access, bounds, keep=True)
    return Fetched(content.data, token)


def _start(uri: str, access: ReferenceAccess) -> tuple[Bounds, str, str]:
    """The bounds of a fetch that the policy allows, its protocol, and the place."""
    protocol, location = split_uri(uri)
    if protocol not in PROTOCOLS:
        raise StorageError(
            f"cannot read {shown_uri(uri)}: {protocol}:// is not known here; give a file, "
            "https://, s3:// or gs:// URI"
        )
    if protocol in LOCAL and not access.may_read_local:
        raise ForbiddenReferenceError(
            f"{shown_uri(uri)}: is a file of this machine, which a manifest that lies elsewhere "
            "may not name; put it beside the manifest, or allow it with --allow-local-references, "
            "then `retry`"
        )
    return Bounds(uri, access.policy), protocol, location


def _read(uri: str, access: ReferenceAccess, bounds: Bounds, *, keep: bool) -> tuple[Content, str]:
    """The content of any reference, and its token."""
    protocol, location = split_uri(uri)
    if protocol in WEB:
        content = read_web(uri, bounds, keep, RetryPolicy())
    elif protocol == "file":
        content = _patiently(uri, bounds, lambda: read_local(location, bounds, keep))
    else:
        return _in_store(uri, access, bounds, lambda fs: read_object(fs, location, bounds, keep))
    return content, content.token


def _in_store(uri: str, access: ReferenceAccess, bounds: Bounds, action: Callable[[Any], T]) -> T:
    """Does something with the file system that holds `uri`."""
    protocol, _ = split_uri(uri)
    options = dict(access.storage_options) if protocol in OBJECT_STORES else {}

    def attempt() -> T:
        try:
            return action(make_filesystem(protocol, options, RetryPolicy()))
        except TimeoutError:
            bounds.left_s()  # says so where the whole time is used up
            raise

    return _patiently(uri, bounds, attempt, secrets_in(options))


def _patiently(uri: str, bounds: Bounds, action: Callable[[], T], secrets: Sequence[str] = ()) -> T:
    """Tries again what may pass; every error becomes a StorageError."""
    try:
        return retrying(action, "read", uri, RetryPolicy(), secrets, bounds.ends)
    except (RowError, StorageError, MemoryError):
        raise
    except Exception as error:  # a path with a null byte, an odd answer of a store
        said = redact(f"{type(error).__name__}: {error}", [*secrets, *secrets_in_uri(uri)])
        raise StorageError(
            f"cannot read {bounds.where}: {said}; give a file, https://, s3:// or gs:// URI"
        ) from error


def _local_token(location: str, bounds: Bounds) -> str:
    """The hash of a local file; it is read again when its state says that it may have changed."""
    found = stat_local(location, bounds)
    state = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    known = _hashed.get(location)
    if known is None or known[0] != state:
        known = state, read_local(location, bounds, keep=False).token
        if len(_hashed) >= _MOST_HASHED:
            _hashed.clear()
        _hashed[location] = known
    return known[1]


_MOST_HASHED = 65_536
_hashed: dict[str, tuple[tuple[int, ...], str]] = {}  # path to state and token
