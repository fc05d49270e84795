"""How much better the best of some takes follows its melody than the first one.

    python -m tests.bench.best_of_takes

Pieces are those to choose by (`musicgen.tiny.evaluation.evaluate --choosing`): keys, tempos and
voices that training left out, melodies in another voice than the one that is asked for. All takes
are made and kept by one run, so that measures can be taken that did not choose. Writes
out/bench/best-of-takes.json and the table of docs/scores.md.
"""

import argparse
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray

from musicgen.tiny.evaluation.evaluate import CHOOSING, STREAM
from musicgen.tiny.measures import pitch_track
from musicgen.tiny.music import SAMPLE_RATE_HZ, VOICE_NAMES
from musicgen.tiny.training.pieces import Piece, caption, random_piece, rng_of
from musicgen.tiny.training.synth import FRAME_RATE_HZ
from pipeline import JobConfig, ledger, run
from pipeline.audio.scores.choose import best_takes
from pipeline.storage import open_storage
from tests.integration.jobs import write_manifest

OUT = Path("out/bench")
DOC = Path(__file__).parents[2] / "docs" / "scores.md"
BEGIN = "<!-- best of takes: begin, made by `python -m tests.bench.best_of_takes` -->"
END = "<!-- best of takes: end -->"
# By the name of a column, or of what is measured here.
WORDS = {
    "score_melody": "melody: the score that chose (`chroma_matched` of the model card)",
    "pitch": "pitch track: an independent measure of the same, see below",
    "score_key": "key",
    "score_tempo": "tempo",
    "score_voice": "voice",
}

Row = dict[str, Any]


@dataclass(frozen=True)
class Means:
    """Of one measure, over all rows.

    Attributes:
        first: Of take 0.
        every: Of all takes.
        best: Of those that were chosen.
        gain_error: Standard error of the mean gain of the best over take 0, over rows.
    """

    first: float
    every: float
    best: float
    gain_error: float


def pitch_agreement(wav: NDArray[np.float32], tune: NDArray[np.float32]) -> float:
    """Share of the hops (20 ms) in which the strongest peak between C4 and B5 has the pitch class
    of the tune. It shares nothing with the chromagram but the idea."""
    one, other = (pitch_track(torch.from_numpy(each)) % 12 for each in (wav, tune))
    n = min(len(one), len(other))
    return float((one[:n] == other[:n]).mean())


def write_rows(folder: Path, n_rows: int, takes: int, clip_s: float) -> list[tuple[Piece, str]]:
    """The manifest, and its melodies; returns the pieces with the voices of their melodies."""
    pieces = []
    rows = []
    for index in range(n_rows):
        n_frames = round(clip_s * FRAME_RATE_HZ)
        piece = random_piece(rng_of(CHOOSING, STREAM, index), n_frames, unseen=True)
        others = [voice for voice in VOICE_NAMES if voice != piece.voice]
        voice = others[index % len(others)]
        soundfile.write(folder / f"{index}.wav", piece.tune(voice), SAMPLE_RATE_HZ, "FLOAT")
        pieces.append((piece, voice))
        rows.append(
            {
                "id": f"{index:03d}",
                "prompt": caption(piece),
                "duration_s": clip_s,
                "takes": takes,
                "melody_uri": f"{index}.wav",
            }
        )
    write_manifest(folder / "m.parquet", rows)
    return pieces


def measure(n_rows: int, takes: int, clip_s: float, threads: int) -> dict[str, Means]:
    """Makes all takes and compares the first with the best, by each measure."""
    folder = OUT / "best-of-takes"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    pieces = write_rows(folder, n_rows, takes, clip_s)
    config = JobConfig.of(
        manifest=str(folder / "m.parquet"),
        output=str(folder / "output"),
        model="tiny",
        runtime="local",
        score="melody,key,tempo,voice",
        threads_per_replica=threads,
        report_sample=0,
    )
    run(config, say=print)
    rows: list[Row] = ledger.read_clips(open_storage(config.run.output)).to_pylist()
    for row in rows:
        wav, _ = soundfile.read(folder / "output" / row["audio_path"], dtype="float32")
        piece, voice = pieces[int(row["id"])]
        row["pitch"] = pitch_agreement(wav, piece.tune(voice))
    by_row: dict[str, dict[int, Row]] = {}
    for row in rows:
        by_row.setdefault(row["id"], {})[row["take"]] = row
    return {name: means(by_row, name) for name in WORDS}


def means(by_row: dict[str, dict[int, Row]], name: str) -> Means:
    """The means of one measure."""
    firsts, every, bests = [], [], []
    for takes in by_row.values():
        scores = {take: row["score_melody"] for take, row in takes.items()}
        (best,) = best_takes(scores, 1)
        values = {take: row[name] for take, row in takes.items()}
        if None in values.values():
            continue
        firsts.append(values[0])
        every.append(np.mean([*values.values()]))
        bests.append(values[best])
    gains = np.array(bests) - np.array(firsts)
    error = float(gains.std(ddof=1) / np.sqrt(len(gains)))
    return Means(float(np.mean(firsts)), float(np.mean(every)), float(np.mean(bests)), error)


def table(found: dict[str, Means], told: dict[str, Any]) -> str:
    """Markdown for the page."""
    lines = [
        f"{told['rows']} rows, {told['takes']} takes of {told['clip_s']:g} s each, bundled model, "
        "`--score melody`, seed 0:",
        "",
        "| measure | take 0 | all takes | best of "
        f"{told['takes']} | gain over take 0 (± standard error) |",
        "|---|---|---|---|---|",
    ]
    for name, each in found.items():
        gain = each.best - each.first
        lines.append(
            f"| {WORDS[name]} | {each.first:.3f} | {each.every:.3f} | {each.best:.3f} | "
            f"{gain:+.3f} ± {each.gain_error:.3f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=48)
    parser.add_argument("--takes", type=int, default=4)
    parser.add_argument("--clip-s", type=float, default=5.0)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    found = measure(given.rows, given.takes, given.clip_s, given.threads)
    told = {"rows": given.rows, "takes": given.takes, "clip_s": given.clip_s}
    OUT.mkdir(parents=True, exist_ok=True)
    facts = told | {name: vars(each) for name, each in found.items()}
    (OUT / "best-of-takes.json").write_text(json.dumps(facts, indent=2) + "\n")
    page = DOC.read_text()
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    DOC.write_text(f"{head}{BEGIN}\n\n{table(found, told)}\n\n{END}{tail}")


if __name__ == "__main__":
    main()
