"""What an output holds at one moment, read part by part: the figures of the card, and the rows of
`metadata.parquet`. Memory does not grow with the output."""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.audio.marks.counts import COLUMNS as MARK_COLUMNS
from pipeline.audio.marks.counts import MarkCounts, count_marks
from pipeline.ledger.columns import REFERENCE_ROLES
from pipeline.ledger.parts import list_parts, read_known
from pipeline.storage import THREADS, ObjectInfo, Storage

Layout = Literal["files", "parquet", "webdataset"]
FIGURE_COLUMNS = (
    *("prompt", "n_samples", "sample_rate_hz", "channels", "references", "audio_member"),
    *("audio_format", "audio_bytes", "qc_failed", "retake", "created_at"),
    *("model", "weights_hash", "weights_revision", "weights_licence"),
    *MARK_COLUMNS,
)
# Whatever the card, the Croissant file or `metadata.parquet` are made with: a new number has all of
# them written again.
_FORM = "1"


@dataclass(frozen=True)
class Weights:
    """A checkpoint that clips were made with."""

    model: str
    weights_hash: str
    revision: str | None
    licence: str


@dataclass
class Figures:
    """What the card tells about the clips; all of it grows with `add`."""

    clips: int = 0
    samples: Counter[int] = field(default_factory=Counter)
    """of the clips of each sample rate"""
    audio_bytes: int = 0
    shortest_s: float = float("inf")
    longest_s: float = 0.0
    without_prompt: int = 0
    retaken: int = 0
    kept_in_spite_of_qc: int = 0
    first: datetime | None = None
    last: datetime | None = None
    layouts: Counter[Layout] = field(default_factory=Counter)
    weights: Counter[Weights] = field(default_factory=Counter)
    rates_hz: Counter[int] = field(default_factory=Counter)
    channels: Counter[int] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)
    tar_formats: Counter[str] = field(default_factory=Counter)
    references: Counter[str] = field(default_factory=Counter)
    marks: MarkCounts = field(default_factory=MarkCounts)
    dead_letters: int = 0

    def add(self, rows: pa.Table, *, inside: bool) -> None:
        """Counts some rows of `clips/`.

        Args:
            rows: with the columns of FIGURE_COLUMNS; those of marks may be absent.
            inside: whether their audio is a column of the part.
        """
        if not len(rows):
            return
        seconds = pc.divide(rows["n_samples"].cast(pa.float64()), rows["sample_rate_hz"])
        in_tars = len(rows) - rows["audio_member"].null_count
        layouts: dict[Layout, int] = {
            "parquet": len(rows) if inside else 0,
            "webdataset": in_tars,
            "files": 0 if inside else len(rows) - in_tars,
        }
        self.clips += len(rows)
        by_rate = rows.group_by("sample_rate_hz").aggregate([("n_samples", "sum")])
        for rate, n_samples in zip(*by_rate.to_pydict().values(), strict=True):
            self.samples[rate] += n_samples
        self.audio_bytes += pc.sum(rows["audio_bytes"]).as_py()
        self.shortest_s = min(self.shortest_s, pc.min(seconds).as_py())
        self.longest_s = max(self.longest_s, pc.max(seconds).as_py())
        self.without_prompt += rows["prompt"].null_count
        self.retaken += pc.sum(pc.greater(rows["retake"], 0)).as_py()
        self.kept_in_spite_of_qc += len(rows) - rows["qc_failed"].null_count
        times = pc.min_max(rows["created_at"]).as_py()
        self.first = min(filter(None, (self.first, times["min"])))
        self.last = max(filter(None, (self.last, times["max"])))
        self.layouts.update({name: n for name, n in layouts.items() if n})
        self.rates_hz += _counts(rows["sample_rate_hz"])
        self.channels += _counts(rows["channels"])
        self.formats += _counts(rows["audio_format"])
        if in_tars:
            self.tar_formats += _counts(
                rows.filter(rows["audio_member"].is_valid())["audio_format"]
            )
        self.marks += count_marks(rows)
        for role in REFERENCE_ROLES:
            used = pc.struct_field(rows["references"], role)
            self.references[role] += len(rows) - used.null_count
        names = ["model", "weights_hash", "weights_revision", "weights_licence"]
        for row in rows.group_by(names).aggregate([([], "count_all")]).to_pylist():
            self.weights[Weights(*(row[name] for name in names))] += row["count_all"]

    @property
    def audio_s(self) -> float:
        """Seconds of audio."""
        return sum(n_samples / rate for rate, n_samples in self.samples.items())

    @property
    def sample_rate_hz(self) -> int | None:
        """The rate of all clips; None where there are several."""
        return next(iter(self.rates_hz)) if len(self.rates_hz) == 1 else None

    @property
    def licences(self) -> list[str]:
        """Licences of the weights, that of most clips first."""
        found: Counter[str] = Counter()
        for weights, n in self.weights.items():
            found[weights.licence] += n
        return [licence for licence, _ in found.most_common()]

    @property
    def layout(self) -> Layout | None:
        """How most clips keep their audio; None where there is none."""
        return self.layouts.most_common(1)[0][0] if self.layouts else None


def _counts(column: pa.ChunkedArray) -> Counter[Any]:
    return Counter({each["values"]: each["counts"] for each in column.value_counts().to_pylist()})


@dataclass(frozen=True)
class Snapshot:
    """The valid parts of an output at one moment.

    Attributes:
        state: Names that set of parts; equal where nothing was committed, merged or removed.
    """

    clips: tuple[ObjectInfo, ...]
    failed: tuple[ObjectInfo, ...]
    state: str


def take_snapshot(storage: Storage) -> Snapshot:
    """Lists the parts that stand; reads none of them but merged ones."""
    clips, failed = (list_parts(storage, "clips"), list_parts(storage, "failed"))
    told = [_FORM, *(f"{info.path} {info.size}" for info in (*clips, *failed))]
    state = hashlib.sha256("\n".join(told).encode()).hexdigest()[:16]
    return Snapshot(tuple(clips), tuple(failed), state)


def read_in_order(
    storage: Storage, parts: Sequence[ObjectInfo], columns: Sequence[str]
) -> Iterator[pa.Table]:
    """The rows of each part, in their order, while the next ones are being read.

    Args:
        storage: root of the output.
        parts: of `clips/`.
        columns: those of them that a part lacks are absent from its rows.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        reading: deque[Future[pa.Table]] = deque()
        for info in parts:
            reading.append(pool.submit(read_known, storage, info, columns))
            if len(reading) > THREADS:
                yield reading.popleft().result()
        while reading:
            yield reading.popleft().result()
