"""A melody that is read in blocks, and cut after what the clip hears, gives the same pitch classes
as the whole file in memory."""

import io

import numpy as np
import pytest
import soundfile as sf
import torch

from manifests.audio_file import decode_reference, open_audio
from musicgen.checkpoints.describe import describe
from musicgen.conditioning.chroma import ChromaExtractor
from musicgen.config import ModelSource
from musicgen.windows import plan_windows
from pipeline.prepare.analysis import ReferenceAnalyzer


@pytest.mark.slow
@pytest.mark.parametrize("n_windows", [1, 3])
@pytest.mark.parametrize(
    ("rate_hz", "channels", "duration_s"),
    [(44_100, 2, 70), (48_000, 1, 70), (16_000, 3, 70), (22_050, 8, 4), (32_000, 6, 20)],
)
def test_blocks_give_the_pitch_classes_of_the_whole(
    rate_hz: int, channels: int, duration_s: int, n_windows: int
) -> None:
    info = describe(ModelSource("tiny"))
    assert info.chroma is not None
    window = round(info.max_duration_s * info.frame_rate_hz)
    stride = round(0.6 * window)
    windows = plan_windows(window + (n_windows - 1) * stride, window=window, stride=stride)
    assert len(windows) == n_windows
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (duration_s * rate_hz, channels))
    sf.write(buffer, noise, rate_hz, format="WAV")
    data = buffer.getvalue()

    wav = torch.from_numpy(decode_reference(data, "noise")[0])
    extractor = ChromaExtractor(info.chroma)
    frames = {"frame_rate_hz": info.frame_rate_hz, "window_frames": window}
    if n_windows == 1:
        whole = extractor(wav, rate_hz)
    else:
        whole = extractor.windows(wav, rate_hz, windows, **frames)
    analyzer = ReferenceAnalyzer(info, None, window)
    with open_audio(data, "noise") as audio:
        mono = analyzer.mono(audio, windows)
    in_blocks = analyzer.melody(mono, windows)

    assert np.array_equal(in_blocks, whole.numpy())
    if duration_s == 70:
        assert mono.shape[-1] < duration_s * info.chroma.sample_rate_hz
