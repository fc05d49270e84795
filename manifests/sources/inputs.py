"""The files that are meant: one, several, a glob, a folder, a Hugging Face dataset, or stdin."""

import json
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from manifests.reader import ManifestError, attempt, full_uri, open_filesystem
from manifests.sources.options import STDIN, Reading
from manifests.sources.packed import look_into, unpacked
from manifests.uris.files import again, open_file
from manifests.uris.filesystems import OBJECT_STORES, split_uri
from manifests.uris.suffixes import FORMS, Compression, Form, named

MOST_COPIED_BYTES = 2**30
_KNOWN = ", ".join(suffix for suffix in FORMS if suffix not in (".tab", ".ndjson", ".xlsm"))
# What a Hugging Face dataset says about itself beside its data.
_ABOUT = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
_WAYS_OUT = {
    ".xls": "is a workbook of Excel before 2007; save it as .xlsx or .csv",
    ".ods": "is an OpenDocument sheet; save it as .xlsx or .csv",
    ".numbers": "is a Numbers document; export it as .xlsx or .csv",
    **dict.fromkeys((".zip", ".tar", ".tgz", ".7z"), "is an archive; unpack it and name its files"),
    **dict.fromkeys((".bz2", ".xz", ".lz4"), "is compressed in a form that is not read; unpack it"),
}


@dataclass(frozen=True)
class InputFile:
    """One file that is read; it can be opened any number of times."""

    uri: str  # as messages about the whole file name it
    source: str  # as messages about its rows name it
    base_uri: str  # what relative references count from
    form: Form
    compression: Compression | None
    path: str
    options: Mapping[str, Any]

    def open(self) -> BinaryIO:
        """Its bytes, unpacked."""
        return unpacked(self.uri, self.open_packed(), self.compression)

    def open_packed(self) -> BinaryIO:
        """Its bytes as they lie there."""
        fs, path = open_filesystem(self.path, self.options)
        stream: BinaryIO = attempt(self.uri, lambda: open_file(fs, self.path, path))
        return stream


@dataclass
class Inputs:
    """All files, in the order in which they were named."""

    files: list[InputFile]
    notes: list[str]


def find_inputs(
    uris: Sequence[str], options: Mapping[str, Any], reading: Reading, scratch: Path
) -> Inputs:
    """Lists the files that some addresses stand for.

    Args:
        uris: Paths, URLs, globs, folders, or `-`.
        options: fsspec options.
        reading: What the user says of the files.
        scratch: A folder for copies of what is read more than once: standard input, and objects
            of a store.

    Raises:
        ManifestError: One of them isn't there, or is of no form that is known.
    """
    if uris.count(STDIN) > 1:
        raise ManifestError("standard input (-) is named twice; it can be read once")
    found = Inputs([], [])
    for uri in uris:
        if uri == STDIN:
            found.files.append(_stdin(reading, scratch))
        else:
            _add(found, uri, options, reading, scratch)
    return found


def _add(
    found: Inputs, uri: str, options: Mapping[str, Any], reading: Reading, scratch: Path
) -> None:
    fs, path = open_filesystem(uri, options)
    paths = attempt(uri, lambda: again(uri, lambda: _paths(fs, uri, path, found.notes)))
    alone = len(paths) == 1
    for name in paths:
        full = full_uri(fs, name)
        form, compression = _form_of(uri if alone else full, name, reading)
        shown = PurePosixPath(name).name if alone else _below(path, name)
        whole = uri if alone else full
        file = InputFile(whole, shown, full, form, compression, full, options)
        copy = scratch / str(len(found.files))
        if form != "parquet" and _is_object(fs, full, name):
            _copy(file, copy)
            file = replace(file, path=str(copy), options={})
        found.files.append(file)


def _is_object(fs: Any, uri: str, path: str) -> bool:
    """Whether it lies in an object store, and is small enough to be copied."""
    if split_uri(uri)[0] not in OBJECT_STORES:
        return False
    size = attempt(uri, lambda: again(uri, lambda: fs.info(path)["size"]))
    return bool(size <= MOST_COPIED_BYTES)


def _copy(file: InputFile, copy: Path) -> None:
    """Fetches an object once instead of at every look at it."""
    with file.open_packed() as stream, copy.open("wb") as target:
        attempt(file.uri, lambda: shutil.copyfileobj(stream, target, 2**20))


def _below(path: str, name: str) -> str:
    fixed = re.split(r"[*?\[]", path)[0]
    base = path.rstrip("/") if fixed == path else fixed.rpartition("/")[0]
    return name.removeprefix(base).lstrip("/")


def _paths(fs: Any, uri: str, path: str, notes: list[str]) -> list[str]:
    if any(letter in path for letter in "*?[") and not fs.exists(path):
        found = sorted(name for name in fs.glob(path) if not fs.isdir(name))
        if not found:
            raise ManifestError(f"{uri}: no file matches; check the pattern")
        return found
    if fs.info(path)["type"] != "directory":
        return [path]
    names = [name for name in sorted(fs.find(path)) if not _is_hidden(name, path)]
    states = [name for name in names if PurePosixPath(name).name == "state.json"]
    files = [file for state in states for file in _data_files(fs, state)]
    if len(states) > 1:
        splits = [PurePosixPath(state).parent.name for state in states]
        notes.append(
            f"{uri}: all of its splits are read ({', '.join(splits)}); to read one of them, name "
            f"its folder, e.g. {uri.rstrip('/')}/{splits[0]}"
        )
    return files or _tables_in(uri, names)


def _is_hidden(name: str, folder: str) -> bool:
    parts = PurePosixPath(name).relative_to(folder).parts
    return any(part.startswith((".", "_")) for part in parts)


def _data_files(fs: Any, state: str) -> list[str]:
    """The files of a dataset that `save_to_disk` wrote: its folder also holds stale caches."""
    try:
        listed = json.loads(fs.cat_file(state))["_data_files"]
        return [str(PurePosixPath(state).parent / entry["filename"]) for entry in listed]
    except (ValueError, KeyError, TypeError):
        return []


def _tables_in(uri: str, names: list[str]) -> list[str]:
    by_form: dict[str, list[str]] = {}
    for name in names:
        form = named(name).form
        if form is not None and PurePosixPath(name).name not in _ABOUT:
            by_form.setdefault(form, []).append(name)
    if not by_form:
        raise ManifestError(f"{uri}: no table is in this folder (looked for {_KNOWN}); name a file")
    if len(by_form) > 1:
        counts = ", ".join(f"{len(files)} {form}" for form, files in sorted(by_form.items()))
        raise ManifestError(
            f"{uri}: holds files of several forms ({counts}); name those that are meant, e.g. "
            f"'{uri.rstrip('/')}/*{PurePosixPath(next(iter(by_form.values()))[0]).suffix}'"
        )
    (files,) = by_form.values()
    return files


def _form_of(uri: str, path: str, reading: Reading) -> tuple[Form, Compression | None]:
    form, compression, suffix = named(path)
    form = reading.form or form
    if form is None:
        for end, words in _WAYS_OUT.items():
            if suffix == end:
                raise ManifestError(f"{uri}: {words}")
        raise ManifestError(
            f"{uri}: its name does not say what it is (known: {_KNOWN}, each also with .gz or "
            ".zst); rename it, or say it with --format"
        )
    if compression is not None and form in ("parquet", "xlsx", "arrow"):
        raise ManifestError(f"{uri}: a {form} file is compressed inside; unpack it")
    return form, compression


def _stdin(reading: Reading, scratch: Path) -> InputFile:
    """Standard input, copied into a file."""
    copy = scratch / "stdin"
    with copy.open("wb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
    if not copy.stat().st_size:
        raise ManifestError("standard input is empty (0 bytes); pipe a table into it")
    with copy.open("rb") as stream:
        form, compression = look_into("standard input", stream)
    here = str(Path.cwd() / "stdin")
    form = reading.form or form
    return InputFile("standard input", "stdin", here, form, compression, str(copy), {})


def forms_in(uri: str, options: Mapping[str, Any]) -> list[Form]:
    """The forms of the tables in a folder or under a glob; none where that can't be told."""
    try:
        fs, path = open_filesystem(uri, options)
        names = again(uri, lambda: _paths(fs, uri, path, []))
    except Exception:  # whoever opens it says what is wrong
        return []
    return [form for form, *_ in map(named, names) if form is not None]
