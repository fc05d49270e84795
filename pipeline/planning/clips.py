"""What a manifest row becomes: clips to make, or dead letters. These types travel through the job.

PromptRow + EffectiveParams ─► ClipSpec ─► PreparedClip ─► ClipTask ─► FinishedClip ─► clips/
                          └──► DeadLetter ───────────────────────────────────────────► failed/
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from manifests.row_errors import UnsuitableRowError
from manifests.schema import EffectiveParams
from musicgen.config import ArgumentError, WrongModelError
from pipeline.ledger.clip_row import DeadLetterRow


@dataclass(frozen=True)
class ClipSpec:
    """One take of one row: everything that determines its music, and how people find the row.

    Attributes:
        clip_id: Identity of the clip, see `manifests.identity.clip_id`.
        row_key: Identity of the row and take as written, under which a dead letter stands.
        id, prompt, seed: As the row has them.
        take: 0 to takes - 1.
        row: Number of the row over the whole manifest, from 0.
        source: File of the manifest that holds the row, as messages name it.
        params: Generation parameters after all defaults.
        seed_used: Seed of this take.
        references: Role (melody, continuation, style) to the token of the audio's content.
        reference_uris: Role to the URI as the dataset shows it, without what signs it.
        row_json: The row as people read it in a dead letter.
    """

    clip_id: str
    row_key: str
    id: str
    take: int
    row: int
    source: str
    prompt: str | None
    params: EffectiveParams
    seed: int | None
    seed_used: int
    references: Mapping[str, str]
    reference_uris: Mapping[str, str]
    row_json: str

    @property
    def where(self) -> str:
        """How messages name the row: `demo.parquet row 17 (id=ab12)`."""
        return f"{self.source} row {self.row} (id={self.id})"

    def to_json(self) -> str:
        """For the way from the prepare pool to a replica."""
        return json.dumps(vars(self) | {"params": vars(self.params)})

    @classmethod
    def from_json(cls, text: str) -> "ClipSpec":
        """The spec that `to_json` wrote."""
        fields = json.loads(text)
        return cls(**fields | {"params": EffectiveParams(**fields["params"])})

    def dead_letter(self, stage: str, error: Exception) -> "DeadLetter":
        """The dead letter of this take: it failed in `stage`."""
        return DeadLetter(
            row_key=self.row_key,
            clip_id=self.clip_id,
            id=self.id,
            take=self.take,
            row=self.row,
            source=self.source,
            stage=stage,
            error_class=error_class(error),
            message=f"{self.where}: {error}",
            row_json=self.row_json,
        )


@dataclass(frozen=True)
class JudgedTake:
    """What a take must know that is judged together with the other takes of its row.

    Attributes:
        ruling: Names how they are judged, see `pipeline.audio.scores.choose`.
        keep: How many are kept.
        stands: Whether its clip is committed already, and made again only to be judged.
    """

    ruling: str
    keep: int
    stands: bool = False


@dataclass(frozen=True)
class PlannedClip:
    """A clip to make, and where the audio that its row refers to lies.

    Attributes:
        references: Role to URI (relative ones count from `manifest_uri`) or embedded bytes.
        manifest_uri: The manifest's file that holds the row.
        judged: How it is judged with the other takes of its row; None: it is kept as it is.
    """

    spec: ClipSpec
    references: Mapping[str, str | bytes]
    manifest_uri: str
    judged: JudgedTake | None = None


@dataclass(frozen=True)
class DeadLetter:
    """A row, or one take of it, that can't be made; most fields are columns of `failed/`."""

    row_key: str
    clip_id: str | None
    id: str | None
    take: int | None
    row: int
    source: str
    stage: str
    error_class: str
    message: str
    row_json: str

    def to_json(self) -> str:
        """For the way from the prepare pool to a replica."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "DeadLetter":
        """The dead letter that `to_json` wrote."""
        return cls(**json.loads(text))

    def as_row(self, run_id: str, attempts: int = 1) -> DeadLetterRow:
        """The row of `failed/`.

        Args:
            attempts: How often the row has failed, this time included.
        """
        return DeadLetterRow(
            **vars(self), run_id=run_id, attempts=attempts, created_at=datetime.now(UTC)
        )


def error_class(error: Exception) -> str:
    """The name that failures are counted by; a ValueError of the engine is its refusal of a row
    that asks for what it can't do."""
    refusals = (ValueError, ArgumentError, WrongModelError)
    return UnsuitableRowError.__name__ if type(error) in refusals else type(error).__name__
