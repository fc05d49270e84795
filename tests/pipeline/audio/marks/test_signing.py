"""Signed clips: the library's own reader accepts them, and finds every change."""

import hashlib
import io
import json
from typing import Any, get_args

import c2pa
import pytest
import soundfile as sf
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from manifests.audio_file import decode_reference
from pipeline.audio.encode import MEDIA_TYPES, read_comment
from pipeline.audio.marks.checking import ManifestChecker
from pipeline.audio.marks.credentials import CERTIFICATE, KEY, read_certificate
from pipeline.audio.marks.settings import MarksError, MarksSettings
from pipeline.audio.marks.signing import (
    ASSERTION,
    HOLD_A_MANIFEST,
    MADE_BY_AI,
    Claim,
    ClipSigner,
    Signed,
    open_named_signer,
    open_signer,
)
from pipeline.audio.marks.trial_pair import TrialPair, make_trial_pair
from pipeline.audio.settings import AudioFormat
from tests.pipeline.audio.marks.pairs import music

CLAIM = Claim("ab" * 16, "tiny", "cd" * 16, "Apache-2.0", "a secret tune", None)
FORMATS: tuple[AudioFormat, ...] = get_args(AudioFormat)
CURVES = (ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1())
every_format = pytest.mark.parametrize("fmt", FORMATS)


def signer() -> ClipSigner:
    found = open_signer(MarksSettings(c2pa="require"))
    assert found is not None
    return found


def told(signed: Signed, fmt: AudioFormat) -> dict[str, Any]:
    """The manifest as the library's reader shows it, without any setting of ours."""
    reader = c2pa.Reader(MEDIA_TYPES[fmt], io.BytesIO(signed.data), signed.sidecar)
    manifest = reader.get_active_manifest()
    assert manifest is not None
    return manifest


@every_format
def test_a_signed_clip_plays_as_before_and_its_signature_holds(
    fmt: AudioFormat, with_pair: TrialPair
) -> None:
    data = music(fmt)

    signed = signer().sign(data, fmt, CLAIM)

    assert signed.layer == ("embedded" if fmt in HOLD_A_MANIFEST else "sidecar")
    assert (signed.data == data) == (signed.layer == "sidecar")
    assert signed.unsigned_sha256 == hashlib.sha256(data).hexdigest()
    checker = ManifestChecker.of_environment()
    proof = checker.check(signed.data, fmt, signed.sidecar)
    assert (proof.state, proof.signer) == ("trusted", "musicgen-batch test certificate")
    assert ManifestChecker().check(signed.data, fmt, signed.sidecar).state == "valid"
    before, after = (decode_reference(each, "clip") for each in (data, signed.data))
    assert before[1] == after[1]
    assert (before[0] == after[0]).all()
    assert read_comment(signed.data) == '{"clip_id":"c"}'
    assert sf.SoundFile(io.BytesIO(signed.data)).title == "Träume"


@every_format
def test_a_flipped_byte_is_found(fmt: AudioFormat, with_pair: TrialPair) -> None:
    signed = signer().sign(music(fmt), fmt, CLAIM)
    checker = ManifestChecker.of_environment()
    flipped = bytearray(signed.data)
    flipped[len(flipped) // 2] ^= 1  # among the samples, wherever the manifest is

    proof = checker.check(bytes(flipped), fmt, signed.sidecar)

    assert (proof.state, proof.reason) == ("invalid", "assertion.dataHash.mismatch")
    assert checker.check(music(fmt), fmt).state == "invalid"  # no manifest at all
    if signed.sidecar is not None:
        other = signer().sign(music(fmt)[:-1] + b"x", fmt, CLAIM)
        assert checker.check(signed.data, fmt, other.sidecar).state == "invalid"


def test_a_manifest_says_that_ai_made_the_clip_and_with_what(with_pair: TrialPair) -> None:
    manifest = told(signer().sign(music("wav"), "wav", CLAIM), "wav")

    assertions = {each["label"]: each["data"] for each in manifest["assertions"]}
    (action,) = assertions["c2pa.actions.v2"]["actions"]
    assert (action["action"], action["digitalSourceType"]) == ("c2pa.created", MADE_BY_AI)
    assert action["softwareAgent"]["name"] == "musicgen-batch"
    assert assertions[ASSERTION] == {
        "clip_id": CLAIM.clip_id,
        "model": "tiny",
        "weights_hash": CLAIM.weights_hash,
        "weights_licence": "Apache-2.0",
        "prompt_sha256": hashlib.sha256(b"a secret tune").hexdigest(),
    }
    assert manifest["claim_generator_info"][0]["name"] == "musicgen-batch"


def test_the_prompt_itself_is_told_only_where_a_setting_says_so(with_pair: TrialPair) -> None:
    silent = signer().sign(music("wav"), "wav", CLAIM)
    open_about_it = open_signer(MarksSettings(c2pa_prompt=True))
    assert open_about_it is not None

    loud = told(open_about_it.sign(music("wav"), "wav", CLAIM), "wav")

    assert "a secret tune" not in json.dumps(told(silent, "wav"))
    assert b"a secret tune" not in silent.data
    assert "a secret tune" in json.dumps(loud)


@pytest.mark.parametrize(
    ("kind", "algorithm"),
    [("secp256r1", "Es256"), ("secp384r1", "Es384"), ("secp521r1", "Es512"), ("rsa", "Ps256")],
)
def test_keys_of_every_kind_sign(
    kind: str, algorithm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = (
        rsa.generate_private_key(65537, 2048)
        if kind == "rsa"
        else ec.generate_private_key({curve.name: curve for curve in CURVES}[kind])
    )
    pair = make_trial_pair(key=key)
    monkeypatch.setenv(KEY, pair.key.decode())
    monkeypatch.setenv(CERTIFICATE, pair.chain.decode())

    signed = signer().sign(music("wav"), "wav", CLAIM)

    assert told(signed, "wav")["signature_info"]["alg"] == algorithm
    assert ManifestChecker.of_environment().check(signed.data, "wav").state == "trusted"


def test_nothing_of_the_key_is_in_a_signed_clip(with_pair: TrialPair) -> None:
    signed = signer().sign(music("ogg"), "ogg", CLAIM)
    body = b"".join(with_pair.key.splitlines()[1:-1])
    assert len(body) > 40
    assert body not in signed.data + (signed.sidecar or b"")
    assert body.decode() not in repr(signer()) + repr(vars(signer()))


@pytest.mark.usefixtures("no_pair")
def test_without_keys_nothing_is_signed_and_require_says_what_is_missing() -> None:
    assert open_signer(MarksSettings()) is None
    assert open_named_signer(MarksSettings(), None) is None
    with pytest.raises(
        MarksError, match=r"--c2pa require: neither MUSICGEN_C2PA_KEY nor .* is set"
    ):
        open_signer(MarksSettings(c2pa="require"))


def test_off_is_off_with_keys_too(with_pair: TrialPair) -> None:
    assert open_signer(MarksSettings(c2pa="off")) is None


def test_a_replica_with_another_certificate_than_the_driver_is_refused(
    with_pair: TrialPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    fingerprint = signer().certificate.fingerprint
    assert open_named_signer(MarksSettings(), fingerprint) is not None

    other = make_trial_pair()
    monkeypatch.setenv(KEY, other.key.decode())
    monkeypatch.setenv(CERTIFICATE, other.chain.decode())
    with pytest.raises(MarksError, match=r"another C2PA certificate.*give every node the same"):
        open_named_signer(MarksSettings(), fingerprint)
    for name in (KEY, CERTIFICATE):
        monkeypatch.delenv(name)
    with pytest.raises(MarksError, match="no C2PA pair"):
        open_named_signer(MarksSettings(), fingerprint)


def test_a_signature_by_somebody_else_holds_and_is_not_trusted(
    with_pair: TrialPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    signed = signer().sign(music("mp3"), "mp3", CLAIM)
    monkeypatch.setenv(CERTIFICATE, make_trial_pair().chain.decode())

    proof = ManifestChecker(read_certificate()).check(signed.data, "mp3")

    assert proof.state == "valid"


def test_without_the_library_signatures_are_not_checked(
    with_pair: TrialPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    checker = ManifestChecker.of_environment()
    monkeypatch.setattr(checker, "can_check", False)
    assert checker.check(b"anything", "wav").state == "unchecked"
