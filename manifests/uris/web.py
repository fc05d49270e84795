"""Fetching http:// and https:// for somebody else: checked addresses, few redirects, within bounds.

The environment's proxies are not used: a proxy would resolve names itself, and could reach what is
refused here. aiohttp comes with s3fs, which reads s3:// with it.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

from fsspec.asyn import get_loop, sync

from manifests.redaction import redact, secrets_in_uri, shown_uri
from manifests.row_errors import RowError
from manifests.uris import hosts
from manifests.uris.errors import ObjectNotFoundError, RetryPolicy, StorageError, try_again
from manifests.uris.policy import Bounds, Content

if TYPE_CHECKING:
    import aiohttp
    from yarl import URL

_CHUNK = 64 * 1024
_REDIRECTS = (301, 302, 303, 307, 308)
_PASSING = (408, 425, 429)
_HEADERS = {"Accept-Encoding": "identity", "User-Agent": "musicgen-batch"}


class PassingFaultError(ConnectionError):
    """What may be gone at the next try."""


def read_web(uri: str, bounds: Bounds, keep: bool, retry: RetryPolicy) -> Content:
    """The content behind a URL.

    Raises:
        ForbiddenReferenceError: The URL or a redirect leads to where no reference may go.
        ObjectNotFoundError: The server says that nothing is there.
        StorageError: Anything else that keeps the bytes away.
    """

    def attempt() -> Content:
        left_s = bounds.left_s()
        try:
            content: Content = sync(get_loop(), _follow, uri, bounds, keep, timeout=left_s)
        except TimeoutError:  # the whole time is used up
            raise bounds.too_slow() from None
        return content

    try:
        return try_again(
            attempt,
            retry,
            lambda error: f"{bounds.where}: {redact(str(error), secrets_in_uri(uri))}",
            bounds.ends,
        )
    except (RowError, StorageError):
        raise
    except PassingFaultError as error:
        raise _fault(bounds, str(error), "check the server and the network") from error
    except Exception as error:  # what the client library makes of an odd address or answer
        said = redact(f"{type(error).__name__}: {error}", secrets_in_uri(uri))
        raise _fault(bounds, said, "give the address of a file on a web server") from error


def _fault(bounds: Bounds, said: str, way_out: str) -> StorageError:
    return StorageError(f"cannot read {bounds.where}: {said} ({way_out})")


async def _follow(uri: str, bounds: Bounds, keep: bool) -> Content:
    """Goes from redirect to redirect, each of which is checked like the first address."""
    url, what = _parse(uri), f"{bounds.where}: its host is"
    for _ in range(bounds.policy.max_redirects + 1):
        if url.scheme not in ("http", "https") or not url.host:
            raise _fault(bounds, f"it redirects to {shown_uri(str(url))}", "give a direct address")
        found = await _open(url, bounds, what, keep)
        if isinstance(found, Content):
            return found
        url, what = url.join(_parse(found)), f"{bounds.where}: it redirects to"
    raise _fault(
        bounds, f"more than {bounds.policy.max_redirects} redirects", "give a direct address"
    )


def _parse(uri: str) -> URL:
    """The URL as it is written, since a change of its spelling can void a signature in it."""
    from yarl import URL

    return URL(uri, encoded=uri.isascii() and uri.isprintable() and " " not in uri)


async def _open(url: URL, bounds: Bounds, what: str, keep: bool) -> Content | str:
    """One request: the content, or where the server sends us instead."""
    import aiohttp

    addresses = await _addresses(url, bounds, what)
    idle_s = bounds.policy.reference_idle_timeout_s
    try:
        async with (
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    resolver=_pinned(addresses), use_dns_cache=False, force_close=True
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=idle_s, sock_read=idle_s),
            ) as session,
            session.get(url, headers=_HEADERS, allow_redirects=False) as response,
        ):
            if response.status in _REDIRECTS and "Location" in response.headers:
                return response.headers["Location"]
            _check_answer(response, bounds)
            return await _body(response, bounds, keep)
    except aiohttp.ServerTimeoutError:
        raise PassingFaultError(f"the server sent nothing for {idle_s:g} s") from None
    except aiohttp.ClientSSLError as error:
        raise _fault(bounds, f"TLS failed: {error}", "check the server's certificate") from error
    except aiohttp.ClientConnectorError as error:
        said = error.os_error.strerror or str(error.os_error)
        raise PassingFaultError(f"no connection: {said}") from error
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise PassingFaultError("the connection broke off") from error


async def _addresses(url: URL, bounds: Bounds, what: str) -> list[hosts.Resolved]:
    host, port = str(url.raw_host), int(url.port or 0)
    loop = asyncio.get_running_loop()
    try:
        # In a thread: the system's resolver blocks, for as long as it is configured to.
        return await loop.run_in_executor(
            None, hosts.reachable, host, port, bounds.policy.allow_private_hosts, what
        )
    except socket.gaierror as error:
        if error.errno == socket.EAI_AGAIN:
            raise PassingFaultError(
                f"the name {host} can't be resolved: {error.strerror}"
            ) from None
        raise _fault(
            bounds, f"there is no host {host}: {error.strerror}", "check the address"
        ) from None


def _pinned(addresses: list[hosts.Resolved]) -> Any:
    """A resolver that gives what was checked, so that no name is looked up twice."""
    from aiohttp.abc import AbstractResolver, ResolveResult

    class Pinned(AbstractResolver):
        async def resolve(
            self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
        ) -> list[ResolveResult]:
            return [
                ResolveResult(
                    hostname=host, host=address, port=port, family=found, proto=0,
                    flags=socket.AI_NUMERICHOST,
                )
                for found, address in addresses
            ]  # fmt: skip

        async def close(self) -> None:
            return

    return Pinned()


def _check_answer(response: aiohttp.ClientResponse, bounds: Bounds) -> None:
    status, said = response.status, f"the server answered {response.status} {response.reason}"
    if status in (404, 410):
        raise ObjectNotFoundError(f"{bounds.where}: {said}")
    if status in (401, 403):
        raise _fault(bounds, said, "access was denied: check the address, and any signature in it")
    if status in _PASSING or status >= 500:
        raise PassingFaultError(said)
    if status != 200:
        raise _fault(bounds, said, "give the address of a file")
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise _fault(
            bounds,
            f"the server sent it with Content-Encoding {encoding}, which was not asked for",
            "serve the file as it is",
        )
    bounds.check_size(response.content_length or 0)


async def _body(response: aiohttp.ClientResponse, bounds: Bounds, keep: bool) -> Content:
    import aiohttp

    content = Content(bounds, keep)
    try:
        async for chunk in response.content.iter_chunked(_CHUNK):
            content.add(chunk)
    except (aiohttp.ClientPayloadError, aiohttp.ClientOSError) as error:
        declared = response.content_length
        of = "" if declared is None else f" of {declared:,}"
        raise PassingFaultError(
            f"the connection broke off after {content.size:,}{of} bytes"
        ) from error
    return content
