"""Every benchmark's code path with a tiny shape, so that none can rot. No speed is asserted."""

import json
import math
from contextlib import AbstractContextManager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from transformers import MusicgenForConditionalGeneration

from musicgen.registry import CODEC_PARAMETERS, FAMILY, T5_PARAMETERS
from pipeline.cli.root import main as musicgen_batch
from pipeline.config_file import load_config
from tests.bench import bounds, engine, int8, machine, pipeline, scale_ledger, table
from tests.bench.shapes import SHAPES
from tests.bench.workers import Inline, Process, Side
from tests.bench.workload import Workload, batches, longest_first

FEW = Workload(4, 0.1, 0.4)
SMALL_LIMITS = {"megabytes": 8, "width": 64}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for results; the tiny checkpoint is made in it once."""
    return tmp_path_factory.mktemp("bench")


def inline(
    side: str, env: dict[str, str] | None = None, **given: Any
) -> AbstractContextManager[Side]:
    """A side in this process."""
    return Inline(side, **given)


def test_the_engine_against_transformers(out: Path) -> None:
    plan = engine.Plan(
        "tiny", threads=1, workload=FEW, slots=2, batches=(1, 2), lengths=(10, 70), repeats=1,
        slot_counts=(1, 2), full_s=0.2, warm_up_frames=5, limits=SMALL_LIMITS,
    )  # fmt: skip

    engine.bench(plan, inline, out / "engine.json")

    found = json.loads((out / "engine.json").read_text())
    keys = (
        "vs_arrival",
        "vs_sorted",
        "vs_arrival_tuned_malloc",
        "floor_ratio_t10",
        "floor_ratio_t70",
    )
    for dtype in plan.dtypes:
        assert all(found[dtype][key] > 0 for key in keys)
        assert [(c["n_clips"], c["n_tokens"]) for c in found[dtype]["steps"]] == [
            (1, 10), (1, 70), (2, 10), (2, 70)
        ]  # fmt: skip
        assert set(found[dtype]["slots"]) == {"1", "2"}
        ours, theirs = found[dtype]["ours"][0], found[dtype]["arrival"]
        assert ours["audio_s"] == pytest.approx(theirs["audio_s"])  # the same clips
    written = table.figures(out)
    last = f"| {plan.dtypes[-1]} | batches of 2 in order of arrival |"
    assert any(line.startswith(last) for line in written)
    assert any(line.startswith("| fp32 | 2 | 70 |") for line in written)
    assert found["run"]["machine"]["torch"] == version("torch")


def test_a_piece_leaves_the_others_as_they_were(out: Path) -> None:
    path = out / "pieces.json"
    path.write_text(json.dumps({"fp32": {"vs_arrival": 1.0, "in_flight_vs_static": -1.0}}))
    plan = engine.Plan(
        "tiny", ("fp32",), threads=1, workload=FEW, slots=2, slot_counts=(1,), full_s=0.2
    )

    found = engine.bench(plan, inline, path, only=("batching",))

    assert found["fp32"]["vs_arrival"] == 1.0
    assert found["fp32"]["in_flight_vs_static"] > 0


def test_the_pipeline_benchmark_asks_the_command_line_for_64_clips(out: Path) -> None:
    plan = pipeline.Plan("tiny")
    folder = out.absolute()

    arguments = plan.arguments(folder)
    pipeline.write_manifest(plan, folder)

    flags = dict(zip(arguments[1::2], arguments[2::2], strict=True))
    settings = {name[2:].replace("-", "_"): value for name, value in flags.items()}
    assert load_config(None, settings).cluster.replicas == 2
    checked = CliRunner().invoke(musicgen_batch, ["manifest", "check", settings["manifest"]])
    assert "64 rows" in checked.output, checked.output


def test_figures_take_the_place_of_the_old_ones() -> None:
    page = f"# Title\n\n{table.BEGIN}\nold\n{table.END}\n\nThe rest\n"

    assert table.put(page, ["", "new", ""]) == page.replace("old", "\nnew\n")
    with pytest.raises(ValueError, match="lacks the marks"):
        table.put("# Title\n", [])


def test_the_page_of_benchmarks_has_a_place_for_the_figures() -> None:
    page = table.PAGE.read_text()

    assert page.count(table.BEGIN) == page.count(table.END) == 1
    assert "old figures" in table.put(page, ["old figures"])


def test_the_job_around_the_model_as_a_table() -> None:
    told = dict.fromkeys(("overhead", "slot_occupancy"), 0.04) | dict.fromkeys(
        ("window_s", "model_s", "model_cpu_s", "decode_s", "conditioning_s", "encode_s",
         "commit_s", "startup_s", "audio_s"), 60.0
    )  # fmt: skip
    plan = {"replicas": 2, "threads": 1, "slots": 4, "shape": "small", "dtype": "fp32"}
    run = {"machine": machine.describe(), "plan": plan, "command": "make bench-pipeline"}

    lines = table.pipeline(told | {"clips": 64, "run": run})

    assert "| overhead: window without a running decode loop | 4.0% |" in lines
    assert "| beside them: text, measuring and coding, commits | 180 s |" in lines


@pytest.mark.long
@pytest.mark.ray
def test_the_pipeline_benchmark(out: Path) -> None:
    plan = pipeline.Plan("tiny", workload=Workload(6, 0.2, 1.0))

    found = pipeline.bench(plan, out / "pipeline.json", pipeline.in_a_process)

    assert found["clips"] == 6
    assert 0 < found["overhead"] < 1
    assert 0 < found["slot_occupancy"] <= 1
    assert found["startup_s"] > 0


@pytest.mark.long
def test_a_side_in_a_process_of_its_own(out: Path) -> None:
    folder = engine.checkpoint("tiny", out)
    settings = {"folder": str(folder), "dtype": "fp32", "slots": 2, "threads": 1}

    with Process("ours", {"MALLOC_TOP_PAD_": "65536"}, **settings) as ours:
        assert ours.ask("describe")["threads"] == 1
        with pytest.raises(RuntimeError, match="ended with 1"):
            ours.ask("no such question")


def test_the_checkpoint_has_the_released_models_size() -> None:
    with torch.device("meta"):
        model = MusicgenForConditionalGeneration(SHAPES["small"].config())

    def count(part: torch.nn.Module) -> int:
        return sum(parameter.numel() for parameter in part.parameters())

    assert count(model.text_encoder) == T5_PARAMETERS
    assert count(model.audio_encoder) == CODEC_PARAMETERS
    assert count(model.decoder) + count(model.enc_to_dec_proj) == FAMILY["small"].lm_parameters


def test_the_floor_counts_weights_and_caches() -> None:
    """musicgen-small in fp32: 360.7 M parameters and 393 kB per clip and token."""
    lm = FAMILY["small"].lm
    slow_memory = {"bytes_per_s": 1e9, "flops_per_s": math.inf}
    slow_products = {"bytes_per_s": math.inf, "flops_per_s": 1e9}

    assert machine.step_parameters(lm) == 360_710_144
    assert machine.step_bytes(lm, "fp32", 8, 100) == 4 * 360_710_144 + 8 * 100 * 393_216
    assert machine.step_bytes(lm, "bf16", 8, 100) * 2 == machine.step_bytes(lm, "fp32", 8, 100)
    assert machine.floor_s(lm, "fp32", 8, 100, slow_memory) == pytest.approx(1.757, rel=1e-3)
    assert machine.floor_s(lm, "fp32", 8, 100, slow_products) == pytest.approx(11.54, rel=1e-3)


def test_the_clips_are_the_same_in_each_round_but_for_their_words() -> None:
    first, second = Workload(24, 1.0, 6.0).clips(1), Workload(24, 1.0, 6.0).clips(2)

    assert [c.duration_s for c in first] == [c.duration_s for c in second]
    assert not {c.prompt for c in first} & {c.prompt for c in second}
    assert all(1 <= clip.duration_s <= 6 for clip in first)
    ordered = longest_first(first)
    assert ordered != first
    assert [len(part) for part in batches(ordered, 10)] == [10, 10, 4]


def test_a_look_at_what_is_committed_is_timed() -> None:
    assert scale_ledger.commit_lookup_ms(600, tasks=64) > 0


@pytest.mark.long
@pytest.mark.usefixtures("ray_cluster")
def test_the_overhead_of_a_clip_is_counted_over_all_processes() -> None:
    found = scale_ledger.overhead(40)

    assert found["cpu_ms_per_clip"] > 0
    assert found["startup_s"] > 0


def test_int8_against_full_weights(out: Path) -> None:
    found = int8.bench(SHAPES["tiny"].lm, out / "int8.json")
    assert json.loads((out / "int8.json").read_text()) == found
    for distance in found["logits"].values():
        assert 0 < distance["relative"] < 0.2
        assert 0 < distance["kl_nats"] < 0.1
        assert 0.5 < distance["same_choice"] <= 1
    held = found["matrix_bytes"]
    assert held["int8"] < held["fp16"] == held["fp32"] // 2
    assert all(ms > 0 for ways in found["product_ms"].values() for ms in ways.values())


def test_what_bounds_a_step(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "limits", partial(machine.limits, **SMALL_LIMITS))
    monkeypatch.setattr(bounds, "N_TOKENS", 10)
    monkeypatch.setattr(bounds, "DECODED_S", (0.2, 0.3))

    found = bounds.bench("tiny", out / "bounds.json")

    assert json.loads((out / "bounds.json").read_text()) == found
    for n_clips in map(str, bounds.CLIPS):
        assert found["step_ms"][n_clips] > 0
        assert all(way["ms"] > 0 for way in found["products"][n_clips].values())
    assert found["text"]["largest_difference"] < 1e-4
    assert all(rate > 0 for rate in found["codec"].values())
