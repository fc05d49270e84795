"""From a URI and options to an fsspec file system that behaves: no cached listings, no retries."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fsspec

from manifests.redaction import shown_uri
from manifests.uris.errors import RetryPolicy, StorageError

PROTOCOLS = {"s3a": "s3", "gcs": "gs", "": "file", "local": "file"}
OBJECT_STORES = ("s3", "gs")  # the storage options of a job are meant for these
WEB = ("http", "https")
MAX_CONNECTIONS = 64


def split_uri(uri: str) -> tuple[str, str]:
    """Protocol and the location that fsspec understands: on the web the whole URL, elsewhere
    without protocol and trailing slash."""
    prefix, separator, rest = uri.partition("://")
    protocol = PROTOCOLS.get(prefix, prefix) if separator else "file"
    if protocol == "file":
        path = Path(rest if separator else uri)
        try:
            return protocol, os.path.abspath(path.expanduser())  # noqa: PTH100
        except RuntimeError as error:
            raise StorageError(
                f"cannot open {shown_uri(uri)}: {error}; write the whole path"
            ) from error
    if protocol in WEB:
        return protocol, uri
    if protocol == "memory":
        rest = "/" + rest.strip("/")
    return protocol, rest.rstrip("/")


def open_filesystem(uri: str, options: Mapping[str, Any], retry: RetryPolicy) -> tuple[Any, str]:
    """The file system of `uri`, and the location in it.

    Raises:
        StorageError: The protocol is not known, or its package is missing.
    """
    protocol, location = split_uri(uri)
    if protocol in ("file", "memory", *WEB):
        return make_filesystem(protocol, {}, retry), location
    if protocol in OBJECT_STORES:
        return make_filesystem(protocol, options, retry), location
    try:
        fs, path = fsspec.core.url_to_fs(uri, use_listings_cache=False, **options)
    except (ImportError, ValueError) as error:
        raise StorageError(f"{protocol}:// can't be opened ({error})") from error
    return fs, str(path)


def make_filesystem(protocol: str, options: Mapping[str, Any], retry: RetryPolicy) -> Any:
    """An fsspec file system that caches no listing and leaves the retries to us."""
    if protocol in ("file", "memory"):
        return fsspec.filesystem(protocol)
    arguments = {name: _typed(value) for name, value in options.items()}
    if protocol == "s3":
        arguments["config_kwargs"] = {
            "retries": {"mode": "standard", "total_max_attempts": 1},
            "read_timeout": retry.read_timeout_s,
            "connect_timeout": retry.connect_timeout_s,
            "max_pool_connections": MAX_CONNECTIONS,
        } | dict(arguments.get("config_kwargs", {}))
        arguments["max_concurrency"] = 1  # a read is one GET without a HEAD before it
    try:
        fs = fsspec.filesystem(protocol, use_listings_cache=False, **arguments)
    except ImportError as error:
        extra = {"gs": "gcs"}.get(protocol, protocol)
        raise StorageError(
            f"{protocol}:// needs a package that is missing ({error}); "
            f"install it with: pip install 'musicgen-batch[{extra}]'"
        ) from error
    fs.retries = 1
    return fs


def _typed(value: Any) -> Any:
    """Options from a command line are text: "false" must not count as true."""
    if isinstance(value, str):
        return {"true": True, "false": False}.get(value.lower(), value)
    return value
