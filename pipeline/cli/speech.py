"""How commands speak: the answer on stdout, as text or as one JSON document, all else on stderr."""

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

JSON, QUIET = "musicgen-batch.json", "musicgen-batch.quiet"


def speech_options(command: F) -> F:
    """Adds `--json` and `--quiet`; the command need not know of them."""
    as_json = click.option(
        "--json", is_flag=True, expose_value=False, callback=_remember(JSON), is_eager=True,
        help="Print the answer as one JSON document.",
    )  # fmt: skip
    quiet = click.option(
        "--quiet", "-q", is_flag=True, expose_value=False, callback=_remember(QUIET), is_eager=True,
        help="Nothing but the answer, warnings and errors.",
    )  # fmt: skip
    return as_json(quiet(command))


def verbose_option(command: F) -> F:
    """Adds `--verbose` to a command that runs no job (there it is a setting of the job)."""
    return click.option(
        "--verbose", "-v", is_flag=True, expose_value=False, callback=_log_more,
        help="Show log lines.",
    )(command)  # fmt: skip


def say(text: str) -> None:
    """Tells people what is going on, unless they asked for quiet."""
    if not is_quiet():
        warn(text)


def warn(text: str) -> None:
    """Tells people what they must know."""
    click.echo(text, err=True)


def answer(text: str, facts: Mapping[str, Any]) -> None:
    """Prints the answer of a command.

    Args:
        text: For people.
        facts: The same for programs.
    """
    click.echo(json.dumps(facts, default=str) if _asked_for(JSON) else text)


def is_quiet() -> bool:
    """Whether `--quiet` was given."""
    return _asked_for(QUIET)


def wants_json() -> bool:
    """Whether `--json` was given."""
    return _asked_for(JSON)


def _asked_for(name: str) -> bool:
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.meta.get(name))


def _remember(name: str) -> Callable[[click.Context, click.Parameter, bool], None]:
    def callback(context: click.Context, parameter: click.Parameter, value: bool) -> None:
        context.meta[name] = value

    return callback


def _log_more(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        logging.getLogger().setLevel(logging.INFO)
