"""`--score` and `--keep-best`: what may be written, and what is said of what may not."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from pipeline.audio.scores.checkpoints import identify
from pipeline.audio.scores.protocol import ScorerError
from pipeline.audio.scores.scoring import open_embedder, open_scorer
from pipeline.audio.scores.settings import ScorerSpec, ScoreSettings, needs_tunes
from pipeline.audio.scores.table import SCORERS
from pipeline.ledger.clip_row import ClipScores


def test_scorers_are_read_in_their_order_and_folders_become_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "clap").mkdir()
    monkeypatch.chdir(tmp_path)

    settings = ScoreSettings(score=" melody , clap=clap,key", keep_best=2)

    clap = ScorerSpec("clap", str(tmp_path / "clap"))
    assert settings.scorers == (ScorerSpec("melody"), clap, ScorerSpec("key"))
    assert settings.score == f"melody,clap={tmp_path}/clap,key"
    assert needs_tunes(settings.scorers)
    assert not needs_tunes((ScorerSpec("key"),))
    assert ScoreSettings().scorers == ()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"score": "melodie"}, "no scorer is named 'melodie'; known: melody, key"),
        ({"score": ""}, "no scorer is named ''"),
        ({"score": "key,key"}, "key stands there twice; name it once"),
        ({"score": "key=x"}, "key has no checkpoint to choose; write key alone"),
        ({"keep_best": 1}, "keep_best needs a scorer that judges the takes"),
        ({"score": "key", "keep_best": 0}, "greater than or equal to 1"),
    ],
)
def test_what_is_wrong_is_said(given: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said.replace("(", r"\(")):
        ScoreSettings.model_validate(given)


def test_every_scorer_has_a_column() -> None:
    assert {f"score_{name}" for name in SCORERS} | {"scorers"} == set(vars(ClipScores()))


def test_what_is_built_in_is_named_by_its_version() -> None:
    names = ("melody", "key", "tempo", "voice")
    found = {name: identify(ScorerSpec(name)) for name in names}
    assert len({identity.digest for identity in found.values()}) == len(names)
    assert all(identity.checkpoint == "built in" for identity in found.values())


def test_a_scorer_that_is_not_here_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(ScorerError, match="clap=nobody/nothing is neither a folder nor in the cac"):
        identify(ScorerSpec("clap", "nobody/nothing"))
    with pytest.raises(ScorerError, match=r"a sub-model needs config\.json"):
        identify(ScorerSpec("clap", str(tmp_path)))
    with pytest.raises(ScorerError, match="no embedder is named 'melody'; known: clap, spectrum"):
        open_embedder("melody")


def test_another_checkpoint_than_the_drivers_is_refused() -> None:
    driver = identify(ScorerSpec("key"))
    assert open_scorer(ScorerSpec("key"), driver).identity == driver
    with pytest.raises(ScorerError, match="give every node the same checkpoint"):
        open_scorer(ScorerSpec("tempo"), driver)
