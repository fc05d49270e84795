"""What `verify` finds of the marks of clips: what their rows claim, and what signatures prove."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa

from pipeline.audio.marks.checking import STATES, ManifestChecker, State
from pipeline.audio.marks.counts import MarkCounts, count_marks

# Of a row of `clips/`; earlier parts lack most of them.
MARK_COLUMNS = ("audio_format", "c2pa", "c2pa_sidecar_sha256", "c2pa_sidecar", "watermark")

_IN_WORDS: dict[State, str] = {
    "trusted": "hold, by the given certificate",
    "valid": "hold, by another certificate",
    "expired": "fit their clips, but their certificate has expired since",
    "invalid": "do not hold",
    "unchecked": "were not checked (--fast, or musicgen-batch[marks] is missing)",
}


@dataclass(frozen=True)
class MarksFound:
    """The marks of all rows of an output.

    Attributes:
        claimed: By the rows.
        signatures: How many manifests were found in which state (`checking.State`).
        signers: Common names of the certificates, with the number of manifests.
        trusts: The certificate that signatures were held against, in words; None without one.
    """

    claimed: MarkCounts = field(default_factory=MarkCounts)
    signatures: Mapping[State, int] = field(default_factory=dict)
    signers: Mapping[str, int] = field(default_factory=dict)
    trusts: str | None = None

    @property
    def lines(self) -> list[str]:
        """In words, for people; none where no row claims anything."""
        if not self.claimed.c2pa and not self.claimed.watermarked:
            return []
        lines = [
            f"signatures that {_IN_WORDS[state]}: {self.signatures[state]}"
            for state in STATES
            if self.signatures.get(state)
        ]
        if self.signers:
            lines.append(f"signed by: {', '.join(repr(name) for name in self.signers)}")
        if self.claimed.c2pa and self.trusts is not None:
            lines.append(f"given certificate: {self.trusts}")
        elif self.claimed.c2pa:
            lines.append("given certificate: none (MUSICGEN_C2PA_CERT says whom you trust)")
        return ["marks:", *(f"  {line}" for line in [*self.claimed.layers, *lines])]

    def as_json(self) -> dict[str, Any]:
        """For programs: every state has its number."""
        signatures = {state: self.signatures.get(state, 0) for state in STATES}
        return asdict(self) | {"signatures": signatures, "signers": dict(self.signers)}


class MarkAudit:
    """Gathers what is found while parts are read; several threads may use it."""

    def __init__(self) -> None:
        self._checker = ManifestChecker.of_environment()
        self._lock = threading.Lock()
        self._claimed = MarkCounts()
        self._states: Counter[State] = Counter()
        self._signers: Counter[str] = Counter()

    def claim(self, rows: pa.Table | pa.RecordBatch) -> None:
        """Counts what rows say."""
        with self._lock:
            self._claimed += count_marks(rows)

    def note(self, row: Mapping[str, Any], state: State) -> None:
        """Counts the signature of a clip whose file was not looked at, or is not what it was."""
        if row.get("c2pa") is not None:
            with self._lock:
                self._states[state] += 1

    def fault(self, row: Mapping[str, Any], data: bytes, sidecar: bytes | None) -> str | None:
        """Checks the signature of a whole audio file; says what is wrong, None if nothing is."""
        if row.get("c2pa") is None:
            return None
        if row["c2pa"] == "sidecar":
            wanted = row["c2pa_sidecar_sha256"]
            if sidecar is None or hashlib.sha256(sidecar).hexdigest() != wanted:
                self.note(row, "invalid")
                return "sidecar is missing" if sidecar is None else "sidecar is damaged"
        proof = self._checker.check(data, row["audio_format"], sidecar)
        with self._lock:
            self._states[proof.state] += 1
            if proof.signer is not None:
                self._signers[proof.signer] += 1
        return f"signature does not hold ({proof.reason})" if proof.state == "invalid" else None

    def found(self) -> MarksFound:
        """All of it."""
        certificate = self._checker.certificate
        trusts = None if certificate is None else certificate.text
        with self._lock:
            return MarksFound(self._claimed, dict(self._states), dict(self._signers), trusts)
