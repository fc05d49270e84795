"""What the flags `--matrix`, `--wordlist`, `--template`, `--sample` and `--seed` mean."""

import csv
from collections.abc import Iterable, Mapping
from typing import Any

from manifests.messages import shorten
from manifests.reader import ManifestError, attempt, open_filesystem
from manifests.schema import COLUMNS, parse_row
from manifests.sources.rows import typed
from manifests.sources.sweep import NAME, Sweep, fields_of, word
from manifests.uris.files import open_file


def make_sweep(
    matrix: Iterable[str],
    wordlists: Iterable[str],
    template: str | None,
    sample: int | None,
    seed: int,
    storage_options: Mapping[str, Any],
    *,
    has_rows: bool,
) -> Sweep | None:
    """The sweep of some flags; None where they are not given.

    Args:
        matrix: NAME=VALUE,VALUE texts.
        wordlists: NAME=FILE texts.
        template: The prompt.
        sample: How many combinations are drawn.
        seed: Decides which.
        storage_options: fsspec options, for the files.
        has_rows: Whether there are tables too, whose columns a template may name.

    Raises:
        ManifestError: A flag can't be meant, or a word list can't be read.
    """
    axes: dict[str, tuple[str, ...]] = {}
    for flag, texts in (("--matrix", matrix), ("--wordlist", wordlists)):
        for text in texts:
            name, mark, what = text.partition("=")
            if not mark or not NAME.fullmatch(name):
                shape = "NAME=VALUE,VALUE" if flag == "--matrix" else "NAME=FILE"
                raise ManifestError(f"{flag} {shorten(text)}: is not {shape}; write it so")
            if name in axes:
                raise ManifestError(
                    f"{flag} {name}: its values are given twice; give them in one flag"
                )
            values = (
                _split(text, what)
                if flag == "--matrix"
                else _read_words(text, what, storage_options)
            )
            axes[name] = _checked(flag, name, values)
    if not axes and template is None:
        if sample is not None:
            raise ManifestError("--sample draws from a sweep; give --matrix or --wordlist too")
        return None
    if sample is not None and sample < 1:
        raise ManifestError(f"--sample {sample}: must be at least 1; leave it out to take all")
    if template is not None:
        _check_template(template, axes, has_rows)
    return Sweep(axes, template, sample, seed)


def _check_template(template: str, axes: Mapping[str, tuple[str, ...]], has_rows: bool) -> None:
    names = fields_of(template)
    if "prompt" in axes:
        raise ManifestError("--matrix prompt: --template writes the prompt; keep one of the two")
    lacking = [name for name in names if name not in axes]
    if lacking and not has_rows:
        known = ", ".join(axes) or "none"
        raise ManifestError(
            f"--template {shorten(template)}: nothing gives {lacking[0]} (given: {known}); add "
            f"--matrix '{lacking[0]}=...' or --wordlist {lacking[0]}=FILE"
        )


def _split(text: str, what: str) -> list[str]:
    try:
        (values,) = csv.reader([what], skipinitialspace=True, strict=True) if what else ([],)
    except (csv.Error, ValueError) as error:
        raise ManifestError(
            f"--matrix {shorten(text)}: its values can't be told apart ({error}); separate them "
            'with commas, and write a value with a comma in quotes: "a, b"'
        ) from None
    return [value.strip() for value in values]


def _read_words(text: str, uri: str, storage_options: Mapping[str, Any]) -> list[str]:
    if not uri:
        raise ManifestError(f"--wordlist {shorten(text)}: names no file; write NAME=FILE")
    fs, path = open_filesystem(uri, storage_options)
    with attempt(uri, lambda: open_file(fs, uri, path)) as stream:
        data: bytes = attempt(uri, stream.read)
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ManifestError(f"{uri}: is not UTF-8 in line {line}; save it as UTF-8") from None
    words = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    return list(dict.fromkeys(words))


def _checked(flag: str, name: str, values: list[str]) -> tuple[str, ...]:
    """The values of an axis, each of which its column takes."""
    if not values or not all(values):
        what = "an empty value" if values else "no value"
        raise ManifestError(f"{flag} {name}: has {what}; give at least one, and none that is empty")
    if name == "id":
        raise ManifestError(f"{flag} id: ids are made of the other values; leave it out")
    words: dict[str, str] = {}
    for value in values:
        first = words.setdefault(word(name, value), value)
        if first is not value:
            raise ManifestError(f"{flag} {name}: {value} stands there twice; keep one of them")
        if name in COLUMNS:
            raw = {"prompt": "x", name: typed(name, value)}
            for issue in parse_row(raw, source=flag, row=0)[1]:
                raise ManifestError(
                    f"{flag} {name}: {issue.column}={issue.value} {issue.rule}; {issue.way_out}"
                )
    return tuple(values)
