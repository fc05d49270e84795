"""A proxy in front of an S3 server that misbehaves on request.

It passes the Host header through, so that signatures stay valid, and remembers every request.
"""

from __future__ import annotations

import http.client
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import urlsplit

Fault = Literal[
    "slow_down",  # 503, the store did nothing
    "deny",  # 403, likewise
    "expire",  # 400, likewise: the credentials are no longer valid
    "reset",  # the connection breaks before the store saw the request
    "stall",  # the store did it and then says nothing, for ten seconds
    "drop_response",  # the store did it, the client never hears of it
    "truncate",  # half of the body, then the connection breaks
]
REFUSALS: dict[str | None, tuple[int, bytes]] = {
    "slow_down": (503, b"<Error><Code>SlowDown</Code><Message>Slow down.</Message></Error>"),
    "deny": (403, b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"),
    "expire": (400, b"<Error><Code>ExpiredToken</Code><Message>It has expired.</Message></Error>"),
}
STALL_S = 10
Headers = list[tuple[str, str]]
HOP_BY_HOP = {"connection", "expect", "transfer-encoding", "content-length"}


@dataclass
class Rule:
    """Which requests go wrong, how, and how often."""

    fault: Fault
    method: str
    key: str
    times: int

    def takes(self, method: str, path: str) -> bool:
        if self.times <= 0 or method != self.method or not re.search(self.key, path):
            return False
        self.times -= 1
        return True


@dataclass
class FaultProxy:
    """A running proxy."""

    endpoint: str
    rules: list[Rule] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)
    sent_bytes: int = 0
    """of bodies, to the client"""

    def inject(self, fault: Fault, method: str, key: str = "", times: int = 1) -> None:
        """Make the next `times` requests of this method, to paths that match `key`, go wrong."""
        self.rules.append(Rule(fault, method, key, times))

    def count(self, method: str, key: str = "") -> int:
        """How many such requests came in."""
        return sum(m == method and bool(re.search(key, path)) for m, path in self.requests)


@contextmanager
def fault_proxy(upstream: str) -> Iterator[FaultProxy]:
    """A proxy in front of the server at the URL `upstream`."""
    lock = threading.Lock()
    target = urlsplit(upstream)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            """Be silent."""

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            with lock:
                proxy.requests.append((self.command, self.path))
                rules = (rule for rule in proxy.rules if rule.takes(self.command, self.path))
                rule = next(rules, None)
            fault = rule.fault if rule else None
            if fault in REFUSALS:
                status, text = REFUSALS[fault]
                text = b"" if self.command == "HEAD" else text
                return self.answer(status, [("Content-Length", str(len(text)))], text)
            if fault == "reset":
                return self.hang_up()
            status, headers, data = self.forward(body)
            if fault == "stall":
                time.sleep(STALL_S)
            if fault in ("drop_response", "stall"):
                return self.hang_up()
            self.answer(status, headers, data, cut=fault == "truncate")
            return None

        def forward(self, body: bytes) -> tuple[int, Headers, bytes]:
            upstream = http.client.HTTPConnection(target.netloc, timeout=30)
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in HOP_BY_HOP:
                    upstream.putheader(name, value)
            upstream.putheader("Content-Length", str(len(body)))
            upstream.endheaders(body or None)
            response = upstream.getresponse()
            data = response.read()
            upstream.close()
            length = response.getheader("Content-Length") if self.command == "HEAD" else None
            headers = [h for h in response.getheaders() if h[0].lower() not in HOP_BY_HOP]
            return response.status, [*headers, ("Content-Length", length or str(len(data)))], data

        def answer(self, status: int, headers: Headers, data: bytes, cut: bool = False) -> None:
            self.send_response_only(status)
            for name, value in headers:
                self.send_header(name, value)
            self.end_headers()
            proxy.sent_bytes += len(data)
            self.wfile.write(data[: len(data) // 2] if cut else data)
            self.wfile.flush()
            if cut:
                self.hang_up()

        def hang_up(self) -> None:
            """Break the connection with a reset, as a dying machine does."""
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any  # noqa: N815

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    proxy = FaultProxy(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
