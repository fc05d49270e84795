"""What is wrong with a value, in words: where pydantic's findings become rules and ways out."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from manifests.redaction import redact, shown_uri


class Fault(NamedTuple):
    """One broken rule of one column."""

    column: str
    rule: str  # what is wrong, with the limit
    way_out: str


_TYPE_WORDS = {
    "string_type": ("text", "write it as text"),
    "float_type": ("a number", "write a plain number such as 2.5"),
    "int_type": ("a whole number", "write a plain whole number such as 3"),
    "bool_type": ("true or false", "write true or false"),
    "bytes_type": ("the bytes of an audio file", "give a path or URL in the _uri column instead"),
}
_KINDS: dict[type, str] = {
    str: "text",
    bool: "a boolean",
    int: "an integer",
    float: "a fraction",
    bytes: "bytes",
    list: "a list",
    dict: "an object",
}
# What pydantic says of text that it tries to read as a number, as in settings.
_PARSING = {"int_parsing": "int_type", "float_parsing": "float_type", "bool_parsing": "bool_type"}
_PARSING["int_from_float"] = "int_type"
_OTHER_FAULTS = {
    "finite_number": ("is not finite", "write an ordinary number, or leave it empty"),
    "string_pattern_mismatch": ("holds control characters", "remove them"),
    "string_unicode": ("holds half of a surrogate pair", "write the text as proper UTF-8"),
    "bytes_too_short": ("is empty (0 bytes)", "embed an audio file, or leave it null"),
}
_BOUNDS = {
    "greater_than": ("gt", "must be more than"),
    "greater_than_equal": ("ge", "must be at least"),
    "less_than_equal": ("le", "exceeds"),
}


def from_pydantic(error: Mapping[str, Any]) -> Fault:
    """One entry of `ValidationError.errors()` in our words."""
    column, kind = str(error["loc"][0]), str(error["type"])
    kind = _PARSING.get(kind, kind)
    if kind in _TYPE_WORDS:
        must, way_out = _TYPE_WORDS[kind]
        kind = _KINDS.get(type(error["input"]), type(error["input"]).__name__)
        return Fault(column, f"is {kind}, not {must}", way_out)
    if kind in _BOUNDS:
        key, words = _BOUNDS[kind]
        limit = f"{error['ctx'][key]}".removesuffix(".0") + (" s" if column.endswith("_s") else "")
        if column == "duration_s" and kind == "less_than_equal":
            return Fault(column, f"exceeds {limit}", "shorten it, or split it into several rows")
        return Fault(column, f"{words} {limit}", "correct it, or leave it empty for the default")
    if kind == "literal_error":
        return Fault(column, f"is not one of {error['ctx']['expected']}", "choose one of them")
    if kind == "string_too_long":
        limit = error["ctx"]["max_length"]
        rule = f"has {len(error['input'])} characters, over the limit of {limit}"
        return Fault(column, rule, "shorten it")
    fallback = (f"is not allowed ({error['msg']})", "correct it")
    return Fault(column, *_OTHER_FAULTS.get(kind, fallback))


def shorten(value: Any, limit: int = 60) -> str:
    """A value as messages show it: on one line, its middle left out, without a file's bytes and
    without what may give access."""
    if isinstance(value, str):
        value = redact(value) if any(map(str.isspace, value)) else shown_uri(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    if isinstance(value, Mapping):
        shown = ", ".join(f"{name}: {shorten(item)}" for name, item in value.items())
        shown = f"{{{shown}}}"
    elif value is None:
        return "null"
    else:
        shown = repr(value)
    if len(shown) <= limit:
        return shown
    half = (limit - 3) // 2
    return f"{shown[:half]}...{shown[-half:]}"


def edits(a: str, b: str) -> int:
    """Levenshtein distance."""
    row = list(range(len(b) + 1))
    for i, letter in enumerate(a, start=1):
        above, row = row, [i]
        for j, other in enumerate(b, start=1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (letter != other)))
    return row[-1]
