"""Log lines that people read and machines take apart: `event key=value key="two words"`."""

import json
import re
from typing import Any

_PLAIN = re.compile(r"[^\s\"=]+")


def line(event: str, **fields: Any) -> str:
    """One line in logfmt; fields that are None are left out."""
    said = (f"{name}={_value(value)}" for name, value in fields.items() if value is not None)
    return " ".join([event, *said])


def _value(value: Any) -> str:
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)
