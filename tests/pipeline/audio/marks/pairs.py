"""Keys, certificates and encoded music for the tests of marks."""

import numpy as np
import pytest

from pipeline.audio.encode import Coding, encode
from pipeline.audio.marks.credentials import CERTIFICATE, KEY
from pipeline.audio.marks.trial_pair import TrialPair, make_trial_pair
from pipeline.audio.settings import AudioFormat


@pytest.fixture(scope="session")
def pair() -> TrialPair:
    """One pair for all tests that need no other."""
    return make_trial_pair()


@pytest.fixture
def no_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment without keys."""
    for name in (KEY, CERTIFICATE):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def with_pair(pair: TrialPair, monkeypatch: pytest.MonkeyPatch) -> TrialPair:
    """An environment that holds the pair as PEM text."""
    monkeypatch.setenv(KEY, pair.key.decode())
    monkeypatch.setenv(CERTIFICATE, pair.chain.decode())
    return pair


def music(fmt: AudioFormat) -> bytes:
    """A quarter of a second of noise as a file, with the tags that clips have."""
    coding = Coding(fmt)
    wav = np.random.default_rng(0).uniform(-0.5, 0.5, (1, 8000)).astype(np.float32)  # [C, N]
    return encode(wav, coding.rate_hz(32_000), coding, comment='{"clip_id":"c"}', title="Träume")
