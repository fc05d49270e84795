"""Plants a fault into a copy of the files and sees who tells it."""

from collections.abc import Callable
from typing import Any

from tests.deploy.files import Deployment, deployment

Check = Callable[[Deployment], list[str]]
Fault = tuple[str, Any, str]  # where, what stands there instead, what must be told
GONE = object()
SPEC = "base.RayJob.spec"
CLUSTER = f"{SPEC}.rayClusterSpec"
HEAD = f"{CLUSTER}.headGroupSpec.template.spec"
WORKERS = f"{CLUSTER}.workerGroupSpecs.0"
POD = f"{WORKERS}.template.spec"


def change(found: Deployment, where: str, value: Any) -> None:
    """Puts a value at a dotted path, at the end of a text (`+`), or in place of a text. `~` stands
    for a dot within a key."""
    path, _, old = where.partition(":")
    appended = path.endswith("+")
    keys = path.rstrip("+").split(".", 1)
    if keys[0] == "texts":
        assert old in found.texts[keys[1]], f"{old!r} does not stand in {keys[1]}"
        found.texts[keys[1]] = found.texts[keys[1]].replace(old, value)
        return
    at: Any = getattr(found, keys[0])
    *inner, last = (key.replace("~", ".") for key in keys[1].split("."))
    for key in inner:
        at = at[int(key)] if isinstance(at, list) else at[key]
    last = int(last) if isinstance(at, list) else last  # type: ignore[assignment]
    if value is GONE:
        del at[last]
    else:
        at[last] = at[last] + value if appended else value


def assert_told(check: Check, fault: Fault) -> None:
    """The check says the message of the fault, and nothing where there is none."""
    where, value, message = fault
    found = deployment()
    change(found, where, value)
    told = check(found)
    assert message
    assert any(message in text for text in told), told


def names(faults: list[Fault]) -> list[str]:
    return [f"{where.rpartition('.')[2]}={str(value)[:20]}" for where, value, _ in faults]
