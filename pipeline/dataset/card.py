"""The dataset card, `README.md` at the root of an output: front matter by which Hugging Face
`datasets` opens the folder, and the figures of what it holds."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import pyarrow as pa
import yaml

from pipeline.dataset.features import UnnamedTypeError, features_of, tar_features
from pipeline.dataset.metadata import metadata_schema
from pipeline.dataset.snapshot import Figures, Layout
from pipeline.ledger.names import METADATA
from pipeline.ledger.schema import CLIP_FIELDS
from pipeline.telemetry.words import counted

_MARKER = re.compile(
    r"<!-- musicgen-batch card, state (?P<state>[0-9a-f]{16}), dataset (?P<id>[0-9a-f]{16}), "
    r"(?P<clips>[0-9]+) clips in (?P<layout>files|parquet|webdataset)\."
)
# Names of licences, in lower case without what separates words, to the hub's identifiers.
_HUB_LICENCES = {
    "ccbync4.0": "cc-by-nc-4.0",
    "ccby4.0": "cc-by-4.0",
    "apache2.0": "apache-2.0",
    "mit": "mit",
    "cc01.0": "cc0-1.0",
}
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (10**6, "100K<n<1M"),
          (10**7, "1M<n<10M"), (10**8, "10M<n<100M"), (10**9, "100M<n<1B"))  # fmt: skip
TAGS = ("ai-generated", "synthetic", "music", "audio", "musicgen", "text-to-music")


@dataclass(frozen=True)
class Identity:
    """What the marker of a card says.

    Attributes:
        state: of the snapshot that the card is of.
        dataset: stays the same for an output, wherever it is copied.
        clips, layout: how many the output held, and how most of them keep their audio.
    """

    state: str
    dataset: str
    clips: int = 0
    layout: str = "files"

    @property
    def marker(self) -> str:
        """The line by which a card is known as ours."""
        return (
            f"<!-- musicgen-batch card, state {self.state}, dataset {self.dataset}, {self.clips} "
            f"clips in {self.layout}. Runs write this file anew; without this line it is yours and "
            "stays as it is. -->"
        )


def identity_of(card: str) -> Identity | None:
    """What the marker says; None where somebody else wrote the card."""
    found = _MARKER.search(card)
    if found is None:
        return None
    return Identity(found["state"], found["id"], int(found["clips"]), found["layout"])


def new_identity(state: str, figures: Figures, earlier: Identity | None) -> Identity:
    """That of the next card of an output."""
    dataset = earlier.dataset if earlier else secrets.token_hex(8)
    return Identity(state, dataset, figures.clips, figures.layout or "files")


def render_card(
    title: str,
    identity: Identity,
    schema: pa.Schema | None,
    figures: Figures,
    address: str | None = None,
) -> str:
    """The text of the card.

    Args:
        title: of the dataset.
        identity: for the marker.
        schema: of `clips/`; None where there are no clips.
        figures: of them.
        address: by which `load_dataset` opens it; by default the folder's name.
    """
    layout = figures.layout or "files"
    audio_column = _tar_format(figures) if layout == "webdataset" else "audio"
    known = {*CLIP_FIELDS.names, "audio"}
    extras = [name for name in (schema.names if schema else []) if name not in known]
    return (
        _environment()
        .get_template("card.md.j2")
        .render(
            front_matter=front_matter(title, schema, figures),
            marker=identity.marker,
            title=_plain(title),
            address=address or title,
            audio_column=audio_column,
            layout=layout,
            layouts=[name for name, _ in figures.layouts.most_common()],
            clips=counted(figures.clips, "clip"),
            length=_length(figures.audio_s),
            models=_listed({_plain(weights.model) for weights in figures.weights})
            or "no model yet",
            licences=_listed(map(_plain, figures.licences)) or "no licence yet",
            figures=_figure_rows(figures),
            marks=figures.marks.layers if figures.marks.clips else [],
            weights=[
                {
                    "model": _plain(weights.model),
                    "hash": weights.weights_hash,
                    "revision": _plain(weights.revision or ""),
                    "licence": _plain(weights.licence),
                    "clips": n,
                }
                for weights, n in figures.weights.most_common()
            ],
            extras=[f"`{_plain(name)}`" for name in extras],
        )
    )


def front_matter(title: str, schema: pa.Schema | None, figures: Figures) -> str:
    """The YAML at the head of the card."""
    licences = sorted({_hub_licence(licence) for licence in figures.licences})
    told: dict[str, Any] = {"pretty_name": title, "license": licences or ["other"]}
    if len(told["license"]) == 1:
        told["license"] = told["license"][0]
    if "other" in licences:
        told["license_name"] = "licence-of-the-weights"
    told["task_categories"] = ["text-to-audio"]
    told["tags"] = list(TAGS)
    told["size_categories"] = [_size(figures.clips)]
    told["annotations_creators"] = ["machine-generated"]
    if schema is not None and figures.layout is not None:
        paths = _data_files(figures.layout)
        files = [{"split": "train", "path": paths if len(paths) > 1 else paths[0]}]
        told["configs"] = [{"config_name": "default", "default": True, "data_files": files}]
        try:
            features = _features(schema, figures)
            told["dataset_info"] = {"config_name": "default", "features": features}
        except UnnamedTypeError:
            pass  # `datasets` reads the types of the files
    return str(yaml.safe_dump(told, sort_keys=False, allow_unicode=True, width=100))


def _data_files(layout: Layout) -> list[str]:
    if layout == "parquet":
        return ["clips/*.parquet"]
    if layout == "webdataset":
        return ["audio/*.tar"]
    return [METADATA, "audio/*/*"]


def _features(schema: pa.Schema, figures: Figures) -> list[dict[str, Any]]:
    rate = figures.sample_rate_hz
    if figures.layout == "webdataset":
        return tar_features(schema, rate, _tar_format(figures))
    if figures.layout == "parquet":
        return features_of(schema, rate)
    fields = list(metadata_schema(schema, ""))[1:]
    return features_of(pa.schema([pa.field("audio", pa.string()), *fields]), rate)


def _tar_format(figures: Figures) -> str:
    return str(figures.tar_formats.most_common(1)[0][0])


def _figure_rows(figures: Figures) -> list[tuple[str, str]]:
    rows = [
        ("clips", str(figures.clips)),
        ("audio", f"{figures.audio_s:.1f} s"),
        ("audio files", f"{figures.audio_bytes} bytes"),
        ("rows that failed", str(figures.dead_letters)),
    ]
    if figures.clips:
        rows += [
            ("length of a clip", f"{figures.shortest_s:g} to {figures.longest_s:g} s"),
            ("sample rate", _with_counts(figures.rates_hz, " Hz")),
            ("channels", _with_counts(figures.channels)),
            ("format", _with_counts(figures.formats)),
            ("made", f"{figures.first:%Y-%m-%d} to {figures.last:%Y-%m-%d} (UTC)"),
        ]
    references = {role: n for role, n in figures.references.items() if n}
    rows += [(f"clips with a {role} reference", str(n)) for role, n in references.items()]
    if figures.without_prompt:
        rows.append(("clips without a prompt", str(figures.without_prompt)))
    if figures.retaken:
        rows.append(("made again after a quality check", str(figures.retaken)))
    if figures.kept_in_spite_of_qc:
        rows.append(("kept in spite of a quality check", str(figures.kept_in_spite_of_qc)))
    return rows


def _with_counts(counts: Any, unit: str = "") -> str:
    """One value alone, several with how many clips have each."""
    if len(counts) == 1:
        return f"{next(iter(counts))}{unit}"
    return ", ".join(f"{value}{unit} ({counted(n, 'clip')})" for value, n in counts.most_common())


def _length(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.1f} seconds"
    if seconds < 600:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 36_000 else f"{seconds / 3600:.0f} hours"


def _listed(words: Any) -> str:
    return ", ".join(sorted(words))


def _plain(text: str) -> str:
    """Text from outside as it may stand in a line or a table of Markdown."""
    return re.sub(r"([|<>`\[\]*_\\])", r"\\\1", " ".join(text.split()))


def _hub_licence(licence: str) -> str:
    return _HUB_LICENCES.get(re.sub(r"[\s_-]", "", licence.lower()), "other")


def _size(clips: int) -> str:
    return next((name for limit, name in _SIZES if clips < limit), "1B<n<10B")


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=False,  # Markdown; `_plain` escapes what comes from outside
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
