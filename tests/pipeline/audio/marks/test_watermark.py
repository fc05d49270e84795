"""The adapter of AudioSeal, on a stand-in of its interface: its own weights were never run here."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.audio.marks.settings import MarksError, MarksSettings
from pipeline.audio.marks.watermark import Watermark, load_watermark
from tests.pipeline.audio.marks.audioseal_stand_in import MODEL_HZ, Generator, install


def wav(n_samples: int, channels: int = 1) -> NDArray[np.float32]:
    rng = np.random.default_rng(3)
    return rng.uniform(-0.5, 0.5, (channels, n_samples)).astype(np.float32)  # [C, N]


def levels_db(mark: NDArray[np.float32], rate_hz: int) -> dict[int, float]:
    """How strong each tone of the stand-in is."""
    spectrum = np.abs(np.fft.rfft(mark)) / len(mark) * 2
    bins = {bit: round((500 + 50 * bit) * len(mark) / rate_hz) for bit in range(16)}
    return {bit: 20 * math.log10(spectrum[at] + 1e-12) for bit, at in bins.items()}


@pytest.mark.parametrize(
    ("rate_hz", "channels"), [(32_000, 1), (32_000, 2), (16_000, 1), (44_100, 1)]
)
def test_only_the_mark_is_resampled_and_the_clip_keeps_its_rate(
    rate_hz: int, channels: int
) -> None:
    mark_with = Watermark(Generator(), message=0b1000_0000_0000_0001)
    clip = wav(rate_hz, channels)

    marked = mark_with(clip, rate_hz)

    assert (marked.shape, marked.dtype) == (clip.shape, clip.dtype)
    for channel in marked - clip:
        found = levels_db(channel, rate_hz)
        assert [bit for bit in range(16) if found[bit] > -60] == [0, 15]
        assert found[0] == pytest.approx(20 * math.log10(0.01), abs=0.1)


def test_strength_is_a_factor_and_the_message_is_ours_to_choose() -> None:
    clip = wav(16_000)
    weak, strong = (Watermark(Generator(), strength, 5)(clip, MODEL_HZ) for strength in (0.5, 2.0))
    np.testing.assert_allclose(strong - clip, 4 * (weak - clip), atol=1e-6)
    other = Watermark(Generator(), 0.5, 6)(clip, MODEL_HZ)
    assert not np.allclose(weak, other)
    np.testing.assert_array_equal(weak, Watermark(Generator(), 0.5, 5)(clip, MODEL_HZ))


@pytest.mark.parametrize("seconds", [0.1, 30.5, 31.5, 65])
def test_long_clips_are_marked_in_pieces(seconds: float) -> None:
    generator = Generator()
    clip = wav(int(seconds * MODEL_HZ))

    marked = Watermark(generator, message=1)(clip, MODEL_HZ)

    pieces = [shape[2] for shape, _ in generator.seen]
    assert sum(pieces) == clip.shape[1]
    assert max(pieces) <= 31 * MODEL_HZ
    assert len(pieces) == 1 or min(pieces) >= MODEL_HZ
    assert np.abs(marked - clip).max() > 0.005


def test_it_is_named_with_a_hash_of_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, Generator())
    loaded = load_watermark(MarksSettings(watermark="audioseal", watermark_strength=0.7))
    assert loaded is not None
    assert loaded.name.startswith("audioseal_wm_16bits (audioseal ")
    assert loaded.strength == 0.7
    other = Generator()
    other.level.data += 1
    assert Watermark(other).name != loaded.name
    assert load_watermark(MarksSettings()) is None


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.audio.marks.settings.find_spec", lambda name: None)
    with pytest.raises(MarksError, match=r"pip install 'musicgen-batch\[watermark\]'"):
        load_watermark(MarksSettings(watermark="audioseal"))


def test_without_weights_it_says_where_they_are_looked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install(monkeypatch, OSError("no route to host"))
    monkeypatch.setenv("AUDIOSEAL_CACHE_DIR", "/srv/weights")
    says = r"\(OSError: no route to host\); .* looks for them in /srv/weights/audioseal"
    with pytest.raises(MarksError, match=says):
        load_watermark(MarksSettings(watermark="audioseal"))
    monkeypatch.delenv("AUDIOSEAL_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", "/srv/cache")
    with pytest.raises(MarksError, match="/srv/cache/audioseal"):
        load_watermark(MarksSettings(watermark="audioseal"))


def test_what_the_mark_depends_on_is_its_identity() -> None:
    def identity(**settings: object) -> str | None:
        return MarksSettings.model_validate(settings).watermark_identity

    assert identity() is None
    assert identity(watermark_strength=2.0, watermark_message=3, c2pa="off") is None
    same = [identity(watermark="audioseal", c2pa=mode) for mode in ("auto", "off")]
    assert same == ["audioseal_wm_16bits strength=1.0 message=0"] * 2
    assert identity(watermark="audioseal", watermark_strength=2) not in same
    assert identity(watermark="audioseal", watermark_message=2) not in same
