"""CLAP on a tiny random checkpoint: real code of transformers, weights of no meaning."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipeline.audio.scores.checkpoints import identify
from pipeline.audio.scores.clap import ClapScorer
from pipeline.audio.scores.protocol import ScoredClip
from pipeline.audio.scores.scoring import open_embedder, open_scorer
from pipeline.audio.scores.settings import ScorerSpec
from tests.pipeline.audio.scores.checkpoints import RATE_HZ, WINDOW_S, write_clap

# transformers takes seconds to import.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clap(tmp_path_factory.mktemp("clap"))


@pytest.fixture(scope="module")
def clap(folder: Path) -> ClapScorer:
    scorer = open_scorer(ScorerSpec("clap", str(folder)))
    assert isinstance(scorer, ClapScorer)
    return scorer


def wav(seconds: float, seed: int = 0) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return rng.normal(0, 0.1, (1, round(seconds * RATE_HZ))).astype(np.float32)


def clip(seconds: float = WINDOW_S, prompt: str | None = "a flute", seed: int = 0) -> ScoredClip:
    return ScoredClip(wav(seconds, seed), RATE_HZ, prompt)


def test_the_score_is_the_cosine_that_transformers_computes(folder: Path, clap: ClapScorer) -> None:
    from transformers import AutoTokenizer, ClapFeatureExtractor, ClapModel

    model = ClapModel.from_pretrained(folder).eval()
    heard = ClapFeatureExtractor.from_pretrained(folder)(
        wav(WINDOW_S)[0], sampling_rate=RATE_HZ, return_tensors="pt"
    )
    told = AutoTokenizer.from_pretrained(folder)("a flute", return_tensors="pt")
    with torch.inference_mode():
        out = model(
            input_ids=told["input_ids"],
            attention_mask=told["attention_mask"],
            input_features=heard["input_features"].float(),
            is_longer=heard["is_longer"],
        )
        cosine = torch.nn.functional.cosine_similarity(out.audio_embeds, out.text_embeds)
    (score,) = clap.score([clip()])
    assert score == pytest.approx(float(cosine), abs=1e-5)


def test_a_score_depends_on_its_clip_alone(clap: ClapScorer) -> None:
    clips = [clip(0.4, "a flute", 1), clip(2.7, "bells and an organ", 2), clip(1.0, "a flute", 3)]
    together = clap.score(clips)
    assert together == [clap.score([each])[0] for each in clips]
    assert together == clap.score(clips)  # no crop is drawn
    assert len(set(together)) == 3
    assert all(score is not None and -1 <= score <= 1 for score in together)


def test_a_long_clip_is_heard_to_its_end(clap: ClapScorer) -> None:
    longer = clip(3 * WINDOW_S)
    other_end = replace(longer, wav=longer.wav.copy())
    other_end.wav[:, -RATE_HZ // 2 :] = 0
    assert clap.score([longer]) != clap.score([other_end])
    assert np.linalg.norm(clap.embed(longer)) == pytest.approx(1, abs=1e-6)


def test_without_a_prompt_there_is_no_score(clap: ClapScorer) -> None:
    assert clap.score([clip(prompt=None), clip(prompt="")]) == [None, None]


def test_a_prompt_longer_than_the_model_takes_is_cut(clap: ClapScorer) -> None:
    (score,) = clap.score([clip(prompt="flute " * 2000)])
    assert score is not None


def test_it_is_named_by_its_weights(folder: Path, clap: ClapScorer, tmp_path: Path) -> None:
    same, other = write_clap(tmp_path / "same"), write_clap(tmp_path / "other", seed=1)
    assert identify(ScorerSpec("clap", str(same))).digest == clap.identity.digest
    assert identify(ScorerSpec("clap", str(other))).digest != clap.identity.digest
    assert clap.identity.checkpoint == folder.name  # where it lies stays private


def test_it_places_clips_for_set_figures(folder: Path, clap: ClapScorer) -> None:
    embedder = open_embedder(f"clap={folder}")
    assert embedder.identity == clap.identity
    np.testing.assert_array_equal(embedder.embed(clip()), clap.embed(clip()))
