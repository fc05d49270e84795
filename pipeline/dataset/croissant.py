"""`croissant.json`: the output in the Croissant format of MLCommons, for search engines and loaders."""

from __future__ import annotations

import json
import re
from typing import Any

import pyarrow as pa

from pipeline.dataset.snapshot import Figures
from pipeline.ledger.columns import CLIP_COLUMNS

CREATOR = "musicgen-batch"
_VERSION = re.compile(r"1\.0\.0\+(?P<state>[0-9a-f]{16})")
# The context of Croissant 1.0, as its specification gives it.
_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
_LICENCE_PAGES = {
    "CC-BY-NC-4.0": "https://creativecommons.org/licenses/by-nc/4.0/",
    "Apache-2.0": "https://www.apache.org/licenses/LICENSE-2.0",
}
_AUDIO_TYPES = {"flac": "audio/flac", "wav": "audio/wav", "mp3": "audio/mpeg", "ogg": "audio/ogg",
                "opus": "audio/ogg"}  # fmt: skip
_WORDS = {column.name: column.text for column in CLIP_COLUMNS}


def render(title: str, state: str, schema: pa.Schema | None, figures: Figures) -> str:
    """The text of the file.

    Args:
        title: of the dataset.
        state: of the snapshot; it stands in the version, `1.0.0+<state>`.
        schema: of `clips/`; None where there are no clips.
        figures: of them.
    """
    told: dict[str, Any] = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": title,
        "description": f"{figures.clips} clips of music, {figures.audio_s:.0f} s of audio, generated "
        f"by AI with {', '.join(sorted(each.model for each in figures.weights))}.",
        "creator": {"@type": "sc:Organization", "name": CREATOR},
        "version": f"1.0.0+{state}",
        "license": [_LICENCE_PAGES.get(licence, licence) for licence in figures.licences],
        "keywords": ["ai-generated", "music", "text-to-audio"],
        "isLiveDataset": True,
        "distribution": _distribution(figures),
        "recordSet": [] if schema is None else [_rows(schema)],
    }
    if figures.last is not None:
        told["datePublished"] = f"{figures.last:%Y-%m-%d}"
    return json.dumps(told, indent=1, ensure_ascii=False) + "\n"


def state_of(text: str) -> str | None:
    """The state that a file of ours is of; None where somebody else wrote it."""
    try:
        told = json.loads(text)
        ours = told["creator"]["name"] == CREATOR
        found = _VERSION.fullmatch(told["version"])
    except (ValueError, KeyError, TypeError):
        return None
    return found["state"] if ours and found else None


def _distribution(figures: Figures) -> list[dict[str, Any]]:
    sets = [_file_set("parts", "clips/*.parquet", "application/x-parquet")]
    if figures.layouts["files"]:
        kinds = sorted({_AUDIO_TYPES[each] for each in figures.formats})
        sets += [_file_set(f"audio-{kind.rpartition('/')[2]}", "audio/*/*", kind) for kind in kinds]
    if figures.layouts["webdataset"]:
        sets.append(_file_set("tars", "audio/*.tar", "application/x-tar"))
    return sets


def _file_set(name: str, includes: str, kind: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": name,
        "name": name,
        "encodingFormat": kind,
        "includes": includes,
    }


def _rows(schema: pa.Schema) -> dict[str, Any]:
    fields = [_field(field) for field in schema if field.name != "audio"]
    key = {"@id": "clips/clip_id"}
    return {"@type": "cr:RecordSet", "@id": "clips", "name": "clips", "key": key, "field": fields}


def _field(field: pa.Field) -> dict[str, Any]:
    told = {
        "@type": "cr:Field",
        "@id": f"clips/{field.name}",
        "name": field.name,
        "description": _WORDS.get(field.name, "A column of the manifest."),
        "dataType": _data_type(field.type),
        "source": {"fileSet": {"@id": "parts"}, "extract": {"column": field.name}},
    }
    return told


def _data_type(kind: pa.DataType) -> str:
    if pa.types.is_boolean(kind):
        return "sc:Boolean"
    if pa.types.is_integer(kind):
        return "sc:Integer"
    if pa.types.is_floating(kind):
        return "sc:Float"
    return "sc:DateTime" if pa.types.is_timestamp(kind) else "sc:Text"
