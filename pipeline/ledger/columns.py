"""The columns of `clips/` and `failed/`: name, type, unit and meaning of each, declared once.

The Arrow schemas (`schema`) and the tables of the docs follow from these. The words stay out of the
Parquet files, whose schemas therefore never change with them.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from pipeline.audio.measures_table import MEASURES
from pipeline.audio.scores.table import COLUMN, SCORERS

TIMESTAMP = pa.timestamp("us", tz="UTC")
_TEXT, _FLAG, _FLOAT = pa.string(), pa.bool_(), pa.float64()
_INT, _LONG, _BYTES = pa.int32(), pa.int64(), pa.binary()
SCORERS_TYPE = pa.list_(pa.struct([("name", _TEXT), ("checkpoint", _TEXT), ("digest", _TEXT)]))

REFERENCE_ROLES = ("melody", "continuation", "style")
# Of those packages the versions stand in each row.
VERSIONED_PACKAGES = ("musicgen-batch", "torch", "torchaudio", "transformers")


def field_of_package(package: str) -> str:
    """The name of a package in the struct `versions`, which needs no quotes in SQL."""
    return package.replace("-", "_")


_REFERENCES = pa.struct([(role, _TEXT) for role in REFERENCE_ROLES])
_VERSIONS = pa.struct([(field_of_package(package), _TEXT) for package in VERSIONED_PACKAGES])


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        text: What it holds, and when it is null.
        unit: Of a number that has one.
    """

    name: str
    type: pa.DataType
    text: str
    unit: str = ""
    nullable: bool = False

    @property
    def field(self) -> pa.Field:
        """The column in an Arrow schema."""
        return pa.field(self.name, self.type, self.nullable)


def _optional(name: str, kind: pa.DataType, text: str, unit: str = "") -> Column:
    return Column(name, kind, text, unit, nullable=True)


def _measure(name: str) -> Column:
    """The column of an audio measure: of the audio in the file, after every gain."""
    measure = MEASURES[name]
    kind = _TEXT if measure.kind is str else _FLOAT
    return Column(name, kind, measure.text, measure.unit, measure.nullable)


def _score(name: str) -> Column:
    """The column of a scorer, null where the run did not ask for it."""
    return _optional(COLUMN + name, _FLOAT, SCORERS[name].text)


CLIP_COLUMNS = (
    Column(
        "clip_id",
        _TEXT,
        "32 hex digits: a hash of all that determines the music of the clip, so equal ids mean the "
        "same clip.",
    ),
    Column(
        "row_key",
        _TEXT,
        "32 hex digits: the take of the manifest row as it was written; a dead letter of the same "
        "take has the same key.",
    ),
    Column("id", _TEXT, "Id of the manifest row: its own, or a hash of its content."),
    Column("take", _INT, "Which take of the row, from 0."),
    _optional("prompt", _TEXT, "Text prompt of the row."),
    Column("duration_s", _FLOAT, "Length that was asked for.", "s"),
    Column("n_frames", _INT, "Frames of codec tokens that were generated.", "frames"),
    Column("n_samples", _LONG, "Samples per channel in the audio file.", "samples"),
    Column("sample_rate_hz", _INT, "Sample rate of the audio file.", "Hz"),
    Column("channels", _INT, "Channels of the audio file."),
    _optional("melody_uri", _TEXT, "Melody reference, without what signs its URI."),
    _optional("continuation_uri", _TEXT, "Audio that the clip continues, likewise."),
    _optional("style_uri", _TEXT, "Style reference, likewise."),
    Column(
        "references",
        _REFERENCES,
        "What identifies the content of each reference; null in a role that the row does not use.",
    ),
    _optional("seed", _LONG, "Seed of the row; null where the row gave none."),
    Column("seed_used", _LONG, "Seed that this clip was sampled with."),
    Column("retake", _INT, "How often the clip was generated again after failed quality checks."),
    Column("cfg_coef", _FLOAT, "Strength of classifier-free guidance."),
    _optional("cfg_coef_beta", _FLOAT, "Share of the text in double guidance; null without it."),
    Column("temperature", _FLOAT, "Sampling temperature."),
    Column("top_k", _INT, "Sampling takes one of the k likeliest tokens; 0 switches that off."),
    Column(
        "top_p",
        _FLOAT,
        "Sampling takes one of the likeliest tokens with this total probability; 0 switches that "
        "off.",
    ),
    Column("use_sampling", _FLAG, "Whether tokens were sampled; otherwise the likeliest is taken."),
    _optional(
        "extend_stride_s",
        _FLOAT,
        "How far the window of a clip moves that is longer than the model's own; null where the "
        "default was used.",
        "s",
    ),
    _optional(
        "style_eval_q", _INT, "Codebooks of the style's tokenizer that are used; null by default."
    ),
    _optional("style_excerpt_s", _FLOAT, "Length of the style's excerpt; null by default.", "s"),
    _optional(
        "separation",
        _TEXT,
        "Source separation through which the melody was analysed; null without a melody.",
    ),
    _optional(
        "audio_path",
        _TEXT,
        "Path of the object with the audio, below the output; null where the audio is inside the "
        "part.",
    ),
    _optional("audio_member", _TEXT, "Name of the file inside a tar; null without tars."),
    Column("audio_format", _TEXT, "File extension of the audio: flac, wav, mp3, ogg or opus."),
    Column("audio_bytes", _LONG, "Size of the audio file.", "bytes"),
    Column("audio_sha256", _TEXT, "SHA-256 of the audio file, in hex."),
    Column(
        "normalize_applied",
        _TEXT,
        "Level strategy that was applied; `peak` where the one that was asked for needs a loudness "
        "that the clip lacks.",
    ),
    Column("gain_db", _FLOAT, "All gains together; 0 is the level of the model.", "dB"),
    Column("true_peak_limited", _FLAG, "Whether the true-peak ceiling turned the clip down."),
    _optional(
        "qc_failed",
        _TEXT,
        "Quality checks that the clip failed and was kept with (`--qc-action keep`).",
    ),
    _measure("peak_dbfs"),
    _measure("true_peak_dbtp"),
    _measure("rms_dbfs"),
    _measure("loudness_lufs"),
    _measure("loudness_reason"),
    _measure("silence_ratio"),
    _measure("early_silence_s"),
    _measure("clip_ratio"),
    _measure("dc_offset"),
    _measure("spectral_flatness"),
    *(_score(name) for name in SCORERS),
    _optional(
        "scorers",
        SCORERS_TYPE,
        "Which scorers gave the scores: name, checkpoint, and a digest of its weights (or of the "
        "version of what is built in). Null where the run scored nothing.",
    ),
    Column("model", _TEXT, "Checkpoint: `tiny`, a hub id or a folder."),
    Column("weights_hash", _TEXT, "32 hex digits over weights, config and tokenizer files."),
    _optional("weights_revision", _TEXT, "Hub revision of the checkpoint, where it has one."),
    Column("weights_licence", _TEXT, "Licence of the weights."),
    Column("dtype", _TEXT, "Precision that the model computed in."),
    Column("device", _TEXT, "Where it computed: cpu or cuda, and the kind of processor or GPU."),
    Column("threads", _INT, "CPU threads of the replica."),
    Column("engine_rows", _INT, "Rows of the engine's batch, two per slot."),
    _optional(
        "bits_depend_on",
        _TEXT,
        "What the bits of the music depend on beside the clip, its dtype, device, threads and "
        "versions: `nothing`; `slots` where they repeat at equal `engine_rows` only; `run` where "
        "they need not repeat (`--no-repeatable` on a GPU). Null where an earlier version made the "
        "clip.",
    ),
    Column(
        "versions",
        _VERSIONS,
        "Versions of the packages that determine the bits, one in each field.",
    ),
    Column("ai_generated", _FLAG, "Always true."),
    _optional(
        "watermark",
        _TEXT,
        "Watermark in the samples: its model, version of its package, hash of its weights; "
        "null without one.",
    ),
    _optional("watermark_strength", _FLOAT, "Factor of the watermark; null without one."),
    _optional(
        "c2pa",
        _TEXT,
        "Where the clip's signed C2PA manifest is: `embedded` in the audio file or in a `sidecar`; "
        "null where the clip was not signed.",
    ),
    _optional(
        "unsigned_sha256",
        _TEXT,
        "SHA-256 of the audio file before it was signed. It repeats at equal settings; the signed "
        "bytes do not, because a manifest holds random salts. Null where the clip was not signed.",
    ),
    _optional(
        "c2pa_sidecar_sha256",
        _TEXT,
        "SHA-256 of the sidecar: beside the file or in its tar under the name of the audio with "
        "the ending .c2pa, or in `c2pa_sidecar`.",
    ),
    _optional(
        "c2pa_sidecar", _BYTES, "The sidecar itself, where the audio is inside the part, else null."
    ),
    Column("run_id", _TEXT, "Run that committed the clip."),
    Column("replica", _TEXT, "Process of that run that made it."),
    Column("attempts", _INT, "1, and 1 more for each earlier dead letter of the same row_key."),
    Column("created_at", TIMESTAMP, "When the clip was finished.", "UTC"),
)

# Columns that parts of earlier versions lack; a reader finds null there.
CAME_LATER = frozenset(
    {
        *("bits_depend_on", "watermark", "watermark_strength", "c2pa", "unsigned_sha256"),
        *("c2pa_sidecar_sha256", "c2pa_sidecar"),
    }
)

FAILED_COLUMNS = (
    Column(
        "row_key",
        _TEXT,
        "32 hex digits: the take of the manifest row as it was written, or the row as a whole.",
    ),
    _optional("clip_id", _TEXT, "Id of the clip that failed, where it is known."),
    _optional("id", _TEXT, "Id of the manifest row, where it has one that is usable."),
    _optional("take", _INT, "Which take; null where the row failed as a whole."),
    Column("row", _LONG, "Number of the row over the whole manifest, from 0."),
    Column("source", _TEXT, "File of the manifest that holds the row."),
    Column(
        "stage",
        _TEXT,
        "Where it failed: manifest, prepare, quarantine, conditioning, generate, deadline, encode, "
        "score or qc. "
        "`settled` takes an earlier dead letter back, because its clip is there after all.",
    ),
    Column("error_class", _TEXT, "Name of the error, by which failures are counted."),
    Column("message", _TEXT, "What is wrong with which row, and the way out."),
    Column("attempts", _INT, "How often this row_key has failed, this time included."),
    Column("run_id", _TEXT, "Run that committed the dead letter."),
    Column("created_at", TIMESTAMP, "When it failed.", "UTC"),
    Column("row_json", _TEXT, "The row as JSON, without embedded audio and what signs a URI."),
)

SCORE_COLUMNS = (
    Column("clip_id", _TEXT, "The clip; a take that was set aside has no row in clips/."),
    Column("row_key", _TEXT, "The take of the manifest row, as in clips/."),
    Column("id", _TEXT, "Id of the manifest row."),
    Column("take", _INT, "Which take of the row, from 0."),
    Column("seed_used", _LONG, "Seed that the clip was sampled with."),
    Column("scorer", _TEXT, "Name of the scorer."),
    Column("checkpoint", _TEXT, "Its weights, or `built in`."),
    Column("digest", _TEXT, "32 hex digits over its weights, or its version."),
    _optional("score", _FLOAT, "What it says of the clip; null where it has nothing to say."),
    _optional(
        "ruling",
        _TEXT,
        "Where takes were judged by this score: 32 hex digits over how many were kept of how many, "
        "and by which scorer. Null otherwise.",
    ),
    _optional("kept", _FLAG, "Whether the take was kept; null where nothing was judged."),
    Column("run_id", _TEXT, "Run or command that scored it."),
    Column("created_at", TIMESTAMP, "When.", "UTC"),
)
