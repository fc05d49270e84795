"""The record of an output: committed clips, dead letters, the lease of its writer, upkeep."""

from pipeline.ledger.id_set import DoneSet, pack_ids
from pipeline.ledger.output_schema import check_schema, standing_schema
from pipeline.ledger.parts import UnreadablePartError, list_parts, new_replica_id, new_run_id
from pipeline.ledger.reader import (
    SETTLED,
    clips_committed_by,
    dead_letters_of_run,
    read_clips,
    read_dead_letters,
    write_clip_part,
    write_dead_letter_part,
)
from pipeline.ledger.runs import read_runs, write_run
from pipeline.ledger.schema import CLIP_FIELDS, FAILED_SCHEMA, SchemaError, clip_schema

__all__ = [
    "CLIP_FIELDS",
    "FAILED_SCHEMA",
    "SETTLED",
    "DoneSet",
    "SchemaError",
    "UnreadablePartError",
    "check_schema",
    "clip_schema",
    "clips_committed_by",
    "dead_letters_of_run",
    "list_parts",
    "new_replica_id",
    "new_run_id",
    "pack_ids",
    "read_clips",
    "read_dead_letters",
    "read_runs",
    "standing_schema",
    "write_clip_part",
    "write_dead_letter_part",
    "write_run",
]
