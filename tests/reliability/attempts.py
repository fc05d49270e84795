"""Runs that may end badly, in this process."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from pipeline.cli.errors import exit_code_of

Attempted = tuple[int, str]


def attempt(run: Callable[..., Any], *arguments: Any, **settings: Any) -> Attempted:
    """A run in this process as the command line would end it: exit code, and what it says.

    Args:
        run: `run_here` or `run_in_process`.
        arguments: Manifest and output.
        settings: As flags.
    """
    said: list[str] = []
    warnings = _Warnings(said)
    logging.getLogger().addHandler(warnings)
    try:
        code = int(run(*arguments, say=said.append, **settings).exit_code)
    except Exception as error:
        found = exit_code_of(error)
        if found is None:
            raise
        code = found[0]
        said.append(f"error: {found[1]}")
    finally:
        logging.getLogger().removeHandler(warnings)
    return code, "\n".join(said)


class _Warnings(logging.Handler):
    """Keeps what would be shown to people: warnings and errors of the log."""

    def __init__(self, said: list[str]) -> None:
        super().__init__(logging.WARNING)
        self.said = said

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(f"{record.levelname} {record.name}: {record.getMessage()}")
