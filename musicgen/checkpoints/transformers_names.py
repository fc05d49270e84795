"""Renames the language model's tensors between transformers' names and ours (AudioCraft's)."""

import re

import torch
from torch import Tensor

from musicgen.checkpoints.audiocraft import SELF_WAV, TEXT_PROJECTION

State = dict[str, Tensor]

# transformers' name -> ours (AudioCraft's), inside a layer and around the layers.
LAYER_NAMES = {
    "self_attn.out_proj": "self_attn.out_proj",
    "encoder_attn.out_proj": "cross_attention.out_proj",
    "fc1": "linear1",
    "fc2": "linear2",
    "self_attn_layer_norm": "norm1",
    "encoder_attn_layer_norm": "norm_cross",
    "final_layer_norm": "norm2",
}
ATTENTION_NAMES = {"self_attn": "self_attn", "encoder_attn": "cross_attention"}
MELODY_PROJECTION = f"{SELF_WAV}output_proj"
OUTER_NAMES = {
    r"enc_to_dec_proj\.(.+)": rf"{TEXT_PROJECTION}.\1",
    r"audio_enc_to_dec_proj\.(.+)": rf"{MELODY_PROJECTION}.\1",
    r"decoder\.model\.decoder\.embed_tokens\.(.+)": r"emb.\1",
    r"decoder\.model\.decoder\.layer_norm\.(.+)": r"out_norm.\1",
    r"decoder\.lm_heads\.(.+)": r"linears.\1",
}
LAYER = re.compile(r"decoder\.model\.decoder\.layers\.(\d+)\.(.+)\.(weight|bias)")
QKV = re.compile(r"(self_attn|encoder_attn)\.([qkv])_proj")
POSITIONS = "decoder.model.decoder.embed_positions.weights"  # a table that anyone can compute


def rename_lm(tensors: State) -> State:
    """From transformers' names to AudioCraft's; q, k and v become one `in_proj_weight`."""
    state: State = {}
    qkv: dict[str, State] = {}
    for key, tensor in tensors.items():
        name, letter = our_place(key)
        if letter is None:
            state[name] = tensor
        else:
            qkv.setdefault(name, {})[letter] = tensor
    for name, parts in qkv.items():
        state[name] = torch.cat([parts[letter] for letter in "qkv" if letter in parts])
    return state


def our_place(key: str) -> tuple[str, str | None]:
    """Our name of the tensor that transformers calls `key`, and which of the three parts of an
    `in_proj` it is (q, k or v); None: it is the whole tensor."""
    layer = LAYER.fullmatch(key)
    projection = QKV.fullmatch(layer[2]) if layer else None
    if layer and projection:
        attention = f"transformer.layers.{layer[1]}.{ATTENTION_NAMES[projection[1]]}"
        return f"{attention}.in_proj_{layer[3]}", projection[2]
    if layer:
        name = LAYER_NAMES.get(layer[2], layer[2])
        return f"transformer.layers.{layer[1]}.{name}.{layer[3]}", None
    return _outer_name(key), None


def _outer_name(key: str) -> str:
    for pattern, replacement in OUTER_NAMES.items():
        if match := re.fullmatch(pattern, key):
            return match.expand(replacement)
    return key


def transformers_lm(tensors: State) -> State:
    """The way back: from AudioCraft's names to transformers'."""
    state: State = {}
    inside = {ours: theirs for theirs, ours in LAYER_NAMES.items()}
    attentions = {ours: theirs for theirs, ours in ATTENTION_NAMES.items()}
    outside = {
        f"{TEXT_PROJECTION}.": "enc_to_dec_proj.",
        f"{MELODY_PROJECTION}.": "audio_enc_to_dec_proj.",
        "emb.": "decoder.model.decoder.embed_tokens.",
        "out_norm.": "decoder.model.decoder.layer_norm.",
        "linears.": "decoder.lm_heads.",
    }
    for key, tensor in tensors.items():
        layer = re.fullmatch(r"transformer\.layers\.(\d+)\.(.+)[._](weight|bias)", key)
        if layer is None:
            start = next(start for start in outside if key.startswith(start))
            state[outside[start] + key.removeprefix(start)] = tensor
            continue
        prefix = f"decoder.model.decoder.layers.{layer[1]}"
        attention, _, inner = layer[2].partition(".")
        if inner == "in_proj":
            for letter, part in zip("qkv", tensor.chunk(3), strict=True):
                state[f"{prefix}.{attentions[attention]}.{letter}_proj.{layer[3]}"] = part
        else:
            state[f"{prefix}.{inside[layer[2]]}.{layer[3]}"] = tensor
    return state
