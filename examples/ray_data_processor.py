"""Music as a stage of a Ray Data pipeline, as `ray.data.llm` does it for text.

    python examples/ray_data_processor.py

The dataset's own columns (`subject` here) are carried through, and what comes out goes on to the
next stage: nothing is written, and there is no resuming. For a dataset on storage, see run_job.py.
"""

import logging
from typing import Any

import ray

from pipeline import build_processor

ROWS = [
    {"subject": "rain", "mood": "D minor, slow bell melody", "seconds": 2.0},
    {"subject": "sun", "mood": "C major, lively flute melody", "seconds": 2.0},
    {"subject": "too long to be made", "mood": "a tune", "seconds": 9000.0},
]

log = logging.getLogger("ray_data_processor")


def to_manifest_row(row: dict[str, Any]) -> dict[str, Any]:
    """The columns of a manifest, made of the dataset's."""
    return {
        "id": row["subject"],
        "prompt": row["mood"],
        "duration_s": row["seconds"],
        "subject": row["subject"],
    }


def to_result(row: dict[str, Any]) -> dict[str, Any]:
    """What the next stage needs."""
    audio = row["audio"]
    return {
        "subject": row["subject"],
        "flac": None if audio is None else audio["bytes"],
        "loudness_lufs": row["loudness_lufs"],
        "error": row["error"],
    }


def main() -> list[dict[str, Any]]:
    """Makes the clips and takes them all."""
    processor = build_processor(
        {"model": "tiny", "slots": 2, "block_rows": 2},
        preprocess=to_manifest_row,
        postprocess=to_result,
    )
    found: list[dict[str, Any]] = processor(ray.data.from_items(ROWS)).take_all()
    for row in found:
        size = len(row["flac"] or b"")
        log.info("%s: %s", row["subject"], row["error"] or f"{size} bytes of FLAC")
    return found


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
