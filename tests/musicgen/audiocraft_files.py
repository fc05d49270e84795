"""Small checkpoints in AudioCraft's layout, made where a test needs them.

`audiogen` is a text model of 16 kHz whose codec makes 320 samples per frame, as AudioGen's.

The EnCodec is AudioCraft's own small one of the golden files; language models are random and get
AudioCraft's configuration of the golden language model, changed where the kinds differ.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor
from transformers import HubertConfig, HubertModel, T5Config, T5ForConditionalGeneration

from musicgen.checkpoints.describe import TINY_FOLDER
from musicgen.config import ChromaConfig, LMConfig, StyleConfig
from musicgen.lm.model import LMModel
from tests.musicgen.checkpoint_files import GOLDEN, golden

TEXT_DIM, DIM, CARD, FEATURE_DIM = 24, 32, 32, 16
CHROMA = ChromaConfig(
    n_fft=4096,
    hop_length=1024,
    n_chroma=12,
    chroma_length=1 + 64_000 // 1024,
    sample_rate_hz=32_000,
)
STYLE = StyleConfig(
    dim=256, n_heads=8, n_layers=4, ffn_dim=1024, bins=64, feature_dim=FEATURE_DIM,
    excerpt_length_s=0.5,
)  # fmt: skip
State = dict[str, Tensor]


def lm_yaml(kind: str = "text", *, stereo: bool = False, t5: str = "t5-base") -> dict[str, Any]:
    """What `xp.cfg` of a language model says, as a mapping."""
    cfg = yaml.safe_load((GOLDEN / "lm_text.yaml").read_text())
    cfg["transformer_lm"] |= {"dim": DIM, "num_heads": 2, "num_layers": 2, "card": CARD}
    cfg["dataset"]["segment_duration"] = 2
    cfg["conditioners"]["description"]["t5"]["name"] = t5
    if kind == "audiogen":
        cfg |= {"solver": "audiogen", "sample_rate": 16_000}
        cfg["dataset"]["segment_duration"] = 10
        return cfg
    if stereo:
        cfg["channels"] = 2
        cfg["transformer_lm"]["n_q"] = 8
        cfg["codebooks_pattern"]["delay"]["delays"] = [0, 0, 1, 1, 2, 2, 3, 3]
        cfg["interleave_stereo_codebooks"]["use"] = True
    if kind != "text":
        cfg["fuser"] |= {"cross": [], "prepend": ["self_wav", "description"]}
        cfg["conditioners"]["self_wav"] = chroma_yaml() if kind == "melody" else style_yaml()
    return cfg


def chroma_yaml() -> dict[str, Any]:
    return {
        "model": "chroma_stem",
        "chroma_stem": {
            "sample_rate": 32_000, "n_chroma": 12, "radix2_exp": 12, "argmax": True,
            "match_len_on_eval": False, "eval_wavs": None, "n_eval_wavs": 100, "cache_path": None,
        },
    }  # fmt: skip


def style_yaml() -> dict[str, Any]:
    return {
        "model": "style",
        "style": {
            "model_name": "mert", "transformer_scale": "xsmall", "sample_rate": 32_000,
            "encodec_checkpoint": "//pretrained/facebook/encodec_32khz", "encodec_n_q": 4,
            "length": 0.5, "ds_factor": 15, "n_q_out": 6, "eval_q": 3, "q_dropout": True,
            "bins": 64, "varying_lengths": [1.5, 4.5], "batch_norm": True,
            "rvq_threshold_ema_dead_code": 0.1,
        },
    }  # fmt: skip


def lm_state(kind: str = "text", *, stereo: bool = False) -> State:
    """Random tensors under AudioCraft's names."""
    n_codebooks = 8 if stereo else 4
    lm = LMModel(
        LMConfig(
            dim=DIM,
            n_heads=2,
            n_layers=2,
            ffn_dim=4 * DIM,
            n_codebooks=n_codebooks,
            card=CARD,
            delays=tuple(k // (2 if stereo else 1) for k in range(n_codebooks)),
            text_dim=TEXT_DIM,
            fuse="cross" if kind in ("text", "audiogen") else "prepend",
            chroma=CHROMA if kind == "melody" else None,
            style=STYLE if kind == "style" else None,
        )
    )
    generator = torch.Generator().manual_seed(3)
    state = {}
    for name, tensor in lm.state_dict().items():
        noise = torch.randn(tensor.shape, generator=generator)
        is_scale = ("norm" in name and name.endswith("weight")) or name.endswith("running_var")
        wide = 0.3 if tensor.ndim > 1 else 0.1
        state[name] = tensor if not tensor.is_floating_point() else noise * wide + is_scale
        if name.endswith("running_var"):
            state[name] = state[name].abs()
    if kind == "melody":
        state["condition_provider.conditioners.self_wav.chroma.spec.window"] = torch.ones(4096)
    return state


def codec_state() -> State:
    """AudioCraft's small EnCodec."""
    return golden("encodec_encoder.pt") | golden("encodec_decoder.pt")


def codec_yaml() -> str:
    return (GOLDEN / "encodec.yaml").read_text()


def audiogen_codec() -> dict[str, Any]:
    """An EnCodec of 16 kHz with the strides of AudioGen's, made of the golden one."""
    cfg = yaml.safe_load(codec_yaml())
    cfg["sample_rate"] = cfg["encodec"]["sample_rate"] = 16_000
    cfg["seanet"]["ratios"] = [8, 5, 4, 2]
    state = codec_state()
    for name in ("encoder.model.3.conv.conv", "decoder.model.12.convtr.convtr"):
        # The stride of 2 stands beside the narrowest layers; kernels are twice as long as strides.
        state[f"{name}.weight_v"] = state[f"{name}.weight_v"][..., :4].clone()
    return {"best_state": state, "xp.cfg": yaml.safe_dump(cfg)}


def save(folder: Path, kind: str = "text", *, stereo: bool = False) -> Path:
    """A complete checkpoint of `kind`: the two files, and a T5 (and a MERT) beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    t5 = save_t5(folder.parent / "t5")
    cfg = yaml.safe_dump(lm_yaml(kind, stereo=stereo, t5=str(t5)))
    package = {"best_state": lm_state(kind, stereo=stereo), "xp.cfg": cfg}
    torch.save(package | {"version": "1.4.0a2", "exported": True}, folder / "state_dict.bin")
    plain = {"best_state": codec_state(), "xp.cfg": codec_yaml()}
    codec = audiogen_codec() if kind == "audiogen" else plain
    torch.save(codec, folder / "compression_state_dict.bin")  # as in the first release
    return folder


def save_t5(folder: Path) -> Path:
    """A whole T5, decoder included, as the hub has it, and a tokenizer."""
    config = T5Config(vocab_size=512, d_model=TEXT_DIM, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    torch.manual_seed(4)
    T5ForConditionalGeneration(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TINY_FOLDER / name, folder / name)
    return folder


def save_mert(folder: Path, **extras: Any) -> Path:
    """A small MERT as its repository has it: a pickle with weight norm under the old names, and a
    configuration that asks for code of its own."""
    torch.manual_seed(5)
    model = HubertModel(
        HubertConfig(
            hidden_size=FEATURE_DIM,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            conv_dim=[8] * 7,
            num_conv_pos_embeddings=8,
            num_conv_pos_embedding_groups=4,
        )
    )
    model.save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    state = {
        name.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): tensor
        for name, tensor in model.state_dict().items()
    }
    torch.save(
        state | {"masked_spec_embed": torch.zeros(FEATURE_DIM)}, folder / "pytorch_model.bin"
    )
    config = json.loads((folder / "config.json").read_text()) | {
        "model_type": "mert_model",
        "auto_map": {"AutoModel": "modeling_MERT.MERTModel"},
        "feature_extractor_cqt": False,
        "deepnorm": False,
        "attention_relax": -1.0,
        "sample_rate": 24_000,
    }
    (folder / "config.json").write_text(json.dumps(config | extras))
    return folder
