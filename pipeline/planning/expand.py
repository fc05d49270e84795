"""One manifest row becomes its clips (identity, seed, effective parameters) or a dead letter.

The driver uses this to count and the prepare pool to work, so both always agree.
"""

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from manifests import identity
from manifests.reader import Manifest, RowGroup
from manifests.redaction import shown_row
from manifests.row_errors import RowError, check_role
from manifests.schema import (
    COLUMNS,
    EffectiveParams,
    GenerationDefaults,
    PromptRow,
    RowIssue,
    effective,
    parse_row,
    resolve_uri,
)
from manifests.uris.policy import DEFAULT_POLICY, ReferenceAccess, ReferencePolicy
from manifests.uris.references import identify_reference
from pipeline.audio.scores.choose import ruling_of
from pipeline.audio.scores.protocol import ScorerIdentity
from pipeline.ledger import SETTLED, DoneSet
from pipeline.planning.clips import ClipSpec, DeadLetter, JudgedTake, PlannedClip, error_class
from pipeline.storage import redact, shown_uri

Outcome = Literal["pending", "done", "standing", "refused", "unasked"]


@dataclass(frozen=True)
class ModelLimits:
    """What a plan must know of a model; plain data, so that no torch is needed."""

    name: str
    weights_hash: str
    roles: frozenset[str]  # references that the model takes
    separation: str | None = None  # what melodies are heard through; None: the plain mix
    watermark: str | None = None  # what is added to the samples of each clip; None: nothing


@dataclass(frozen=True)
class Judging:
    """How the takes of a row are judged together.

    Attributes:
        keep: How many are kept; rows with no more takes are not judged.
        judge: The scorer.
    """

    keep: int
    judge: ScorerIdentity


@dataclass(frozen=True)
class PlanSpec:
    """What turns a row into clips, apart from the row."""

    manifest: Manifest
    defaults: GenerationDefaults
    limits: ModelLimits
    storage_options: Mapping[str, Any] = field(default_factory=dict)
    policy: ReferencePolicy = DEFAULT_POLICY
    judging: Judging | None = None

    @property
    def access(self) -> ReferenceAccess:
        """How the references of the manifest may be opened."""
        return ReferenceAccess(self.policy, self.storage_options, self.manifest.uri)


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
        self._tokens: dict[str, str | RowError] = {}  # by URI; an error is an answer too

    def row_group_of(self, number: int) -> RowGroup:
        """The part of the manifest that holds row `number`."""
        return self.spec.manifest.row_groups[bisect_right(self._first_rows, number) - 1]

    def expand(
        self, raw: Mapping[str, Any], number: int, repeat: int, selection: Selection
    ) -> Iterator[tuple[Outcome, PlannedClip | DeadLetter | None]]:
        """Everything that one manifest row asks for.

        Args:
            raw: Columns of the row.
            number: 0-based over the whole manifest.
            repeat: 0, or how many rows with this id stood before it.
            selection: What stands in the ledger already.

        Returns:
            An outcome per take, with the clip where it is pending and the dead letter where it is
            refused.
        """
        parsed = parse_row(raw, source=self.row_group_of(number).source, row=number)
        return self.expand_parsed(raw, parsed, number, repeat, selection)

    def expand_parsed(
        self,
        raw: Mapping[str, Any],
        parsed: tuple[PromptRow | None, list[RowIssue]],
        number: int,
        repeat: int,
        selection: Selection,
    ) -> Iterator[tuple[Outcome, PlannedClip | DeadLetter | None]]:
        """The same of a row that has been checked: `parsed` is what `parse_row` gave."""
        row_group = self.row_group_of(number)
        row, issues = parsed
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
        asked = _Row(row, number, row_group, params, self.determining(row, params))
        n_takes, judging = self.spec.defaults.takes_of(row), self.spec.judging
        if judging is not None and n_takes > judging.keep:
            yield from self._expand_together(asked, n_takes, judging, selection)
            return
        for take in range(n_takes):
            key = self._key(asked, take)
            decided = selection.judge_key(key)
            if decided is not None:
                yield decided, None
                continue
            try:
                clip = self._clip(asked, take, key)
            except RowError as error:
                yield "refused", asked.dead_letter(take, key, error)
                continue
            yield _decided(clip, selection.judge_clip(clip.spec.clip_id), selection)

    def _expand_together(
        self, asked: "_Row", n_takes: int, judging: Judging, selection: Selection
    ) -> Iterator[tuple[Outcome, PlannedClip | DeadLetter | None]]:
        """The takes of a row that are judged together. Where one of them was not judged yet, all of
        them are made, those whose clip stands too: a take can only be chosen among its likes."""
        keys = [self._key(asked, take) for take in range(n_takes)]
        known = selection.known
        has_letter = [known.has_letter(key) for key in keys]
        if selection.retry and not any(has_letter):
            yield from (("unasked", None) for _ in keys)
            return
        clips = []
        for take, key in enumerate(keys):
            if has_letter[take] and not selection.retry:
                yield "standing", None
                continue
            try:
                clips.append(self._clip(asked, take, key))
            except RowError as error:
                yield "refused", asked.dead_letter(take, key, error)
        ruling = ruling_of(judging.keep, n_takes, judging.judge)

        def is_ruled(clip: PlannedClip, kept: bool) -> bool:
            return known.has_ruling(clip.spec.clip_id, ruling, kept=kept)

        if all(is_ruled(clip, True) or is_ruled(clip, False) for clip in clips):
            for clip in clips:
                is_aside = not is_ruled(clip, True)
                outcome = "done" if is_aside else selection.judge_clip(clip.spec.clip_id)
                yield _decided(clip, outcome, selection)
            return
        for clip in clips:
            stands = known.contains(clip.spec.clip_id)
            yield "pending", replace(clip, judged=JudgedTake(ruling, judging.keep, stands))

    def _key(self, asked: "_Row", take: int) -> str:
        return identity.row_key(
            asked.row.as_written(),
            take=take,
            params=asked.determining,
            model_hash=self.spec.limits.weights_hash,
        )

    def failed(self, raw: Mapping[str, Any], number: int, error: Exception) -> DeadLetter:
        """The dead letter of a row with which something went wrong that no rule foresees."""
        known = {name: raw[name] for name in COLUMNS if raw.get(name) is not None}
        key = identity.row_key(
            known, take=None, params=None, model_hash=self.spec.limits.weights_hash
        )
        source, id = self.row_group_of(number).source, str(known.get("id"))
        return DeadLetter(
            row_key=key,
            clip_id=None,
            id=id,
            take=None,
            row=number,
            source=source,
            stage="prepare",
            error_class=error_class(error),
            message=redact(f"{source} row {number} (id={id}): {type(error).__name__}: {error}"),
            row_json=_row_json(known),
        )

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

    def _clip(self, asked: "_Row", take: int, key: str) -> PlannedClip:
        """One take of a row. RowError: it can't be made, or its audio can't be identified."""
        limits, row = self.spec.limits, asked.row
        references = row.references()
        for role in references:
            check_role(role, limits.name, limits.roles)
        tokens = {role: self.token(given, asked.row_group) for role, given in references.items()}
        seed = identity.take_seed(row.seed, row.id, take, self.spec.defaults.seed)
        clip_id = identity.clip_id(
            id=row.id,
            take=take,
            prompt=row.prompt,
            references=tokens,
            params=asked.determining,
            seed=seed,
            model_hash=limits.weights_hash,
        )
        spec = ClipSpec(
            clip_id=clip_id,
            row_key=key,
            id=row.id,
            take=take,
            row=asked.number,
            source=asked.row_group.source,
            prompt=row.prompt,
            params=asked.params,
            seed=row.seed,
            seed_used=seed,
            references=tokens,
            reference_uris={
                role: shown_uri(given)
                for role, given in references.items()
                if isinstance(given, str)
            },
            row_json=asked.row_json,
        )
        return PlannedClip(spec, references, asked.row_group.uri)

    def determining(self, row: PromptRow, params: EffectiveParams) -> dict[str, Any]:
        """The parameters that decide this row's music: those that its references do not use stay
        out, so that a change of them makes nothing again."""
        references = row.references()
        chosen: dict[str, Any] = dict(params.as_identity())
        if "style" not in references:
            chosen |= {"style_eval_q": None, "style_excerpt_s": None}
        if "melody" in references and self.spec.limits.separation is not None:
            chosen["separation"] = self.spec.limits.separation
        if self.spec.limits.watermark is not None:
            chosen["watermark"] = self.spec.limits.watermark
        return chosen

    def token(self, reference: str | bytes, row_group: RowGroup) -> str:
        """Identity of a reference by content, or by size and ETag in an object store.

        Raises:
            RowError: It can't be named. A URI is asked for once: a host that does not answer must
                not hold up each take of each row that names it.
        """
        if isinstance(reference, bytes):
            return identity.bytes_token(reference)
        uri = resolve_uri(reference, row_group.uri)
        if uri not in self._tokens:
            self._tokens[uri] = self._identify(uri)
        found = self._tokens[uri]
        if isinstance(found, RowError):
            raise type(found)(str(found))
        return found

    def _identify(self, uri: str) -> str | RowError:
        try:
            return identify_reference(uri, self.spec.access)
        except RowError as error:
            return error.with_traceback(None)


def _decided(
    clip: PlannedClip, outcome: Outcome, selection: Selection
) -> tuple[Outcome, PlannedClip | DeadLetter | None]:
    """A take whose state is known, with what is to be made or committed for it."""
    if outcome == "done" and selection.retry:
        # Its reference was out of reach only for a while.
        settled = RowError("the clip is committed, its dead letter no longer stands")
        return outcome, clip.spec.dead_letter(SETTLED, settled)
    return outcome, clip if outcome == "pending" else None


@dataclass(frozen=True)
class _Row:
    """A valid row and what follows from it for all its takes."""

    row: PromptRow
    number: int
    row_group: RowGroup
    params: EffectiveParams
    determining: Mapping[str, Any]  # parameters that are part of the identity

    @cached_property
    def row_json(self) -> str:
        return _row_json(self.row.as_written())

    def dead_letter(self, take: int, row_key: str, error: RowError) -> DeadLetter:
        """One take failed before its identity was known."""
        return DeadLetter(
            row_key=row_key,
            clip_id=None,
            id=self.row.id,
            take=take,
            row=self.number,
            source=self.row_group.source,
            stage="prepare",
            error_class=error_class(error),
            message=f"{self.row_group.source} row {self.number} (id={self.row.id}): {error}",
            row_json=self.row_json,
        )


def _row_json(row: Mapping[str, Any]) -> str:
    """The row as people read it; what signs a URI is no part of it."""
    return identity.canonical_json(shown_row(row)).decode("utf-8", "replace")
