"""Loading: every tensor finds its place or is named."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from musicgen.checkpoints.describe import describe
from musicgen.checkpoints.load import Checkpoint, CheckpointError, load_checkpoint
from tests.musicgen.checkpoint_files import CARD, save_text_model

State = dict[str, Tensor]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_text_model(tmp_path)
    return tmp_path


def load(folder: Path) -> Checkpoint:
    return load_checkpoint(describe(str(folder)))


def rewrite(folder: Path, change: Callable[[State], None]) -> None:
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors")


def test_shards_load_as_one_file_does(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    sharded = tmp_path_factory.mktemp("sharded")
    save_text_model(sharded, shard="100KB")
    assert len(list(sharded.glob("*.safetensors"))) > 1
    one, many = load(folder), load(sharded)
    for part in ("lm", "text", "codec"):
        state = getattr(many, part).state_dict()
        for name, tensor in getattr(one, part).state_dict().items():
            assert torch.equal(tensor, state[name])


def test_everything_is_fp32_even_from_half_precision_files(folder: Path) -> None:
    def halve(state: State) -> None:
        for name, tensor in state.items():
            state[name] = tensor.half()

    rewrite(folder, halve)
    checkpoint = load(folder)
    for model in (checkpoint.lm, checkpoint.text, checkpoint.codec):
        assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_weight_norm_of_older_files_is_understood(folder: Path) -> None:
    new = load(folder).codec.decode(torch.zeros(1, 4, 5).long())

    def rename(state: State) -> None:
        for name in list(state):
            old = name.replace("parametrizations.weight.original0", "weight_g")
            state[old.replace("parametrizations.weight.original1", "weight_v")] = state.pop(name)

    rewrite(folder, rename)
    assert any(name.endswith("weight_g") for name in load_file(folder / "model.safetensors"))
    assert torch.equal(load(folder).codec.decode(torch.zeros(1, 4, 5).long()), new)


def test_equal_widths_need_no_projection(tmp_path: Path) -> None:
    save_text_model(tmp_path, text_dim=32)
    names = load_file(tmp_path / "model.safetensors")
    assert not any(name.startswith("enc_to_dec_proj") for name in names)
    lm = load(tmp_path).lm
    projection = lm.condition_provider.conditioners["description"].output_proj
    hidden = torch.randn(3, 32)
    assert torch.equal(projection(hidden), hidden)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("decoder.lm_heads.2.weight", r"language model.*1 missing: linears\.2\.weight"),
        (
            "decoder.model.decoder.layers.1.fc1.weight",
            r"1 missing: transformer\.layers\.1\.linear1",
        ),
        ("decoder.model.decoder.layers.0.encoder_attn.k_proj.weight", "1 of another shape"),
        ("text_encoder.encoder.final_layer_norm.weight", r"text encoder.*1 missing"),
        ("audio_encoder.decoder.layers.0.conv.bias", r"codec.*1 missing"),
    ],
)
def test_a_missing_tensor_is_named(folder: Path, name: str, message: str) -> None:
    rewrite(folder, lambda state: state.__delitem__(name))
    with pytest.raises(CheckpointError, match=message):
        load(folder)


def test_a_tensor_without_a_place_is_named(folder: Path) -> None:
    rewrite(folder, lambda state: state.update({"decoder.mystery.weight": torch.ones(2)}))
    with pytest.raises(CheckpointError, match=r"1 unknown: decoder\.mystery\.weight"):
        load(folder)


def test_training_statistics_of_the_codebooks_may_be_missing(folder: Path) -> None:
    def drop(state: State) -> None:
        for name in list(state):
            if name.endswith(("inited", "cluster_size", "embed_avg")):
                del state[name]

    rewrite(folder, drop)
    assert load(folder).codec.cardinality == CARD


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("decoder", {"activation_function": "relu"}, "activation_function='relu', only 'gelu'"),
        ("decoder", {"num_codebooks": 2}, "2 codebooks of 32, the codec 4 of 32"),
        ("text_encoder", {"model_type": "bert"}, "text_encoder is a 'bert'"),
    ],
)
def test_a_model_that_we_can_not_run_is_refused(
    folder: Path, part: str, change: dict, message: str
) -> None:
    config = json.loads((folder / "config.json").read_text())
    config[part] |= change
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=message):
        load(folder)


def test_loading_leaves_the_global_generator_alone(folder: Path) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    load(folder)
    assert torch.equal(torch.rand(3), expected)


def test_what_a_trainer_leaves_beside_the_weights_is_not_read(tmp_path: Path) -> None:
    """`checkpoint-500` of transformers' Trainer: sharded weights among pickles of its own."""
    folder = tmp_path / "checkpoint-500"
    model = save_text_model(folder, shard="100KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    expected = describe(str(folder)).weights_hash
    for name in ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth"):
        (folder / name).write_bytes(b"a pickle that nobody opens")
    (folder / "trainer_state.json").write_text('{"global_step": 500}')
    assert describe(str(folder)).weights_hash == expected
    heads = load(folder).lm.linears
    assert torch.equal(heads[0].weight, model.decoder.lm_heads[0].weight)
