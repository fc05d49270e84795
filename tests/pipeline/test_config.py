"""Settings: built-in < earlier run < job.yaml < flag, and faults that name the way out."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.cli.options import given_flags
from pipeline.config import ConfigError
from pipeline.config_file import load_config

NEEDED = {"manifest": "m.parquet", "output": "o", "model": "tiny"}


def test_flags_override_yaml_which_overrides_an_earlier_run(tmp_path: Path) -> None:
    yaml = tmp_path / "job.yaml"
    yaml.write_text("slots: 3\nreplicas: 3\ngeneration: {top_k: 3, top_p: 0.3}\n")
    earlier = {"slots": 2, "replicas": 2, "part_clips": 2, "generation": {"top_k": 2}}

    config = load_config(str(yaml), NEEDED | {"slots": 4, "top_k": 4}, earlier)

    assert (config.slots, config.replicas, config.part_clips) == (4, 3, 2)
    assert (config.generation.top_k, config.generation.top_p) == (4, 0.3)
    assert config.generation.duration_s == 10.0


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        (
            "slots: many",
            r"slots='many' must be a whole number .*, or auto; correct --slots or",
        ),
        ("- slots", r"holds a list; write `key: value`"),
        ("slots: [", r"is not YAML"),
        ("replicas: 0", r"replicas=0 must be at least 1"),
        ("storage_options: {key: AKIA}", r"storage option key: credentials are not accepted"),
        ("storage_options: {client_kwargs: {aws_secret_access_key: x}}", r"aws_secret_access_key"),
        ("storage_options: {endpoint_url: 'http://me:pw@host'}", r"option endpoint_url: credent"),
        ("generation: {duration_s: 9999}", r"generation.duration_s=9999.*3600"),
        ("audio_format: aac", r"audio_format='aac'.*'flac', 'wav', 'mp3', 'ogg' or 'opus'"),
        ("normalize: loud", r"normalize='loud'.*'rms' or 'loudness'"),
        ("ogg_quality: 0", r"ogg_quality=0 must be more than 0"),
        ("max_retakes: -1", r"max_retakes=-1"),
        ("qc: {max_silence: 0.5}", r"unknown key qc.max_silence; did you mean max_silence_ratio"),
        ("qc: {max_silence_ratio: 50}", r"qc.max_silence_ratio=50 exceeds 1; correct --qc"),
        ("qc: {min_loudness_lufs: -9, max_loudness_lufs: -20}", r"no clip could pass"),
        ("qc: strict", r"qc is a str; write `key: value` lines below `qc:`"),
    ],
)
def test_a_bad_file_is_one_clear_error(yaml: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(yaml)

    with pytest.raises(ConfigError, match=message):
        load_config(str(path), NEEDED)


def test_limits_of_job_yaml_and_flags_add_up_and_can_be_lifted(tmp_path: Path) -> None:
    yaml = tmp_path / "job.yaml"
    yaml.write_text("qc: {max_silence_ratio: 0.5, max_dc_offset: 0.1}\n")
    flags = given_flags({"qc": ("max_dc_offset=off", "min_loudness_lufs=-40")})

    limits = load_config(str(yaml), NEEDED | flags).qc

    assert limits.model_dump(exclude_none=True) == {
        "max_silence_ratio": 0.5,
        "min_loudness_lufs": -40.0,
    }


@pytest.mark.parametrize(
    ("slots", "part_clips", "block_rows"), [(2, 8, 4), (32, 64, 8), (1, 1, 8), (8, 1000, 16)]
)
def test_enough_rows_are_in_flight(slots: int, part_clips: int, block_rows: int) -> None:
    """Twice the slots keep them full; a part more must fit, since tasks end with their commit."""
    flags: dict[str, Any] = {"slots": slots, "part_clips": part_clips, "block_rows": block_rows}

    config = load_config(None, NEEDED | flags)

    assert config.tasks_in_flight * block_rows >= 2 * slots + part_clips
