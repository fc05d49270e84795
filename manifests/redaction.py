"""What may be shown of an address and of storage options: an allow-list, the rest is `***`.

Of a URI that is scheme, host, path and the parameters of `HARMLESS_PARAMETERS`. Everything else
(user and password, other parameters, `;` parameters of the path, the fragment) may give access.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import unquote

HIDDEN = "***"
# Of a query, in lower case: which version of an object is meant, and how it is to be delivered.
HARMLESS_PARAMETERS = frozenset({"versionid", "generation", "alt", "format", "download"})
# Storage options whose value may be recorded and shown, at any depth.
HARMLESS_OPTIONS = frozenset(
    {
        *("anon", "endpoint_url", "region", "region_name", "use_ssl", "verify", "requester_pays"),
        *("project", "requests_timeout", "connect_timeout", "read_timeout", "max_concurrency"),
        *("default_block_size", "version_aware", "addressing_style", "signature_version"),
        *("max_pool_connections", "consistency", "block_size", "default_location", "timeout"),
    }
)
SHORTEST_SECRET = 4  # characters; shorter values would be found in every text

# A URI, or a query without one.
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s\"'<>`]+|\?[\w.%-]+=[^\s\"'<>`]+")
_WHOLE = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)(?P<rest>.*)", re.DOTALL)
_AT_THE_END = re.compile(r"[).,;:\]}]*\Z")
_PORT = re.compile(r"[^:]*(:[0-9]*)?|\[[0-9A-Fa-f:.]+\](:[0-9]*)?")
_PLAIN = re.compile(r"[\w.:/-]{1,100}")


def shown_uri(text: str) -> str:
    """A whole URI without what may give access; a path without what looks like a query."""
    found = _WHOLE.fullmatch(text)
    if found is None:
        return re.sub(r"\?[\w.%-]+=.*", f"?{HIDDEN}", text, flags=re.DOTALL)
    rest, _, fragment = found["rest"].partition("#")
    rest, _, query = rest.partition("?")
    authority, slash, path = rest.partition("/")
    if "@" not in authority and not _PORT.fullmatch(authority) and "@" in path:
        # A password with a slash in it: what looks like a port is its beginning.
        authority, slash, path = _after_last_at(rest)
    user, at, host = authority.rpartition("@")
    shown = found["scheme"] + (HIDDEN + at if user or at else "") + host
    shown += slash + re.sub(r";[^/]+", f";{HIDDEN}", path)
    if query:
        shown += "?" + _shown_query(query)
    return shown + (f"#{HIDDEN}" if fragment else "")


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """`text` without the given secrets, and with each URI in it as `shown_uri` shows it."""
    for secret in sorted(set(secrets), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)

    def shown(found: re.Match[str]) -> str:
        end = _AT_THE_END.search(found[0])
        tail = end[0] if end else ""
        return shown_uri(found[0].removesuffix(tail)) + tail

    return _URI.sub(shown, text)


def shown_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a manifest row, without what may give access in the addresses among them."""
    return {name: _shown_value(name, value) for name, value in row.items()}


def secrets_in_uri(uri: str) -> list[str]:
    """What `shown_uri` leaves out, as it is written and decoded, to be left out of other texts."""
    found = _WHOLE.fullmatch(uri)
    if found is None or shown_uri(uri) == uri:
        return []
    rest, _, fragment = found["rest"].partition("#")
    rest, _, query = rest.partition("?")
    pieces = [fragment, query]
    if shown_uri(uri).startswith(f"{found['scheme']}{HIDDEN}@"):
        user = rest[: rest.rindex("@")]
        pieces += [user, *user.split(":")]
    for parameter in re.split("[&;]", query):
        name, _, value = parameter.partition("=")
        if name.lower() not in HARMLESS_PARAMETERS:
            pieces.append(value or name)
    pieces += [value.partition("=")[2] or value for value in re.findall(r";([^/;]+)", rest)]
    both = {piece for raw in pieces for piece in (raw, unquote(raw))}
    return [piece for piece in both if len(piece) >= SHORTEST_SECRET]


def shown_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Storage options as they are recorded: every name, and the values that are harmless."""
    shown: dict[str, Any] = {}
    for name, value in options.items():
        if isinstance(value, Mapping):
            shown[name] = shown_options(value)
        else:
            shown[name] = _shown_option(name, value)
    return shown


def secrets_in(options: Mapping[str, Any]) -> list[str]:
    """The values in storage options that must never be shown, nested ones too."""
    found: list[str] = []
    for name, value in options.items():
        if isinstance(value, Mapping):
            found += secrets_in(value)
        elif isinstance(value, list | tuple):
            found += secrets_in({f"{name} {n}": each for n, each in enumerate(value)})
        elif isinstance(value, str) and len(value) >= SHORTEST_SECRET:
            found += secrets_in_uri(value)
            if _shown_option(name, value) == HIDDEN:
                found.append(value)
    return found


def without_hidden(options: Mapping[str, Any]) -> dict[str, Any]:
    """Recorded storage options without those whose value was not recorded."""
    kept: dict[str, Any] = {}
    for name, value in options.items():
        if isinstance(value, Mapping):
            kept[name] = without_hidden(value)
        elif not (isinstance(value, str) and HIDDEN in value):
            kept[name] = value
    return kept


def _shown_value(name: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return shown_row(value)
    if isinstance(value, list | tuple):
        return [_shown_value(name, each) for each in value]
    if not isinstance(value, str):
        return value
    return shown_uri(value) if name.endswith(("_uri", "path")) else redact(value)


def _shown_option(name: str, value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if name.lower() not in HARMLESS_OPTIONS or not isinstance(value, str):
        return HIDDEN
    if "://" in value:
        return shown_uri(value)
    return value if _PLAIN.fullmatch(value) else HIDDEN


def _shown_query(query: str) -> str:
    """The harmless parameters, and one `***` for all others."""
    parameters = query.split("&")
    shown = [p for p in parameters if _is_harmless(p)]
    return "&".join([*shown, *([HIDDEN] if len(shown) < len(parameters) else [])])


def _is_harmless(parameter: str) -> bool:
    name, equals, value = parameter.partition("=")
    return bool(equals) and name.lower() in HARMLESS_PARAMETERS and ";" not in value


def _after_last_at(rest: str) -> tuple[str, str, str]:
    """Authority, slash and path of a URI whose password holds a slash."""
    user, at, after = rest.rpartition("@")
    host, slash, path = after.partition("/")
    return user.partition("/")[0] + at + host, slash, path
