"""OmegaConf's configurations as plain values, without OmegaConf: its YAML and its pickles.

AudioCraft writes `xp.cfg` as YAML in which values refer to others (`${sample_rate}`), and a
training checkpoint holds the pickled configuration object itself.
"""

import re
from collections.abc import Mapping
from typing import Any

from musicgen.checkpoints.errors import CheckpointError

REFERENCE = re.compile(r"\$\{([^${}]+)\}")
PATH = re.compile(r"\.*[\w-]+(?:[.\[][\w-]+\]?)*")  # what a reference may be; others call functions
DEEPEST = 16  # references to references


def resolved(config: dict[str, Any], where: object) -> dict[str, Any]:
    """A copy of `config` in which references to other values are replaced by these.

    What a reference names by a function (`${oc.env:HOME}`), or does not find, stays as it is:
    nothing of a model depends on it, and where a number is needed, the text is an error.

    Raises:
        CheckpointError: References run in a circle.
    """
    return {key: _resolve(value, (key,), config, where, 0) for key, value in config.items()}


def _resolve(
    value: Any, place: tuple[str, ...], root: dict[str, Any], where: object, depth: int
) -> Any:
    if depth > DEEPEST:
        raise CheckpointError(
            f"{where}: xp.cfg: {'.'.join(place)} refers to itself, over {DEEPEST} steps"
        )
    if isinstance(value, Mapping):
        return {
            key: _resolve(item, (*place, str(key)), root, where, depth)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [
            _resolve(item, (*place, str(number)), root, where, depth)
            for number, item in enumerate(value)
        ]
    if not isinstance(value, str) or "${" not in value:
        return value

    def found(reference: re.Match[str]) -> Any:
        path = reference[1].strip()
        target = _look_up(path, place, root) if PATH.fullmatch(path) else None
        if target is None:
            return reference[0]
        at, item = target
        return _resolve(item, at, root, where, depth + 1)

    whole = REFERENCE.fullmatch(value)
    if whole:
        return found(whole)
    return REFERENCE.sub(lambda reference: str(found(reference)), value)


def _look_up(
    path: str, place: tuple[str, ...], root: dict[str, Any]
) -> tuple[tuple[str, ...], Any] | None:
    """The place and the value that a path means; None: there is none."""
    n_dots = len(path) - len(path.lstrip("."))
    names = re.findall(r"[\w-]+", path)
    at = (*(place[: len(place) - n_dots] if n_dots else ()), *names)
    value: Any = root
    for name in at:
        if isinstance(value, Mapping) and name in value:
            value = value[name]
        elif isinstance(value, list) and name.isdigit() and int(name) < len(value):
            value = value[int(name)]
        else:
            return None
    return at, value


class Inert:
    """Stands for an object of a class that is not loaded: it keeps what was stored, no more.

    Attributes:
        stored: Its attributes.
    """

    def __new__(cls, *args: object, **named: object) -> "Inert":
        """Takes any arguments and leaves them unused."""
        return super().__new__(cls)

    def __init__(self, *args: object, **named: object) -> None:
        self.stored: dict[str, Any] = {}

    def __setstate__(self, state: object) -> None:
        """Keeps what the pickle says."""
        self.stored = dict(state) if isinstance(state, Mapping) else {}

    def __setitem__(self, key: object, value: object) -> None:
        """Takes the entries of what was a mapping, and leaves them unused."""

    def append(self, value: object) -> None:
        """Takes the entries of what was a list, and leaves them unused."""


def plain(value: Any) -> Any:
    """The values of a pickled configuration whose objects are `Inert`."""
    if not isinstance(value, Inert):
        return value
    stored = getattr(value, "stored", {})
    if "_val" in stored:  # a node
        return stored["_val"]
    content = stored.get("_content")
    if isinstance(content, Mapping):
        return {plain(key): plain(item) for key, item in content.items()}
    if isinstance(content, list):
        return [plain(item) for item in content]
    return content
