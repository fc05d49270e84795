"""Placeholders in addresses and settings: `{date}`, `{run_id}` and `${NAME}` of the environment."""

import os
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from manifests.messages import shorten

# What stands for itself is doubled: {{date}} and $${NAME}.
_FORM = re.compile(
    r"\$\$\{(?P<plain_variable>[^{}]*)\}|\$\{(?P<variable>[^{}]*)\}"
    r"|\{\{(?P<plain_name>[A-Za-z_][^{}]*)\}\}|\{(?P<name>[A-Za-z_][^{}]*)\}"
)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SECRET = re.compile(r"secret|token|passw|credential|access_key|account_key|api_?key", re.I)


class PlaceholderError(ValueError):
    """A placeholder that can't be filled; its message names it and the way out."""


class Placeholders:
    """Fills the placeholders of one command, each of them with one value.

    Args:
        run_id: Gives the id of the run; None where the command has no run.
        now: The time of the command; default: now.
        environment: Variables; default: those of this process.
    """

    def __init__(
        self,
        run_id: Callable[[], str] | None,
        now: datetime | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._draw_run_id = run_id
        self._now = now or datetime.now(UTC)
        self._environment = os.environ if environment is None else environment
        self.run_id: str | None = None  # as soon as something holds it

    def fill(self, text: str, where: str) -> str:
        """The text with values in place of its placeholders.

        Args:
            text: An address or a setting.
            where: What it is, for messages.

        Raises:
            PlaceholderError: A name is unknown, or a variable is not set.
        """

        def value(found: re.Match[str]) -> str:
            if found["plain_variable"] is not None or found["plain_name"] is not None:
                inside = found["plain_variable"], found["plain_name"]
                return f"${{{inside[0]}}}" if inside[1] is None else f"{{{inside[1]}}}"
            if found["variable"] is not None:
                return self._variable(found["variable"], where)
            return self._named(found["name"], where)

        return _FORM.sub(value, text)

    def fill_all(self, value: Any, where: str) -> Any:
        """The same for every text inside lists and mappings; keys stay as they are."""
        if isinstance(value, str):
            return self.fill(value, where)
        if isinstance(value, Mapping):
            inside = f"{where}." if where and not where.endswith(": ") else where
            return {key: self.fill_all(item, f"{inside}{key}") for key, item in value.items()}
        if isinstance(value, list):
            return [self.fill_all(item, where) for item in value]
        return value

    def _named(self, name: str, where: str) -> str:
        if name == "date":
            return self._now.astimezone(UTC).strftime("%Y-%m-%d")
        if name != "run_id":
            raise PlaceholderError(
                f"{where}: {{{name}}} is not known; there are {{date}}, {{run_id}} and ${{NAME}}, "
                f"and {{{{{name}}}}} stands for the text itself"
            )
        if self.run_id is None:
            if self._draw_run_id is None:
                raise PlaceholderError(
                    f"{where}: {{run_id}} is the id of a run, and this command makes none; name "
                    "the run that is meant"
                )
            self.run_id = self._draw_run_id()
        return self.run_id

    def _variable(self, name: str, where: str) -> str:
        if not _VARIABLE.fullmatch(name):
            raise PlaceholderError(
                f"{where}: ${{{name}}} does not name a variable of the environment; write "
                "${NAME}, or $${...} for the text itself"
            )
        if _SECRET.search(name):
            raise PlaceholderError(
                f"{where}: ${{{name}}} looks like a credential, which would end in logs and "
                "records; stores take credentials from the environment by themselves"
            )
        value = self._environment.get(name, "")
        if not value:
            state = "is empty" if name in self._environment else "is not set"
            raise PlaceholderError(
                f"{where}: the environment variable {name} {state}; set it, or write $${{{name}}} "
                "for the text itself"
            )
        if not value.isprintable():
            raise PlaceholderError(
                f"{where}: the environment variable {name} holds control characters "
                f"({shorten(value)}); mend it"
            )
        return value


def literal(text: str) -> str:
    """What `fill` turns back into the text."""
    return _FORM.sub(lambda found: _doubled(found[0]), text)


def _doubled(form: str) -> str:
    return f"${form}" if form.startswith("$") else f"{{{form}}}"
