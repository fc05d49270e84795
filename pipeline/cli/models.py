"""`musicgen-batch models | convert`: which checkpoints there are, and how to keep one offline."""

from typing import Literal

import click

from pipeline.cli.errors import errors_to_exit_codes
from pipeline.cli.speech import answer, speech_options, verbose_option
from pipeline.telemetry.words import counted


@click.command(epilog="Example: musicgen-batch models --slots 32")
@click.option("--slots", type=click.IntRange(1), default=8, help="Clips in flight. [default: 8]")
@speech_options
@verbose_option
def models(slots: int) -> None:
    """List the released models: names, sizes, licence, and the memory that they need."""
    from musicgen.registry import FAMILY

    lines = [f"{'name':22}{'hub id':36}{'parameters':>11}  {'fp16 GB':>7}  {'fp32 GB':>7}  licence"]
    facts = []
    for name, member in FAMILY.items():
        half, full = (
            member.memory_bytes(dtype=dtype, slots=slots) / 1e9 for dtype in ("fp16", "fp32")
        )
        lines.append(
            f"{name:22}{member.hub_id:36}{member.n_parameters / 1e6:>9.0f} M  {half:>7.1f}  "
            f"{full:>7.1f}  {member.licence}"
        )
        facts.append(
            {
                "name": name,
                "hub_id": member.hub_id,
                "parameters": member.n_parameters,
                "fp16_bytes": round(half * 1e9),
                "fp32_bytes": round(full * 1e9),
                "licence": member.licence,
            }
        )
    held = counted(slots, "slot")
    lines.append(f"memory: weights and caches of the language model with {held}")
    answer("\n".join(lines), {"slots": slots, "models": facts})


@click.command(
    epilog="""\b
Examples:
  musicgen-batch convert facebook/musicgen-style models/style
  musicgen-batch convert audiocraft-folder models/mine --text-encoder t5-base-folder
  musicgen-batch convert facebook/musicgen-small models/jazz --adapter adapters/jazz:0.8
"""
)
@click.argument("source")
@click.argument("target")
@click.option(
    "--dtype",
    type=click.Choice(["fp32", "fp16"]),
    default="fp32",
    show_default=True,
    help="Of the file.",
)
@click.option("--revision", help="Hub revision of SOURCE.")
@click.option("--text-encoder", help="T5 for a checkpoint that holds none: folder or hub id.")
@click.option("--codec", help="EnCodec for a checkpoint that holds none: folder or hub id.")
@click.option("--style-encoder", help="MERT for a style checkpoint: folder or hub id.")
@click.option("--adapter", multiple=True, metavar="FOLDER[:SCALE]", help="LoRA adapter to merge.")
@speech_options
@verbose_option
@errors_to_exit_codes
def convert(
    source: str,
    target: str,
    dtype: Literal["fp32", "fp16"],
    revision: str | None,
    text_encoder: str | None,
    codec: str | None,
    style_encoder: str | None,
    adapter: tuple[str, ...],
) -> None:
    """Write a self-contained safetensors folder of SOURCE that loads offline.

    SOURCE is a hub id, a short name, or a folder: transformers' format, or AudioCraft's
    (state_dict.bin and compression_state_dict.bin).
    """
    from musicgen.checkpoints.convert import convert as convert_checkpoint
    from musicgen.config import ModelSource

    wanted = ModelSource(source, revision, text_encoder, codec, style_encoder, adapter)
    info = convert_checkpoint(wanted, target, dtype=dtype)
    made = f"{target}: {info.kind} model, {info.layout} layout, weights {info.weights_hash}"
    facts = {"kind": info.kind, "layout": info.layout, "weights_hash": info.weights_hash}
    answer(made, {"target": target} | facts)
