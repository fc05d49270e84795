"""The evaluation itself: perfect music passes, music that ignores what it was told does not."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from musicgen import MusicGen
from musicgen.checkpoints.describe import TINY_FOLDER
from musicgen.tiny.evaluation.evaluate import CHOOSING, SHORT, Evaluation
from musicgen.tiny.training.card import write_card
from musicgen.tiny.training.export import TRAINING, is_trained, training_figures
from musicgen.tiny.training.figures import GOALS, SHORT_GOALS, Entry, Table, as_json, missed
from musicgen.tiny.training.recipe import LOG, what_was_made
from tests.musicgen.tiny.recipes import TOY

SMALL = replace(SHORT, pieces=16, voice_clips=10)


class Transparent(Evaluation):
    """An evaluation whose codec loses nothing and whose clips are given: no model is needed."""

    def __init__(self) -> None:
        self.shift_text = self.shift_melody = 0
        super().__init__(None, SMALL)  # type: ignore[arg-type]

    def through_codec(self, wav: Tensor) -> Tensor:
        return wav

    def generate(self, captions, melodies=None, *, prompts=None, cfg_coef=None):  # type: ignore[no-untyped-def]
        shift = self.shift_text if melodies is None else self.shift_melody
        return [self.clean[shift:] + self.clean[:shift]]


@pytest.fixture(scope="module")
def perfect() -> Transparent:
    return Transparent()


def _figures(evaluation: Evaluation) -> Table:
    return evaluation.by_text() | evaluation.by_melody() | evaluation.continuation()


def test_perfect_music_passes_and_beats_chance(perfect: Transparent) -> None:
    perfect.shift_text = perfect.shift_melody = 0
    table = _figures(perfect)
    assert not missed(table, {key: GOALS[key] for key in table})
    for key in ("in_scale_text", "in_scale_melody", "voice_accuracy", "continuation_in_key"):
        entry = table[key]
        assert entry.chance is not None
        assert entry.ceiling is not None
        assert entry.chance + 0.2 < entry.value <= entry.ceiling + 1e-9
    assert table["chroma_matched"].chance == table["chroma_shuffled"].value


def test_music_for_other_captions_or_melodies_is_caught(perfect: Transparent) -> None:
    perfect.shift_text, perfect.shift_melody = 3, 3
    table = _figures(perfect)
    wrong = missed(table, {key: goal for key, goal in SHORT_GOALS.items() if key in table})
    assert {"in_scale_text", "voice_accuracy", "in_scale_melody", "chroma_matched"} <= set(wrong)


def test_figures_are_written_with_their_goals(tmp_path: Path) -> None:
    table = {key: Entry(goal, None, None) for key, goal in GOALS.items()}
    assert missed(table) == []
    assert missed(table | {"joint_roughness": Entry(1.2, None, None)}) == ["joint_roughness"]
    no_gain = {"guidance_gain": Entry(0.0, 0.0, None)}
    assert missed(table | no_gain) == ["guidance_gain"]
    near = {"chroma_matched": Entry(0.81, 0.1, 0.9)}
    assert missed(table | no_gain | near) == []

    training = {**TOY.as_json(), "pieces_made": 12}
    (tmp_path / "config.json").write_text(json.dumps({TRAINING: training}))
    assert training_figures(tmp_path) == training_figures(tmp_path / "no folder") == {}
    other = as_json({"in_scale_text": Entry(0.77, None, None), **_trained(tmp_path, "fp32")})
    bf16 = as_json(_trained(tmp_path, "bf16"))
    write_card(tmp_path, as_json(table), {"7": other, "8": other, "9": bf16})
    card = (tmp_path / "README.md").read_text()
    assert "license: apache-2.0" in card
    assert "with other seeds (7 and 8 and 9)." in card
    assert "How many steps the model here made was not kept." in card
    assert "| in_scale_text | 0.8 | – | – | ≥ 0.8 | 0.77, 0.77 |" in card
    assert "| joint_roughness | 1.15 | – | – | ≤ 1.15 | – |" in card
    assert "| language_steps | – | – | – | – | 2,100, 2,100, 2,100 |" in card
    assert "| language_bits | – | – | – | – | 32, 32, 16 |" in card
    write_card(tmp_path, other, {"7": other})
    assert "was not kept" not in (tmp_path / "README.md").read_text()
    write_card(tmp_path, as_json(table))
    assert "| joint_roughness | 1.15 | – | – | ≤ 1.15 |\n" in (tmp_path / "README.md").read_text()
    write_card(tmp_path, {})
    assert "Not measured yet." in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize("kept", [{}, {"language_dtype": None}])
def test_a_training_that_kept_no_number_format_has_its_steps_alone(
    kept: dict[str, None], tmp_path: Path
) -> None:
    training = {"steps_made": {"language": 2000, "finish": 100}, **kept}
    (tmp_path / "config.json").write_text(json.dumps({TRAINING: training}))
    assert training_figures(tmp_path) == {"language_steps": Entry(2100, None, None)}
    (tmp_path / LOG).write_text(
        '{"stage": "language", "step": 3}\n{"stage": "finish", "step": 2}\n'
    )
    steps = {"language": 3, "finish": 2}
    assert what_was_made(tmp_path) == {"steps_made": steps, "language_dtype": None}


def _trained(folder: Path, dtype: str) -> Table:
    made = {"steps_made": {"language": 2000, "finish": 100}, "language_dtype": dtype}
    config = {TRAINING: {**TOY.as_json(), "pieces_made": 12, **made}}
    (folder / "config.json").write_text(json.dumps(config))
    return training_figures(folder)


shipped = pytest.mark.skipif(
    not is_trained(TINY_FOLDER),
    reason="the bundled checkpoint is untrained (no `training` in its config.json): `make tiny`",
)


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    return Evaluation(_model(), SHORT, CHOOSING)


def _model() -> MusicGen:
    return MusicGen.get_pretrained("tiny", device="cpu", max_slots=16)


def _short(evaluation: Evaluation, model: MusicGen, figures: tuple[str, ...]) -> list[str]:
    evaluation.model = model
    table = {
        name: entry for figure in figures for name, entry in getattr(evaluation, figure)().items()
    }
    return missed(table, {key: goal for key, goal in SHORT_GOALS.items() if key in table})


@shipped
@pytest.mark.long
def test_the_bundled_model_follows_text_and_melody(evaluation: Evaluation) -> None:
    assert _short(evaluation, _model(), ("by_text", "by_melody", "likelihood")) == []


def _text_ignored(model: MusicGen) -> None:
    model.text_encoder.encode = lambda prompt: None  # type: ignore[method-assign]


def _melody_ignored(model: MusicGen) -> None:
    null = torch.zeros(1, dtype=torch.long)
    model.melody_chroma = lambda *_, **__: null  # type: ignore[method-assign]


def _delays_shifted(model: MusicGen) -> None:
    # 20 ms of one codebook against another: the likelihood falls, no figure of the music hears it.
    model.lm.cfg = replace(model.lm.cfg, delays=(0, 0, 1, 2))


def _chroma_rotated(model: MusicGen) -> None:
    assert model.chroma is not None
    model.chroma.fbanks = model.chroma.fbanks.roll(1, dims=0)


@shipped
@pytest.mark.parametrize(
    ("plant", "figures"),
    [
        pytest.param(_text_ignored, ("by_text",), marks=pytest.mark.long),
        pytest.param(_melody_ignored, ("by_melody",), marks=pytest.mark.long),
        pytest.param(_delays_shifted, ("likelihood",), marks=pytest.mark.long),
        pytest.param(_chroma_rotated, ("by_melody",), marks=pytest.mark.long),
    ],
)
def test_a_broken_path_is_caught(evaluation: Evaluation, plant, figures) -> None:  # type: ignore[no-untyped-def]
    model = _model()
    plant(model)
    assert _short(evaluation, model, figures)


@shipped
@pytest.mark.long
def test_guidance_of_the_wrong_sign_is_caught(
    evaluation: Evaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = evaluation.scope.sampling
    wrong = replace(evaluation.scope, sampling=replace(right, cfg_coef=-right.cfg_coef))
    monkeypatch.setattr(evaluation, "scope", wrong)
    assert _short(evaluation, _model(), ("by_text", "by_melody"))
