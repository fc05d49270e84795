"""Checkpoints with the released models' shapes and random weights, in transformers' format.

What is measured does not depend on the values of weights, so nothing has to be downloaded. A folder
is made once, below `out/bench`, and loaded by both sides of a comparison.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    EncodecConfig,
    MusicgenConfig,
    MusicgenDecoderConfig,
    MusicgenForConditionalGeneration,
    PreTrainedTokenizerFast,
    T5Config,
)

from musicgen.config import LMConfig
from musicgen.registry import FAMILY
from tests.bench.workload import vocabulary

T5_BASE = {"vocab_size": 32_128, "d_model": 768, "d_kv": 64, "d_ff": 3072, "num_layers": 12,
           "num_heads": 12}  # fmt: skip
ENCODEC_32KHZ = {
    "sampling_rate": 32_000, "target_bandwidths": [2.2], "upsampling_ratios": [8, 5, 4, 4],
    "num_filters": 64, "hidden_size": 128, "codebook_size": 2048, "codebook_dim": 128,
    "num_lstm_layers": 2, "use_causal_conv": False, "use_conv_shortcut": False,
}  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """A MusicGen for text, by the arguments of transformers' configurations."""

    lm: LMConfig
    text: dict[str, Any]
    codec: dict[str, Any]

    def decoder(self) -> MusicgenDecoderConfig:
        """The language model as transformers describes it."""
        return MusicgenDecoderConfig(
            vocab_size=self.lm.card,
            num_hidden_layers=self.lm.n_layers,
            ffn_dim=self.lm.ffn_dim,
            num_attention_heads=self.lm.n_heads,
            hidden_size=self.lm.dim,
            num_codebooks=self.lm.n_codebooks,
            pad_token_id=self.lm.card,
            bos_token_id=self.lm.card,
        )

    def config(self) -> MusicgenConfig:
        """The whole model as transformers describes it."""
        return MusicgenConfig(
            text_encoder=T5Config(**self.text).to_dict(),
            audio_encoder=EncodecConfig(**self.codec).to_dict(),
            decoder=self.decoder().to_dict(),
        )


_TINY_LM = LMConfig(
    dim=32, n_heads=2, n_layers=2, ffn_dim=64, n_codebooks=4, card=32, delays=(0, 1, 2, 3),
    text_dim=24, fuse="cross",
)  # fmt: skip
_TINY_TEXT = {"vocab_size": 512, "d_model": 24, "d_kv": 8, "d_ff": 32, "num_layers": 1,
              "num_heads": 2}  # fmt: skip
_TINY_CODEC = ENCODEC_32KHZ | {
    "sampling_rate": 1600, "target_bandwidths": [1.0], "upsampling_ratios": [4, 4, 2],
    "num_filters": 2, "hidden_size": 8, "codebook_size": 32, "codebook_dim": 8,
    "num_lstm_layers": 1,
}  # fmt: skip
SHAPES = {
    name: Shape(FAMILY[name].lm, T5_BASE, ENCODEC_32KHZ) for name in ("small", "medium", "large")
}
SHAPES["tiny"] = Shape(_TINY_LM, _TINY_TEXT, _TINY_CODEC)


def tokenizer() -> PreTrainedTokenizerFast:
    """About one token per word and stop, as T5's own has for words like these."""
    names = ["<pad>", "</s>", "<unk>", *vocabulary()]
    model = models.WordLevel({name: index for index, name in enumerate(names)}, unk_token="<unk>")
    cutter = Tokenizer(model)
    cutter.pre_tokenizer = pre_tokenizers.Whitespace()
    cutter.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=cutter, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


def checkpoint(name: str, root: Path) -> Path:
    """The folder of that shape below `root`; made if it is not there."""
    folder, making = root / f"musicgen-{name}-random", root / f"musicgen-{name}-random.part"
    if folder.is_dir():
        return folder
    shutil.rmtree(making, ignore_errors=True)
    torch.manual_seed(0)
    model = MusicgenForConditionalGeneration(SHAPES[name].config())
    card = SHAPES[name].lm.card
    model.generation_config.update(
        pad_token_id=card, bos_token_id=card, decoder_start_token_id=card, max_length=1503
    )
    model.save_pretrained(making)
    tokenizer().save_pretrained(making)
    making.rename(folder)
    return folder
