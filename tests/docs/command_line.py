"""The commands and flags of the command line, as click has them."""

import click

from pipeline.cli.root import main


def commands() -> dict[str, click.Command]:
    """Every command under its full name: `run`, `manifest build`."""
    found: dict[str, click.Command] = {}
    for name, command in main.commands.items():
        if isinstance(command, click.Group):
            found |= {f"{name} {inner}": each for inner, each in command.commands.items()}
        else:
            found[name] = command
    return found


def flags_of(command: click.Command) -> set[str]:
    """Every flag that a command takes."""
    return {
        flag
        for option in command.params
        if isinstance(option, click.Option)
        for flag in (*option.opts, *option.secondary_opts)
    }


def all_flags() -> set[str]:
    """The flags of all commands, and `--help`."""
    return {"--help"}.union(*(flags_of(command) for command in commands().values()))


def choices(flag: str) -> list[str]:
    """The words that a flag of `run` takes."""
    (option,) = [each for each in commands()["run"].params if flag in each.opts]
    assert isinstance(option.type, click.Choice)
    return list(option.type.choices)


def parse(words: list[str]) -> None:
    """Parses the words behind `musicgen-batch` without running anything; click.UsageError if they
    do not fit."""
    known = commands()
    name = next(n for n in (" ".join(words[:2]), words[0]) if n in known)
    known[name].make_context(name, words[len(name.split()) :])
