"""Settings: built-in < earlier run < job.yaml < flag, and faults that name the way out."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.cli.options import flags_of, given_flags
from pipeline.config import SECTIONS, SETTINGS, ConfigError, JobConfig
from pipeline.config_file import inherited_settings, load_config

NEEDED = {"manifest": "m.parquet", "output": "o", "model": "tiny"}


def test_flags_override_yaml_which_overrides_an_earlier_run(tmp_path: Path) -> None:
    yaml = tmp_path / "job.yaml"
    yaml.write_text(
        "engine: {slots: 3}\ncluster: {replicas: 3}\ngeneration: {top_k: 3, top_p: 0.3}\n"
    )
    earlier = {
        "engine": {"slots": 2},
        "cluster": {"replicas": 2},
        "parts": {"part_clips": 2},
        "generation": {"top_k": 2, "temperature": 0.2},
    }

    config = load_config(str(yaml), NEEDED | {"slots": 4, "top_k": 4}, earlier)

    assert (config.engine.slots, config.cluster.replicas, config.parts.part_clips) == (4, 3, 2)
    assert (config.generation.top_k, config.generation.top_p) == (4, 0.3)
    assert (config.generation.temperature, config.generation.duration_s) == (0.2, 10.0)


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        (
            "engine: {slots: many}",
            r"slots='many' must be a whole number .*, or auto; correct --slots or",
        ),
        ("- slots", r"holds a list; write `key: value`"),
        ("slots: [", r"is not YAML"),
        ("cluster: {replicas: 0}", r"cluster.replicas=0 must be at least 1"),
        (
            "run: {storage_options: {key: AKIA}}",
            r"storage option key: credentials are not accepted",
        ),
        ("run: {storage_options: {client_kwargs: {aws_secret_access_key: x}}}", r"aws_secret_acce"),
        ("run: {storage_options: {signing_key: x}}", r"option signing_key: credentials"),
        (
            "run: {storage_options: {endpoint_url: 'http://me:pw@host'}}",
            r"option endpoint_url: credent",
        ),
        ("generation: {duration_s: 9999}", r"generation.duration_s=9999.*3600"),
        (
            "audio: {audio_format: aac}",
            r"audio.audio_format='aac'.*'flac', 'wav', 'mp3', 'ogg' or 'opus'",
        ),
        ("audio: {normalize: loud}", r"audio.normalize='loud'.*'rms' or 'loudness'"),
        ("audio: {ogg_quality: 0}", r"audio.ogg_quality=0 must be more than 0"),
        ("quality: {max_retakes: -1}", r"quality.max_retakes=-1"),
        (
            "quality: {qc: {max_silence: 0.5}}",
            r"key quality.qc.max_silence; did you mean max_silence_ratio",
        ),
        (
            "quality: {qc: {max_silence_ratio: 50}}",
            r"qc.max_silence_ratio=50 exceeds 1; correct --qc",
        ),
        ("quality: {qc: {min_loudness_lufs: -9, max_loudness_lufs: -20}}", r"no clip could pass"),
        ("quality: {qc: strict}", r"qc is a str; write `key: value` lines below `qc:`"),
        ("parts: 64", r"parts is a int; write `key: value` lines below `parts:`"),
        ("modle: tiny", r"unknown key modle; did you mean model\?"),
        ("slotz: 3", r"unknown key slotz; did you mean slots in the section engine\?"),
        ("engine: {slotz: 3}", r"unknown key engine.slotz; did you mean slots\?"),
        ("cluster: {slots: 3}", r"unknown key cluster.slots; slots is in the section engine"),
        ("cluster: {slotz: 3}", r"cluster.slotz; did you mean slots in the section engine\?"),
        ("xyzzy: 3", r"unknown key xyzzy; known sections: model, generation, engine, "),
        ("parts: {xyzzy: 3}", r"key parts.xyzzy; known keys: part_clips, part_seconds, "),
    ],
)
def test_a_bad_file_is_one_clear_error(yaml: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(yaml)

    with pytest.raises(ConfigError, match=message):
        load_config(str(path), NEEDED)


def test_limits_of_job_yaml_and_flags_add_up_and_can_be_lifted(tmp_path: Path) -> None:
    yaml = tmp_path / "job.yaml"
    yaml.write_text("quality: {qc: {max_silence_ratio: 0.5, max_dc_offset: 0.1}}\n")
    flags = given_flags({"qc": ("max_dc_offset=off", "min_loudness_lufs=-40")})

    limits = load_config(str(yaml), NEEDED | flags).quality.qc

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

    assert config.tasks_in_flight(on_gpu=True) * block_rows >= 2 * slots + part_clips


@pytest.mark.parametrize(
    ("flat", "message"),
    [
        ("slots: 32", "slots is now in the section engine; write\n  engine:\n    slots: 32"),
        (
            "model: tiny\nslots: 2\naudio: parquet\ndtype: fp32",
            "slots is now in the section engine, audio is now in the section parts, dtype is now "
            "in the section engine; write\n  engine:\n    slots: 2\n    dtype: fp32\n  parts:\n"
            "    audio: parquet",
        ),
        ("qc: {max_dc_offset: 0.1}", "write\n  quality:\n    qc:\n      max_dc_offset: 0.1"),
    ],
)
def test_a_flat_file_is_refused_with_the_lines_to_write(
    flat: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(flat)

    with pytest.raises(ConfigError) as told:
        load_config(str(path), NEEDED)
    assert str(told.value).endswith(message)
    assert str(told.value).startswith(f"{path}: ")

    advice = str(told.value).partition("write\n")[2]
    path.write_text(advice)  # the indented lines are YAML as they stand
    assert load_config(str(path), NEEDED).model_fields_set > {"model", "run"}


@pytest.mark.parametrize(
    "flat",
    [
        "storage_options: {secret: hunter22}",
        "slots: 3\nstorage_options: {client_kwargs: {token: hunter22}}",
        "output: s3://me:hunter22@bucket/x",
    ],
)
def test_advice_on_a_flat_file_repeats_no_secret(flat: str, tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(flat)

    with pytest.raises(ConfigError, match="credentials are not accepted") as told:
        load_config(str(path), NEEDED)

    assert "hunter22" not in str(told.value)


def test_the_model_may_be_a_name_alone_beside_flags_of_its_section(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("model: someone/model\nrun: {max_runtime: 3600}\n")
    places = {"manifest": "m.parquet", "output": "o"}

    config = load_config(str(path), places | {"revision": "v2"})

    assert (config.model.name, config.model.revision) == ("someone/model", "v2")
    assert config.run.max_runtime_s == 3600
    assert JobConfig(model="tiny", run=places).model == JobConfig.of(**NEEDED).model


def test_a_config_of_flags_is_the_one_that_load_config_makes() -> None:
    flags: dict[str, Any] = NEEDED | {"slots": 2, "audio": "parquet", "audio_bits": 24, "top_k": 5}

    config = JobConfig.of(**flags, revision=None)

    assert config == load_config(None, flags)
    assert (config.parts.audio, config.audio.audio_bits, config.generation.top_k) == (
        "parquet",
        24,
        5,
    )
    with pytest.raises(ConfigError, match=r"no setting is named slotz; did you mean slots\?"):
        JobConfig.of(**NEEDED, slotz=2)


def test_a_copy_with_other_flags_keeps_the_rest() -> None:
    config = JobConfig.of(**NEEDED, slots=2, max_retakes=1)

    changed = config.with_flags(slots=3, run_id="20260131T120000-a1b2c3")

    assert (changed.engine.slots, changed.quality.max_retakes) == (3, 1)
    assert changed.run.run_id == "20260131T120000-a1b2c3"
    assert config.engine.slots == 2


def test_every_setting_has_one_place() -> None:
    keys = [key for model in SECTIONS.values() for key in model.model_fields]

    assert len(keys) == len(set(keys)) == len(SETTINGS)
    assert set(keys) - set(SETTINGS) == {"name"}
    assert list(SECTIONS) == list(JobConfig.model_fields)


@pytest.mark.parametrize("version", ["flat", "sections"])
def test_a_run_inherits_what_the_record_of_the_last_one_holds(version: str) -> None:
    told = JobConfig.of(**NEEDED, slots=3, audio="parquet", top_k=7, wait=True, max_retakes=2)
    recorded = told.model_dump(mode="json")
    if version == "flat":
        generation = recorded.pop("generation")
        recorded["model"]["model"] = recorded["model"].pop("name")
        recorded = {key: value for section in recorded.values() for key, value in section.items()}
        recorded |= {"generation": generation, "gone": 1}

    config = load_config(
        None, {"manifest": "n.parquet", "output": "p"}, inherited_settings(recorded)
    )

    expected = {"manifest": config.run.manifest, "output": config.run.output, "wait": False}
    assert config == told.with_flags(**expected)
    assert config.run.manifest.endswith("n.parquet")


class TestPlaceholders:
    """In the addresses of flags, and in every text of the settings file."""

    def test_they_are_filled_in_flags_and_in_the_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("STORE", "http://host:1")
        monkeypatch.setenv("SLOTS", "4")
        yaml = tmp_path / "job.yaml"
        yaml.write_text(
            "model: tiny\nengine: {slots: '${SLOTS}'}\n"
            "run:\n  output: s3://b/{run_id}\n  storage_options: {endpoint_url: '${STORE}'}\n"
        )
        config = load_config(str(yaml), {"manifest": "s3://b/{run_id}-{date}.parquet"})
        assert config.run.run_id is not None
        assert config.run.output == f"s3://b/{config.run.run_id}"
        assert config.run.manifest.startswith(f"s3://b/{config.run.run_id}-20")
        assert config.run.storage_options == {"endpoint_url": "http://host:1"}
        assert config.engine.slots == 4

    def test_an_id_that_is_given_is_the_one_that_is_filled_in(self) -> None:
        run_id = "20260131T120000-a1b2c3"
        config = load_config(None, NEEDED | {"output": "/o/{run_id}", "run_id": run_id})
        assert (config.run.output, config.run.run_id) == (f"/o/{run_id}", run_id)

    def test_without_them_no_id_is_drawn(self) -> None:
        assert load_config(None, NEEDED).run.run_id is None

    @pytest.mark.parametrize(
        ("yaml", "flags", "words"),
        [
            ("run: {output: 's3://b/{day}'}", {}, r"job.yaml: run.output: \{day\} is not known"),
            ("run: {output: 's3://${NO}/x'}", {}, r"job.yaml: run.output: .* NO is not set"),
            ("run: {storage_options: {a: {b: '${NO}'}}}", {}, r"run.storage_options.a.b: .* NO is"),
            ("", {"manifest": "m-{day}.parquet"}, r"--manifest m-\{day\}.parquet: \{day\} is not"),
            ("run: {storage_options: {a: '${MY_TOKEN}'}}", {}, "looks like a credential"),
        ],
    )
    def test_what_can_not_be_filled_is_refused_with_its_place(
        self, tmp_path: Path, yaml: str, flags: dict[str, Any], words: str
    ) -> None:
        path = tmp_path / "job.yaml"
        path.write_text(yaml)
        with pytest.raises(ConfigError, match=words):
            load_config(str(path), NEEDED | flags)

    def test_flags_for_another_machine_are_filled_once(self) -> None:
        config = load_config(None, NEEDED | {"output": "/o/{{date}}"})
        assert config.run.output == "/o/{date}"
        flags = dict(flag[2:].split("=", 1) for flag in flags_of(config))
        assert load_config(None, flags).run.output == "/o/{date}"
