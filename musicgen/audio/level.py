"""The level of one clip, by AudioCraft's strategies under its names."""

import logging
from typing import TypedDict, Unpack

import torch
from torch import Tensor

from musicgen.config import ArgumentError

logger = logging.getLogger(__name__)

SHORTEST_LOUDNESS_S = 0.4  # BS.1770 measures loudness in blocks of this length
ENERGY_FLOOR = 2e-3  # RMS below which audio counts as silence, which has no loudness


class RareLevel(TypedDict, total=False):
    """Parameters of `normalize_audio` that are given by name."""

    log_clipping: bool
    sample_rate: int | None
    stem_name: str | None


def normalize_audio(
    wav: Tensor,
    normalize: bool = True,
    strategy: str = "peak",
    peak_clip_headroom_db: float = 1,
    rms_headroom_db: float = 18,
    loudness_headroom_db: float = 14,
    loudness_compressor: bool = False,
    **rare: Unpack[RareLevel],
) -> Tensor:
    """Brings a clip [C, N] to the level of a strategy; silence stays as it is.

    Names, order and defaults are AudioCraft's; those after `loudness_compressor` are given by name.

    Args:
        wav: Float samples, 1.0 = full scale. They are never changed in place.
        normalize: False lets `peak` and `rms` turn down only what is too loud.
        strategy: `peak` brings the highest sample to `peak_clip_headroom_db` below full scale,
            `clip` cuts off what exceeds that, `rms` brings the root mean square of the mix of all
            channels to `rms_headroom_db` below it, `loudness` the loudness to
            -`loudness_headroom_db` LUFS; `none` and "" leave a clip within full scale as it is.
        peak_clip_headroom_db, rms_headroom_db, loudness_headroom_db: See `strategy`, in dB.
        loudness_compressor: Whether `loudness` bends what would be cut off (tanh).
        log_clipping: Whether a warning says how much `rms` and `loudness` cut off.
        sample_rate: In Hz; `loudness` needs it.
        stem_name: The name of the clip in that warning.

    Raises:
        ArgumentError: The strategy is unknown, `loudness` has no sample rate, or a clip that is to
            stay as it is exceeds full scale.
    """
    refuse_unknown("normalize_audio", rare, RareLevel)
    highest = float(wav.abs().max()) if wav.numel() else 0.0
    if strategy in ("", "none"):
        if highest >= 1:
            raise ArgumentError(
                f"strategy={strategy!r} leaves audio as it is, but its highest sample is "
                f"{highest:g} and the limit 1; take peak or clip"
            )
        return wav
    if strategy == "clip":
        limit = _factor(-peak_clip_headroom_db)
        return wav.clamp(-limit, limit)
    if strategy == "peak":
        return _turned(wav, highest, _factor(-peak_clip_headroom_db), normalize)
    if strategy == "rms":
        mixed = float(wav.mean(dim=0).square().mean().sqrt())
        levelled = _turned(wav, mixed, _factor(-rms_headroom_db), normalize)
    elif strategy == "loudness":
        rate_hz = rare.get("sample_rate")
        if rate_hz is None:
            raise ArgumentError("strategy='loudness' needs sample_rate=, in Hz")
        levelled = normalize_loudness(wav, rate_hz, loudness_headroom_db, loudness_compressor)
    else:
        raise ArgumentError(
            f"strategy={strategy!r} is unknown; choose peak, clip, rms, loudness or none"
        )
    if rare.get("log_clipping"):
        _warn_of_clipping(levelled, rare.get("stem_name") or "a clip")
    return levelled.clamp(-1, 1)


def normalize_loudness(
    wav: Tensor,
    sample_rate: int,
    loudness_headroom_db: float = 14,
    loudness_compressor: bool = False,
    energy_floor: float = ENERGY_FLOOR,
) -> Tensor:
    """Brings a clip [C, N] to -`loudness_headroom_db` LUFS (BS.1770, as torchaudio measures it).

    What is shorter than 0.4 s, silent, or below `energy_floor` (RMS) has no loudness and is
    returned as it is. `loudness_compressor` applies tanh to the result.
    """
    is_short = wav.shape[-1] < SHORTEST_LOUDNESS_S * sample_rate
    if is_short or float(wav.square().mean().sqrt()) < energy_floor:
        return wav
    from torchaudio.functional import loudness

    measured = float(loudness(wav, sample_rate))
    gain = _factor(-loudness_headroom_db - measured)
    if not 0 < gain < float("inf"):
        return wav
    return torch.tanh(wav * gain) if loudness_compressor else wav * gain


def refuse_unknown(function: str, given: object, known: type) -> None:
    """Raises the TypeError of Python for names that a function with `**rare` does not know."""
    assert isinstance(given, dict)
    unknown = sorted(given.keys() - known.__annotations__.keys())
    if unknown:
        raise TypeError(f"{function}() knows no argument {', '.join(unknown)}")


def _turned(wav: Tensor, level: float, wanted: float, always: bool) -> Tensor:
    """`wav` at the wanted level; without `always` it is only turned down. Silence stays."""
    if level == 0 or not (always or level > wanted):
        return wav
    return wav * (wanted / level)


def _warn_of_clipping(wav: Tensor, name: str) -> None:
    over = wav.abs() > 1
    if over.any():
        logger.warning(
            "%s: %.2f %% of the samples exceed full scale and are cut off, the highest is %.2f",
            name,
            100 * float(over.float().mean()),
            float(wav.abs().max()),
        )


def _factor(gain_db: float) -> float:
    return float(10.0 ** (gain_db / 20.0))
