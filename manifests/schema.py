"""One manifest row: its columns, their limits, and what is wrong with a row that breaks them.

Null means "inherit": from the flag, the job file or the built-in default. An id may hold any text
without control characters, slashes and `..` included, because ids never become paths.
"""

import math
import posixpath
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from manifests.identity import MAX_SEED, row_id
from manifests.messages import Fault, edits, from_pydantic, shorten

SCHEMA_VERSION = 1
ROLES = ("melody", "continuation", "style")

MAX_ID_CHARS, MAX_PROMPT_CHARS = 256, 4000
_NO_CONTROL = r"^\P{Cc}*$"
Id = Annotated[str, Field(max_length=MAX_ID_CHARS, pattern=_NO_CONTROL)]
Uri = Annotated[str, Field(max_length=4096, pattern=_NO_CONTROL)]
Audio = Annotated[bytes, Field(min_length=1)]
DurationS = Annotated[float, Field(gt=0, le=3600)]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
Guidance = Annotated[float, Field(ge=0, le=100)]
Temperature = Annotated[float, Field(ge=0, le=100)]
TopK = Annotated[int, Field(ge=0, le=100_000)]
TopP = Annotated[float, Field(ge=0, le=1)]
StrideS = Annotated[float, Field(gt=0, le=3600)]
Takes = Annotated[int, Field(ge=1, le=1000)]


class PromptRow(BaseModel):
    """One row of a manifest, checked. Extra columns are kept apart, in the manifest's table."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    id: Id = Field(description="Name of the row, unique; default: a hash of the row's content.")
    prompt: str | None = Field(
        None, max_length=MAX_PROMPT_CHARS, description="Text that describes the music."
    )
    duration_s: DurationS | None = Field(None, description="Length of the clip in seconds.")
    melody_uri: Uri | None = Field(None, description="Audio whose melody the clip follows.")
    melody_audio: Audio | None = Field(None, description="The same, the file's bytes embedded.")
    continuation_uri: Uri | None = Field(None, description="Audio that the clip begins with.")
    continuation_audio: Audio | None = Field(None, description="The same, embedded.")
    style_uri: Uri | None = Field(None, description="Audio whose style the clip takes on.")
    style_audio: Audio | None = Field(None, description="The same, embedded.")
    seed: Seed | None = Field(None, description="Seed of take 0; 0 is an ordinary seed.")
    takes: Takes | None = Field(None, description="How many clips to make of this row.")
    cfg_coef: Guidance | None = Field(None, description="Guidance strength; 1 = no guidance.")
    cfg_coef_beta: Guidance | None = Field(None, description="Text's share in double guidance.")
    temperature: Temperature | None = Field(None, description="Of sampling; 0 = greedy.")
    top_k: TopK | None = Field(None, description="Sample among the k likeliest tokens; 0 = all.")
    top_p: TopP | None = Field(None, description="Nucleus sampling, goes before top_k; 0 = off.")
    use_sampling: bool | None = Field(None, description="false = greedy decoding.")
    extend_stride_s: StrideS | None = Field(
        None, description="Of a clip longer than the model's window: seconds from one to the next."
    )

    def content(self) -> dict[str, Any]:
        """What decides the music: the columns that the id of a row without id is made of."""
        return self.model_dump(exclude={"id", "takes"}, exclude_none=True)

    def as_written(self) -> dict[str, Any]:
        """The row for `identity.row_key`: references by name, whatever lies behind them."""
        return self.model_dump(exclude={"takes"}, exclude_none=True)

    def references(self) -> dict[str, str | bytes]:
        """Role to URI (as written) or embedded bytes, for the references that the row gives."""
        given = {role: _either(self, role) for role in ROLES}
        return {role: reference for role, reference in given.items() if reference is not None}


def _either(row: PromptRow, role: str) -> str | bytes | None:
    uri: str | None = getattr(row, f"{role}_uri")
    data: bytes | None = getattr(row, f"{role}_audio")
    return data if uri is None else uri


COLUMNS = tuple(PromptRow.model_fields)
TEXT_COLUMNS = ("id", "prompt", *(f"{role}_uri" for role in ROLES))
AUDIO_COLUMNS = tuple(f"{role}_audio" for role in ROLES)
FLOAT_COLUMNS = (
    "duration_s",
    "cfg_coef",
    "cfg_coef_beta",
    "temperature",
    "top_p",
    "extend_stride_s",
)
INT_COLUMNS = ("seed", "takes", "top_k")
BOOL_COLUMNS = ("use_sampling",)
MUSIC_COLUMNS = ("prompt", *(f"{role}_{form}" for role in ROLES for form in ("uri", "audio")))


class GenerationDefaults(BaseModel):
    """What a row inherits where a column is null; fields of `job.yaml` and flags."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    duration_s: DurationS = Field(10.0, description="Length of a clip in seconds.")
    use_sampling: bool = Field(True, description="Sample tokens; false = greedy decoding.")
    top_k: TopK = Field(250, description="Sample among the k likeliest tokens; 0 = all.")
    top_p: TopP = Field(0.0, description="Nucleus sampling, goes before top_k; 0 = off.")
    temperature: Temperature = Field(1.0, description="Temperature of sampling; 0 = greedy.")
    cfg_coef: Guidance = Field(3.0, description="Guidance strength; 1 = no guidance.")
    cfg_coef_beta: Guidance | None = Field(None, description="Text's share in double guidance.")
    extend_stride_s: StrideS | None = Field(
        None,
        description="Seconds from one window of a long clip to the next; by default the model's.",
    )
    style_eval_q: Annotated[int, Field(ge=1, le=64)] | None = Field(
        None, description="Residual quantizers of a style reader, fewer = looser; checkpoint's own."
    )
    style_excerpt_s: Annotated[float, Field(gt=0, le=30)] | None = Field(
        None, description="Seconds of a style reference that are heard; the checkpoint's own."
    )
    seed: Seed = Field(0, description="Run seed, from which rows without a seed get theirs.")
    takes: Takes = Field(1, description="How many clips to make of a row.")

    def takes_of(self, row: PromptRow) -> int:
        """How many clips a row asks for."""
        return self.takes if row.takes is None else row.takes


BUILT_IN_DEFAULTS = GenerationDefaults.model_validate({})


@dataclass(frozen=True)
class EffectiveParams:
    """Generation parameters of one row after all defaults."""

    duration_s: float
    use_sampling: bool
    top_k: int
    top_p: float
    temperature: float
    cfg_coef: float
    cfg_coef_beta: float | None
    extend_stride_s: float | None = None
    style_eval_q: int | None = None
    style_excerpt_s: float | None = None

    @property
    def duration_us(self) -> int:
        """Integer microseconds, rounded half up, at least 1."""
        exact = Decimal(repr(self.duration_s)) * 1_000_000
        return max(1, int(exact.to_integral_value(ROUND_HALF_UP)))

    def as_identity(self) -> dict[str, int | float | bool | None]:
        """For `identity.clip_id` and `identity.row_key`."""
        params = {name: value for name, value in vars(self).items() if name != "duration_s"}
        return {"duration_us": self.duration_us, **params}


def effective(row: PromptRow, defaults: GenerationDefaults) -> EffectiveParams:
    """The row's own parameters where it has them, else the defaults."""
    own, inherited = vars(row), vars(defaults)
    return EffectiveParams(
        **{
            name: inherited[name] if own.get(name) is None else own[name]
            for name in EffectiveParams.__dataclass_fields__
        }
    )


@dataclass(frozen=True)
class RowIssue:
    """One thing that is wrong with one row."""

    source: str  # the manifest's file, short
    row: int  # 0-based over the whole manifest
    id: str | None
    column: str | None  # None: the row as a whole
    value: str  # shortened
    rule: str  # what is broken, with the limit
    way_out: str  # "" where `rule` is the message of a RowError, which names value and way out
    line: int | None = None  # 1-based, of a JSONL or CSV file

    @property
    def message(self) -> str:
        """`demo.parquet row 17 (id=ab12): duration_s=45000 exceeds 3600 s; shorten it`."""
        line = "" if self.line is None else f" line {self.line}"
        named = "" if self.id is None else f" (id={shorten(self.id)[1:-1]})"
        place = f"{self.source}{line} row {self.row}{named}"
        if not self.way_out:
            return f"{place}: {self.rule}"
        what = self.value if self.column is None else f"{self.column}={self.value}"
        return f"{place}: {what} {self.rule}; {self.way_out}"


def parse_row(
    raw: Mapping[str, Any], *, source: str, row: int, line: int | None = None
) -> tuple[PromptRow | None, list[RowIssue]]:
    """Checks one row; columns that are not known are `check_columns`' matter.

    Types are strict ("12" is no number, true is no integer), except for what data frames do to
    columns: NaN is null, 3.0 is an integer, an integer is an id, blank text is null, and a Hugging
    Face Audio struct stands for its bytes or path.

    Args:
        raw: Column to plain Python value, as Arrow's `to_pylist` or `json` give it.
        source: The manifest's file, for messages.
        row: 0-based over the whole manifest, for messages.
        line: 1-based line of a text file, for messages.

    Returns:
        The row, or None where it is not usable, and everything that is wrong with it.
    """
    given = _tidy(raw)
    faults: list[Fault] = []
    try:
        parsed = PromptRow.model_validate({"id": "", **given})
    except ValidationError as error:
        faults = [from_pydantic(dict(found)) for found in error.errors(include_url=False)]
    faults += _across_columns(given)
    if faults:
        id = given.get("id")
        named = id.encode(errors="replace").decode() if isinstance(id, str) else None
        return None, [
            RowIssue(source, row, named, f.column, _shown(given, raw, f.column), *f[1:], line)
            for f in faults
        ]
    if not parsed.id:
        parsed = parsed.model_copy(update={"id": row_id(parsed.content())})
    return parsed, []


def _shown(given: Mapping[str, Any], raw: Mapping[str, Any], column: str) -> str:
    return shorten(given.get(column, raw.get(column)))


def _tidy(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The known columns that are not null, without the forms that data frames give to values."""
    given: dict[str, Any] = {}
    for name in COLUMNS:
        value = raw.get(name)
        if isinstance(value, float):
            if math.isnan(value):
                continue
            if name in INT_COLUMNS and value.is_integer():
                value = int(value)
        elif isinstance(value, int) and not isinstance(value, bool) and name == "id":
            value = str(value)
        elif isinstance(value, str) and not value.strip():
            continue
        elif name in AUDIO_COLUMNS and isinstance(value, dict) and value.keys() <= _AUDIO_STRUCT:
            path, value = value.get("path"), value.get("bytes")
            if value is None and path is not None:
                given.setdefault(name.replace("_audio", "_uri"), path)
        if value is not None:
            given[name] = value
    return given


_AUDIO_STRUCT = {"bytes", "path"}


def _across_columns(given: Mapping[str, Any]) -> list[Fault]:
    """The rules that need more than one column."""
    faults = [
        Fault(f"{role}_audio", f"stands beside {role}_uri", "keep one of the two")
        for role in ROLES
        if f"{role}_uri" in given and f"{role}_audio" in given
    ]
    if not any(name in given for name in MUSIC_COLUMNS):
        way_out = "write a prompt, or give " + ", ".join(f"{role}_uri" for role in ROLES)
        faults.append(Fault("prompt", "is empty and the row has no reference either", way_out))
    return faults


def check_columns(
    names: Sequence[str], extra_columns: Collection[str] = (), reserved: Collection[str] = ()
) -> list[str]:
    """What is wrong with the columns of a manifest: misspelt, doubled, or none that makes music.

    Args:
        names: All columns.
        extra_columns: Those that may be carried through although they look like a known one.
        reserved: Names that the output gives to columns of its own.
    """
    faults = []
    for name in dict.fromkeys(names):
        if names.count(name) > 1:
            faults.append(f"column {name!r} stands there {names.count(name)} times; keep one")
        if name in COLUMNS or name in extra_columns:
            continue
        near = _near_column(name)
        if not name.strip():
            faults.append(f"column {names.index(name) + 1} has no name; name it or remove it")
        elif not name.isprintable():
            faults.append(f"column {name!r} has control characters in its name; rename it")
        elif near is not None:
            faults.append(
                f"column {name!r} looks like {near!r}: rename it, or list it in extra_columns "
                "(--extra-column) to carry it through"
            )
    faults += [
        f"column {name!r} is also a column of the output; rename it"
        for name in dict.fromkeys(names)
        if name in reserved and name not in COLUMNS
    ]
    if not faults and not any(name in MUSIC_COLUMNS for name in names):
        found = ", ".join(names) or "none"
        faults.append(
            f"no column says what to make (columns: {found}); one of "
            f"{', '.join(MUSIC_COLUMNS)} is needed"
        )
    return faults


def _near_column(name: str) -> str | None:
    """The known column that `name` is probably meant to be: at most 2 edits away, any case."""
    tidy = name.strip().casefold()
    if tidy in _BARE_ROLES:
        return f"{_BARE_ROLES[tidy]}_uri"
    distance, near = min((edits(tidy, known), known) for known in COLUMNS)
    return near if distance <= 2 and distance < len(near) else None


# Too far from a known column to be a misspelling, but making music without it would be a surprise.
_BARE_ROLES = {
    f"{role}{end}": role
    for role in ("melody", "continuation")
    for end in ("", "_path", "_file", "_wav")
}


def resolve_uri(uri: str, manifest_uri: str) -> str:
    """Where a reference lies: relative ones count from the folder of the manifest's file.

    Where `..` climbs above the root or the bucket, it stays there, as in a file system.
    """
    if _SCHEME.match(uri) or uri.startswith("/"):
        return uri
    scheme = _SCHEME.match(manifest_uri)
    store = scheme.group() if scheme else ""
    path = manifest_uri[len(store) :]
    if store not in ("", "file://"):
        bucket, _, path = path.partition("/")
        store, path = f"{store}{bucket}/", f"/{path}"
        return store + posixpath.normpath(posixpath.join(posixpath.dirname(path), uri)).lstrip("/")
    return store + posixpath.normpath(posixpath.join(posixpath.dirname(path), uri))


_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
