"""Makes a key and a certificate for trials: the chain ends in a root of its own, which nobody else
trusts."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.audio.marks.settings import MarksError

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes

NAME = "musicgen-batch test certificate"
KEY_FILE, CERTIFICATE_FILE = "c2pa-key.pem", "c2pa-cert.pem"


@dataclass(frozen=True)
class TrialPair:
    """PEM texts of a key and of its chain, the signer first."""

    key: bytes = field(repr=False)
    chain: bytes


def make_trial_pair(
    begins: datetime | None = None,
    days: float = 365.0,
    key: CertificateIssuerPrivateKeyTypes | None = None,
) -> TrialPair:
    """A key with a certificate that a throw-away root has signed.

    C2PA has no place for a signer that has signed itself, so there are two certificates; the key of
    the root is forgotten, and nothing else can be signed with it.

    Args:
        begins: When the certificate becomes valid; default a minute ago.
        days: How long it is valid.
        key: The key; a new one of Ed25519 by default.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.x509.oid import ExtendedKeyUsageOID

    begins = begins or datetime.now(UTC) - timedelta(minutes=1)
    root_key, key = Ed25519PrivateKey.generate(), key or Ed25519PrivateKey.generate()

    def certificate(
        name: str, own: CertificateIssuerPrivateKeyTypes, is_root: bool
    ) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(_name(f"{NAME}, root"))
            .public_key(own.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begins)
            .not_valid_after(begins + timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=is_root, path_length=None), critical=True)
            .add_extension(_usage(is_root), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(own.public_key()), False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()), False
            )
        )
        if not is_root:
            purposes = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
            builder = builder.add_extension(purposes, critical=False)
        return builder.sign(root_key, None)

    chain = [certificate(NAME, key, False), certificate(f"{NAME}, root", root_key, True)]
    return TrialPair(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
        b"".join(each.public_bytes(serialization.Encoding.PEM) for each in chain),
    )


def write_trial_pair(folder: Path, days: float = 365.0) -> tuple[Path, Path]:
    """Writes a pair and returns the paths of key and certificate; the key is its owner's alone.

    Raises:
        MarksError: One of the files is there already, or the folder can't be written.
    """
    key, certificate = folder / KEY_FILE, folder / CERTIFICATE_FILE
    there = [str(path) for path in (key, certificate) if path.exists()]
    if there:
        raise MarksError(
            f"{there[0]} is already there: a key is never overwritten; name another --out"
        )
    pair = make_trial_pair(days=days)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, data, mode in ((key, pair.key, 0o600), (certificate, pair.chain, 0o644)):
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
                file.write(data)
    except OSError as error:
        raise MarksError(f"--out {folder} can't be written: {error}") from error
    return key, certificate


def _name(common_name: str) -> x509.Name:
    from cryptography import x509

    return x509.Name(
        [
            x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "for tests only"),
            x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name),
        ]
    )


def _usage(is_root: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not is_root,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_root,
        crl_sign=is_root,
        encipher_only=False,
        decipher_only=False,
    )
