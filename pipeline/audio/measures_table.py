"""What is measured of every clip: name, unit, limits and words of each measure, declared once.

A field of `AudioMeasures` is a column of `clips/`. From its `Measure` follow that column, the
limits of `qc:` (`limits.QualityLimits`), the numbers in `report.html` and the table in the docs.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Annotated, Literal, get_args, get_type_hints


@dataclass(frozen=True)
class Limit:
    """One limit on a measure, which `qc:` may set.

    Attributes:
        bound: Whether the limit is the largest or the smallest value that passes.
        text: What the setting is about, for help texts and docs.
        ge, le: Smallest and largest value that the setting itself may have; None leaves it open.
    """

    bound: Literal["max", "min"]
    text: str
    ge: float | None = None
    le: float | None = None

    def name(self, measure: str) -> str:
        """The name of the setting below `qc:`."""
        return f"{self.bound}_{measure}"


@dataclass(frozen=True)
class Measure:
    """One measure of a clip.

    Attributes:
        label: Its name for people.
        unit: Of the value in the dataset; "" for text and plain numbers.
        text: What is measured.
        limits: The limits that it can have.
        absolute: Whether a limit judges the value without its sign, which the report shows then.
        percent: Whether the report shows a share of 0 to 1 in percent.
        decimals: Digits after the point in the report.
        name: The column. This and the next two come from the field that carries the measure.
        kind: float, or str for text.
        nullable: Whether a clip may have no such value.
    """

    label: str
    unit: str
    text: str
    limits: tuple[Limit, ...] = ()
    absolute: bool = False
    percent: bool = False
    decimals: int = 1
    name: str = ""
    kind: type = float
    nullable: bool = False

    def show(self, value: float) -> str:
        """A value as people read it, with its unit."""
        if self.percent:
            return f"{100 * value:.{self.decimals}f} %"
        sign = "+" if self.absolute else ""
        return f"{value:{sign}.{self.decimals}f} {self.unit}".rstrip()


@dataclass(frozen=True)
class AudioMeasures:
    """What one clip measures, over all channels together unless said.

    Nothing here is infinite or NaN. Where several limits are broken, messages name them in this
    order.
    """

    silence_ratio: Annotated[
        float,
        Measure(
            "Silence",
            "share, 0 to 1",
            "Share of 20 ms windows whose RMS is below -60 dBFS in every channel.",
            (Limit("max", "Share of the clip that is silent (below -60 dBFS).", ge=0, le=1),),
            percent=True,
        ),
    ]
    early_silence_s: Annotated[
        float,
        Measure(
            "Silence at the end",
            "s",
            "Silence that the clip ends with: music that stopped before its time.",
            (Limit("max", "Seconds of silence at the end: music that stopped early.", ge=0),),
        ),
    ]
    clip_ratio: Annotated[
        float,
        Measure(
            "Clipped samples",
            "share, 0 to 1",
            "Share of samples at or beyond full scale.",
            (Limit("max", "Share of samples at or beyond full scale.", ge=0, le=1),),
            percent=True,
            decimals=2,
        ),
    ]
    dc_offset: Annotated[
        float,
        Measure(
            "DC offset",
            "",
            "Mean of the channel whose mean is farthest from 0; 1 is full scale.",
            (
                Limit(
                    "max", "Mean of the samples, either sign, in units of full scale.", ge=0, le=1
                ),
            ),
            absolute=True,
            decimals=4,
        ),
    ]
    peak_dbfs: Annotated[
        float,
        Measure(
            "Peak",
            "dBFS",
            "Largest absolute sample; what is above 0 is cut off in the file.",
        ),
    ]
    rms_dbfs: Annotated[
        float,
        Measure(
            "RMS",
            "dBFS",
            "Root mean square: a full-scale square wave is 0, a full-scale sine -3.01.",
            (Limit("min", "Root mean square.", le=0),),
        ),
    ]
    loudness_lufs: Annotated[
        float | None,
        Measure(
            "Loudness",
            "LUFS",
            "Integrated loudness, ITU-R BS.1770-4; null where `loudness_reason` says why.",
            (
                Limit("min", "BS.1770 loudness; silence fails, clips below 0.4 s pass.", le=0),
                Limit("max", "BS.1770 loudness."),
            ),
        ),
    ]
    loudness_reason: Annotated[
        str | None,
        Measure(
            "Why there is no loudness",
            "",
            "Why the loudness is null: the clip is shorter than 0.4 s, or silence.",
        ),
    ]
    true_peak_dbtp: Annotated[
        float,
        Measure(
            "True peak",
            "dBTP",
            "Largest value, between the samples too, by BS.1770-4 annex 2.",
            (Limit("max", "Peak between samples; above 0 where the model overshoots."),),
        ),
    ]
    spectral_flatness: Annotated[
        float,
        Measure(
            "Flatness",
            "",
            "Geometric over arithmetic mean of the power spectrum, averaged over the frames that "
            "are not silent: near 0 for a tone, about 0.56 for white noise, 0 for silence.",
            (Limit("max", "Near 0 for a tone, 0.56 for white noise.", ge=0, le=1),),
            decimals=3,
        ),
    ]


def _declared() -> dict[str, Measure]:
    """The measures with what their fields say of them."""
    hints = get_type_hints(AudioMeasures, include_extras=True)
    found = {}
    for field in fields(AudioMeasures):
        annotated, measure = get_args(hints[field.name])
        kinds = set(get_args(annotated) or (annotated,))
        nullable = type(None) in kinds
        (kind,) = kinds - {type(None)}
        found[field.name] = replace(measure, name=field.name, kind=kind, nullable=nullable)
    return found


MEASURES = _declared()
"""The measures by column."""
