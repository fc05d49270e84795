"""Proves the C2PA manifest of one clip with the library's own reader."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any, Literal

from pipeline.audio.encode import MEDIA_TYPES
from pipeline.audio.marks.credentials import Certificate, read_certificate
from pipeline.audio.settings import AudioFormat

# What was found: signed by the given certificate; signed by another one; signed, and the
# certificate has expired since; damaged or not there; not looked at.
State = Literal["trusted", "valid", "expired", "invalid", "unchecked"]
STATES: tuple[State, ...] = ("trusted", "valid", "expired", "invalid", "unchecked")
_OF_TRUST = {"signingCredential.untrusted", "signingCredential.expired"}


@dataclass(frozen=True)
class Proof:
    """What the reader says of one clip.

    Attributes:
        reason: Why it is invalid.
        signer: Common name of the certificate that signed it.
    """

    state: State
    reason: str = ""
    signer: str | None = None


class ManifestChecker:
    """Checks manifests against the certificate of the environment; several threads may use it.

    Args:
        certificate: The trust list: signatures by it, or by what its chain ends in, are trusted.
    """

    def __init__(self, certificate: Certificate | None = None) -> None:
        self.certificate = certificate
        self.can_check = find_spec("c2pa") is not None

    @classmethod
    def of_environment(cls) -> ManifestChecker:
        """With the certificate of MUSICGEN_C2PA_CERT as trust list, where it is set."""
        return cls(read_certificate() if find_spec("cryptography") else None)

    def check(self, data: bytes, fmt: str, sidecar: bytes | None = None) -> Proof:
        """Checks one clip.

        Args:
            data: Its file.
            fmt: `audio_format` of its row.
            sidecar: The manifest, where it is not inside the file.
        """
        if not self.can_check:
            return Proof("unchecked")
        import c2pa

        known: AudioFormat | None = next((each for each in MEDIA_TYPES if each == fmt), None)
        if known is None:
            return Proof("invalid", f"no audio format is called {fmt}")
        pem = None if self.certificate is None else self.certificate.pem
        try:
            with c2pa.Reader(
                MEDIA_TYPES[known], io.BytesIO(data), sidecar, _context(pem)
            ) as reader:
                return _proof(reader)
        except c2pa.C2paError as error:
            return Proof("invalid", str(error))


@cache
def _context(trust_pem: str | None) -> Any:
    """Settings of the reader: nothing is fetched, and only these certificates are trusted."""
    import c2pa

    trust = {} if trust_pem is None else {"trust_anchors": trust_pem}
    verify = {"ocsp_fetch": False, "remote_manifest_fetch": False}
    return c2pa.Context.from_dict({"trust": trust, "verify": verify})


def _proof(reader: Any) -> Proof:
    results = (reader.get_validation_results() or {}).get("activeManifest") or {}
    failures = {failure["code"]: failure for failure in results.get("failure", [])}
    signer = ((reader.get_active_manifest() or {}).get("signature_info") or {}).get("common_name")
    damage = [code for code in failures if code not in _OF_TRUST]
    if damage:
        return Proof("invalid", ", ".join(sorted(damage)), signer)
    if "signingCredential.expired" in failures:
        return Proof("expired", "", signer)
    state = reader.get_validation_state()
    if state == "Trusted":
        return Proof("trusted", "", signer)
    return Proof("valid", "", signer) if state == "Valid" else Proof("invalid", str(state), signer)
