"""The scorers of a job as the driver finds them, before anything is loaded."""

from pipeline.audio.scores.checkpoints import identify
from pipeline.audio.scores.protocol import ScorerError, ScorerIdentity
from pipeline.config import ConfigError, JobConfig
from pipeline.planning.expand import Judging


def identify_scorers(config: JobConfig) -> tuple[ScorerIdentity, ...]:
    """The scorers that the config names, in their order.

    Raises:
        ConfigError: One of them is not on this machine.
    """
    try:
        return tuple(identify(spec) for spec in config.quality.scorers)
    except ScorerError as error:
        raise ConfigError(str(error)) from error


def judging_of(config: JobConfig) -> Judging | None:
    """How the takes of a row are judged together; None where all of them are kept."""
    keep = config.quality.keep_best
    return None if keep is None else Judging(keep, identify_scorers(config)[0])
