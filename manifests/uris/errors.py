"""What can go wrong with a store: which errors pass by themselves, and how to say the others."""

from __future__ import annotations

import errno
import logging
import random
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from manifests.redaction import redact, secrets_in_uri, shown_uri

logger = logging.getLogger(__name__)
T = TypeVar("T")

# Errors of these packages come from the store even where they are not OSError.
STORE_LIBRARIES = frozenset({"aiobotocore", "aiohttp", "botocore", "gcsfs", "google", "requests"})
# botocore errors that no second try can mend.
LASTING_BOTOCORE_ERRORS = frozenset(
    {
        "NoCredentialsError",
        "PartialCredentialsError",
        "CredentialRetrievalError",
        "ProfileNotFound",
        "NoRegionError",
        "ParamValidationError",
        "InvalidRegionError",
        "UnknownEndpointError",
    }
)
# S3 errors with a 4xx status that come from the way, not from the request.
PASSING_S3_ERRORS = frozenset(
    {"RequestTimeout", "BadDigest", "XAmzContentSHA256Mismatch", "OperationAborted"}
)
PASSING_ERRNOS = frozenset({errno.EIO, errno.ESTALE, errno.EAGAIN, errno.EBUSY, errno.EINTR})
EXPIRED = frozenset(
    {"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"}
)
_DISK_IS_FULL = "the disk is full: make room and run the same command again"
LOCAL_WAYS_OUT = {
    errno.ENOSPC: _DISK_IS_FULL,
    errno.EDQUOT: _DISK_IS_FULL,
    errno.ENOTDIR: "a file stands where a folder is needed: choose another path",
    errno.ELOOP: "a symbolic link there leads back to itself: remove it, or choose another path",
    errno.EROFS: "this file system is read-only: choose another path",
    errno.ENAMETOOLONG: "a name on this path is too long: shorten it",
}


class StorageError(OSError):
    """A store refused or could not be reached; the message says where, what and the way out."""


class ObjectNotFoundError(StorageError, FileNotFoundError):
    """There is no object at this path."""


@dataclass(frozen=True)
class RetryPolicy:
    """How long a store may misbehave before a call fails: about 30 s with these defaults."""

    attempts: int = 8
    first_delay_s: float = 0.25
    max_delay_s: float = 16.0
    read_timeout_s: float = 20.0
    connect_timeout_s: float = 5.0
    deadline_s: float = 300.0
    """for one attempt as a whole, whatever trickles in meanwhile"""

    def delays_s(self) -> Iterator[float | None]:
        """One value per attempt: how long to wait after it fails; None after the last."""
        for attempt in range(self.attempts - 1):
            delay_s = min(self.first_delay_s * 2**attempt, self.max_delay_s)
            yield delay_s * random.uniform(0.75, 1.25)
        yield None


def is_store_error(error: Exception) -> bool:
    """Whether `error` tells of the store, not of a mistake in this program."""
    return isinstance(error, OSError) or _library(error) in STORE_LIBRARIES


def _library(error: Exception) -> str:
    return type(error).__module__.partition(".")[0]


def http_status(error: BaseException) -> int | None:
    """The HTTP status behind an error of s3fs, gcsfs or aiohttp, where there is one."""
    for cause in _causes(error):
        response = getattr(cause, "response", None)
        if isinstance(response, dict):
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        elif type(cause).__name__ in ("HttpError", "ClientResponseError"):  # gcsfs, aiohttp
            status = getattr(cause, "code", getattr(cause, "status", None))
        else:
            continue
        if isinstance(status, int):
            return status
    return None


def _error_code(error: BaseException) -> str:
    """The word by which S3 names an error, such as SlowDown; "" for other errors."""
    for cause in _causes(error):
        response = getattr(cause, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", ""))
    return ""


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def is_conflict(error: Exception) -> bool:
    """Whether an exclusive create was refused because something stands there.

    Ceph answers 412 in a way that s3fs turns into a plain OSError; AWS may answer 409 in a race.
    """
    return isinstance(error, FileExistsError) or http_status(error) in (409, 412)


def is_transient(error: Exception) -> bool:
    """Whether another try may go through."""
    if type(error).__name__ in LASTING_BOTOCORE_ERRORS:
        return False
    status = http_status(error)
    if _error_code(error) in PASSING_S3_ERRORS:
        return True
    if status is not None:
        return status in (408, 429) or (status >= 500 and status != 501)
    if _library(error) in STORE_LIBRARIES or isinstance(error, ConnectionError | TimeoutError):
        return True
    return isinstance(error, OSError) and error.errno in PASSING_ERRNOS


def explain(error: Exception, doing: str, uri: str, secrets: Iterable[str]) -> StorageError:
    """Turn any error of a store into one line that says where, what and the way out."""
    status = http_status(error)
    name = type(error).__name__
    what = redact(str(error), [*secrets, *secrets_in_uri(uri)])
    if what in ("", "None"):
        what = _error_code(error) or "no reason given"
    kind: type[StorageError] = StorageError
    if _error_code(error) == "NoSuchBucket":
        way_out = "the bucket does not exist: create it, or check its name and the endpoint"
    elif isinstance(error, FileNotFoundError):
        kind, way_out = ObjectNotFoundError, "nothing is there: check the path"
    elif name in ("NoCredentialsError", "PartialCredentialsError"):
        way_out = (
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or a profile, "
            "or pass --storage-option anon=true for a public bucket"
        )
    elif _error_code(error) in EXPIRED:
        way_out = "the credentials have expired: renew them, then run the same command again"
    elif _error_code(error) == "RequestTimeTooSkewed":
        way_out = "the clocks of this machine and of the store differ too much: set this one"
    elif isinstance(error, PermissionError) or status in (401, 403):
        way_out = "access was denied: check the credentials and the permissions on this path"
    elif isinstance(error, OSError) and error.errno in LOCAL_WAYS_OUT:
        way_out = LOCAL_WAYS_OUT[error.errno]
    elif is_transient(error):
        way_out = "the store did not recover: check the endpoint and the network, then run again"
    else:
        way_out = "check the path and the storage options"
    return kind(f"cannot {doing} {redact(shown_uri(uri), secrets)}: {name}: {what} ({way_out})")


def try_again(
    action: Callable[[], T],
    retry: RetryPolicy,
    describe: Callable[[Exception], object],
    ends: float | None = None,
) -> T:
    """Run `action` until it goes through, fails for good, or `retry` is used up.

    Args:
        action: What can be done again without harm.
        retry: How long to bear a store that misbehaves.
        describe: What the log says of an error that may pass.
        ends: By `time.monotonic`, when no further try is worth its beginning.

    Raises:
        Exception: The last error as it was.
    """
    for delay_s in retry.delays_s():
        try:
            return action()
        except Exception as error:
            known = isinstance(error, StorageError) or not is_store_error(error)
            if delay_s is None or known or not is_transient(error):
                raise
            if ends is not None and time.monotonic() + delay_s >= ends:
                raise
            logger.warning("%s; trying again in %.1f s", describe(error), delay_s)
        time.sleep(delay_s)
    raise AssertionError("a retry policy ends with a last attempt")


def retrying(
    action: Callable[[], T],
    doing: str,
    uri: str,
    retry: RetryPolicy,
    secrets: Iterable[str] = (),
    ends: float | None = None,
) -> T:
    """`try_again`, whose last error becomes a StorageError."""
    try:
        return try_again(action, retry, lambda error: explain(error, doing, uri, secrets), ends)
    except Exception as error:
        if isinstance(error, StorageError) or not is_store_error(error):
            raise
        raise explain(error, doing, uri, secrets) from error
