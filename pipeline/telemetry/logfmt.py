"""Log lines for people and parsers: `event key=value key="two words"` (logfmt)."""

import json
import re
from typing import Any

_PLAIN = re.compile(r"[^\s\"=]+")


def line(event: str, **fields: Any) -> str:
    """One line in logfmt; fields that are None are left out."""
    pairs = (f"{name}={_value(value)}" for name, value in fields.items() if value is not None)
    return " ".join([event, *pairs])


def _value(value: Any) -> str:
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)
