"""Manifests whose takes are judged, and what must be kept of them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import soundfile

from musicgen.tiny.training.pieces import caption, random_piece, rng_of
from pipeline.audio.scores.choose import best_takes
from tests.integration.jobs import clips, write_manifest

N_ROWS, TAKES, SECONDS = 3, 3, 2.0
BEST = {"score": "melody,key", "keep_best": 1, "slots": 2, "part_clips": 4}


def make_manifest(folder: Path, n_rows: int = N_ROWS, takes: int = TAKES) -> Path:
    rows = []
    for index in range(n_rows):
        piece = random_piece(rng_of(0, 31, index), 100, unseen=True)
        soundfile.write(folder / f"tune{index}.wav", piece.tune("organ"), 16_000)
        tune = {"melody_uri": f"tune{index}.wav", "duration_s": SECONDS}
        tune |= {"cfg_coef": 1.0, "temperature": 1.5}  # takes that differ
        rows.append({"id": f"r{index}", "prompt": caption(piece), "takes": takes} | tune)
    return write_manifest(folder / "m.parquet", rows)


def kept(output: str) -> dict[tuple[str, int], str]:
    """The clips that stand: id and take to the sha256 of their audio."""
    return {(row["id"], row["take"]): row["audio_sha256"] for row in clips(output)}


@dataclass(frozen=True)
class Everything:
    """All takes of the manifest, kept: what the best are chosen from."""

    manifest: Path
    rows: list[dict[str, Any]]

    def best(self, keep: int = 1) -> dict[tuple[str, int], str]:
        """What must be kept."""
        found = {}
        for id in {row["id"] for row in self.rows}:
            takes = {row["take"]: row for row in self.rows if row["id"] == id}
            scores = {take: row["score_melody"] for take, row in takes.items()}
            for take in best_takes(scores, keep):
                found[id, take] = takes[take]["audio_sha256"]
        return found
