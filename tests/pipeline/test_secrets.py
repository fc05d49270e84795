"""Secrets of forty kinds go into a job, and everything that it writes and says is searched."""

from __future__ import annotations

import io
import json
import logging
import re
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile as sf
from click.testing import CliRunner

from pipeline import ledger
from pipeline.audio.encode import read_comment
from pipeline.audio.marks.credentials import CERTIFICATE, KEY
from pipeline.audio.marks.trial_pair import make_trial_pair
from pipeline.cli.root import main
from pipeline.storage import open_storage
from tests.integration.jobs import write_manifest

# Each `S` becomes a secret of its own. The server has /ok.wav and no /none.wav.
ADDRESSES = {
    "basic auth": "http://me:S@HOST/ok.wav",
    "user alone": "http://S@HOST/ok.wav",
    "password with @": "http://me:S@S2@HOST/none.wav",
    "password with /": "http://me:S/S2@HOST/none.wav",
    "password, encoded": "http://me:S%2F-S2@HOST/none.wav",
    "key": "http://HOST/ok.wav?key=S",
    "api key": "http://HOST/none.wav?x=1&apiKey=S",
    "amz signature": "http://HOST/ok.wav?X-Amz-Signature=S",
    "amz credential": "http://HOST/none.wav?X-Amz-Credential=S%2F2026%2Fs3",
    "amz session": "http://HOST/none.wav?X-Amz-Security-Token=S",
    "aws v2": "http://HOST/none.wav?AWSAccessKeyId=S&Signature=S2%3D&Expires=1",
    "sse key": "http://HOST/none.wav?x-amz-server-side-encryption-customer-key=S",
    "sas": "http://HOST/ok.wav?sv=2024-01-01&se=2030&sr=b&sp=r&sig=S%2Bx%3D",
    "gcs": "http://HOST/none.wav?GoogleAccessId=S&Signature=S2",
    "goog": "http://HOST/none.wav?X-Goog-Credential=S&X-Goog-Signature=S2",
    "cloudfront": "http://HOST/none.wav?Policy=S&Key-Pair-Id=S2",
    "discord": "http://HOST/none.wav?ex=S&is=S2&hm=S3",
    "akamai": "http://HOST/none.wav?hdnts=exp=1~hmac=S",
    "token": "http://HOST/none.wav?token=S",
    "access_token": "http://HOST/ok.wav?access_token=S",
    "jwt": "http://HOST/none.wav?jwt=eyJhbGciOiJIUzI1NiJ9.S.S2",
    "auth": "http://HOST/none.wav?auth=S",
    "code": "http://HOST/none.wav?code=S",
    "password": "http://HOST/none.wav?pwd=S",
    "session id": "http://HOST/none.wav?sid=S",
    "no name": "http://HOST/none.wav?S",
    "name that is the secret": "http://HOST/none.wav?S=1",
    "name, encoded": "http://HOST/none.wav?%74oken=S",
    "semicolons": "http://HOST/none.wav?a=1;token=S",
    "path parameter": "http://HOST/none.wav;token=S",
    "path parameter inside": "http://HOST/a;jsessionid=S/none.wav",
    "fragment": "http://HOST/ok.wav#S",
    "fragment with a name": "http://HOST/none.wav#access_token=S",
    "address in an address": "http://HOST/none.wav?u=http://me:S@HOST/x%3Fkey=S2",
    "quote": "http://HOST/none.wav?sig=a'S",
    "double quote": 'http://HOST/none.wav?sig=a"S',
    "blank": "http://HOST/none.wav?sig=a S",
    "backslash": "http://HOST/none.wav?sig=a\\S",
    "no such scheme": "xyz://me:S@HOST/none.wav?sig=S2",
    "a long one": "http://HOST/none.wav?sig=" + "f" * 4000 + "S",
}  # fmt: skip
OPTIONS = {
    "client_kwargs": {"headers": {"Authorization": "Bearer S", "Cookie": "sid=S"}},
    "sas": "sv=2024&sig=S",
    "auth": ["S"],
    "connection": "AccountName=x;AccountHash=S",
    "endpoint_url": "http://HOST/?sig=S",
}


class Web(BaseHTTPRequestHandler):
    """Audio below /ok, a manifest, and 404 elsewhere."""

    manifest = b""

    def do_GET(self) -> None:
        place = self.path.partition("?")[0]
        found = AUDIO if place == "/ok.wav" else self.manifest if "manifest" in place else None
        self.send_response(404 if found is None else 200)
        self.send_header("Content-Length", str(len(found or b"")))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(found or b"")

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _audio() -> bytes:
    buffer = io.BytesIO()
    tone = np.sin(np.arange(16_000) * 0.2).astype(np.float32) * 0.3
    sf.write(buffer, tone, 16_000, format="WAV")
    return buffer.getvalue()


AUDIO = _audio()


@pytest.fixture
def host() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Web)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()


class Planted:
    """Gives out secrets and remembers them."""

    def __init__(self, host: str) -> None:
        self.secrets: dict[str, str] = {}
        self._host = host

    def into(self, value: Any, kind: str) -> Any:
        """`value` with the host, and with a new secret for each `S`."""
        if isinstance(value, dict):
            return {name: self.into(each, f"{kind} {name}") for name, each in value.items()}
        if isinstance(value, list):
            return [self.into(each, kind) for each in value]
        value = str(value).replace("HOST", self._host)
        return re.sub(r"(?<![A-Za-z])S[23]?(?![a-z])", lambda _: self._new(kind), value)

    def _new(self, kind: str) -> str:
        secret = f"q{len(self.secrets):02d}zj7w9"
        self.secrets[secret] = kind
        return secret


def is_ours(logger: str) -> bool:
    return logger.partition(".")[0] in ("manifests", "musicgen", "pipeline")


def contents(path: str, data: bytes) -> Iterator[str]:
    """What a file says: its bytes, the cells of a part, the tags of audio, files in tars."""
    yield data.decode("latin-1")
    if path.endswith(".parquet"):
        table = pq.read_table(io.BytesIO(data))
        yield str(table.to_pylist()) + str(table.schema.metadata)
    elif path.endswith((".flac", ".wav", ".mp3", ".ogg", ".opus")):
        with sf.SoundFile(io.BytesIO(data)) as file:
            yield file.title + read_comment(data)
    elif path.endswith(".tar"):
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            for entry in tar:
                file = tar.extractfile(entry)
                yield from contents(entry.name, file.read() if file else b"")


@pytest.mark.slow
def test_no_secret_of_forty_kinds_is_written_or_said(
    host: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.DEBUG)
    planted = Planted(host)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", planted.into("S", "environment"))
    monkeypatch.setenv("AWS_SESSION_TOKEN", planted.into("S", "environment"))
    rows = [
        {
            "id": f"r{i}",
            "prompt": "a song",
            "duration_s": 0.1,
            "melody_uri": planted.into(uri, kind),
        }
        for i, (kind, uri) in enumerate(ADDRESSES.items())
    ]
    bad = planted.into("http://me:S@HOST/x?sig=S2", "row that is not valid")
    rows.append({"id": "bad", "prompt": bad, "duration_s": -1.0, "melody_uri": bad})
    Web.manifest = write_manifest(tmp_path / "m.parquet", rows).read_bytes()
    config = tmp_path / "job.yaml"
    options = planted.into(OPTIONS, "storage option")
    config.write_text(json.dumps({"run": {"storage_options": options}}))
    output = str(tmp_path / "out")
    signed = planted.into("http://HOST/manifest.parquet?X-Amz-Signature=S#S", "manifest")
    job = ["--config", str(config), "--manifest", signed, "--output", output, "--local"]
    shape = ["--model", "tiny", "--slots", "2", "--allow-private-hosts", "--verbose"]
    assert len(planted.secrets) >= 50
    # Its clips are signed, and nothing of the key is to be found either.
    pair = make_trial_pair()
    monkeypatch.setenv(KEY, pair.key.decode())
    monkeypatch.setenv(CERTIFICATE, pair.chain.decode())
    (body,) = pair.key.decode().splitlines()[1:-1]
    planted.secrets |= {body: "key of C2PA", body[-44:-8]: "its last bytes"}

    said = ""
    for command in (
        ["manifest", "check", str(tmp_path / "m.parquet"), "--read-audio", "--allow-private-hosts"],
        ["run", *job, *shape],
        ["plan", *job[:6], *shape[:2]],
        ["retry", *job[2:], "--allow-private-hosts"],
        ["status", "--output", output, "--json"],
        ["verify", "--output", output],
        ["compact", "--output", output, "--prune"],
        ["gc", "--output", output, "--dry-run"],
    ):
        result = CliRunner().invoke(main, command)
        assert result.exit_code in (0, 2, 3), (command[0], result.output)
        assert result.exit_code != 2 or command[0] == "manifest", result.output
        said += result.output + repr(result.exception)

    storage = open_storage(output)
    clips, letters = ledger.read_clips(storage), ledger.read_dead_letters(storage)
    assert clips.num_rows >= 6
    assert clips["c2pa"].unique().to_pylist() == ["embedded"]
    assert clips.num_rows + letters.num_rows == len(rows)
    assert any("http://***@" in uri for uri in clips["melody_uri"].to_pylist())
    written = {info.path: storage.get(info.path) for info in storage.list(hidden=True)}
    assert {path.partition("/")[0] for path in written} >= {"audio", "clips", "failed", "runs"}
    assert "report.html" in written
    said += "".join(capfd.readouterr())
    # Libraries are not shown below WARNING; fsspec names addresses at DEBUG.
    shown = [r for r in caplog.records if r.levelno >= logging.WARNING or is_ours(r.name)]
    said += "".join(record.getMessage() + str(record.exc_text) for record in shown)
    texts = {path: "".join(contents(path, data)) for path, data in written.items()}
    found = {
        (kind, place)
        for secret, kind in planted.secrets.items()
        for place, text in [("said", said), *texts.items()]
        if secret in text
    }
    assert found == set()
