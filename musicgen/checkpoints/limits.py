"""Limits of the numbers in configurations, checked before any of them asks for memory or time.

Whoever builds modules of a configuration has checked it here: 10^9 layers would be built for hours.
Free of torch.
"""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from musicgen.checkpoints.errors import CheckpointError

Limits = Mapping[str, tuple[int, int]]

WIDTH, DEEP, TOKENS = (1, 1 << 16), (1, 512), (2, 1 << 22)
RATE_HZ, KERNEL, CHANNELS = (1, 768_000), (1, 1024), (1, 2)

# AudioCraft's YAML, by section.
TRANSFORMER_LM = {"dim": WIDTH, "num_heads": WIDTH, "num_layers": DEEP, "n_q": (1, 64),
                  "card": TOKENS}  # fmt: skip
CHROMA = {"sample_rate": RATE_HZ, "n_chroma": (1, 1024), "radix2_exp": (4, 22),
          "winhop": (1, 1 << 22)}  # fmt: skip
STYLE = {"sample_rate": RATE_HZ, "n_q_out": (0, 64), "bins": TOKENS, "eval_q": (1, 64),
         "ds_factor": (1, 10_000), "encodec_n_q": (1, 64)}  # fmt: skip
SEANET = {"dimension": WIDTH, "channels": CHANNELS, "n_filters": (1, 4096), "lstm": (1, 16),
          "n_residual_layers": (0, 64), "kernel_size": KERNEL, "residual_kernel_size": KERNEL,
          "last_kernel_size": KERNEL, "dilation_base": (1, 16), "compress": (1, 1024)}  # fmt: skip
RVQ = {"bins": TOKENS, "n_q": (1, 256)}

# transformers' config.json, by section.
DECODER = {"hidden_size": WIDTH, "num_hidden_layers": DEEP, "ffn_dim": (1, 1 << 20),
           "num_attention_heads": WIDTH, "num_codebooks": (1, 64), "vocab_size": TOKENS,
           "audio_channels": CHANNELS}  # fmt: skip
T5 = {"d_model": WIDTH, "d_kv": WIDTH, "d_ff": (1, 1 << 20), "num_layers": DEEP,
      "num_heads": WIDTH, "vocab_size": (1, 1 << 24), "relative_attention_num_buckets": (1, 65_536),
      "relative_attention_max_distance": (1, 1 << 24)}  # fmt: skip
ENCODEC = {"sampling_rate": RATE_HZ, "audio_channels": CHANNELS, "num_filters": (1, 4096),
           "hidden_size": WIDTH, "codebook_size": TOKENS, "num_residual_layers": (0, 64),
           "num_lstm_layers": (1, 16), "kernel_size": KERNEL, "residual_kernel_size": KERNEL,
           "last_kernel_size": KERNEL, "dilation_growth_rate": (1, 16),
           "compress": (1, 1024)}  # fmt: skip
HUBERT = {"hidden_size": WIDTH, "num_hidden_layers": DEEP, "num_attention_heads": WIDTH,
          "intermediate_size": (1, 1 << 20), "num_conv_pos_embeddings": (1, 4096),
          "num_conv_pos_embedding_groups": WIDTH}  # fmt: skip
OWN_LM = {"dim": WIDTH, "n_heads": WIDTH, "n_layers": DEEP, "ffn_dim": (1, 1 << 20),
          "n_codebooks": (1, 64), "card": TOKENS, "text_dim": WIDTH}  # fmt: skip

LONGEST_WINDOW_S = 3600.0
MOST_RATIOS, LARGEST_HOP = 16, 1 << 20
LARGEST_DELAY = 10_000


def whole(where: Path, key: str, value: Any, limits: tuple[int, int]) -> int:
    """`value` as a whole number within `limits`, else a CheckpointError that names file and key."""
    low, high = limits
    is_number = type(value) is int or (type(value) is float and value.is_integer())
    if not is_number or not low <= value <= high:
        raise CheckpointError(
            f"{where}: {key}={_shown(value)} must be a whole number from {low} to {high}"
        )
    return int(value)


def check(where: Path, section: str, config: Any, limits: Limits) -> None:
    """Checks the numbers of a section of a configuration; what is not there has its default."""
    if not isinstance(config, Mapping):
        raise CheckpointError(f"{where}: {section} is {_shown(config)}, it must be a mapping")
    for name, allowed in limits.items():
        if name in config:
            whole(where, f"{section}.{name}", config[name], allowed)


def seconds(where: Path, key: str, value: Any) -> float:
    """`value` as a length in seconds, more than 0 and up to an hour."""
    is_number = type(value) in (int, float) and math.isfinite(value)
    if not is_number or not 0 < value <= LONGEST_WINDOW_S:
        raise CheckpointError(
            f"{where}: {key}={_shown(value)} must be a number of seconds, more than 0 and at most "
            f"{LONGEST_WINDOW_S:g}"
        )
    return float(value)


def ratios(where: Path, key: str, value: Any) -> list[int]:
    """`value` as the strides of a codec."""
    if not isinstance(value, Iterable) or isinstance(value, str | Mapping):
        raise CheckpointError(f"{where}: {key}={_shown(value)} must be a list of whole numbers")
    found = [whole(where, key, ratio, (1, 1024)) for ratio in value]
    if not 1 <= len(found) <= MOST_RATIOS or math.prod(found) > LARGEST_HOP:
        raise CheckpointError(
            f"{where}: {key}={_shown(found)} must be 1 to {MOST_RATIOS} strides whose product is "
            f"at most {LARGEST_HOP} samples"
        )
    return found


def delays(where: Path, key: str, value: Any, n_codebooks: int) -> tuple[int, ...]:
    """`value` as the delays of `n_codebooks` codebooks."""
    found = list(value) if isinstance(value, list | tuple) else None
    if found is None or len(found) != n_codebooks:
        raise CheckpointError(
            f"{where}: {key}={_shown(value)} must be a list of {n_codebooks} delays, one per "
            "codebook"
        )
    steps = tuple(whole(where, key, delay, (0, LARGEST_DELAY)) for delay in found)
    if min(steps) != 0:
        raise CheckpointError(f"{where}: {key}={_shown(value)} must begin at 0 for some codebook")
    return steps


def check_codec(where: Path, section: str, config: Any, tensors: Mapping[str, Any]) -> None:
    """Checks the configuration of an EnCodec, as transformers writes it, against its tensors.

    An EnCodec is built with memory, so what is wider or deeper than its file is refused before.
    """
    check(where, section, config, ENCODEC)
    if "upsampling_ratios" in config:
        ratios(where, f"{section}.upsampling_ratios", config["upsampling_ratios"])
    n_filters, n_ratios = (
        config.get("num_filters", 32),
        len(config.get("upsampling_ratios", "8542")),
    )
    widest = max((max(tensor.shape, default=1) for tensor in tensors.values()), default=1)
    wanted = {
        f"num_filters={n_filters} with {n_ratios} upsampling_ratios": n_filters << n_ratios,
        f"hidden_size={config.get('hidden_size')}": config.get("hidden_size", 1),
        f"codebook_size={config.get('codebook_size')}": config.get("codebook_size", 1),
    }
    for what, size in wanted.items():
        if size > widest:
            raise CheckpointError(
                f"{where}: {section}: {what} needs tensors of width {size}, the widest in the file "
                f"is {widest}; weights and configuration are of different models"
            )
    if config.get("num_residual_layers", 1) * n_ratios > len(tensors):
        raise CheckpointError(
            f"{where}: {section}.num_residual_layers={config['num_residual_layers']} needs more "
            f"than the {len(tensors)} tensors of the file"
        )


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
