"""Exit codes, and how errors become one line of text and one of them.

0 all done; 1 crash; 2 bad config or manifest as a whole; 3 finished, but rows of this manifest
stand in dead letters; 4 another run holds the lease; 5 drained or out of budget.
"""

import os
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from manifests.reader import ManifestError
from pipeline.cli.speech import warn
from pipeline.config import ConfigError
from pipeline.ledger.lease import LeaseHeldError, LeaseLostError
from pipeline.ledger.schema import SchemaError
from pipeline.storage import StorageError

EXIT_CRASH, EXIT_BAD_INPUT, EXIT_LEASE_HELD = 1, 2, 4  # the others: `RunSummary.exit_code`
RAY_GONE = "RayGoneError"
# Classes whose modules are heavy are known by name.
_BAD_INPUT, _FATAL = (
    ("ModelNotFoundError", "CheckpointError", "ScorerError", "MarksError"),
    ("StalledError", "ReplicaFailedError", "NoPlaceError", "PlanningError", RAY_GONE),
)


def errors_to_exit_codes(command: Callable[..., None]) -> Callable[..., None]:
    """What is wrong with the input, the lease or the store becomes a message and an exit code."""

    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except click.exceptions.Exit:
            raise
        except KeyboardInterrupt:
            warn("interrupted: what is committed stands; the same command goes on from there")
            raise click.exceptions.Exit(EXIT_CRASH) from None
        except Exception as error:
            found = exit_code_of(error)
            if found is None:
                raise  # a bug: its traceback is what helps
            warn(f"error: {found[1]}")
            if type(error).__name__ == RAY_GONE:
                _leave_at_once(found[0])
            raise click.exceptions.Exit(found[0]) from error

    return wrapped


def _leave_at_once(code: int) -> None:
    """What Ray does at the end of a process asks for the one that is gone, for minutes."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def exit_code_of(error: BaseException) -> tuple[int, str] | None:
    """Exit code and message of an error, whatever Ray has wrapped it in; None: it is a bug here."""
    chain = _causes(error)
    for cause in chain:
        code = _code_of_class(cause)
        if code is not None:
            return code, str(cause)
    if any(_is_rays(cause) for cause in chain):
        origin = next((c for c in reversed(chain) if not _is_rays(c)), error)
        said = f"{type(origin).__name__}: {origin}"
        return EXIT_CRASH, f"an actor failed: {said}; --verbose shows the actors' logs"
    return None


def _is_rays(error: BaseException) -> bool:
    return type(error).__module__.startswith("ray.")


def _causes(error: BaseException) -> list[BaseException]:
    """The error and what it came from, outermost first, Ray's own wrapping included."""
    chain: list[BaseException] = []
    todo: list[BaseException | None] = [error]
    while todo:
        at = todo.pop()
        if isinstance(at, BaseException) and at not in chain:
            chain.append(at)
            todo += [at.__cause__, getattr(at, "cause", None)]
    return chain


def _code_of_class(error: BaseException) -> int | None:
    name = type(error).__name__
    if isinstance(error, ConfigError | ManifestError | SchemaError) or name in _BAD_INPUT:
        return EXIT_BAD_INPUT
    if isinstance(error, LeaseHeldError | LeaseLostError):
        return EXIT_LEASE_HELD
    if isinstance(error, StorageError) or name in _FATAL:
        return EXIT_CRASH
    return None
