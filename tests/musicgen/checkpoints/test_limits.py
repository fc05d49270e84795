"""Configurations that no model has: refused before memory is taken, by file and key."""

import json
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from musicgen.checkpoints.convert import convert
from musicgen.checkpoints.describe import TINY_FOLDER, describe
from musicgen.checkpoints.errors import CheckpointError
from musicgen.checkpoints.load import load
from musicgen.config import ModelSource
from tests.musicgen import audiocraft_files as audiocraft
from tests.musicgen.checkpoint_files import save_text_model

HUGE = 10**9


def changed(config: dict[str, Any], key: str, value: Any) -> None:
    """Sets a value at a dotted key; `...` removes it."""
    *sections, name = key.split(".")
    for section in sections:
        config = config.setdefault(section, {})
    if value is ...:
        del config[name]
    else:
        config[name] = value


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints in AudioCraft's layout, by kind."""
    return {
        kind: audiocraft.save(tmp_path_factory.mktemp(kind) / "model", kind)
        for kind in ("text", "melody", "style")
    }


def rewritten(folder: Path, target: Path, name: str, key: str, value: Any) -> Path:
    """A copy of a checkpoint with one other value in the YAML of a file."""
    shutil.copytree(folder, target)
    package = torch.load(target / name, weights_only=True)
    cfg = yaml.safe_load(package["xp.cfg"])
    changed(cfg, key, value)
    torch.save(package | {"xp.cfg": yaml.safe_dump(cfg)}, target / name)
    return target


LM, CHROMA = "transformer_lm", "conditioners.self_wav.chroma_stem"
STYLE, DELAYS = "conditioners.self_wav.style", "codebooks_pattern.delay.delays"
WHOLE = "must be a whole number from"
IN_THE_LANGUAGE_MODEL = [
    ("text", f"{LM}.num_layers", HUGE, rf"transformer_lm\.num_layers={HUGE} {WHOLE} 1 to 512"),
    ("text", f"{LM}.num_layers", 0, rf"transformer_lm\.num_layers=0 {WHOLE}"),
    ("text", f"{LM}.num_layers", "many", rf"transformer_lm\.num_layers='many' {WHOLE}"),
    ("text", f"{LM}.dim", HUGE, rf"transformer_lm\.dim={HUGE} {WHOLE}"),
    ("text", f"{LM}.dim", 33, "xp.cfg: dim=33 must be even and a multiple of n_heads=2"),
    ("text", f"{LM}.num_heads", 0, rf"transformer_lm\.num_heads=0 {WHOLE}"),
    ("text", f"{LM}.card", -5, rf"transformer_lm\.card=-5 {WHOLE}"),
    ("text", f"{LM}.n_q", True, rf"transformer_lm\.n_q=True {WHOLE}"),
    ("text", f"{LM}.hidden_scale", HUGE, r"transformer_lm\.hidden_scale=\d+ must be a number"),
    ("text", f"{LM}.max_period", 5000, r"transformer_lm\.max_period=5000, only 10000 is known"),
    ("text", f"{LM}.positional_scale", 0.5, r"positional_scale=0\.5, only 1 is known"),
    ("text", f"{LM}.activation", ..., r"activation='relu' \(it is absent, and that is"),
    ("text", f"{LM}.norm_first", ..., r"norm_first=False \(it is absent"),
    ("text", "lm_model", "transformer_lm_magnet", "lm_model='transformer_lm_magnet', only"),
    ("text", DELAYS, [0, 1, 2], r"delays=\[0, 1, 2\] must be a list of 4 delays, one per codebook"),
    ("text", DELAYS, [1, 2, 3, 4], r"delays=\[1, 2, 3, 4\] must begin at 0"),
    ("text", DELAYS, [0, 1, 2, HUGE], rf"delays={HUGE} {WHOLE} 0 to 10000"),
    ("text", DELAYS, [0, -1, 2, 3], rf"delays=-1 {WHOLE}"),
    ("text", DELAYS, [0, 1.5, 2, 3], rf"delays=1\.5 {WHOLE}"),
    ("text", DELAYS, "0123", "delays='0123' must be a list of 4 delays"),
    ("text", "sample_rate", 0, rf"sample_rate=0 {WHOLE}"),
    ("text", "channels", 7, rf"channels=7 {WHOLE} 1 to 2"),
    ("text", "dataset.segment_duration", -3, r"segment_duration=-3 must be a number of seconds"),
    ("text", "dataset.segment_duration", HUGE, r"segment_duration=\d+ must be a number of seconds"),
    ("text", "dataset.segment_duration", float("nan"), "segment_duration=nan must be a number"),
    ("text", "conditioners.description.t5.normalize_text", True, "normalize_text=True, only False"),
    ("melody", f"{CHROMA}.radix2_exp", 40, rf"chroma_stem\.radix2_exp=40 {WHOLE}"),
    ("melody", f"{CHROMA}.winhop", -1, rf"chroma_stem\.winhop=-1 {WHOLE}"),
    ("melody", f"{CHROMA}.winlen", 512, r"chroma_stem\.winlen=512 is not known"),
    ("melody", f"{CHROMA}.norm", 2, r"chroma_stem\.norm=2 is not known"),
    ("melody", f"{CHROMA}.mystery", 1, r"chroma_stem\.mystery=1 is not known"),
    ("style", f"{STYLE}.n_q_out", HUGE, rf"style\.n_q_out={HUGE} {WHOLE}"),
    ("style", f"{STYLE}.ds_factor", 0, rf"style\.ds_factor=0 {WHOLE}"),
    ("style", f"{STYLE}.eval_q", 7, "xp.cfg: eval_q=7 must lie in 1..6"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "key", "value", "message"), IN_THE_LANGUAGE_MODEL)
def test_a_language_model_that_no_musicgen_is(
    kinds: dict[str, Path], tmp_path: Path, kind: str, key: str, value: Any, message: str
) -> None:
    folder = rewritten(kinds[kind], tmp_path / "model", "state_dict.bin", key, value)
    with pytest.raises(CheckpointError, match=rf"state_dict\.bin: .*{message}"):
        describe(str(folder))


IN_THE_CODEC = [
    ("seanet.lstm", 0, rf"seanet\.lstm=0 {WHOLE} 1 to 16"),
    ("seanet.lstm", HUGE, rf"seanet\.lstm={HUGE} {WHOLE}"),
    ("seanet.n_residual_layers", HUGE, rf"seanet\.n_residual_layers={HUGE} {WHOLE}"),
    ("seanet.ratios", [8, 5, 4, 0], rf"seanet\.ratios=0 {WHOLE}"),
    ("seanet.ratios", [2] * 40, r"seanet\.ratios=\[2, .* must be 1 to 16 strides"),
    ("seanet.ratios", 640, r"seanet\.ratios=640 must be a list"),
    ("seanet.activation_params.alpha", 0.5, r"seanet\.activation_params\.alpha=0\.5, only 1\.0"),
    ("seanet.decoder.n_filters", 8, r"seanet\.decoder\.n_filters=8: settings of one side alone"),
    ("seanet.causal", "yes", r"seanet\.causal='yes' must be true or false"),
    ("encodec.quantizer", "no_quant", r"encodec\.quantizer='no_quant', only 'rvq'"),
    ("encodec.sample_rate", 24_000, r"encodec\.sample_rate=24000, only 32000"),
    ("rvq.bins", HUGE, rf"rvq\.bins={HUGE} {WHOLE}"),
    ("rvq.n_q", 0, rf"rvq\.n_q=0 {WHOLE}"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value", "message"), IN_THE_CODEC)
def test_a_codec_that_no_encodec_is(
    kinds: dict[str, Path], tmp_path: Path, key: str, value: Any, message: str
) -> None:
    name = "compression_state_dict.bin"
    folder = rewritten(kinds["text"], tmp_path / "model", name, key, value)
    with pytest.raises(CheckpointError, match=rf"{name}: {message}"):
        describe(str(folder))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("seanet.n_filters", 4096, "num_filters=4096 with 4 upsampling_ratios needs tensors of"),
        ("seanet.dimension", 60_000, "hidden_size=60000 needs tensors of width 60000, the widest"),
        ("rvq.bins", 1 << 20, "codebook_size=1048576 needs tensors of width 1048576"),
    ],
)
def test_what_is_wider_than_its_file_takes_no_memory(
    kinds: dict[str, Path], tmp_path: Path, key: str, value: Any, message: str
) -> None:
    name = "compression_state_dict.bin"
    folder = rewritten(kinds["text"], tmp_path / "model", name, key, value)
    tracemalloc.start()
    with pytest.raises(CheckpointError, match=message):
        load(str(folder))
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()


def test_a_hop_of_the_chromagram_is_followed(kinds: dict[str, Path], tmp_path: Path) -> None:
    key, usual = f"{CHROMA}.winhop", describe(str(kinds["melody"])).chroma
    folder = rewritten(kinds["melody"], tmp_path / "model", "state_dict.bin", key, 2048)
    chroma = describe(str(folder)).chroma
    assert usual is not None
    assert chroma is not None
    assert (usual.hop_length, usual.chroma_length) == (1024, 1 + 64_000 // 1024)
    assert (chroma.hop_length, chroma.chroma_length) == (2048, 1 + 64_000 // 2048)


def test_styles_are_heard_by_the_models_own_encodec_or_not_at_all(
    kinds: dict[str, Path], tmp_path: Path
) -> None:
    folder, path = tmp_path / "model", tmp_path / "model" / "state_dict.bin"
    shutil.copytree(kinds["style"], folder)
    package = torch.load(path, weights_only=True)
    cfg = yaml.safe_load(package["xp.cfg"])
    cfg["conditioners"]["self_wav"]["style"]["model_name"] = "encodec"
    embed = "condition_provider.conditioners.self_wav.embed"
    state = {name: t for name, t in package["best_state"].items() if not name.startswith(embed)}
    state |= {f"{embed}.{k}.weight": torch.zeros(33, 256) for k in range(4)}
    for named, fits in (("//pretrained/facebook/encodec_32khz", True), ("//sig/0123abcd", False)):
        cfg["conditioners"]["self_wav"]["style"]["encodec_checkpoint"] = named
        torch.save({"best_state": state, "xp.cfg": yaml.safe_dump(cfg)}, path)
        if fits:
            style = describe(str(folder)).style
            assert style is not None
            assert style.features == "encodec"
            continue
        with pytest.raises(
            CheckpointError, match="encodec_checkpoint='//sig/0123abcd', but styles"
        ):
            describe(str(folder))


IN_CONFIG_JSON = [
    ("decoder.num_hidden_layers", HUGE, rf"decoder\.num_hidden_layers={HUGE} {WHOLE} 1 to 512"),
    ("decoder.hidden_size", 1.5, rf"decoder\.hidden_size=1\.5 {WHOLE}"),
    ("decoder.num_codebooks", 0, rf"decoder\.num_codebooks=0 {WHOLE}"),
    ("text_encoder.num_layers", HUGE, rf"text_encoder\.num_layers={HUGE} {WHOLE}"),
    ("audio_encoder.num_lstm_layers", 0, rf"audio_encoder\.num_lstm_layers=0 {WHOLE}"),
    ("audio_encoder.upsampling_ratios", [], r"audio_encoder\.\S+=\[\] must be 1 to 16"),
    ("max_duration_s", "long", "max_duration_s='long' must be a number of seconds"),
    ("own_stride_s", -1, "own_stride_s=-1 must be a number of seconds"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value", "message"), IN_CONFIG_JSON)
def test_a_config_json_that_no_musicgen_has(
    tmp_path: Path, key: str, value: Any, message: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(TINY_FOLDER, folder)
    config = json.loads((folder / "config.json").read_text())
    changed(config, key, value)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=rf"config\.json: {message}"):
        describe(str(folder))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("lm.n_layers", HUGE, rf"lm\.n_layers={HUGE} {WHOLE}"),
        ("lm.delays", [0, 1], r"lm\.delays=\[0, 1\] must be a list of 4 delays"),
        ("lm.fuse", "sum", "its `lm` is not one that this version knows .*fuse='sum'"),
        ("channels", 9, rf"channels=9 {WHOLE}"),
    ],
)
def test_our_own_layout(
    kinds: dict[str, Path], tmp_path: Path, key: str, value: Any, message: str
) -> None:
    mert = str(audiocraft.save_mert(tmp_path / "mert"))
    info = convert(ModelSource(str(kinds["style"]), style_encoder=mert), tmp_path / "own")
    path = Path(info.path) / "config.json"
    config = json.loads(path.read_text())
    changed(config, key, value)
    path.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=message):
        describe(info.path)


def test_heads_that_do_not_share_the_width(tmp_path: Path) -> None:
    save_text_model(tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text())
    config["decoder"]["num_attention_heads"] = 5
    path.write_text(json.dumps(config))
    with pytest.raises(
        CheckpointError, match=r"decoder\.hidden_size=32 must be even and a multiple"
    ):
        load(str(tmp_path / "model"))
