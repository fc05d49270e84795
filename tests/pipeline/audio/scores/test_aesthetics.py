"""The adapter of audiobox-aesthetics, on a stand-in of its interface (that of version 0.0.4): its
weights are 400 MB and lie on a hub that tests do not reach."""

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.audio.scores.checkpoints import identify
from pipeline.audio.scores.protocol import ScoredClip, ScorerError
from pipeline.audio.scores.scoring import open_scorer
from pipeline.audio.scores.settings import ScorerSpec


class Predictor:
    """`AesPredictor`: a batch of dicts with samples [C, N] and their rate; a dict of axes each."""

    def __init__(self, checkpoint: str | None) -> None:
        self.checkpoint, self.batches = checkpoint, list[int]()

    def forward(self, batch: list[dict[str, Any]]) -> list[dict[str, float]]:
        self.batches.append(len(batch))
        found = []
        for item in batch:
            assert isinstance(item["path"], torch.Tensor)
            assert item["path"].ndim == 2
            assert item["sample_rate"] == 16_000
            loud = float(item["path"].abs().mean())
            found.append({"CE": 1 + loud, "CU": 2 + loud, "PC": 9.0, "PQ": 3 + loud})
        return found


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> list[Predictor]:
    made: list[Predictor] = []

    def initialize_predictor(ckpt: str | None = None) -> Predictor:
        made.append(Predictor(ckpt))
        return made[-1]

    package, infer = ModuleType("audiobox_aesthetics"), ModuleType("audiobox_aesthetics.infer")
    package.__spec__ = ModuleSpec("audiobox_aesthetics", None)
    package.__path__ = []
    infer.initialize_predictor = initialize_predictor  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "audiobox_aesthetics", package)
    monkeypatch.setitem(sys.modules, "audiobox_aesthetics.infer", infer)
    return made


def test_the_score_is_the_mean_of_the_axes_on_which_more_is_better(
    stand_in: list[Predictor], tmp_path: Path
) -> None:
    weights = tmp_path / "checkpoint.pt"
    weights.write_bytes(b"weights")
    clips = [ScoredClip(np.full((2, 48_000), level, np.float32), 48_000) for level in (0.1, 0.5)]

    scorer = open_scorer(ScorerSpec("aesthetics", str(weights)))

    assert scorer.score(clips) == [pytest.approx(2.1, abs=1e-4), pytest.approx(2.5, abs=1e-4)]
    assert stand_in[0].checkpoint == str(weights)
    assert stand_in[0].batches == [1, 1]  # a clip's score does not depend on its mates
    assert scorer.identity.checkpoint == "checkpoint.pt"
    weights.write_bytes(b"other weights")
    assert identify(ScorerSpec("aesthetics", str(weights))).digest != scorer.identity.digest


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "audiobox_aesthetics", None)
    with pytest.raises(ScorerError, match=r"pip install 'musicgen-batch\[aesthetics\]'"):
        identify(ScorerSpec("aesthetics"))


def test_without_weights_it_says_how_to_get_them(stand_in: list[Predictor], tmp_path: Path) -> None:
    with pytest.raises(ScorerError, match="no scorer: `hf download nobody/nothing`"):
        identify(ScorerSpec("aesthetics", "nobody/nothing"))
    with pytest.raises(ScorerError, match=r"holds none of config\.json, "):
        identify(ScorerSpec("aesthetics", str(tmp_path)))
