"""Limits on what a clip may measure: the `qc:` section of `job.yaml`.

They judge the audio as the model made it, before any gain, so no choice of level or format hides a
fault or makes one. Which limits there are follows from `MEASURES`.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator

from pipeline.audio.measures_table import MEASURES, AudioMeasures, Limit, Measure


def each_limit() -> Iterator[tuple[str, Measure, Limit]]:
    """Every limit that can be set: its name below `qc:`, its measure, what it says."""
    for measure in MEASURES.values():
        for limit in measure.limits:
            yield limit.name(measure.name), measure, limit


def _fields() -> dict[str, Any]:
    """The fields of `QualityLimits`, as pydantic's `create_model` takes them."""
    return {
        name: (float | None, Field(None, ge=limit.ge, le=limit.le, description=limit.text))
        for name, _, limit in each_limit()
    }


if TYPE_CHECKING:
    _Limits = BaseModel
else:
    _Limits = create_model("_Limits", **_fields())


class QualityLimits(_Limits):
    """Each limit is off unless it is given. A field is `max_` or `min_` and a column of `clips/`;
    a value that equals its limit passes."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="after")
    def _can_be_met(self) -> "QualityLimits":
        given = self.model_dump(exclude_none=True)
        for name in MEASURES:
            low, high = given.get(f"min_{name}"), given.get(f"max_{name}")
            if low is not None and high is not None and low >= high:
                raise ValueError(
                    f"min_{name}={low:g} is not below max_{name}={high:g}: no clip could pass"
                )
        return self

    def failed(self, made: AudioMeasures) -> list[str]:
        """The checks that a clip fails, in words: measure, value, limit.

        Args:
            made: What the clip measures before any gain.
        """
        given = self.model_dump(exclude_none=True)
        found = []
        for name, measure, limit in each_limit():
            if name not in given:
                continue
            value, allowed = getattr(made, measure.name), given[name]
            if value is None:  # only a loudness; one that is too short to have any can't fail
                if limit.bound == "min" and made.loudness_reason == "silence":
                    found.append(f"{measure.name} is null for silence (qc.{name} {allowed:g})")
                continue
            judged = abs(value) if measure.absolute else value
            if judged > allowed if limit.bound == "max" else judged < allowed:
                found.append(f"{measure.name} {value:.4g} (qc.{name} {allowed:g})")
        return found
