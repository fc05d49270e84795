"""Who may ask: this machine's user alone, from this page alone.

Programs of other users, and pages of other sites in the user's own browser, reach a port on
loopback too. So every request needs the token that stands in the address with which the page is
opened. A name that merely resolves to this machine (DNS rebinding) is no valid host, and what
another origin asks for is refused even where a browser adds the cookie.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

PAGE = "/"
CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": CONTENT_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}
_SAFE = ("GET", "HEAD")


def new_token() -> str:
    """A token that cannot be guessed."""
    return secrets.token_urlsafe(32)


def is_loopback(host: str) -> bool:
    """Whether a host to listen on is this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Guard:
    """ASGI middleware: refuses what `refusal` finds, and adds the headers of every answer.

    Args:
        app: What answers the others.
        token: Of this server.
        port: That it listens on.
    """

    def __init__(self, app: ASGIApp, token: str, port: int) -> None:
        self._app, self._token = app, token
        names = ("127.0.0.1", "localhost", "[::1]")
        self._hosts = {f"{name}:{port}" for name in names} | ({*names} if port == 80 else set())
        self._cookie = f"musicgen_browse_{port}"  # cookies are shared by all ports of a host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1")
                   for name, value in scope["headers"]}  # fmt: skip
        why = self.refusal(scope, headers)

        async def answer(message: Any) -> None:
            if message["type"] == "http.response.start":
                own = [(k.lower().encode(), v.encode()) for k, v in HEADERS.items()]
                if why is None and scope["path"] == PAGE:
                    cookie = f"{self._cookie}={self._token}; Path=/; HttpOnly; SameSite=Strict"
                    own.append((b"set-cookie", cookie.encode()))
                message["headers"] = [*message["headers"], *own]
            await send(message)

        if why is None:
            await self._app(scope, receive, answer)
            return
        from starlette.responses import PlainTextResponse

        refused = PlainTextResponse(f"{why}\n", 403, {"Cache-Control": "no-store"})
        await refused(scope, receive, answer)

    def refusal(self, scope: Scope, headers: dict[str, str]) -> str | None:
        """Why a request is refused; None where it is not."""
        host = headers.get("host", "")
        if host not in self._hosts:
            return "This page is reached by the address that `musicgen-batch browse` printed."
        origin = headers.get("origin")
        if origin is not None and origin != f"http://{host}":
            return "Another origin asked for this."
        site = headers.get("sec-fetch-site", "none")
        opens_the_page = (
            scope["path"] == PAGE
            and scope["method"] in _SAFE
            and headers.get("sec-fetch-mode") == "navigate"
        )
        if site not in ("same-origin", "none") and not opens_the_page:
            return "Another site asked for this."
        if not self._knows_token(scope, headers):
            return (
                "The token is missing: open the whole address that `musicgen-batch browse` printed."
            )
        if scope["method"] not in _SAFE and origin is None and not self._bears(headers):
            return "What changes something must say its origin."
        return None

    def _knows_token(self, scope: Scope, headers: dict[str, str]) -> bool:
        if self._bears(headers):
            return True
        if scope["path"] == PAGE:
            given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [])
            if any(self._is_token(token) for token in given):
                return True
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(self._cookie)
        except CookieError:
            return False
        return cookie is not None and self._is_token(cookie.value)

    def _bears(self, headers: dict[str, str]) -> bool:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        return scheme.casefold() == "bearer" and self._is_token(token)

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self._token.encode())
