"""The page for people who come from AudioCraft: its scripts run, its table leaves no name out."""

import pkgutil
import re
from pathlib import Path
from typing import Any

import pytest
import soundfile as sf
import torch

from musicgen.checkpoints.convert import convert
from musicgen.config import ModelSource
from tests.docs.markdown import ROOT, blocks, table
from tests.musicgen import audiocraft_files

PAGE = "docs/from-audiocraft.md"
# Public names of AudioCraft 1.4's API of MusicGen, by module.
NAMES = {
    "models.musicgen, models.genmodel": """
        MusicGen BaseGenModel MelodyType MelodyList get_pretrained name compression_model lm cfg
        max_duration duration extend_stride device generation_params autocast frame_rate sample_rate
        audio_channels set_generation_params use_sampling top_k top_p temperature cfg_coef
        cfg_coef_beta two_step_cfg set_style_conditioner_params eval_q excerpt_length ds_factor
        encodec_n_q set_custom_progress_callback progress_callback generate descriptions progress
        return_tokens generate_unconditional num_samples generate_with_chroma melody_wavs
        melody_sample_rate generate_continuation prompt prompt_sample_rate generate_audio
        gen_tokens debug""",
    "models.lm, models.loaders": """
        LMModel LMOutput n_q num_codebooks card dim special_token_id pattern_provider
        condition_provider fuser emb transformer out_norm linears forward compute_predictions
        load_lm_model load_compression_model""",
    "models.encodec": """
        CompressionModel EncodecModel HFEncodecCompressionModel DAC WavTokenizer
        InterleaveStereoCompressionModel encode decode decode_latent channels cardinality
        total_codebooks set_num_codebooks per_timestep num_virtual_steps get_left_right_codes
        QuantizedResult""",
    "modules.codebooks_patterns": """
        LayoutCoord PatternLayout Pattern layout timesteps num_sequence_steps max_delay valid_layout
        get_sequence_coords_with_timestep get_steps_with_timestep get_first_step_with_timesteps
        build_pattern_sequence revert_pattern_sequence revert_pattern_logits
        keep_only_valid_steps CodebooksPatternProvider get_pattern DelayedPatternProvider delays
        flatten_first empty_initial ParallelPatternProvider UnrolledPatternProvider
        CoarseFirstPattern MusicLMPattern""",
    "modules.conditioners, modules.chroma": """
        ConditioningAttributes text wav joint_embed text_attributes wav_attributes
        joint_embed_attributes attributes to_flat_dict from_flat_dict WavCondition
        JointEmbedCondition nullify_wav T5Conditioner ChromaStemConditioner ChromaExtractor
        StyleConditioner ConditioningProvider ConditionFuser ClassifierFreeGuidanceDropout
        AttributeDropout LUTConditioner CLAPEmbeddingConditioner""",
    "data.audio, data.audio_utils, utils.notebook": """
        audio_info AudioFileInfo audio_read filepath seek_time pad audio_write stem_name format
        mp3_rate ogg_rate normalize strategy peak_clip_headroom_db rms_headroom_db
        loudness_headroom_db loudness_compressor log_clipping make_parent_dir add_suffix
        convert_audio from_rate to_rate to_channels convert_audio_channels normalize_audio
        normalize_loudness energy_floor f32_pcm i16_pcm compress get_mp3 get_aac get_spec
        save_spectrograms display_audio""",
}
ROWS = table(PAGE, "AudioCraft", "here", "difference")


@pytest.mark.parametrize("modules", NAMES)
def test_every_public_name_has_a_row(modules: str) -> None:
    told = {word for reference, *_ in ROWS for word in re.findall(r"\w+", reference)}
    assert set(NAMES[modules].split()) - told == set()


def test_every_name_of_ours_is_there_and_none_gives_a_reason() -> None:
    for reference, ours, difference in ROWS:
        assert difference, reference
        if ours == "none":
            assert len(difference) > 12, reference
        else:
            pkgutil.resolve_name(ours.strip("`"))


def test_every_import_is_one_that_python_makes() -> None:
    for theirs, ours in table(PAGE, "AudioCraft", "here"):
        assert theirs.startswith("`from audiocraft.")
        names = re.fullmatch(r"`from (musicgen[\w.]*) import ([\w, ]+)`", ours)
        assert names is not None, ours
        for name in names[2].split(", "):
            pkgutil.resolve_name(f"{names[1]}:{name}")
            assert name in theirs


@pytest.fixture
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The page's scripts with small models and short clips, in a folder with a tune."""
    mert = audiocraft_files.save_mert(tmp_path / "mert")
    style = audiocraft_files.save(tmp_path / "audiocraft-style", "style")
    convert(ModelSource(str(style), style_encoder=str(mert)), tmp_path / "style")
    monkeypatch.chdir(tmp_path)
    tune = torch.sin(torch.arange(2 * 22_050) * 0.1)
    sf.write("tune.wav", tune.numpy(), 22_050)
    short = {
        "facebook/musicgen-melody": "tiny",
        "facebook/musicgen-style": "./style",
        "duration=8": "duration=0.4",
    }
    found = blocks((ROOT / PAGE).read_text(), "python")
    for long, small in short.items():
        found = [block.replace(long, small) for block in found]
    return found


@pytest.mark.slow
def test_the_scripts_run_one_after_the_other(scripts: list[str]) -> None:
    names: dict[str, Any] = {}
    for script in scripts:
        exec(compile(script, PAGE, "exec"), names)
    assert [path.name for path in sorted(Path().glob("clip-*"))] == ["clip-0.wav", "clip-1.wav"]
    assert sf.info("clip-0.wav").duration == 0.4
    assert names["wav"].shape == names["again"].shape == names["free"].shape == (2, 1, 6400)
    assert names["longer"].shape == (1, 1, 6400)
    assert names["styled"].shape == (1, 1, 20 * 640)
    assert names["long"].shape == (1, 1, 19_200)
