"""The figures below `out/bench` as Markdown, between two marks of docs/reference/benchmarks.md.

python -m tests.bench.table
"""

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

OUT = Path("out/bench")
PAGE = Path(__file__).parents[2] / "docs" / "reference" / "benchmarks.md"
BEGIN, END = "<!-- figures: made by `make bench-table` -->", "<!-- end of figures -->"
WAYS = {
    "arrival": "batches of {slots} in order of arrival",
    "sorted": "batches of {slots}, sorted by duration",
    "arrival_tuned_malloc": "order of arrival, glibc's malloc tuned",
}
Result = dict[str, Any]


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Lines of a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(str(cell) for cell in line) + " |" for line in lines]


def machine_line(run: Result) -> str:
    """Where and with what."""
    told = run["machine"]
    what = told["gpu"] or f"{told['processor']}, {told['cores']} cores, {told['memory_gb']:.0f} GB"
    versions = ", ".join(f"{name} {told[name]}" for name in ("torch", "transformers", "ray"))
    return f"`{run['command']}` on {what} ({told['isa']}, {told['threads']} threads); {versions}."


def engine(found: Result) -> list[str]:
    """Throughput and step times."""
    plan, dtypes = found["run"]["plan"], [name for name in found if name != "run"]
    work = plan["workload"]
    return [
        machine_line(found["run"]),
        f"musicgen-{plan['shape']}'s shape, {work['n_clips']} clips of {work['shortest_s']:g} to "
        f"{work['longest_s']:g} s, guidance 3, top-k 250, {plan['slots']} slots. Audio-seconds per "
        "second, text encoding and codec included on both sides, ours admitted longest first as "
        "`generate` and jobs do:",
        "",
        *table(
            ("dtype", "transformers `generate()`", "its speed", "engine", "ratio", "without codec"),
            (row for dtype in dtypes for row in _throughput(dtype, found[dtype], plan["slots"])),
        ),
        "",
        *_steps(found, dtypes),
        *_notes(found, dtypes),
    ]


def _steps(found: Result, dtypes: Sequence[str]) -> list[str]:
    """Step times, where they were measured."""
    rows = [
        _step(dtype, cell, "ours") for dtype in dtypes for cell in found[dtype].get("steps", [])
    ]
    if not rows:
        return []
    header = ("dtype", "clips", "tokens", "transformers", "engine", "floor", "engine / floor")
    return [
        "One step, in ms (transformers' is its forward alone; ours includes guidance, sampling and "
        "the engine's bookkeeping), and the floor: bytes of weights and caches at this machine's "
        "read bandwidth, or products at its GEMM peak:",
        "",
        *table(header, rows),
        "",
    ]


def _throughput(dtype: str, found: Result, slots: int) -> Iterable[Sequence[object]]:
    for index, (way, words) in enumerate(WAYS.items()):
        if way in found:
            around = found["ours"][index : index + 2]
            ours = sum(run["speed"] for run in around) / 2
            yield (dtype, words.format(slots=slots), f"{found[way]['speed']:.2f}", f"{ours:.2f}",
                   f"{found[f'vs_{way}']:.1f}", f"{found[f'vs_{way}_tokens']:.1f}")  # fmt: skip


def _step(dtype: str, cell: Result, *ways: str) -> Sequence[object]:
    times = (_ms(cell[f"{way}_s"]) for way in ("peer", *ways))
    best = min((cell[f"{way}_s"] for way in ways if cell[f"{way}_s"]), default=None)
    ratio = f"{best / cell['floor_s']:.1f}" if best else "-"
    return (dtype, cell["n_clips"], cell["n_tokens"], *times, _ms(cell["floor_s"]), ratio)


def _ms(seconds: float | None) -> str:
    if seconds is None:
        return "does not fit"
    return f"{seconds * 1e3:.{0 if seconds >= 0.1 else 1}f}"


def _notes(found: Result, dtypes: Sequence[str]) -> Iterable[str]:
    """What stands beside the tables, of the pieces that were measured."""
    for dtype in dtypes:
        told, said = found[dtype], []
        if "limits" in told:
            limits = told["limits"]
            said.append(
                f"reads {limits['bytes_per_s'] / 1e9:.1f} GB/s, multiplies "
                f"{limits['flops_per_s'] / 1e9:.0f} GFLOP/s"
            )
        if "ours_in_order" in told:
            said.append(
                f"ours in order of arrival {told['ours_in_order']['speed']:.2f} audio-s/s, "
                f"{told['in_order_vs_arrival']:.1f} times the peer's"
            )
        if "slots" in told:
            slots = ", ".join(f"{n}: {run['speed']:.2f}" for n, run in told["slots"].items())
            said.append(
                f"in-flight over static batches in our own engine {told['in_flight_vs_static']:.2f}"
            )
            said.append(f"speed by slots {slots}")
        yield f"- {dtype}: {'; '.join(said)}."


def gpu_check(found: Result) -> list[str]:
    """Verdicts, and step times beside the measured bandwidth."""
    told, checks = found["machine"], {each["name"]: each for each in found["outcomes"]}
    verdicts = [each["verdict"] for each in checks.values()]
    counts = ", ".join(f"{verdicts.count(v)} {v}" for v in ("PASS", "FAIL", "SKIP"))
    rows = [
        (
            name.removeprefix("steps of "),
            cell["n_clips"],
            cell["n_tokens"],
            f"{cell['ms']:.2f}",
            f"{cell['audio_s_per_s']:.0f}",
            f"{cell['gb_per_s']:.0f}",
            f"{cell['of_bandwidth']:.2f}",
        )
        for name, each in checks.items()
        for cell in each["figures"].get("steps", [])
    ]
    header = ("shape", "clips", "tokens", "ms / step", "audio-s/s", "GB/s", "of bandwidth")
    where = told.get("card", told["device"])
    return [
        f"`make gpu-check` on {where}; torch {told['torch']}, CUDA {told['cuda']}: {counts} in "
        f"{found['seconds']:.0f} s.",
        "",
        *table(header, rows),
    ]


def pipeline(found: Result) -> list[str]:
    """What the job costs around the model."""
    plan = found["run"]["plan"]
    rows = (
        ("overhead: window without a running decode loop", f"{found['overhead']:.1%}"),
        ("slots full while rows waited", f"{found['slot_occupancy']:.1%}"),
        ("window: first admission to last commit", f"{found['window_s']:.0f} s"),
        ("decode loops, both replicas", f"{found['model_s']:.0f} s"),
        ("of that on a processor", f"{found['model_cpu_s']:.0f} s"),
        ("beside them: codec", f"{found['decode_s']:.0f} s"),
        ("beside them: text, measuring and coding, commits", f"{_beside(found):.0f} s"),
        ("start-up: Ray, loading", f"{found['startup_s']:.0f} s"),
    )
    head = (
        f"{found['clips']} clips, {found['audio_s']:.0f} s of audio, musicgen-{plan['shape']}'s "
        f"shape in {plan['dtype']}, {plan['replicas']} replicas of {plan['threads']} thread and "
        f"{plan['slots']} slots:"
    )
    return [
        machine_line(found["run"]),
        head,
        "",
        *table(("the job around the model", "took"), rows),
    ]


def _beside(found: Result) -> float:
    return float(found["conditioning_s"] + found["encode_s"] + found["commit_s"])


def figures(folder: Path) -> list[str]:
    """Everything that has been measured, as lines of Markdown."""
    parts = {"engine": engine, "gpu-check": gpu_check, "pipeline": pipeline}
    lines: list[str] = []
    for name, write in parts.items():
        path = folder / f"{name}.json"
        if path.exists():
            lines += ["", *write(json.loads(path.read_text()))]
    return [*lines, ""]


def put(page: str, lines: Sequence[str]) -> str:
    """`page` with those lines between the marks."""
    before, _, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"the page lacks the marks {BEGIN} and {END}")
    return "\n".join([before + BEGIN, *lines, END + after])


if __name__ == "__main__":
    made = figures(OUT)
    if len(made) == 1:
        sys.exit(f"{OUT} holds no figures; run `make bench` first")
    PAGE.write_text(put(PAGE.read_text(), made))
