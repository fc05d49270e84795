"""The style reader, from the stored features on, against numbers that AudioCraft computed."""

import dataclasses

import pytest
import torch
from torch import Tensor, nn
from transformers import HubertConfig, HubertModel

from musicgen.conditioning.features import CodecFeatures, MertFeatures
from musicgen.conditioning.style import StyleConditioner, excerpt_start
from musicgen.config import StyleConfig
from tests.musicgen.checkpoint_files import golden
from tests.musicgen.codec.test_codec import codec

CFG = StyleConfig(dim=256, n_heads=8, n_layers=4, ffn_dim=1024, bins=64)
CLOSE = {"atol": 2e-6, "rtol": 1e-5}


@pytest.fixture(scope="module")
def case() -> dict:
    return golden("style.pt")


@pytest.fixture(scope="module")
def style(case: dict) -> StyleConditioner:
    """The reference's reader. Its matrices (12 MB) are drawn again as its constructor drew them."""
    state = case["state_dict"] | drawn_matrices(case["seed"])
    assert torch.equal(state["transformer.layers.3.linear2.weight"][-1], case["last"])
    model = StyleConditioner(CFG, 64)
    missing = model.load_state_dict(state, strict=False)
    assert not missing.unexpected_keys
    assert all(name.startswith("rvq") for name in missing.missing_keys)  # training statistics
    return model


def drawn_matrices(seed: int) -> dict[str, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        state = {"output_proj.weight": nn.Linear(256, 64).weight}
        state["embed.weight"] = nn.Linear(768, 256).weight
        for layer in range(4):
            nn.TransformerEncoderLayer(256, 8, 1024, batch_first=True)  # drawn, then replaced
            name = f"transformer.layers.{layer}"
            state[f"{name}.self_attn.in_proj_weight"] = nn.Linear(256, 768, bias=False).weight
            state[f"{name}.self_attn.out_proj.weight"] = nn.Linear(256, 256, bias=False).weight
            state[f"{name}.linear1.weight"] = nn.Linear(256, 1024, bias=False).weight
            state[f"{name}.linear2.weight"] = nn.Linear(1024, 256, bias=False).weight
    return {name: weight.detach() for name, weight in state.items()}


@torch.no_grad()
def test_every_stage_equals_the_reference(case: dict, style: StyleConditioner) -> None:
    stages = case["stages"]
    x = style.embedded(stages["mert"], n_q=4)
    torch.testing.assert_close(x[:, ::16], stages["embed"], **CLOSE)
    x = style.transformer(x)
    torch.testing.assert_close(x, stages["transformer"], **CLOSE)
    x = style.normalised(x)
    torch.testing.assert_close(x.T[::16], stages["batch_norm"], **CLOSE)
    x = style.rvq(x, n_q=3)[:: CFG.ds_factor]
    torch.testing.assert_close(x.T, stages["rvq"], **CLOSE)


@pytest.mark.parametrize("eval_q", [1, 3, 6])
def test_the_prefix_equals_the_reference(case: dict, style: StyleConditioner, eval_q: int) -> None:
    prefix = style(case["stages"]["mert"], dataclasses.replace(CFG, eval_q=eval_q))
    torch.testing.assert_close(prefix, case["embeds"][f"q{eval_q}"], **CLOSE)


def test_training_mode_changes_nothing(case: dict, style: StyleConditioner) -> None:
    """AudioCraft's batch norm would mix the clips of a batch there."""
    expected = style(case["stages"]["mert"])
    before = style.batch_norm.running_mean.clone()
    style.train()
    assert torch.equal(style(case["stages"]["mert"]), expected)
    assert torch.equal(style.batch_norm.running_mean, before)
    style.eval()


def test_downsampling_keeps_every_nth_frame(case: dict, style: StyleConditioner) -> None:
    every = style(case["stages"]["mert"], dataclasses.replace(CFG, ds_factor=1))
    for factor in (7, 15, 300):
        some = style(case["stages"]["mert"], dataclasses.replace(CFG, ds_factor=factor))
        torch.testing.assert_close(some, every[::factor], **CLOSE)


def test_its_transformer_is_the_textbook_one(style: StyleConditioner) -> None:
    """The same layers as torch's own pre-norm encoder, without biases, in both directions."""
    own = style.transformer.layers[0]
    layer = nn.TransformerEncoderLayer(
        256, 8, 1024, dropout=0.0, activation="gelu", batch_first=True, norm_first=True, bias=False
    )
    state = {name: weight for name, weight in own.state_dict().items() if "bias" not in name}
    layer.load_state_dict(state)
    x = torch.randn(11, 256, generator=torch.Generator().manual_seed(0))
    single = type(style.transformer)(256, 8, 1, 1024)
    single.layers[0].load_state_dict(own.state_dict() | zero_biases(own))
    with torch.no_grad():
        torch.testing.assert_close(single(x), layer((x + sinusoids(11))[None])[0], **CLOSE)


def zero_biases(layer: nn.Module) -> dict[str, Tensor]:
    return {n: torch.zeros_like(w) for n, w in layer.state_dict().items() if n.endswith("bias")}


def sinusoids(n: int) -> Tensor:
    rates = 10_000.0 ** (-torch.arange(128) / 127)
    phase = torch.arange(n)[:, None] * rates
    return torch.cat([phase.cos(), phase.sin()], dim=1)


def test_mert_hears_75_frames_per_second_of_audio_at_any_rate() -> None:
    model = HubertModel(
        HubertConfig(
            hidden_size=24,
            num_hidden_layers=1,
            num_attention_heads=2,
            conv_dim=[8] * 7,
            num_conv_pos_embedding_groups=4,
        )
    )
    mert = MertFeatures(model)
    wav = torch.randn(2, 96_000, generator=torch.Generator().manual_seed(0))  # 3 s at 32 kHz
    features = mert(wav, 32_000)
    assert features.shape == (224, 24)  # 3 s · 75 Hz, less the first window's overhang
    mono = wav.mean(dim=0, keepdim=True)
    assert torch.equal(mert(mono, 32_000), features)


def test_encodec_can_be_what_hears() -> None:
    features = CodecFeatures(codec())
    wav = 0.3 * torch.randn(1, 6_400, generator=torch.Generator().manual_seed(0))
    codes = features(wav, 32_000)
    assert torch.equal(codes, codec().encode(wav[None])[0][0])
    cfg = StyleConfig(
        dim=16, n_heads=2, n_layers=1, ffn_dim=32, features="encodec", feature_bins=32,
        encodec_n_q=3, ds_factor=4,
    )  # fmt: skip
    style = StyleConditioner(cfg, 8).eval()
    assert style(codes).shape == (3, 8)  # 10 frames, every 4th
    tables = [style.embed[k].weight[codes[k]] for k in range(2)]
    assert torch.equal(style.embedded(codes, n_q=2), tables[0] + tables[1])
    with pytest.raises(ValueError, match="encodec_n_q=4: the style reader hears 3"):
        style(codes, dataclasses.replace(cfg, encodec_n_q=4))


def test_the_excerpt_depends_on_seed_and_window_alone() -> None:
    starts = {excerpt_start(seed, 0, 160_000, 96_000) for seed in range(400)}
    assert len(starts) > 380
    assert 0 <= min(starts) < 2_000
    assert 62_000 < max(starts) <= 64_000
    assert excerpt_start(5, 0, 160_000, 96_000) == 33_625  # known answers: clips must repeat
    assert excerpt_start(2**63 - 1, 2, 160_000, 96_000) == 47_596
    assert excerpt_start(5, 0, 96_000, 96_000) == 0
    with pytest.raises(ValueError, match="holds no excerpt of 96000"):
        excerpt_start(5, 0, 95_999, 96_000)
