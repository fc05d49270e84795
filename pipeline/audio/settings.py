"""The sections `audio:` and `quality:` of the job's settings: format, level and limits of clips."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from pipeline.audio.limits import QualityLimits
from pipeline.audio.scores.settings import ScoreSettings

AudioFormat = Literal["flac", "wav", "mp3", "ogg", "opus"]
Normalize = Literal["none", "clip", "peak", "rms", "loudness"]


class AudioSettings(BaseModel):
    """How clips become files: coding and level."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    audio_format: AudioFormat = Field(
        "flac", description="Audio coding; ogg = Vorbis; opus is resampled to 48 kHz."
    )
    audio_bits: Literal[16, 24] = Field(16, description="Bits per sample of FLAC and WAV.")
    mp3_kbps: int = Field(192, ge=32, le=320, description="Constant bitrate of MP3.")
    encode_threads: int = Field(
        4, ge=1, le=64, description="Clips that a replica measures and encodes side by side."
    )
    ogg_quality: float | None = Field(
        None, gt=0, le=1, description="Quality of Vorbis and Opus, up to 1; default the codec's."
    )
    normalize: Normalize = Field(
        "none", description="Level of the clips, as AudioCraft names it; none = the model's own."
    )
    peak_headroom_db: float = Field(
        1.0, ge=0, le=60, description="normalize=peak and clip: highest sample below full scale."
    )
    rms_headroom_db: float = Field(
        18.0, ge=0, le=60, description="normalize=rms: RMS below full scale."
    )
    target_lufs: float = Field(
        -14.0, ge=-60, le=0, description="normalize=loudness: BS.1770 loudness of the clips."
    )
    loudness_compressor: bool = Field(
        False, description="normalize=loudness: bend peaks with tanh, as AudioCraft can."
    )
    true_peak_dbtp: float = Field(
        0.0, ge=-20, le=20, description="Turn down what peaks above this, between samples too; "
        "20 = never, then what exceeds full scale is cut off."
    )  # fmt: skip


class QualitySettings(ScoreSettings):
    """What a clip must measure, what happens where it does not, and how clips are scored."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    qc: QualityLimits = Field(
        default_factory=QualityLimits,
        description="Limits on what a clip may measure, e.g. max_silence_ratio=0.5; off lifts one.",
    )
    qc_action: Literal["fail", "keep"] = Field(
        "fail", description="A clip past a limit: a dead letter, or kept and named in qc_failed."
    )
    max_retakes: int = Field(
        0, ge=0, le=20, description="Make a clip that fails QC again, with the next seed."
    )
