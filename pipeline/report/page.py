"""`report.html`: one self-contained page to look at and listen to an output.

No network, no external file (audio is embedded, or linked if asked), works from `file://`, light
and dark, phone and desktop. The same output, sample and seed give the same page.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup, escape
from numpy.typing import NDArray

from pipeline import ledger
from pipeline.audio.measure import FLOOR_DBFS
from pipeline.audio.measures_table import MEASURES
from pipeline.audio.pictures import WAVE_COLUMNS
from pipeline.ledger.parts import map_parts, read_part
from pipeline.ledger.schema import CLIP_FIELDS
from pipeline.report import highlights
from pipeline.report.cards import Card, make_cards
from pipeline.report.pictures import Histogram, Timeline, histogram, timeline
from pipeline.report.set_figures import read_figures
from pipeline.storage import ObjectInfo, Storage

# What the report reads of clips/, beside `part`: never the `audio` column, nor long JSON.
_UNREAD = {"row_key", "versions", "replica", "attempts", "weights_revision", "seed"}
COLUMNS = [name for name in CLIP_FIELDS.names if name not in _UNREAD]


@dataclass(frozen=True)
class ReportData:
    """What a report is made of."""

    title: str
    clips: pa.Table
    """Columns of `clips/` named in COLUMNS, and `part`."""
    failed: pa.Table
    """Dead letters that stand: rows that failed and have no clip since."""
    runs: list[dict[str, Any]]
    """Run records, the oldest first."""


Show = Callable[[float], str]


@dataclass(frozen=True)
class Panel:
    """What the page shows of one distribution."""

    title: str
    median: str
    low: str
    high: str
    note: str
    shape: Histogram
    bar_titles: list[str]


@dataclass(frozen=True)
class Distribution:
    """A column whose values the report shows as a histogram."""

    column: str
    title: str
    show: Show


def _of_measure(name: str) -> Distribution:
    return Distribution(name, MEASURES[name].label, MEASURES[name].show)


DISTRIBUTIONS = (
    Distribution("duration_s", "Duration", lambda seconds: span_text(seconds)),
    _of_measure("loudness_lufs"),
    _of_measure("true_peak_dbtp"),
    Distribution("gain_db", "Gain", lambda gain_db: f"{gain_db:+.1f} dB"),
    _of_measure("silence_ratio"),
    _of_measure("clip_ratio"),
    _of_measure("spectral_flatness"),
    _of_measure("dc_offset"),
)


def build_report(storage: Storage, *, sample: int = 12, seed: int = 0, embed: bool = True) -> str:
    """Builds the page of an output.

    Args:
        storage: Root of the output.
        sample: Clips with players, drawn from all by `seed`; the worst and the takes come on top.
        seed: Another seed draws another sample.
        embed: Put the audio into the page; else link to it, relative to the root of the output.
    """
    return render(load(storage), storage, sample=sample, seed=seed, embed=embed)


def load(storage: Storage) -> ReportData:
    """Reads what the ledger holds: all clips but their audio, standing letters, run records."""
    ledger.standing_schema(storage, migrate=True)  # or an error that says which program wrote it

    def read(info: ObjectInfo) -> pa.Table:
        table = read_part(storage, info, COLUMNS)
        return table.append_column("part", pa.repeat(info.path, table.num_rows))

    fields = [CLIP_FIELDS.field(name) for name in COLUMNS]
    empty = pa.schema([*fields, pa.field("part", pa.string())]).empty_table()
    return ReportData(
        title=storage.root.rstrip("/").rpartition("/")[2] or "output",
        clips=pa.concat_tables([empty, *map_parts(storage, "clips", read)]),
        failed=ledger.read_dead_letters(storage),
        runs=ledger.read_runs(storage),
    )


def render(
    data: ReportData, storage: Storage, *, sample: int = 12, seed: int = 0, embed: bool = True
) -> str:
    """The page; `storage` gives the audio of the clips that are shown."""
    clips = data.clips
    flags = highlights.flagged(clips)
    sections = {
        "sample": highlights.sample_rows(clips, sample, seed),
        "takes": highlights.take_rows(clips, seed),
        "worst": highlights.worst_rows(flags),
    }
    shown = sorted({row for rows in sections.values() for row in rows})
    rows = dict(zip(shown, clips.take(pa.array(shown, pa.int64())).to_pylist(), strict=True))
    cards = make_cards(storage, rows.values(), embed=embed)
    picked = {
        name: [cards[rows[row]["clip_id"]] for row in numbers] for name, numbers in sections.items()
    }
    panels = (_panel(each, highlights.numbers(clips, each.column)) for each in DISTRIBUTIONS)
    return _environment().get_template("report.html.j2").render(
        title=data.title,
        summary=_summary(data),
        timeline=_timeline(data) if clips.num_rows > 1 else None,
        panels=[p for p in panels if p] if clips.num_rows > 1 else [],
        flags=[(title, len(found), len(found) / clips.num_rows) for title, found in flags.items()],
        failures=highlights.failure_groups(data.failed),
        figures=read_figures(storage),
        runs=[_run(run) for run in reversed(data.runs)],
        n_takes=len(picked["takes"]),
        wave_columns=WAVE_COLUMNS,
        **_each_audio_once(picked),
    )  # fmt: skip


def _each_audio_once(picked: dict[str, list[Card]]) -> dict[str, list[tuple[Card, set[str]]]]:
    """Pairs cards with the names of the audio elements that they hold: what is shown twice, a clip
    or the reference of several, is embedded once."""
    seen: set[str] = set()
    result: dict[str, list[tuple[Card, set[str]]]] = {}
    for name in ("sample", "takes", "worst"):
        result[name] = []
        for card in picked[name]:
            elements = {f"audio-{card.row['clip_id']}", *(r.element for r in card.references)}
            result[name].append((card, elements - seen))
            seen |= elements
    return result


def _summary(data: ReportData) -> dict[str, Any]:
    clips = data.clips
    audio_s = float(np.nansum(highlights.numbers(clips, "duration_s")))
    wall_s = sum(float(run.get("wall_s") or 0.0) for run in data.runs)
    run_audio_s = sum(float(run.get("audio_seconds") or 0.0) for run in data.runs)
    models = clips.group_by(["model", "weights_hash", "weights_licence"]).aggregate([])
    return {
        "n_clips": clips.num_rows,
        "n_rows": pc.count_distinct(clips.column("id")).as_py(),
        "audio_s": audio_s,
        "wall_s": wall_s,
        "speed": run_audio_s / wall_s if wall_s > 0 else None,
        "n_failed": data.failed.num_rows,
        "models": sorted(models.to_pylist(), key=lambda m: (m["model"], m["weights_hash"])),
        "audio_bytes": int(np.nansum(highlights.numbers(clips, "audio_bytes"))),
        "sample_rates_hz": sorted(pc.unique(clips.column("sample_rate_hz")).to_pylist()),
        "state": str(data.runs[-1].get("state", "")) if data.runs else "",
        "first": pc.min(clips.column("created_at")).as_py(),
        "last": pc.max(clips.column("created_at")).as_py(),
    }


def _run(record: dict[str, Any]) -> dict[str, Any]:
    """A run record with what the table needs; a run that was killed early may lack some."""
    numbers = ("done", "failed", "done_before", "audio_seconds", "wall_s")
    texts = ("run_id", "state", "replicas", "slots")
    return {key: record.get(key) or 0 for key in numbers} | {
        key: "–" if record.get(key) is None else record[key] for key in texts
    }


def _timeline(data: ReportData) -> Timeline | None:
    created_us = pc.cast(data.clips.column("created_at"), pa.int64())
    started = {str(run.get("run_id")): _unix_s(run.get("started_at")) for run in data.runs}
    return timeline(
        created_us.to_numpy() / 1e6,
        highlights.numbers(data.clips, "duration_s"),
        np.asarray(data.clips.column("run_id").to_pylist(), dtype=np.str_),
        {run_id: at for run_id, at in started.items() if at is not None},
    )


def _unix_s(stamp: Any) -> float | None:
    """Seconds since 1970 of an ISO 8601 time, read as UTC where it names no zone."""
    if not isinstance(stamp, str):
        return None
    try:
        moment = datetime.fromisoformat(stamp)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _panel(distribution: Distribution, values: NDArray[np.float64]) -> Panel | None:
    # Digital silence has no level; at the floor it would push all other values to one side.
    values = np.where(values <= FLOOR_DBFS, np.nan, values)
    shape = histogram(values)
    if shape is None:
        return None
    edges = [distribution.show(edge) for edge in shape.edges]
    low, high = ("≤ " if shape.below else "") + edges[0], ("≥ " if shape.above else "") + edges[-1]
    n_null = int(np.count_nonzero(np.isnan(values)))
    return Panel(
        title=distribution.title,
        median=distribution.show(shape.median),
        low="every clip" if shape.constant else low,
        high="" if shape.constant else high,
        note=f"{n_null:,} without" if n_null else "",
        shape=shape,
        bar_titles=[
            f"{edges[i]} to {edges[i + 1]}: {n:,} clips" for i, n in enumerate(shape.counts)
        ],
    )


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "count": lambda n: f"{n:,}",
        "things": lambda n, thing: f"{n:,} {thing}" + ("" if n == 1 else "s"),
        "span": span_text,
        "size": size_text,
        "hz": lambda hz: f"{hz / 1000:g} kHz" if hz >= 1000 else f"{hz:g} Hz",
        "minus": lambda text: str(text).replace("-", "−"),
        "utc": lambda t: t.strftime("%Y-%m-%d %H:%M UTC"),
        "ticks": _with_code,
        "shown": lambda row, name: MEASURES[name].show(row[name]),
        "csp_hash": lambda text: base64.b64encode(
            hashlib.sha256(str(text).encode()).digest()
        ).decode(),
    }
    return environment


def span_text(seconds: float) -> str:
    """A length of time in the two units that matter."""
    if seconds < 100:
        return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole // 60 % 60:02d} min"
    return f"{whole // 86_400:,} d {whole // 3600 % 24:02d} h"


def size_text(n_bytes: float) -> str:
    """Bytes in decimal units."""
    size = n_bytes
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:,.1f} TB"


def _with_code(text: str) -> Markup:
    """Text whose `commands` stand in the type of code."""
    parts = str(text).split("`")
    if len(parts) % 2 == 0:
        return escape(text)
    code = Markup("<code>{}</code>")
    return Markup("").join(code.format(p) if i % 2 else escape(p) for i, p in enumerate(parts))
