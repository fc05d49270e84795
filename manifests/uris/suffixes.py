"""What the name of a file says of it: the form of its table, and how it is compressed."""

from pathlib import PurePosixPath
from typing import Literal, NamedTuple

Form = Literal["csv", "tsv", "json", "jsonl", "xlsx", "parquet", "arrow"]
Compression = Literal["gz", "zst"]
FORMS: dict[str, Form] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".xlsx": "xlsx",
    ".xlsm": "xlsx",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
}
COMPRESSIONS: dict[str, Compression] = {".gz": "gz", ".zst": "zst", ".zstd": "zst"}


class Named(NamedTuple):
    """What a name says; None where it says nothing that is known."""

    form: Form | None
    compression: Compression | None
    suffix: str  # all of it, in lower case: .csv.gz


def named(path: str) -> Named:
    """The form and the compression that the name of a file stands for."""
    suffixes = [suffix.lower() for suffix in PurePosixPath(path).suffixes]
    compression = COMPRESSIONS.get(suffixes[-1]) if suffixes else None
    inner = suffixes[:-1] if compression else suffixes
    form = FORMS.get(inner[-1]) if inner else None
    known = inner[-1:] if form else suffixes[-1:] if not compression else []
    return Named(form, compression, "".join([*known, *(suffixes[-1:] if compression else [])]))


def without_suffix(path: str) -> str:
    """The name of the file without folder and suffix: what a file made of it is named."""
    name = PurePosixPath(path).name
    suffix = named(path).suffix
    return name[: len(name) - len(suffix)] if suffix else name
