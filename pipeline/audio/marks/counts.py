"""Which marks the rows of an output have, counted and in words: for cards, reports and `verify`.

The columns came with version 0.1.0 and are absent, or null, in parts that were written before.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

COLUMNS = ("c2pa", "watermark")
"""What `count_marks` reads."""


@dataclass(frozen=True)
class MarkCounts:
    """How many clips carry which mark, by their rows."""

    clips: int = 0
    c2pa_embedded: int = 0
    c2pa_sidecar: int = 0
    watermarked: int = 0

    def __add__(self, other: MarkCounts) -> MarkCounts:
        mine, theirs = asdict(self), asdict(other)
        return MarkCounts(**{name: mine[name] + theirs[name] for name in mine})

    @property
    def c2pa(self) -> int:
        """Clips with a signed C2PA manifest."""
        return self.c2pa_embedded + self.c2pa_sidecar

    @property
    def layers(self) -> list[str]:
        """A line for each mark that not all clips have by themselves."""
        places = [
            f"{count} {where}"
            for count, where in (
                (self.c2pa_embedded, "inside the file"),
                (self.c2pa_sidecar, "in a .c2pa sidecar"),
            )
            if count
        ]
        detail = f" ({', '.join(places)})" if places else ""
        return [
            f"signed C2PA manifest: {self._share(self.c2pa)}{detail}",
            f"watermark in the samples: {self._share(self.watermarked)}",
        ]

    @property
    def text(self) -> str:
        """All of it in a sentence."""
        if not self.clips:
            return "there are no clips"
        every = "`ai_generated` in the row and provenance in the file's comment tag: all clips"
        return "; ".join([*self.layers, every])

    def _share(self, count: int) -> str:
        if count == self.clips:
            return "all clips"
        return f"{count} of {self.clips} clips" if count else "no clip"


def count_marks(clips: pa.Table | pa.RecordBatch) -> MarkCounts:
    """Counts the marks of rows of `clips/`; of their columns only COLUMNS are looked at."""
    names = clips.schema.names
    c2pa: Any = clips.column("c2pa") if "c2pa" in names else pa.nulls(clips.num_rows, pa.string())
    mark: Any = clips.column("watermark") if "watermark" in names else pa.nulls(clips.num_rows)
    return MarkCounts(
        clips=clips.num_rows,
        c2pa_embedded=_sum(pc.equal(c2pa, "embedded")),
        c2pa_sidecar=_sum(pc.equal(c2pa, "sidecar")),
        watermarked=clips.num_rows - mark.null_count,
    )


def _sum(mask: Any) -> int:
    return int(pc.sum(mask, min_count=0).as_py() or 0)
