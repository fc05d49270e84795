"""Reading an object whose size and ETag come with the bytes, or stand around them."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Any

from fsspec.asyn import sync

from manifests.uris.errors import StorageError
from manifests.uris.policy import Bounds, Content

_CHUNK = 2**20
_RANGE = 16 * 2**20


def object_token(info: Mapping[str, Any]) -> str | None:
    """What names the content of an object by size and ETag; None where the store gives no ETag."""
    tag = info.get("ETag") or info.get("etag")
    return f"etag:{info['size']}:{str(tag).strip(chr(34))}" if tag else None


def object_info(fs: Any, location: str, bounds: Bounds) -> dict[str, Any]:
    """Size and ETag of an object that is not too large."""
    info = dict(call(fs, "info", location, timeout=bounds.left_s()))
    if info.get("type") == "directory":
        raise StorageError(f"{bounds.where} is a folder: name a file in it")
    bounds.check_size(int(info["size"]))
    return info


def read_object(fs: Any, location: str, bounds: Bounds, keep: bool) -> tuple[Content, str]:
    """The content of an object, and its token."""
    if "s3" in fs.protocol:
        return _read_s3(fs, location, bounds, keep)
    return _read_ranges(fs, location, bounds, keep)


def _read_s3(fs: Any, location: str, bounds: Bounds, keep: bool) -> tuple[Content, str]:
    """One answer holds bytes and ETag: nothing can change in between."""

    async def read() -> tuple[Content, str]:
        bucket, key, version = fs.split_path(location)
        of_version = {"VersionId": version} if version else {}
        answer = await fs._call_s3("get_object", Bucket=bucket, Key=key, **of_version, **fs.req_kw)
        async with answer["Body"] as body:
            size = int(answer["ContentLength"])
            bounds.check_size(size)
            content = Content(bounds, keep)
            while chunk := await body.read(_CHUNK):
                content.add(chunk)
        _check_whole(content, size)
        return content, object_token({"size": size, "ETag": answer.get("ETag")}) or content.token

    try:
        found: tuple[Content, str] = sync(fs.loop, read, timeout=bounds.left_s())
    except FileNotFoundError:
        object_info(fs, location, bounds)  # says so where it is a folder
        raise
    return found


def _read_ranges(fs: Any, location: str, bounds: Bounds, keep: bool) -> tuple[Content, str]:
    """The object must have the same ETag before and after."""
    info = object_info(fs, location, bounds)
    size = int(info["size"])
    content = Content(bounds, keep)
    for start in range(0, size, _RANGE):
        end = min(start + _RANGE, size)
        chunk = call(fs, "cat_file", location, start=start, end=end, timeout=bounds.left_s())
        content.add(chunk)
        if len(chunk) != end - start:
            break
    _check_whole(content, size)
    token = object_token(info)
    if token is None:
        return content, content.token
    if object_token(object_info(fs, location, bounds)) != token:
        raise OSError(errno.EAGAIN, "it was replaced while it was being read")
    return content, token


def _check_whole(content: Content, size: int) -> None:
    if content.size != size:
        raise OSError(errno.EIO, f"got {content.size} of {size} bytes")


def call(fs: Any, method: str, *arguments: Any, timeout: float, **options: Any) -> Any:
    """Calls a file system, for so many seconds where it lies behind a network."""
    if not fs.async_impl:
        return getattr(fs, method)(*arguments, **options)
    return sync(fs.loop, getattr(fs, f"_{method}"), *arguments, timeout=timeout, **options)
