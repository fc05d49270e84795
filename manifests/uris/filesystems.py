"""From a URI and options to an fsspec file system that behaves: no cached listings, no retries."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fsspec

from manifests.uris.errors import RetryPolicy, StorageError, redact

PROTOCOLS = {"s3a": "s3", "gcs": "gs", "": "file", "local": "file"}
MAX_CONNECTIONS = 64


def split_uri(uri: str) -> tuple[str, str]:
    """Protocol and the location that fsspec understands, without a trailing slash."""
    prefix, separator, rest = uri.partition("://")
    protocol = PROTOCOLS.get(prefix, prefix) if separator else "file"
    if protocol == "file":
        path = Path(rest if separator else uri)
        try:
            return protocol, os.path.abspath(path.expanduser())  # noqa: PTH100
        except RuntimeError as error:
            raise StorageError(
                f"cannot open {redact(uri)}: {error}; write the whole path"
            ) from error
    if protocol == "memory":
        rest = "/" + rest.strip("/")
    return protocol, rest.rstrip("/")


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
