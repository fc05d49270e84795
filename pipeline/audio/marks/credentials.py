"""Key and certificate chain of C2PA signatures, from the environment and from nowhere else.

No message shows what the variables hold: a key may stand there by mistake as it is.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.audio.marks.settings import MarksError

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

KEY, CERTIFICATE = "MUSICGEN_C2PA_KEY", "MUSICGEN_C2PA_CERT"
MOST_BYTES = 2**20  # of a file of keys or certificates
WAY_OUT = "mend the pair, or run with --c2pa off"


@dataclass(frozen=True)
class Certificate:
    """What may be said of a certificate chain.

    Attributes:
        name: Common name of the signer.
        fingerprint: SHA-256 of the signer's certificate, in hex.
        is_self_signed: Whether the chain holds its own root, as a test pair does.
        begins, ends: When the signer's certificate is valid.
        pem: The chain, the signer first.
    """

    name: str
    fingerprint: str
    is_self_signed: bool
    begins: datetime
    ends: datetime
    pem: str = field(repr=False)

    @property
    def text(self) -> str:
        """In words, for people."""
        kind = ", self-signed" if self.is_self_signed else ""
        return f"{self.name!r} (valid until {self.ends:%Y-%m-%d %H:%M} UTC{kind})"

    def refuse_outside_validity(self, now: datetime | None = None) -> None:
        """Raises MarksError where the certificate is not valid at this moment."""
        now = now or datetime.now(UTC)
        if now >= self.ends:
            when = f"expired at {self.ends:%Y-%m-%d %H:%M} UTC"
        elif now < self.begins:
            when = f"is not valid before {self.begins:%Y-%m-%d %H:%M} UTC"
        else:
            return
        raise MarksError(f"{CERTIFICATE}: the certificate {self.name!r} {when}; {WAY_OUT}")


@dataclass(frozen=True)
class Credentials:
    """A key with its certificate.

    Attributes:
        algorithm: C2PA's name of the signature algorithm, which follows from the key.
        key_pem: The key in PKCS#8.
    """

    certificate: Certificate
    algorithm: str
    key_pem: str = field(repr=False)


def read_credentials(environ: Mapping[str, str] = os.environ) -> Credentials | None:
    """Key and certificate of the environment; None where neither is set.

    Raises:
        MarksError: One is missing, can't be read, does not fit the other, or is not valid now.
    """
    given = [name for name in (KEY, CERTIFICATE) if environ.get(name, "").strip()]
    if not given:
        return None
    if len(given) == 1:
        other = CERTIFICATE if given == [KEY] else KEY
        raise MarksError(f"{given[0]} is set but {other} is not; set both, or run with --c2pa off")
    refuse_without_c2pa(f"{KEY} and {CERTIFICATE} are set")
    from cryptography.hazmat.primitives import serialization

    key = _key(_material(KEY, environ))
    certificate, leaf = _certificate(_material(CERTIFICATE, environ))
    form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    if key.public_key().public_bytes(*form) != leaf.public_key().public_bytes(*form):
        raise MarksError(
            f"{KEY} is not the key of {CERTIFICATE}: the first certificate there, "
            f"{certificate.name!r}, has another public key; {WAY_OUT}"
        )
    certificate.refuse_outside_validity()
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return Credentials(certificate, _algorithm(key), pem.decode())


def read_certificate(environ: Mapping[str, str] = os.environ) -> Certificate | None:
    """The certificate chain alone, for checking signatures; None where it is not set."""
    if not environ.get(CERTIFICATE, "").strip():
        return None
    return _certificate(_material(CERTIFICATE, environ))[0]


def refuse_without_c2pa(why: str) -> None:
    """Raises MarksError where the library is missing."""
    if find_spec("c2pa") is None:
        raise MarksError(
            f"{why}, but the package c2pa-python is not installed; "
            "pip install 'musicgen-batch[marks]', or run with --c2pa off"
        )


def _material(name: str, environ: Mapping[str, str]) -> bytes:
    """The PEM text of a variable, or of the file that it names."""
    value = environ[name].strip()
    if value.startswith("-----BEGIN"):
        return value.replace("\\n", "\n").encode()  # one line, as .env files hold it
    try:
        with Path(value).expanduser().open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise MarksError(
            f"{name} holds neither PEM text nor the path of a file that can be read ({reason}); "
            f"{WAY_OUT}"
        ) from None
    if len(data) > MOST_BYTES:
        raise MarksError(f"{name}: the file is larger than {MOST_BYTES} bytes, no PEM; {WAY_OUT}")
    return data


def _key(pem: bytes) -> PrivateKeyTypes:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

    try:
        return serialization.load_pem_private_key(pem, None)
    except TypeError:
        raise MarksError(
            f"{KEY}: the key is encrypted, and nobody is there to be asked for the password; give "
            "it unencrypted (openssl pkey -in KEY -out PLAIN)"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise MarksError(f"{KEY} holds no private key in PEM; {WAY_OUT}") from None


def _certificate(pem: bytes) -> tuple[Certificate, x509.Certificate]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization

    try:
        chain = x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise MarksError(f"{CERTIFICATE} holds no certificate in PEM; {WAY_OUT}") from None
    leaf = chain[0]
    names = leaf.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    certificate = Certificate(
        name=str(names[0].value) if names else leaf.subject.rfc4514_string(),
        fingerprint=leaf.fingerprint(hashes.SHA256()).hex(),
        is_self_signed=any(each.issuer == each.subject for each in chain),
        begins=leaf.not_valid_before_utc,
        ends=leaf.not_valid_after_utc,
        pem="".join(each.public_bytes(serialization.Encoding.PEM).decode() for each in chain),
    )
    return certificate, leaf


def _algorithm(key: PrivateKeyTypes) -> str:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "ed25519"
    if isinstance(key, ec.EllipticCurvePrivateKey):
        found = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}
        if key.curve.name in found:
            return found[key.curve.name]
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size >= 2048:
        return "ps256"
    raise MarksError(
        f"{KEY}: C2PA signs with Ed25519, ECDSA on P-256, P-384 or P-521, and RSA of 2048 bits or "
        "more; this key is none of them"
    )
