"""Limits on what a clip may measure: the `qc:` section of `job.yaml`.

They judge the audio as the model made it, before any gain, so no choice of level or format hides a
fault or makes one.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator


class QualityLimits(BaseModel):
    """Each limit is off unless it is given. A field is `max_` or `min_` and a column of `clips/`;
    a value that equals its limit passes."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    max_silence_ratio: float | None = Field(
        None, ge=0, le=1, description="Share of the clip that is silent (below -60 dBFS)."
    )
    max_early_silence_s: float | None = Field(
        None, ge=0, description="Seconds of silence at the end: music that stopped early."
    )
    max_clip_ratio: float | None = Field(
        None, ge=0, le=1, description="Share of samples at or beyond full scale."
    )
    max_dc_offset: float | None = Field(
        None, ge=0, le=1, description="Mean of the samples, either sign, in units of full scale."
    )
    min_rms_dbfs: float | None = Field(None, le=0, description="Root mean square.")
    min_loudness_lufs: float | None = Field(
        None, le=0, description="BS.1770 loudness; silence fails, clips below 0.4 s pass."
    )
    max_loudness_lufs: float | None = Field(None, description="BS.1770 loudness.")
    max_true_peak_dbtp: float | None = Field(
        None, description="Peak between samples; above 0 where the model overshoots."
    )
    max_spectral_flatness: float | None = Field(
        None, ge=0, le=1, description="Near 0 for a tone, 0.56 for white noise."
    )

    @model_validator(mode="after")
    def _can_be_met(self) -> "QualityLimits":
        low, high = self.min_loudness_lufs, self.max_loudness_lufs
        if low is not None and high is not None and low >= high:
            raise ValueError(
                f"min_loudness_lufs={low:g} is not below max_loudness_lufs={high:g}: "
                "no clip could pass"
            )
        return self

    def failed(self, made: Mapping[str, Any]) -> list[str]:
        """The checks that a clip fails, in words: measure, value, limit.

        Args:
            made: The fields of `Quality`, measured before any gain.
        """
        found = []
        for name, limit in self.model_dump(exclude_none=True).items():
            bound, _, measure = name.partition("_")
            value = made[measure]
            if value is None:  # only a loudness; one that is too short to have any can't fail
                if bound == "min" and made["loudness_reason"] == "silence":
                    found.append(f"{measure} is null for silence (qc.{name} {limit:g})")
                continue
            size = abs(value) if measure == "dc_offset" else value
            if size > limit if bound == "max" else size < limit:
                found.append(f"{measure} {value:.4g} (qc.{name} {limit:g})")
        return found
