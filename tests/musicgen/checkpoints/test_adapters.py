"""LoRA adapters: what peft itself computes with them, and what is said of those that do not fit."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from musicgen import MusicGen
from musicgen.checkpoints.convert import convert
from musicgen.checkpoints.describe import describe
from musicgen.checkpoints.errors import CheckpointError, ModelNotFoundError
from musicgen.checkpoints.load import load
from musicgen.conditioning.fuser import RowCondition
from musicgen.config import AdapterSource, ModelSource
from musicgen.lm.model import LMModel
from tests.musicgen.checkpoint_files import CARD, save_melody_model, save_text_model

pytestmark = pytest.mark.slow  # seconds, all together

DECODER = r"decoder\.model\.decoder\.layers\.\d+\."
EVERYWHERE = rf"{DECODER}(self_attn|encoder_attn)\.(q|k|v|out)_proj|{DECODER}fc[12]"
PLAIN = {"target_modules": EVERYWHERE, "r": 4, "lora_alpha": 6}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PreTrainedModel]:
    folder = tmp_path_factory.mktemp("base") / "model"
    return folder, save_text_model(folder)


def adapt(folder: Path, model: PreTrainedModel, **settings: Any) -> PreTrainedModel:
    """A peft model around a copy of `model`, with random adapters, which are saved to `folder`."""
    twin = type(model)(model.config)
    twin.load_state_dict(model.state_dict())
    torch.manual_seed(7)
    adapted = get_peft_model(twin, LoraConfig(init_lora_weights=False, **(PLAIN | settings)))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.1)
            elif "modules_to_save" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    adapted.save_pretrained(str(folder))
    return adapted.eval()


def sequence() -> Tensor:
    tokens = torch.randint(CARD, (1, 4, 9), generator=torch.Generator().manual_seed(3))
    tokens[:, :, 0] = CARD
    return tokens


TEXT = torch.randn(1, 5, 24, generator=torch.Generator().manual_seed(4))


@torch.no_grad()
def their_logits(model: PreTrainedModel) -> Tensor:
    """Of peft's forward pass, on given states of the text encoder."""
    whole = model.base_model.model
    text = whole.enc_to_dec_proj(TEXT)
    out = whole.decoder(
        input_ids=sequence().flatten(0, 1),
        encoder_hidden_states=text,
        encoder_attention_mask=torch.ones(text.shape[:2], dtype=torch.long),
    )
    return out.logits.unflatten(0, (1, 4))


@torch.no_grad()
def our_logits(lm: LMModel) -> Tensor:
    project = lm.condition_provider.conditioners["description"].get_submodule("output_proj")
    return lm(sequence(), [RowCondition(cross=project(TEXT[0]), prefix=None)])


KINDS: dict[str, dict[str, Any]] = {
    "every linear layer": {},
    "query and value alone": {"target_modules": ["q_proj", "v_proj"]},
    "rank-stabilised": {"use_rslora": True},
    "patterns": {
        "rank_pattern": {r"layers\.1\.fc1": 2, "q_proj": 3},
        "alpha_pattern": {"fc2": 11},
    },
    "embeddings, heads and the text projection": {
        "target_modules": ["embed_tokens.0", "embed_tokens.3", "lm_heads.1", "enc_to_dec_proj"]
    },
    "whole modules beside it": {
        "target_modules": r"decoder\..*(q_proj|fc1)",
        "modules_to_save": ["lm_heads.2", "enc_to_dec_proj", "self_attn_layer_norm"],
    },
}


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_peft(
    base: tuple[Path, PreTrainedModel], tmp_path: Path, kind: str
) -> None:
    folder, model = base
    theirs = adapt(tmp_path / "lora", model, **KINDS[kind])
    expected = their_logits(theirs)
    _, checkpoint = load(ModelSource(str(folder), adapter=(str(tmp_path / "lora"),)))
    torch.testing.assert_close(our_logits(checkpoint.lm), expected, atol=1e-5, rtol=0)
    plain = our_logits(load(str(folder))[1].lm)
    assert (plain - expected).abs().max() > 0.01  # the adapter does something


def test_a_melody_model_takes_adapters_of_its_two_projections(tmp_path: Path) -> None:
    model = save_melody_model(tmp_path / "model")
    targets = ["q_proj", "fc2", "audio_enc_to_dec_proj", "enc_to_dec_proj"]
    merged = adapt(
        tmp_path / "lora", model, target_modules=rf"(?!text_|audio_encoder).*({'|'.join(targets)})"
    )
    expected = merged.merge_and_unload().state_dict()
    source = ModelSource(str(tmp_path / "model"), adapter=(str(tmp_path / "lora"),))
    convert(source, tmp_path / "merged")
    stored = load_file(tmp_path / "merged" / "model.safetensors")
    changed = 0
    for name, weight in model.state_dict().items():
        if name in stored and name in expected:
            torch.testing.assert_close(stored[name], expected[name], atol=1e-6, rtol=1e-6)
            changed += not torch.equal(weight, expected[name])
    assert changed == 3 + 3 + 2  # layers with q_proj and fc2, and the projections


def test_a_scale_and_several_adapters_add_up(
    base: tuple[Path, PreTrainedModel], tmp_path: Path
) -> None:
    folder, model = base
    for name, settings in (("a", {}), ("b", {"modules_to_save": ["lm_heads.2"]})):
        adapt(tmp_path / name, model, target_modules=["fc1"], **settings)

    def weights(*adapters: str) -> dict[str, Tensor]:
        named = tuple(str(tmp_path / adapter) for adapter in adapters)
        return load(ModelSource(str(folder), adapter=named))[1].lm.state_dict()

    plain, a, half = weights(), weights("a"), weights("a:0.5")
    both, twice = weights("a", "b:-1"), weights("b:2")
    b = weights("b")
    for name, weight in plain.items():
        torch.testing.assert_close(half[name] - weight, (a[name] - weight) / 2)
        change = a[name] - b[name]
        torch.testing.assert_close(both[name] - weight, change, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(
            twice[name] - weight, 2 * (b[name] - weight), atol=1e-5, rtol=1e-5
        )


def test_adapters_are_part_of_the_hash_and_of_the_name(
    base: tuple[Path, PreTrainedModel], tmp_path: Path
) -> None:
    folder, model = base
    for name, alpha in (("a", 6), ("b", 7)):
        adapt(tmp_path / name, model, lora_alpha=alpha)

    def described(*adapters: str) -> tuple[str, str]:
        named = tuple(str(tmp_path / adapter) for adapter in adapters)
        info = describe(ModelSource(str(folder), adapter=named))
        return info.weights_hash, info.full_name.removeprefix(str(folder))

    several = [(), ("a",), ("b",), ("a:0.5",), ("a", "b"), ("b", "a")]
    hashes = {described(*adapters)[0] for adapters in several}
    assert len(hashes) == len(several)
    assert described("a:1")[0] == described("a")[0]
    assert described()[1] == ""
    assert described("a", "b:0.5")[1] == " + a + b:0.5"
    (tmp_path / "a").rename(tmp_path / "c")
    (tmp_path / "b").rename(tmp_path / "a")
    assert described("c")[0] != described("a")[0]  # by content, not by name


@pytest.mark.parametrize(
    ("text", "name", "scale"),
    [("a", "a", 1.0), ("a:0.5", "a", 0.5), ("x/y:-2", "x/y", -2.0), ("a:b", "a:b", 1.0),
     ("a:b:3", "a:b", 3.0)],
)  # fmt: skip
def test_a_name_may_have_a_scale(text: str, name: str, scale: float) -> None:
    assert AdapterSource.of(text) == AdapterSource(name, scale)
    assert AdapterSource.of(str(AdapterSource.of(text))) == AdapterSource(name, scale)


@pytest.mark.parametrize("text", ["", ":0.5", "a:nan", "a:inf"])
def test_a_name_without_name_or_with_an_endless_scale_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not FOLDER or FOLDER:SCALE"):
        AdapterSource.of(text)


def reconfigure(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def retensor(change: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        tensors = load_file(folder / "adapter_model.safetensors")
        change(tensors)
        save_file(tensors, folder / "adapter_model.safetensors")

    return write


FC1 = "base_model.model.decoder.model.decoder.layers.2.fc1.lora_"


def move(old: str, new: str) -> Callable[[dict[str, Tensor]], object]:
    def change(tensors: dict[str, Tensor]) -> None:
        for matrix in "AB":
            tensors[f"{new}lora_{matrix}.weight"] = tensors.pop(f"{old}{matrix}.weight")

    return change


BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "a layer too deep": (
        retensor(move(FC1, FC1.replace("layers.2.", "layers.7.").removesuffix("lora_"))),
        r"adapter_model\.safetensors: \S*layers\.7\.fc1\.lora_A\.weight has no place in this "
        r"model; the model has 3 layers of width 32 with 4 codebooks, the adapter was made for "
        r"'acme/big'; give it the model that it was made for",
    ),
    "another width": (
        retensor(lambda t: t.update({f"{FC1}A.weight": torch.zeros(4, 48)})),
        r"layers\.2\.fc1\.lora_A\.weight is \[4, 48\], this model needs \[4, 32\]",
    ),
    "the text encoder": (
        retensor(move(FC1, "base_model.model.text_encoder.encoder.block.0.layer.0.q.")),
        r"changes the text encoder; only adapters of the language model are merged: merge it with",
    ),
    "half a pair": (
        retensor(lambda t: t.pop(f"{FC1}B.weight")),
        r"layers\.2\.fc1\.lora_A\.weight has no counterpart",
    ),
    "not finite": (
        retensor(lambda t: t[f"{FC1}A.weight"].fill_(float("nan"))),
        r"layers\.2\.fc1\.lora_A\.weight is not finite",
    ),
    "another rank": (reconfigure(r=8), r"adapter_config\.json: r=8 for decoder\.\S+, but \S+ in"),
    "another method": (reconfigure(peft_type="IA3"), r"peft_type='IA3', only 'LORA' is merged"),
    "DoRA": (reconfigure(use_dora=True), r"use_dora=True is not known; merge it with peft"),
    "PiSSA": (reconfigure(init_lora_weights="pissa"), r"changes the model's own weights too"),
    "no alpha": (reconfigure(lora_alpha=None), r"lora_alpha=None and what .* must be numbers > 0"),
    "no rank": (reconfigure(r=0), r"r=0, lora_alpha=6 and what"),
    "empty": (retensor(dict.clear), "holds no tensor"),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_what_does_not_fit_names_file_and_key(
    base: tuple[Path, PreTrainedModel], tmp_path: Path, what: str
) -> None:
    folder, model = base
    adapt(tmp_path / "lora", model, target_modules=["fc1"])
    reconfigure(base_model_name_or_path="acme/big")(tmp_path / "lora")
    breaks, message = BROKEN[what]
    breaks(tmp_path / "lora")
    with pytest.raises(CheckpointError, match=message) as caught:
        load(ModelSource(str(folder), adapter=(str(tmp_path / "lora"),)))
    assert str(tmp_path / "lora") in str(caught.value)


def test_a_folder_that_is_no_adapter_says_what_it_is(
    base: tuple[Path, PreTrainedModel], tmp_path: Path
) -> None:
    folder, model = base
    adapt(tmp_path / "lora", model)
    weights = tmp_path / "lora" / "adapter_model.safetensors"

    def fails(name: str, message: str) -> None:
        with pytest.raises(ModelNotFoundError, match=message):
            describe(ModelSource(str(folder), adapter=(name,)))

    fails(
        str(folder), "no adapter_config.json and no .*: this is a whole model|this is a whole model"
    )
    fails(str(tmp_path / "nowhere"), "no such folder and no hub id.*say adapter=")
    data = weights.read_bytes()
    weights.write_bytes(data[:-8])
    fails(str(tmp_path / "lora"), "the file is truncated or damaged")
    weights.rename(weights.with_suffix(".bin"))
    fails(str(tmp_path / "lora"), r"adapter_model\.bin is a pickle; save it with safe_ser")


def test_the_class_takes_adapters(base: tuple[Path, PreTrainedModel], tmp_path: Path) -> None:
    folder, model = base
    adapt(tmp_path / "lora", model)
    heard = []
    for adapters in ((), (f"{tmp_path}/lora",), (f"{tmp_path}/lora:0",)):
        made = MusicGen.get_pretrained(ModelSource(str(folder), adapter=adapters), "cpu")
        made.set_generation_params(duration=0.3)
        heard.append(made.generate(["jazz"], seeds=[1], return_tokens=True)[1])
    assert torch.equal(heard[0], heard[2])  # a scale of 0 changes nothing but the name
    assert not torch.equal(heard[0], heard[1])
