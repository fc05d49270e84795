"""Why a row can't be made, in the words that `manifest check` prints and dead letters record.

The name of an error's class is what reports and metrics count failures by.
"""

from collections.abc import Collection

from manifests.schema import EffectiveParams


class RowError(ValueError):
    """A row can't be made; the message says where, what, the limit and the way out."""


class UnsuitableRowError(RowError):
    """The row asks for what this model can't do."""


class ReferenceNotFoundError(RowError):
    """Nothing lies where a reference points."""


class UnreachableReferenceError(RowError):
    """The store of a reference did not give it."""


class ForbiddenReferenceError(RowError):
    """A reference lies where it may not."""


class ChangedReferenceError(RowError):
    """What a reference points to is no longer what the clip was named after."""


class BadReferenceError(RowError):
    """What lies there is no audio that can be used."""


class CrashingReferenceError(RowError):
    """Reading a reference ended the process that did it."""


class SlowReferenceError(RowError):
    """Reading a reference took longer than it may."""


class GreedyReferenceError(RowError):
    """Reading a reference took more memory than it may."""


class UnexpectedRowError(RowError):
    """Something went wrong that no rule foresees; it is the program's error, of one row only."""


def check_role(role: str, model: str, roles: Collection[str]) -> None:
    """Raises UnsuitableRowError unless `role` is among the references that the model takes."""
    if role not in roles:
        raise UnsuitableRowError(
            f"{role} is not something that {model} takes (it takes {', '.join(sorted(roles))}); "
            "remove it or choose another --model"
        )


def no_room_after(continuation_s: float, params: EffectiveParams) -> UnsuitableRowError:
    """The error of a clip that its continuation fills to the end."""
    return UnsuitableRowError(
        f"continuation has {continuation_s:.2f} s, but duration_s={params.duration_s:g} includes "
        "it; raise duration_s or cut the audio"
    )


def check_audio_for_any_model(
    role: str, n_samples: int, rate_hz: int, params: EffectiveParams
) -> None:
    """Raises UnsuitableRowError where a continuation is no shorter than its clip.

    This is the rule for a manifest whose model is not known. A model counts in whole frames, so
    that the last 20 ms of a clip can make a difference.
    """
    if role == "continuation" and n_samples >= params.duration_s * rate_hz:
        raise no_room_after(n_samples / rate_hz, params)
