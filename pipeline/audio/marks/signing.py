"""Signs clips: a C2PA manifest inside the file where its format has a place, else beside it.

Manifests hold random salts, which the library draws, so that signed bytes do not repeat; the digest
of the bytes before signing does (column `unsigned_sha256`).
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal

from pipeline.audio.encode import MEDIA_TYPES
from pipeline.audio.marks.credentials import (
    CERTIFICATE,
    KEY,
    WAY_OUT,
    Certificate,
    Credentials,
    read_credentials,
)
from pipeline.audio.marks.settings import MarksError, MarksSettings
from pipeline.audio.settings import AudioFormat

Layer = Literal["embedded", "sidecar"]

HOLD_A_MANIFEST: tuple[AudioFormat, ...] = ("wav", "mp3", "flac")  # in an ID3 tag or a RIFF chunk
MADE_BY_AI = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
ASSERTION = "musicgen-batch.clip"
_SILENCE = (
    b"RIFF\x26\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0\x40\x1f\0\0\x80\x3e\0\0\2\0\x10\0data\2\0\0\0\0\0"
)


class SigningStoppedError(Exception):
    """No further clip can be signed: it ends the replica, and is no dead letter of a row."""


@dataclass(frozen=True)
class Claim:
    """What a manifest says of a clip, beside that AI has made it. It names neither run nor host."""

    clip_id: str
    model: str
    weights_hash: str
    weights_licence: str
    prompt: str | None
    watermark: str | None


@dataclass(frozen=True)
class Signed:
    """A signed clip: its file, where the manifest is, and the sidecar where it is beside."""

    data: bytes
    layer: Layer
    unsigned_sha256: str
    sidecar: bytes | None


class ClipSigner:
    """Signs clips; several threads may use it.

    Args:
        credentials: Key and certificate.
        with_prompt: Whether manifests hold the prompt itself.
    """

    def __init__(self, credentials: Credentials, with_prompt: bool = False) -> None:
        self._credentials, self._with_prompt = credentials, with_prompt

    @property
    def certificate(self) -> Certificate:
        """Of the signer."""
        return self._credentials.certificate

    def sign(self, data: bytes, fmt: AudioFormat, claim: Claim) -> Signed:
        """Signs one encoded file.

        Raises:
            SigningStoppedError: The certificate has expired since the run began.
            RuntimeError: The library can't sign this file.
        """
        import c2pa

        try:
            self.certificate.refuse_outside_validity()
        except MarksError as error:
            raise SigningStoppedError(str(error)) from None
        layer: Layer = "embedded" if fmt in HOLD_A_MANIFEST else "sidecar"
        out = io.BytesIO()
        try:
            with (
                c2pa.Signer.from_info(self._info()) as signer,
                c2pa.Builder(self._manifest(fmt, claim)) as builder,
            ):
                if layer == "sidecar":
                    builder.set_no_embed()
                manifest = builder.sign(signer, MEDIA_TYPES[fmt], io.BytesIO(data), out)
        except c2pa.C2paError as error:
            raise RuntimeError(f"the clip can't be signed: {error}") from error
        digest = hashlib.sha256(data).hexdigest()
        if layer == "sidecar":
            return Signed(data, layer, digest, manifest)
        return Signed(out.getvalue(), layer, digest, None)

    def _info(self) -> Any:
        import c2pa

        own = self._credentials
        pem = own.certificate.pem.encode()
        return c2pa.C2paSignerInfo(own.algorithm, pem, own.key_pem.encode(), None)

    def _manifest(self, fmt: AudioFormat, claim: Claim) -> dict[str, Any]:
        """What c2pa-python takes as the definition of a manifest."""
        software = {"name": "musicgen-batch", "version": version("musicgen-batch")}
        prompt = claim.prompt
        told = {
            "clip_id": claim.clip_id,
            "model": claim.model,
            "weights_hash": claim.weights_hash,
            "weights_licence": claim.weights_licence,
            "prompt_sha256": None
            if prompt is None
            else hashlib.sha256(prompt.encode()).hexdigest(),
            "watermark": claim.watermark,
        }
        if self._with_prompt:
            told["prompt"] = prompt
        made = {
            "action": "c2pa.created",
            "digitalSourceType": MADE_BY_AI,
            "softwareAgent": software,
        }
        return {
            "claim_generator_info": [software],
            "title": f"{claim.clip_id}.{fmt}",
            "format": MEDIA_TYPES[fmt],
            "assertions": [
                {"label": "c2pa.actions", "data": {"actions": [made]}},
                {"label": ASSERTION, "data": {k: v for k, v in told.items() if v is not None}},
            ],
        }


def open_signer(settings: MarksSettings) -> ClipSigner | None:
    """The signer that the settings and the environment give; None where nothing is signed.

    Raises:
        MarksError: `require` without a pair, or a pair that can't sign.
    """
    if settings.c2pa == "off":
        return None
    credentials = read_credentials()
    if credentials is None:
        if settings.c2pa == "require":
            raise MarksError(
                f"--c2pa require: neither {KEY} nor {CERTIFICATE} is set; set them to PEM files "
                "(`musicgen-batch marks test-certificate` makes a pair for trials)"
            )
        return None
    signer = ClipSigner(credentials, settings.c2pa_prompt)
    try:
        signer.sign(_SILENCE, "wav", Claim("0" * 32, "none", "", "", None, None))
    except RuntimeError as error:
        raise MarksError(
            f"{CERTIFICATE}: c2pa-python refuses the pair ({error.__cause__}); C2PA asks for a "
            f"certificate with digitalSignature and emailProtection or documentSigning; {WAY_OUT}"
        ) from error
    return signer


def open_named_signer(settings: MarksSettings, fingerprint: str | None) -> ClipSigner | None:
    """The signer in a replica, which must be the driver's.

    Args:
        settings: The job's.
        fingerprint: Of the certificate that the driver found; None where the job does not sign.

    Raises:
        MarksError: This node has another pair, or none.
    """
    if fingerprint is None:
        return None
    signer = open_signer(settings)
    if signer is None or signer.certificate.fingerprint != fingerprint:
        found = "no C2PA pair" if signer is None else "another C2PA certificate"
        raise MarksError(
            f"this node has {found} in its environment than the driver: give every node the same "
            f"{KEY} and {CERTIFICATE}, or run with --c2pa off"
        )
    return signer
