"""Merges LoRA adapters in peft's layout into the language model's weights.

`adapter_model.safetensors` names tensors by the module of transformers' MusicGen that they change
(AudioCraft's names will do too). Of a module with weight W [out, in]:

    lora_A [r, in], lora_B [out, r]                   W + s * B A
    lora_embedding_A [r, n], lora_embedding_B [d, r]  W + s * (B A)^T
    weight or bias (modules_to_save)                  the new value itself

where s is `lora_alpha` / r, or `lora_alpha` / sqrt(r) with `use_rslora`, each as `rank_pattern` and
`alpha_pattern` change it for that module. The scale that the user gives multiplies every change.
Every tensor must find its place.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from musicgen.checkpoints.adapter_folders import ADAPTER_CONFIG, ADAPTER_WEIGHTS, AdapterFolder
from musicgen.checkpoints.errors import CheckpointError
from musicgen.checkpoints.layout import read_json
from musicgen.checkpoints.transformers_names import our_place
from musicgen.lm.model import LMModel

WRAPPER = "base_model.model."  # before all names of a peft model
BESIDE = ("text_encoder.", "audio_encoder.")  # sub-models of transformers' MusicGen
LORA = re.compile(
    r"(?P<module>.+)\.lora_(?P<matrix>A|B|embedding_A|embedding_B)(?:\.weight)?", re.DOTALL
)
# Kinds of LoRA that change the weights by another formula, and the starts that change the model's
# own weights before the training, so that these are not the ones in the checkpoint.
OTHER_KINDS = (
    *("use_dora", "fan_in_fan_out", "layer_replication", "trainable_token_indices"),
    *("target_parameters", "use_qalora", "use_bdlora", "lora_bias", "alora_invocation_tokens"),
    *("arrow_config", "kasa_config", "velora_config", "monteclora_config"),
)
PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
MERGE = "merge it with peft (merge_and_unload), save the whole model, and load that"


@dataclass(frozen=True)
class LoraConfig:
    """What `adapter_config.json` says that matters for merging.

    Attributes:
        path: The file.
        rank, alpha: Of modules that no pattern names.
        rank_pattern, alpha_pattern: By regular expressions over the ends of modules' names.
        rank_stabilised: Whether alpha is divided by the root of the rank.
        base: The model that it was trained on, as the file names it.
    """

    path: Path
    rank: int
    alpha: float
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    rank_stabilised: bool
    base: str

    def scale_of(self, module: str, rank: int, key: str) -> float:
        """The factor of B A of a module whose tensors have this rank.

        Raises:
            CheckpointError: The file says another rank.
        """
        wanted = _of_pattern(self.rank_pattern, module, self.rank)
        if rank != wanted:
            raise CheckpointError(
                f"{self.path}: r={wanted} for {module}, but {key} in {ADAPTER_WEIGHTS} has rank "
                f"{rank}; the two files do not belong together"
            )
        alpha = _of_pattern(self.alpha_pattern, module, self.alpha)
        return float(alpha / (math.sqrt(rank) if self.rank_stabilised else rank))


def merge_adapter(lm: LMModel, adapter: AdapterFolder) -> None:
    """Changes the weights of `lm` by an adapter.

    Raises:
        CheckpointError: A tensor or a setting of it fits nothing here; the message names the file,
            the key and what would fit.
    """
    folder = Path(adapter.path)
    config = _read_config(folder / ADAPTER_CONFIG)
    file = folder / ADAPTER_WEIGHTS
    with safe_open(str(file), framework="pt") as opened:
        tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    if not tensors:
        raise CheckpointError(f"{file}: holds no tensor; save the adapter again")
    _Merger(lm, config, file, adapter.scale).merge(tensors)


class _Merger:
    """One adapter and the model that it is merged into."""

    def __init__(self, lm: LMModel, config: LoraConfig, file: Path, scale: float) -> None:
        self.lm, self.config, self.file, self.scale = lm, config, file, scale
        self.weights = lm.state_dict()

    @torch.no_grad()
    def merge(self, tensors: Mapping[str, Tensor]) -> None:
        """Finds the place and the change of every tensor, then changes the weights."""
        whole: list[tuple[Tensor, Tensor]] = []  # (weight, its new value)
        pairs: dict[str, dict[str, str]] = {}  # module -> matrix -> key
        for key in sorted(tensors):
            found = LORA.fullmatch(key)
            if found:
                pairs.setdefault(found["module"], {})[found["matrix"]] = key
            else:
                name = key.replace(".modules_to_save.", ".").replace(".base_layer.", ".")
                weight = self._place(name, key)
                self._expect(key, tensors[key], list(weight.shape))
                whole.append((weight, tensors[key].float()))
        changes = [self._change(module, keys, tensors) for module, keys in pairs.items()]
        for weight, value in whole:
            weight.add_(value - weight, alpha=self.scale)
        for weight, change, factor in changes:
            weight.add_(change, alpha=factor * self.scale)

    def _change(
        self, module: str, keys: Mapping[str, str], tensors: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor, float]:
        """The weight of a module, the product of its two matrices, and the factor of that."""
        some = next(iter(keys.values()))
        is_embedding = any(matrix.startswith("embedding") for matrix in keys)
        names = ["embedding_A", "embedding_B"] if is_embedding else ["A", "B"]
        if sorted(keys) != names:
            raise CheckpointError(
                f"{self.file}: {some} has no counterpart (lora_{' and lora_'.join(names)} belong "
                "together); save the adapter again"
            )
        a, b = (tensors[keys[name]].float() for name in names)
        weight = self._place(f"{module}.weight", some)
        n_out, n_in = weight.shape
        rank = a.shape[0]
        shape_a, shape_b = ([rank, n_in], [n_out, rank])
        if is_embedding:
            shape_a, shape_b = [rank, n_out], [n_in, rank]
        self._expect(keys[names[0]], a, shape_a)
        self._expect(keys[names[1]], b, shape_b)
        factor = self.config.scale_of(module.removeprefix(WRAPPER), rank, some)
        change = (b @ a).T if is_embedding else b @ a
        return weight, change, factor

    def _place(self, name: str, key: str) -> Tensor:
        """The part of our weights that a tensor of the whole model is."""
        bare = name.removeprefix(WRAPPER)
        # Adapters of transformers' decoder alone have its names without `decoder.` before them.
        for candidate in (bare, f"decoder.{bare}"):
            ours, letter = our_place(candidate)
            if ours in self.weights:
                weight: Tensor = self.weights[ours]
                return weight if letter is None else weight.chunk(3)["qkv".index(letter)]
        if bare.startswith(BESIDE):
            raise CheckpointError(
                f"{self.file}: {key} changes the {bare.split('.')[0].replace('_', ' ')}; only "
                f"adapters of the language model are merged: {MERGE}"
            )
        raise CheckpointError(f"{self.file}: {key} has no place in this model; {self._what_fits()}")

    def _expect(self, key: str, tensor: Tensor, shape: list[int]) -> None:
        if list(tensor.shape) != shape:
            raise CheckpointError(
                f"{self.file}: {key} is {list(tensor.shape)}, this model needs {shape}; "
                f"{self._what_fits()}"
            )
        if not tensor.isfinite().all():
            raise CheckpointError(f"{self.file}: {key} is not finite; train the adapter anew")

    def _what_fits(self) -> str:
        cfg = self.lm.cfg
        return (
            f"the model has {cfg.n_layers} layers of width {cfg.dim} with {cfg.n_codebooks} "
            f"codebooks, the adapter was made for {self.config.base!r}; give it the model that it "
            "was made for"
        )


def _read_config(path: Path) -> LoraConfig:
    config = read_json(path)
    if (kind := config.get("peft_type")) != "LORA":
        raise CheckpointError(f"{path}: peft_type={kind!r}, only 'LORA' is merged; {MERGE}")
    for name in OTHER_KINDS:
        if config.get(name):
            raise CheckpointError(f"{path}: {name}={config[name]!r} is not known; {MERGE}")
    start = config.get("init_lora_weights")
    if start not in PLAIN_STARTS:
        raise CheckpointError(
            f"{path}: init_lora_weights={start!r} changes the model's own weights too; {MERGE}"
        )
    rank, alpha = config.get("r"), config.get("lora_alpha")
    ranks, alphas = config.get("rank_pattern") or {}, config.get("alpha_pattern") or {}
    numbers = [rank, alpha, *dict(ranks).values(), *dict(alphas).values()]
    if not all(type(n) in (int, float) and math.isfinite(n) and n > 0 for n in numbers):
        raise CheckpointError(
            f"{path}: r={rank!r}, lora_alpha={alpha!r} and what rank_pattern and alpha_pattern say "
            "must be numbers > 0; save the adapter again"
        )
    base = str(config.get("base_model_name_or_path") or "a model without a name")
    return LoraConfig(
        path=path,
        rank=int(rank or 0),
        alpha=float(alpha or 0),
        rank_pattern=ranks,
        alpha_pattern=alphas,
        rank_stabilised=bool(config.get("use_rslora")),
        base=base,
    )


def _of_pattern(pattern: Mapping[str, Any], module: str, default: Any) -> Any:
    """The value of the first key that matches the end of a module's name, as peft looks it up."""
    for key, value in pattern.items():
        if re.fullmatch(rf"(.*\.)?({key})", module):
            return value
    return default
