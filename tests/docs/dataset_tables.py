"""The tables of `docs/dataset-schema.md`: `make columns-table` writes them.

Names, types and nulls come from the schema that the ledger writes. Unit and meaning stand here, one
entry a column, so that a column without a meaning fails the test.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa

from pipeline.ledger.schema import CLIP_FIELDS, FAILED_SCHEMA

PAGE = Path(__file__).parents[2] / "docs" / "dataset-schema.md"
BEGIN = "<!-- {}: begin, made by `make columns-table` -->"
END = "<!-- {}: end -->"
ISO_TIME = "time, UTC"

Meanings = Mapping[str, tuple[str, str]]  # column: unit, meaning

CLIPS: Meanings = {
    "clip_id": ("hash", "identity of the clip: 32 hex digits over all that determines the music"),
    "row_key": ("hash", "identity of row and take as written; dead letters carry the same key"),
    "id": ("text", "id of the manifest's row"),
    "take": ("count from 0", "which take of the row this is"),
    "prompt": ("text", "the prompt as given"),
    "duration_s": ("seconds", "length that was asked for"),
    "n_frames": ("frames", "length in frames of the codec; the model makes exactly these"),
    "n_samples": ("samples", "length of the file, per channel"),
    "sample_rate_hz": ("Hz", "sample rate of the file"),
    "channels": ("channels", "channels of the file"),
    "melody_uri": ("URI", "melody as the manifest names it, without what signs the URI"),
    "continuation_uri": ("URI", "audio that the clip begins with, in the same form"),
    "style_uri": ("URI", "style reference, in the same form"),
    "references": ("JSON", "role to content token (hash of the bytes, or size and ETag)"),
    "seed": ("whole number", "seed that the manifest's row gives; null where it gives none"),
    "seed_used": ("whole number", "seed that this clip was made with"),
    "retake": ("count from 0", "how often the clip was made again after a failed quality check"),
    "cfg_coef": ("none", "guidance strength; 1 is no guidance"),
    "cfg_coef_beta": ("none", "share of the text in double guidance; null where it is not used"),
    "temperature": ("none", "temperature of sampling"),
    "top_k": ("tokens", "sampled among the k likeliest tokens; 0 is all"),
    "top_p": ("share", "nucleus sampling; 0 is off"),
    "use_sampling": ("true or false", "false is greedy decoding"),
    "extend_stride_s": ("seconds", "from one window to the next, where the row or a flag says it"),
    "style_eval_q": ("quantizers", "residual quantizers of the style reader, where they are given"),
    "style_excerpt_s": ("seconds", "style reference that is heard, where it is given"),
    "separation": ("text", "what the melody was heard through; null without a melody"),
    "audio_path": ("path", "audio object below the output; null with `--audio parquet`"),
    "audio_member": ("name", "file inside the tar with `--audio webdataset`, else null"),
    "audio_format": ("text", "flac, wav, mp3, ogg or opus"),
    "audio_bytes": ("bytes", "size of the encoded audio"),
    "audio_sha256": ("hash", "SHA-256 of the encoded audio, hex"),
    "normalize_applied": (
        "text",
        "level strategy that was applied; `peak` if there is no loudness",
    ),
    "gain_db": ("dB", "all gains together; take it off and the model's level is back"),
    "true_peak_limited": ("true or false", "whether the clip was turned down for its true peak"),
    "qc_failed": ("text", "checks that a kept clip failed, with value and limit; null if none"),
    "peak_dbfs": ("dBFS", "highest sample"),
    "true_peak_dbtp": ("dBTP", "highest value between samples too, BS.1770-4 annex 2"),
    "rms_dbfs": ("dBFS", "root mean square; a full-scale square has 0, a full-scale sine -3.01"),
    "loudness_lufs": (
        "LUFS",
        "integrated loudness, BS.1770-4; null if the next column says why",
    ),
    "loudness_reason": ("text", "why there is no loudness: too short, or silence"),
    "silence_ratio": ("share", "20 ms windows below -60 dBFS at the model's own level, 0 to 1"),
    "early_silence_s": ("seconds", "silence at the end of the clip"),
    "clip_ratio": ("share", "samples at or beyond full scale, 0 to 1"),
    "dc_offset": ("full scale", "mean of the channel whose mean is farthest from 0, signed"),
    "spectral_flatness": ("none", "near 0 for a tone, 0.56 for white noise, 0 for silence"),
    "model": ("text", "model as it was named"),
    "weights_hash": ("hash", "over weights, configuration and tokenizer"),
    "weights_revision": ("text", "revision on the hub, where there is one"),
    "weights_licence": ("text", "licence of the weights"),
    "dtype": ("text", "number format that the model ran in"),
    "device": ("text", "device and its kind"),
    "threads": ("threads", "CPU threads of the replica"),
    "engine_rows": ("batch rows", "batch rows of the engine; bits repeat at equal numbers"),
    "versions": ("JSON", "package to version"),
    "ai_generated": ("true or false", "always true"),
    "run_id": ("text", "run that made the clip; its record is `runs/<run_id>.json`"),
    "replica": ("text", "process that made the clip"),
    "attempts": ("tries", "tries of this row and take, failed runs included"),
    "created_at": (ISO_TIME, "when the row was written"),
}

FAILED: Meanings = {
    "row_key": ("hash", "identity of row and take as written"),
    "clip_id": ("hash", "identity of the clip; null where the row did not get that far"),
    "id": ("text", "id of the manifest's row; null where it is not usable"),
    "take": ("count from 0", "which take; null where the whole row failed"),
    "row": ("count from 0", "number of the row in the manifest"),
    "source": ("text", "file of the manifest"),
    "stage": ("text", "where the row failed, see below"),
    "error_class": ("text", "name of the error, to count by"),
    "message": ("text", "what is wrong, and what to do"),
    "attempts": ("tries", "tries of this row and take, failed runs included"),
    "run_id": ("text", "run that wrote the dead letter"),
    "created_at": (ISO_TIME, "when the dead letter was written"),
    "row_json": ("JSON", "the row as written, without embedded audio and signatures"),
}

TABLES: dict[str, tuple[pa.Schema, Meanings]] = {
    "clips": (CLIP_FIELDS, CLIPS),
    "failed": (FAILED_SCHEMA, FAILED),
}


def columns_table(schema: pa.Schema, meanings: Meanings) -> str:
    """A Markdown table with one row a column, in the order of the schema."""
    lines = ["| column | type | null | unit | meaning |", "|---|---|---|---|---|"]
    for field in schema:
        unit, meaning = meanings[field.name]
        null = "yes" if field.nullable else "no"
        lines.append(f"| `{field.name}` | {field.type} | {null} | {unit} | {meaning} |")
    return "\n".join(lines)


def with_tables(page: str) -> str:
    """The page with each table as it must be."""
    for name, (schema, meanings) in TABLES.items():
        begin, end = BEGIN.format(name), END.format(name)
        head, _, rest = page.partition(begin)
        _, _, tail = rest.partition(end)
        page = f"{head}{begin}\n\n{columns_table(schema, meanings)}\n\n{end}{tail}"
    return page


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text()))
    sys.stdout.write(f"{PAGE} holds the tables\n")
