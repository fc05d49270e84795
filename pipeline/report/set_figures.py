"""Figures of a whole set of clips against reference audio: FAD and KAD, per model and per group."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from manifests.audio_file import decode_reference
from pipeline.audio.scores.distances import Embeddings, frechet_distance, kernel_distance
from pipeline.audio.scores.protocol import Embedder, Embedding, ScoredClip, ScorerError
from pipeline.ledger.clip_audio import AudioReader, MissingAudioError
from pipeline.ledger.lease import Lease
from pipeline.ledger.names import FIGURES
from pipeline.ledger.parts import list_parts, reading
from pipeline.storage import ObjectInfo, ObjectNotFoundError, Storage

SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".aiff", ".aif")
_AUDIO = ("clip_id", "audio_path", "audio_member")


@dataclass(frozen=True)
class SetFigure:
    """How far some clips are from the reference.

    Attributes:
        by: What they have in common: `model`, or the column of the group.
        value: Of that.
        clips: How many they are.
        fad, kad: None where there are too few.
    """

    by: str
    value: str
    clips: int
    fad: float | None
    kad: float | None


@dataclass(frozen=True)
class SetFigures:
    """What was measured: the content of `scores/figures.json`.

    Attributes:
        embedder, checkpoint, digest: Where the embeddings come from.
        dimensions: Of an embedding.
        reference: The reference audio, as it was named.
        reference_clips: How many files it has.
        unreadable: Clips that could not be read.
        figures: All models first, then all groups.
    """

    embedder: str
    checkpoint: str
    digest: str
    dimensions: int
    reference: str
    reference_clips: int
    unreadable: int
    created_at: str
    figures: tuple[SetFigure, ...]

    def text(self, most: int = 20) -> str:
        """For people, in 80 columns."""
        lines = [
            f"{self.embedder} ({self.checkpoint}), {self.dimensions} dimensions, against "
            f"{self.reference_clips} files",
            f"{'of':<44}{'clips':>8}{'FAD':>12}{'KAD':>12}",
        ]
        for figure in self.figures[:most]:
            what = f"{figure.by} {figure.value}"
            what = what if len(what) < 44 else what[:42] + "…"
            cells = ("-" if v is None else f"{v:.4f}" for v in (figure.fad, figure.kad))
            lines.append(f"{what:<44}{figure.clips:>8}" + "".join(f"{cell:>12}" for cell in cells))
        if len(self.figures) > most:
            lines.append(f"... and {len(self.figures) - most} more in {FIGURES}")
        few = [f for f in self.figures if f.fad is not None and f.clips <= self.dimensions]
        if few or self.reference_clips <= self.dimensions:
            lines.append(
                "FAD of fewer clips than dimensions says more of their number than of their sound; "
                "compare sets of one size, or by KAD"
            )
        return "\n".join(lines)


def measure_sets(
    lease: Lease,
    embedder: Embedder,
    reference: Storage,
    group_by: str,
    watch: Callable[[int], None] = lambda n_clips: None,
) -> SetFigures:
    """Measures an output against reference audio, and writes the figures beside its scores.

    Args:
        lease: Of the output, held.
        embedder: Places clips in a space.
        reference: Folder of audio files.
        group_by: The column of `clips/` whose values make groups.
        watch: Told how many clips and files were heard.

    Raises:
        ScorerError: There is no reference audio, or no such column.
    """
    files = [i for i in reference.list("") if i.path.lower().endswith(SUFFIXES)]
    if len(files) < 2:
        raise ScorerError(
            f"{reference.uri('')}: {len(files)} audio files ({', '.join(SUFFIXES)}) are below it, "
            "at least 2 are needed as reference audio"
        )
    heard, n = [], 0
    for info in files:
        wav, rate_hz = decode_reference(reference.get(info.path), reference.uri(info.path))
        heard.append(embedder.embed(ScoredClip(wav, rate_hz)))
        n += 1
        watch(n)
    target = np.stack(heard)
    groups: dict[tuple[str, str], list[int]] = {}
    points: list[Embedding] = []
    unreadable = 0
    for row, clip in _clips(lease.storage, group_by):
        n += 1
        watch(n)
        if clip is None:
            unreadable += 1
            continue
        for by in dict.fromkeys(("model", group_by)):
            groups.setdefault((by, str(row[by])), []).append(len(points))
        points.append(embedder.embed(clip))
    space = np.stack(points) if points else np.empty((0, target.shape[1]))
    figures = SetFigures(
        embedder.identity.name,
        embedder.identity.checkpoint,
        embedder.identity.digest,
        target.shape[1],
        reference.uri("").rstrip("/").rpartition("/")[2],
        len(files),
        unreadable,
        datetime.now(UTC).isoformat(timespec="seconds"),
        tuple(_figures(space, target, groups)),
    )
    lease.check()
    lease.storage.put(FIGURES, (json.dumps(asdict(figures), indent=1) + "\n").encode())
    return figures


def read_figures(storage: Storage) -> SetFigures | None:
    """The figures that stand beside an output's scores; None where there are none."""
    try:
        told = json.loads(storage.get(FIGURES))
        figures = tuple(SetFigure(**each) for each in told.pop("figures"))
        return SetFigures(**told, figures=figures)
    except (ObjectNotFoundError, ValueError, TypeError, KeyError):
        return None


def _figures(
    points: Embeddings, target: Embeddings, groups: dict[tuple[str, str], list[int]]
) -> Iterator[SetFigure]:
    order = sorted(groups, key=lambda group: (group[0] != "model", -len(groups[group]), group[1]))
    for by, value in order:
        clips = points[groups[by, value]]
        fad, kad = frechet_distance(clips, target), kernel_distance(clips, target)
        yield SetFigure(by, value, len(clips), fad, kad)


def _clips(storage: Storage, group_by: str) -> Iterator[tuple[dict[str, Any], ScoredClip | None]]:
    """All clips with what they are grouped by, and None where one can't be read."""
    reader = AudioReader(storage)
    for info in list_parts(storage, "clips"):
        for row in _rows(storage, info, [*_AUDIO, "model", "prompt"], group_by):
            try:
                wav, rate_hz = decode_reference(reader.read(row), row["clip_id"])
            except (MissingAudioError, ValueError):
                yield row, None
            else:
                yield row, ScoredClip(wav, rate_hz, row["prompt"])


def _rows(
    storage: Storage, info: ObjectInfo, names: Sequence[str], group_by: str
) -> list[dict[str, Any]]:
    with reading(storage, info) as part:
        if group_by not in part.schema_arrow.names:
            raise ScorerError(
                f"{storage.uri(info.path)} has no column {group_by}; --group-by takes a column of "
                "clips/, extra columns of the manifest included"
            )
        rows: list[dict[str, Any]] = part.read(
            columns=[*dict.fromkeys([*names, group_by])]
        ).to_pylist()
    return [row | {"part": info.path} for row in rows]
