"""The CPU pool in front of the replicas: rows become clips with their references at hand.

Each row is checked and identified again (the driver's scan holds no rows), what stands in the
ledger is dropped, melodies become pitch classes (a few hundred bytes) and continuations samples at
the model's rate. A row that fails travels on as a dead letter; nothing here stops the job.
"""

import json
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import lru_cache
from threading import Lock
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from manifests.audio_file import check_audible, load_reference, locate, peak_of
from manifests.reader import Manifest
from manifests.row_errors import UnsuitableRowError
from manifests.schema import ROLES
from musicgen.checkpoints.describe import ModelInfo
from musicgen.config import n_frames
from musicgen.windows import Window, plan_windows, stride_frames
from pipeline.ledger import DoneSet
from pipeline.planning.expand import (
    Clip,
    DeadLetter,
    Expander,
    Selection,
    dead_letter_of_take,
)
from pipeline.planning.model_limits import check_audio
from pipeline.prepare.messages import PrepareSettings
from pipeline.storage import redact

if TYPE_CHECKING:
    from pipeline.ledger.id_set import Ids
    from pipeline.prepare.analysis import ReferenceAnalyzer, Samples

FETCH_THREADS = 8
READ_ROWS = 2_000

# Parameters that become columns of clips/; the first six are the engine's sampling parameters.
SAMPLING = ("use_sampling", "temperature", "top_k", "top_p", "cfg_coef", "cfg_coef_beta")
GENERATION_COLUMNS = (*SAMPLING, "extend_stride_s", "style_eval_q", "style_excerpt_s")

PREPARED_SCHEMA = pa.schema(
    [
        ("kind", pa.string()),  # "clip" or "letter"
        ("spec", pa.string()),  # JSON: see `clip_spec`, or the fields of a DeadLetter
        ("melody", pa.binary()),  # uint8 pitch classes [n], or [W, n] where the clip has W windows
        ("continuation", pa.binary()),  # float32 samples [C, N] at the model's rate
        ("style", pa.binary()),  # float32 samples [C, N] at the model's rate
    ]
)


def read_rows(manifest: Manifest, batch: pa.Table) -> Iterator[pa.Table]:
    """Ray task: the rows of some units. Columns: `row` (number over the whole manifest), `raw` (the
    known columns, pickled: their types may differ between files) and the extra columns."""
    for index in batch["row_group"].to_pylist():
        row_group = manifest.row_groups[index]
        for first_row, rows in manifest.read_row_group(row_group, batch_rows=READ_ROWS):
            raws = [pickle.dumps(raw) for raw in manifest.raw_rows(rows)]
            numbers = pa.array(range(first_row, first_row + rows.num_rows), pa.int64())
            table = pa.table({"row": numbers, "raw": pa.array(raws, pa.large_binary())})
            for field in manifest.extra_schema:
                table = table.append_column(_carried(field), rows[field.name])
            yield table


def _carried(field: pa.Field) -> pa.Field:
    """An extra column on its way, under a name that none of ours can have."""
    return pa.field(f"extra.{field.name}", field.type)


class Prepare:
    """Ray actor of the prepare pool: a table of manifest rows in, PREPARED_SCHEMA + extras out.

    Args:
        settings: The plan and the model.
        known: Gets what stands in the ledger: (clip ids, row keys of letters), sorted, one shared
            copy per node in Ray's object store.
    """

    def __init__(self, settings: PrepareSettings, known: Callable[[], tuple["Ids", "Ids"]]) -> None:
        self.settings = settings
        self.expander = Expander(settings.spec)
        self.selection = Selection(DoneSet(*known()), settings.retry)
        self.fetcher = ReferenceReader(self.expander, settings.info)
        self.pool = ThreadPoolExecutor(FETCH_THREADS)

    def __call__(self, table: pa.Table) -> Iterator[pa.Table]:
        numbers = table["row"].to_pylist()
        found: list[tuple[int, Clip | DeadLetter]] = []
        for index, raw in enumerate(table["raw"].to_pylist()):
            number = numbers[index]
            repeat = self.settings.repeats.get(number, 0)
            given = pickle.loads(raw)
            for _, item in self.expander.expand(given, number, repeat, self.selection):
                if item is not None:
                    found.append((index, item))
        found.sort(key=lambda pair: _length_s(pair[1]), reverse=True)
        rows = list(self.pool.map(self._row, (item for _, item in found)))
        prepared = pa.Table.from_pylist(rows, schema=PREPARED_SCHEMA)
        sources = table.take(pa.array([index for index, _ in found], pa.int64()))
        for field in map(_carried, self.settings.spec.manifest.extra_schema):
            prepared = prepared.append_column(field, sources[field.name])
        yield prepared

    def _row(self, item: Clip | DeadLetter) -> dict[str, Any]:
        if isinstance(item, Clip):
            try:
                return self.fetcher.prepared(item)
            except ValueError as error:
                item = dead_letter_of_take(
                    *(item.row, item.source, item.row_number, item.take),
                    *(item.row_key, item.clip_id, error),
                )
        return {"kind": "letter", "spec": json.dumps(asdict(item))}


def _length_s(item: Clip | DeadLetter) -> float:
    """Long clips go first, so that replicas end with short ones, and at nearly the same time."""
    return item.params.duration_s if isinstance(item, Clip) else 0.0


def extras_of(prepared: dict[str, Any]) -> dict[str, Any]:
    """The extra columns of a prepared row under their own names."""
    marked = ((name.partition("extra."), value) for name, value in prepared.items())
    return {name: value for (before, mark, name), value in marked if mark and not before}


class ReferenceReader:
    """Fetches, decodes and analyses the references of clips."""

    def __init__(self, expander: Expander, info: ModelInfo) -> None:
        self.expander, self.info = expander, info
        self.window_frames = n_frames(round(info.max_duration_s * 1e6), info.frame_rate_hz)
        self._analyzer: ReferenceAnalyzer | None = None
        self._lock = Lock()
        # The takes of a row share its references.
        self.decoded = lru_cache(maxsize=FETCH_THREADS)(self._decode)

    @property
    def analyzer(self) -> "ReferenceAnalyzer":
        """Made when the first reference asks for it: it takes torch."""
        from pipeline.prepare.analysis import ReferenceAnalyzer

        with self._lock:
            if self._analyzer is None:
                separation = self.expander.spec.limits.separation
                self._analyzer = ReferenceAnalyzer(self.info, separation, self.window_frames)
            return self._analyzer

    def prepared(self, clip: Clip) -> dict[str, Any]:
        """A row of PREPARED_SCHEMA. Raises ValueError: the row's own trouble."""
        info, references = self.info, clip.row.references()
        frames = n_frames(clip.params.duration_us, info.frame_rate_hz)
        row: dict[str, Any] = {"kind": "clip"}
        n_given = 0
        if "continuation" in references:
            samples = self.analyzer.at_rate(*self._suitable(clip, "continuation"))
            n_given = -(-samples.shape[-1] // info.hop_samples)
            row["continuation"] = samples.tobytes()
        windows, heard = self._windows(clip, frames, n_given), None
        if "melody" in references:
            heard = self.analyzer.heard
            row["melody"] = self.analyzer.melody(*self._suitable(clip, "melody"), windows)
        if "style" in references:
            row["style"] = self.analyzer.at_rate(*self._suitable(clip, "style")).tobytes()
        spec = clip_spec(clip, frames, heard) | {"n_windows": len(windows)}
        return row | {"spec": json.dumps(spec)}

    def _windows(self, clip: Clip, frames: int, n_given: int) -> tuple[Window, ...]:
        """The windows in which the clip will be made."""
        stride = None
        try:
            if frames > self.window_frames:
                stride = stride_frames(
                    clip.params.extend_stride_s, self.info.frame_rate_hz, self.window_frames
                )
            return plan_windows(frames, window=self.window_frames, stride=stride, n_prompt=n_given)
        except ValueError as error:
            raise UnsuitableRowError(str(error)) from error

    def _suitable(self, clip: Clip, role: str) -> tuple["Samples", int]:
        """Samples [C, N] of a reference that the model can use for this clip, and their rate."""
        wav, rate_hz = self.decoded(clip.row.references()[role], clip.row_number)
        check_audible(role, peak_of(wav))
        check_audio(self.info, role, wav.shape[1], rate_hz, clip.params)
        return wav, rate_hz

    def _decode(self, reference: str | bytes, row_number: int) -> tuple["Samples", int]:
        """Samples [C, N] and their rate."""
        place = locate(reference, self.expander.row_group_of(row_number).uri)
        return load_reference(place, self.expander.spec.storage_options)


def clip_spec(clip: Clip, frames: int, heard: str | None) -> dict[str, Any]:
    """All that a replica must know of a clip, as plain JSON; reference bytes stay behind.

    Args:
        heard: What the melody was heard through, None without one.
    """
    row = clip.row
    return {
        "clip_id": clip.clip_id,
        "row_key": clip.row_key,
        "id": row.id,
        "take": clip.take,
        "row": clip.row_number,
        "source": clip.source,
        "row_json": redact(
            json.dumps(
                {k: v for k, v in row.as_written().items() if not isinstance(v, bytes)},
                ensure_ascii=False,
            )
        ),
        "prompt": row.prompt,
        "duration_s": clip.params.duration_s,
        "n_frames": frames,
        **{f"{role}_uri": _shown(getattr(row, f"{role}_uri")) for role in ROLES},
        "references": clip.references,
        "seed": row.seed,
        "seed_used": clip.seed_used,
        "generation": {
            **{name: getattr(clip.params, name) for name in GENERATION_COLUMNS},
            "separation": heard,
        },
    }


def _shown(uri: str | None) -> str | None:
    """A reference as the dataset names it: without what signs its URI."""
    return None if uri is None else redact(uri)
