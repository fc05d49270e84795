"""One manifest row becomes its clips (identity, seed, effective parameters) or a dead letter.

The driver uses this to count and the prepare pool to work, so both always agree.
"""

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal

from manifests import identity
from manifests.reader import Manifest, RowGroup
from manifests.row_errors import RowError, check_role
from manifests.schema import (
    COLUMNS,
    EffectiveParams,
    GenerationDefaults,
    PromptRow,
    effective,
    parse_row,
    resolve_uri,
)
from manifests.uris.references import identify_reference
from pipeline.ledger import SETTLED, DoneSet
from pipeline.storage import redact

Outcome = Literal["pending", "done", "standing", "refused", "unasked"]


@dataclass(frozen=True)
class ModelLimits:
    """What a plan must know of a model; plain data, so that no torch is needed."""

    name: str
    weights_hash: str
    roles: frozenset[str]  # references that the model takes
    separation: str | None = None  # what melodies are heard through; None: the plain mix


@dataclass(frozen=True)
class PlanSpec:
    """What turns a row into clips, apart from the row."""

    manifest: Manifest
    defaults: GenerationDefaults
    limits: ModelLimits
    storage_options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Clip:
    """One take of one row, with everything that determines its music."""

    clip_id: str
    row_key: str
    take: int
    seed_used: int
    row_number: int
    source: str  # file of the manifest that holds the row, as messages name it
    row: PromptRow
    params: EffectiveParams
    references: dict[str, str]  # role to token


@dataclass(frozen=True)
class DeadLetter:
    """A row (or one take of it) that can't be made, for `failed/`."""

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

    def record(self, run_id: str, attempts: int = 1) -> dict[str, Any]:
        """The row of `failed/`."""
        return asdict(self) | {
            "attempts": attempts,
            "run_id": run_id,
            "created_at": datetime.now(UTC),
        }


@dataclass(frozen=True)
class Selection:
    """Which clips this run is to make, given what stands in the ledger."""

    known: DoneSet
    retry: bool = False  # only rows whose dead letter stands, instead of all but those

    def judge_key(self, row_key: str) -> Outcome | None:
        """Decided by the row alone, without touching a reference; None: ask `judge_clip`."""
        if self.known.has_letter(row_key) == self.retry:
            return None
        return "unasked" if self.retry else "standing"

    def judge_clip(self, clip_id: str) -> Outcome:
        return "done" if self.known.contains(clip_id) else "pending"


class Expander:
    """Rows to clips and dead letters. Not for several threads at once where references repeat
    (the token of one URI would be asked for twice, with the same answer)."""

    def __init__(self, spec: PlanSpec) -> None:
        self.spec = spec
        self._first_rows = [row_group.first_row for row_group in spec.manifest.row_groups]
        self._tokens: dict[str, str] = {}

    def row_group_of(self, number: int) -> RowGroup:
        """The part of the manifest that holds row `number`."""
        return self.spec.manifest.row_groups[bisect_right(self._first_rows, number) - 1]

    def expand(
        self, raw: Mapping[str, Any], number: int, repeat: int, selection: Selection
    ) -> Iterator[tuple[Outcome, Clip | DeadLetter | None]]:
        """Everything that one manifest row asks for.

        Args:
            raw: Columns of the row.
            number: 0-based over the whole manifest.
            repeat: 0, or how many rows with this id stood before it.
            selection: What stands in the ledger already.

        Yields:
            An outcome per take, with the clip where it is pending and the dead letter where it is
            refused.
        """
        row_group = self.row_group_of(number)
        row, issues = parse_row(raw, source=row_group.source, row=number)
        if row is None or repeat:
            message = "; ".join(issue.message for issue in issues)
            if row is not None:
                message = (
                    f"{row_group.source} row {number} (id={row.id}): id repeats that of an earlier "
                    "row; give each row its own id, or use `takes` for variants"
                )
            yield self._dead_letter_of_row(raw, row, number, repeat, message, selection)
            return
        params = effective(row, self.spec.defaults)
        determining = self._determining(row, params)
        for take in range(row.takes):
            key = identity.row_key(
                row.as_written(),
                take=take,
                params=determining,
                model_hash=self.spec.limits.weights_hash,
            )
            decided = selection.judge_key(key)
            if decided is not None:
                yield decided, None
                continue
            try:
                clip = self._clip(row, row_group, number, take, key, params)
            except RowError as error:
                yield (
                    "refused",
                    dead_letter_of_take(row, row_group.source, number, take, key, None, error),
                )
            else:
                outcome = selection.judge_clip(clip.clip_id)
                if outcome == "done" and selection.retry:
                    yield outcome, withdrawn_dead_letter(clip)
                else:
                    yield outcome, clip if outcome == "pending" else None

    def _dead_letter_of_row(
        self,
        raw: Mapping[str, Any],
        row: PromptRow | None,
        number: int,
        repeat: int,
        message: str,
        selection: Selection,
    ) -> tuple[Outcome, DeadLetter | None]:
        known = {name: raw[name] for name in COLUMNS if raw.get(name) is not None}
        key = identity.row_key(
            known, take=None, params=None, model_hash=self.spec.limits.weights_hash, repeat=repeat
        )
        decided = selection.judge_key(key)
        if decided is not None:
            return decided, None
        id = row.id if row is not None else known.get("id")
        return "refused", DeadLetter(
            row_key=key,
            clip_id=None,
            id=None if id is None else str(id),
            take=None,
            row=number,
            source=self.row_group_of(number).source,
            stage="manifest",
            error_class="DuplicateId" if row is not None else "InvalidRow",
            message=redact(message),
            row_json=_row_json(known),
        )

    def _clip(
        self,
        row: PromptRow,
        row_group: RowGroup,
        number: int,
        take: int,
        key: str,
        params: EffectiveParams,
    ) -> Clip:
        limits = self.spec.limits
        references = row.references()
        for role in references:
            check_role(role, limits.name, limits.roles)
        tokens = {role: self.token(given, row_group) for role, given in references.items()}
        seed = identity.take_seed(row.seed, row.id, take, self.spec.defaults.seed)
        clip_id = identity.clip_id(
            id=row.id,
            take=take,
            prompt=row.prompt,
            references=tokens,
            params=self._determining(row, params),
            seed=seed,
            model_hash=limits.weights_hash,
        )
        return Clip(clip_id, key, take, seed, number, row_group.source, row, params, tokens)

    def _determining(self, row: PromptRow, params: EffectiveParams) -> dict[str, Any]:
        """The parameters that decide this row's music: those that its references do not use stay
        out, so that a change of them makes nothing again."""
        references = row.references()
        chosen: dict[str, Any] = dict(params.as_identity())
        if "style" not in references:
            chosen |= {"style_eval_q": None, "style_excerpt_s": None}
        if "melody" in references and self.spec.limits.separation is not None:
            chosen["separation"] = self.spec.limits.separation
        return chosen

    def token(self, reference: str | bytes, row_group: RowGroup) -> str:
        """Identity of a reference by content (embedded, local) or by size and ETag (remote)."""
        if isinstance(reference, bytes):
            return identity.bytes_token(reference)
        uri = resolve_uri(reference, row_group.uri)
        if uri not in self._tokens:
            self._tokens[uri] = identify_reference(uri, self.spec.storage_options)
        return self._tokens[uri]


def withdrawn_dead_letter(clip: Clip) -> DeadLetter:
    """Takes back the dead letter of a clip that is there after all: its reference had been out of
    reach only for a while."""
    error = RowError("the clip is committed, its dead letter no longer stands")
    letter = dead_letter_of_take(
        *(clip.row, clip.source, clip.row_number, clip.take, clip.row_key, clip.clip_id, error)
    )
    return replace(letter, stage=SETTLED)


def dead_letter_of_take(
    row: PromptRow,
    source: str,
    number: int,
    take: int,
    row_key: str,
    clip_id: str | None,
    error: Exception,
) -> DeadLetter:
    """The dead letter of one take that failed before it reached a replica."""
    return DeadLetter(
        row_key=row_key,
        clip_id=clip_id,
        id=row.id,
        take=take,
        row=number,
        source=source,
        stage="prepare",
        error_class=type(error).__name__,
        message=f"{source} row {number} (id={row.id}): {error}",
        row_json=_row_json(row.as_written()),
    )


def _row_json(row: Mapping[str, Any]) -> str:
    """For people; what signs a URI is no part of it."""
    return redact(identity.canonical_json(row).decode("utf-8", "replace"))
