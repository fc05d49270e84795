"""Keys and certificates: what is wrong with them is said in a sentence, and nothing of a key is."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from pipeline.audio.marks import credentials
from pipeline.audio.marks.credentials import CERTIFICATE, KEY, read_certificate, read_credentials
from pipeline.audio.marks.settings import MarksError
from pipeline.audio.marks.trial_pair import TrialPair, make_trial_pair, write_trial_pair

PEM, PKCS8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
LONG_AGO = datetime(2024, 3, 1, 12, tzinfo=UTC)


def environment(key: object, certificate: object) -> dict[str, str]:
    given = {KEY: key, CERTIFICATE: certificate}
    return {name: str(value) for name, value in given.items() if value is not None}


def text(data: bytes) -> str:
    return data.decode()


def encrypted(pair: TrialPair) -> str:
    key = serialization.load_pem_private_key(pair.key, None)
    return text(key.private_bytes(PEM, PKCS8, serialization.BestAvailableEncryption(b"x")))


def test_a_pair_is_read_from_files_from_text_and_from_one_line(
    pair: TrialPair, tmp_path: Path
) -> None:
    paths = write_trial_pair(tmp_path / "keys")
    from_files = read_credentials(environment(*paths))
    from_text = read_credentials(environment(text(pair.key), text(pair.chain)))
    one_line = [text(each).strip().replace("\n", "\\n") for each in (pair.key, pair.chain)]

    assert from_files is not None
    assert from_text is not None
    assert from_text == read_credentials(environment(*one_line))
    assert (from_text.algorithm, from_text.certificate.is_self_signed) == ("ed25519", True)
    assert from_files.certificate.fingerprint != from_text.certificate.fingerprint
    assert paths[0].stat().st_mode & 0o077 == 0


def test_nothing_is_there_where_neither_is_set() -> None:
    assert read_credentials({}) is None
    assert read_credentials({KEY: " ", CERTIFICATE: ""}) is None
    assert read_certificate({}) is None


def test_each_fault_is_one_sentence_without_the_key(pair: TrialPair, tmp_path: Path) -> None:
    key, chain = text(pair.key), text(pair.chain)
    bare = "".join(key.splitlines()[1:-1])  # a key without its frame, as people paste it
    old = make_trial_pair(LONG_AGO, days=30)
    early = make_trial_pair(datetime.now(UTC) + timedelta(days=3))
    weak = rsa.generate_private_key(65537, 1024)
    curve = ec.generate_private_key(ec.SECP256K1())
    faults = [
        (key, None, r"MUSICGEN_C2PA_KEY is set but MUSICGEN_C2PA_CERT is not; set both"),
        (None, chain, r"MUSICGEN_C2PA_CERT is set but MUSICGEN_C2PA_KEY is not; set both"),
        (bare, chain, r"MUSICGEN_C2PA_KEY holds neither PEM text nor the path of a file"),
        (tmp_path / "none.pem", chain, r"KEY holds neither .* \(No such file or directory\)"),
        (tmp_path, chain, r"KEY holds neither .* \(Is a directory\)"),
        (chain, chain, r"MUSICGEN_C2PA_KEY holds no private key in PEM"),
        (key, key, r"MUSICGEN_C2PA_CERT holds no certificate in PEM"),
        (encrypted(pair), chain, r"MUSICGEN_C2PA_KEY: the key is encrypted"),
        (key, text(make_trial_pair().chain), r"KEY is not the key of MUSICGEN_C2PA_CERT"),
        (text(old.key), text(old.chain), r"test certificate' expired at 2024-03-31 12:00 UTC"),
        (text(early.key), text(early.chain), r"is not valid before 20"),
    ]
    for given, certificate, says in faults:
        with pytest.raises(MarksError, match=says) as refused:
            read_credentials(environment(given, certificate))
        assert bare not in str(refused.value)
        assert "\n" not in str(refused.value)
    for unfit in (weak, curve):
        pem = text(unfit.private_bytes(PEM, PKCS8, serialization.NoEncryption()))
        with pytest.raises(MarksError):
            read_credentials(environment(pem, chain))


def test_keys_without_the_library_are_no_silence(
    pair: TrialPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(credentials, "find_spec", lambda name: None)
    with pytest.raises(MarksError, match=r"pip install 'musicgen-batch\[marks\]'"):
        read_credentials(environment(text(pair.key), text(pair.chain)))


def test_a_pair_is_never_overwritten(tmp_path: Path) -> None:
    key, _ = write_trial_pair(tmp_path)
    before = key.read_bytes()
    with pytest.raises(MarksError, match="already there: a key is never overwritten"):
        write_trial_pair(tmp_path)
    assert key.read_bytes() == before
    with pytest.raises(MarksError, match="can't be written"):
        write_trial_pair(key / "below")
