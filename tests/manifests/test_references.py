"""References: where they may lie, and what they may cost; on a real web server and real files."""

import gzip
import http.server
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from manifests.identity import bytes_token
from manifests.row_errors import (
    ChangedReferenceError,
    ForbiddenReferenceError,
    ReferenceNotFoundError,
    RowError,
    UnreachableReferenceError,
)
from manifests.uris import hosts, policy
from manifests.uris.policy import ReferenceAccess, ReferencePolicy
from manifests.uris.references import Fetched, fetch, identify_reference, read_reference

AUDIO = b"some audio" * 1000
PRIVATE = ReferencePolicy(allow_private_hosts=True)
HERE = ReferenceAccess(PRIVATE)


def access(**settings: Any) -> ReferenceAccess:
    """Access to this machine's web server within other limits."""
    return ReferenceAccess(ReferencePolicy(allow_private_hosts=True, **settings))


class Odd(http.server.BaseHTTPRequestHandler):
    """A web server whose answers follow from the path."""

    protocol_version = "HTTP/1.1"
    requests: list[str]

    def log_message(self, *what: object) -> None:
        return

    def do_GET(self) -> None:
        self.requests.append(self.path)
        kind, _, rest = self.path.lstrip("/").partition("/")
        getattr(self, f"send_{kind}")(rest)
        self.close_connection = True

    def send_file(self, _: str) -> None:
        self._begin(200, {"Content-Length": str(len(AUDIO))})
        self.wfile.write(AUDIO)

    def send_status(self, status: str) -> None:
        self._begin(int(status), {"Content-Length": "0"})

    def send_once(self, _: str) -> None:
        """Fails at the first request."""
        if self.requests.count(self.path) == 1:
            return self.send_status("503")
        return self.send_file("")

    def send_to(self, place: str) -> None:
        self._begin(302, {"Location": place, "Content-Length": "0"})

    def send_hops(self, left: str) -> None:
        self.send_to("/file/" if left == "0" else f"/hops/{int(left) - 1}")

    def send_endless(self, _: str) -> None:
        self._begin(200, {})
        with_errors_ignored(lambda: [self.wfile.write(bytes(2**16)) for _ in range(10_000)])

    def send_silent(self, _: str) -> None:
        self._begin(200, {"Content-Length": "10"})
        self.wfile.write(b"1")
        self.wfile.flush()
        time.sleep(1.5)

    def send_trickle(self, _: str) -> None:
        self._begin(200, {"Content-Length": "1000"})

        def write() -> None:
            for _ in range(20):
                self.wfile.write(b"1")
                self.wfile.flush()
                time.sleep(0.1)

        with_errors_ignored(write)

    def send_short(self, _: str) -> None:
        self._begin(200, {"Content-Length": str(len(AUDIO) + 7)})
        self.wfile.write(AUDIO)

    def send_large(self, _: str) -> None:
        self._begin(200, {"Content-Length": str(10**12)})

    def send_gzip(self, _: str) -> None:
        packed = gzip.compress(AUDIO)
        self._begin(200, {"Content-Length": str(len(packed)), "Content-Encoding": "gzip"})
        self.wfile.write(packed)

    def _begin(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


def with_errors_ignored(action: Callable[[], object]) -> None:
    """The client may go away at any moment."""
    try:
        action()
    except OSError:
        return


@pytest.fixture(scope="module")
def odd() -> Iterator[str]:
    """The address of a server of `Odd` answers."""
    Odd.requests = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Odd) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Ends in time."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


# --- the web


def test_the_bytes_and_what_names_them(odd: str) -> None:
    assert fetch(f"{odd}/file/a.wav?x=1", HERE) == Fetched(AUDIO, bytes_token(AUDIO))
    assert identify_reference(f"{odd}/file/a.wav", HERE) == bytes_token(AUDIO)


def test_what_may_pass_is_asked_for_again(odd: str) -> None:
    assert read_reference(f"{odd}/once/a", HERE) == AUDIO


@pytest.mark.parametrize("status", [404, 410])
def test_what_is_not_there_is_no_such_file(odd: str, status: int) -> None:
    with pytest.raises(ReferenceNotFoundError, match="no such file; correct the path"):
        read_reference(f"{odd}/status/{status}", HERE)


@pytest.mark.parametrize(
    ("path", "settings", "words"),
    [
        ("status/403", {}, "answered 403 Forbidden .*access was denied"),
        ("status/500", {}, "answered 500 .*check the server and the network"),
        ("status/204", {}, "answered 204 .*give the address of a file"),
        ("hops/3", {"max_redirects": 3}, "more than 3 redirects .*give a direct address"),
        ("to/ftp://127.0.0.1/a", {}, r"it redirects to ftp://127.0.0.1/a .*give a direct"),
        ("endless/", {"max_reference_bytes": 10**6}, "more bytes than the limit of 1,000,000"),
        ("large/", {}, "has 1,000,000,000,000 bytes, more than the limit of 268,435,456"),
        ("silent/", {"reference_idle_timeout_s": 0.2}, "sent nothing for 0.2 s"),
        ("trickle/", {}, "was not there after 1 s; use a faster host, or raise --reference-time"),
        ("short/", {}, "broke off after 10,000 of 10,007 bytes"),
        ("gzip/", {}, "Content-Encoding gzip, which was not asked for .*serve the file as it is"),
    ],
)
def test_an_answer_that_will_not_do(
    odd: str, path: str, settings: dict[str, Any], words: str
) -> None:
    allowed = access(**{"reference_timeout_s": 1.0} | settings)

    with within(5.0), pytest.raises(UnreachableReferenceError, match=words):
        read_reference(f"{odd}/{path}", allowed)


def test_redirects_up_to_the_limit_are_followed(odd: str) -> None:
    assert read_reference(f"{odd}/hops/2", access(max_redirects=3)) == AUDIO


def test_nobody_answers(odd: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    allowed = access(reference_timeout_s=1.0)
    with within(5.0), pytest.raises(UnreachableReferenceError, match="no connection"):
        read_reference(f"http://127.0.0.1:{port}/a", allowed)


# --- where references may lie


def test_this_machine_is_refused_and_no_request_is_sent(odd: str) -> None:
    before = len(Odd.requests)
    port = odd.rpartition(":")[2]

    for host in ("127.0.0.1", "localhost", "127.1", "2130706433", "0x7f000001", "[::ffff:7f00:1]"):
        with pytest.raises(ForbiddenReferenceError, match=r"loopback address.*--allow-private-h"):
            fetch(f"http://{host}:{port}/file/", ReferenceAccess())
    assert len(Odd.requests) == before


@pytest.mark.parametrize(
    ("host", "kind"),
    [
        ("10.1.2.3", "private"),
        ("192.168.0.1", "private"),
        ("172.16.0.1", "private"),
        ("100.64.0.1", "private"),
        ("169.254.1.1", "link-local"),
        ("0.0.0.0", "reserved"),
        ("224.0.0.1", "reserved"),
        ("[::1]", "loopback"),
        ("[fe80::1]", "link-local"),
        ("[fc00::1]", "private"),
        ("[64:ff9b::a00:1]", "private"),  # 10.0.0.1 behind NAT64
        ("[2002:a00:1::]", "private"),  # the same by 6to4
    ],
)
def test_addresses_that_are_not_public_are_refused(host: str, kind: str) -> None:
    with within(2.0), pytest.raises(ForbiddenReferenceError, match=f"a {kind} address"):
        fetch(f"http://{host}/a", ReferenceAccess())


@pytest.mark.parametrize(
    "host",
    [
        *("169.254.169.254", "[fd00:ec2::254]", "100.100.100.200", "[::ffff:a9fe:a9fe]"),
        *("2852039166", "metadata.google.internal", "METADATA.google.internal."),
    ],
)
def test_metadata_services_are_always_refused(host: str) -> None:
    with within(2.0), pytest.raises(ForbiddenReferenceError, match="a metadata service, which no"):
        fetch(f"http://{host}/latest/meta-data", HERE)


def test_a_redirect_is_judged_like_the_first_address(odd: str) -> None:
    with pytest.raises(ForbiddenReferenceError, match=r"it redirects to 169\.254\.169\.254"):
        fetch(f"{odd}/to/http://169.254.169.254/latest", HERE)


def test_a_public_name_that_redirects_to_this_machine_is_refused(
    odd: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name's address counts as public here; that of the redirect is what it is."""
    port = odd.rpartition(":")[2]
    plain, kinds = hosts.resolve, {"127.0.0.2": "public"}
    monkeypatch.setattr(
        hosts,
        "resolve",
        lambda host, at: (
            [hosts.Resolved(socket.AF_INET, "127.0.0.2")]
            if host == "music.example"
            else plain(host, at)
        ),
    )
    judge = hosts.kind_of
    monkeypatch.setattr(hosts, "kind_of", lambda given: kinds.get(str(given), judge(given)))
    with http.server.ThreadingHTTPServer(("127.0.0.2", 0), Odd) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        public = f"http://music.example:{server.server_address[1]}"
        assert read_reference(f"{public}/file/", ReferenceAccess()) == AUDIO
        with pytest.raises(ForbiddenReferenceError, match=r"redirects to 127\.0\.0\.1, a loopback"):
            fetch(f"{public}/to/http://127.0.0.1:{port}/file/", ReferenceAccess())
        server.shutdown()


def test_one_private_address_among_public_ones_is_enough_to_refuse(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = [hosts.Resolved(socket.AF_INET, text) for text in ("93.184.215.14", "10.0.0.7")]
    monkeypatch.setattr(hosts, "resolve", lambda host, port: found)

    with pytest.raises(ForbiddenReferenceError, match=r"music.example \(10\.0\.0\.7\), a private"):
        fetch("https://music.example/a.wav", ReferenceAccess())


def test_a_manifest_from_elsewhere_may_not_name_files_of_this_machine(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(AUDIO)
    uri = str(tmp_path / "a.wav")
    remote = ReferenceAccess(manifest_uri="s3://bucket/prompts.parquet")
    allowed = ReferenceAccess(
        ReferencePolicy(allow_local_references=True), manifest_uri="s3://bucket/prompts.parquet"
    )

    for named in (uri, f"file://{uri}"):
        with pytest.raises(ForbiddenReferenceError, match="--allow-local-references"):
            read_reference(named, remote)
        assert read_reference(named, allowed) == AUDIO
        assert read_reference(named, ReferenceAccess(manifest_uri="prompts.parquet")) == AUDIO


# --- local files


def test_what_is_no_ordinary_file_is_refused_at_once(tmp_path: Path) -> None:
    pipe, loop = tmp_path / "pipe", tmp_path / "loop"
    os.mkfifo(pipe)
    loop.symlink_to(loop)
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "socket"))
    cases = {
        str(pipe): "a named pipe: name an ordinary file",
        str(tmp_path / "socket"): "a socket: name an ordinary file",
        "/dev/zero": "a device: name an ordinary file",
        "/dev/stdin": "name an ordinary file|no such file",
        "/proc/self/environ": r"a file of the kernel \(proc\)",
        "/sys/kernel/mm/transparent_hugepage/enabled": r"a file of the kernel \(sysfs\)|no such",
        str(tmp_path): "a folder: name a file in it",
        str(loop): "symbolic link",
        f"{tmp_path}/a\0b": "null byte",
    }
    for path, words in cases.items():
        for ask in (read_reference, identify_reference):
            with within(2.0), pytest.raises(RowError, match=words):
                ask(path, ReferenceAccess())


def test_a_file_is_counted_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(AUDIO)
    bounds = policy.Bounds(str(path), ReferencePolicy(max_reference_bytes=9999))
    content = policy.Content(bounds, keep=False)

    content.add(AUDIO[:9999])
    with pytest.raises(OSError, match="more bytes than the limit of 9,999"):
        content.add(b"1")


# --- what was hashed is what is used


def test_a_reference_that_has_changed_says_so(odd: str, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(AUDIO)
    token = identify_reference(str(path), ReferenceAccess())
    assert read_reference(str(path), ReferenceAccess(), token) == AUDIO

    path.write_bytes(AUDIO[::-1])

    with pytest.raises(ChangedReferenceError, match="changed while the job was running"):
        read_reference(str(path), ReferenceAccess(), token)
    assert identify_reference(str(path), ReferenceAccess()) == bytes_token(AUDIO[::-1])
    with pytest.raises(ChangedReferenceError, match="changed while the job was running"):
        read_reference(f"{odd}/file/", HERE, token[:-1] + "x")


def test_embedded_audio_has_the_same_limit() -> None:
    small = ReferenceAccess(ReferencePolicy(max_reference_bytes=9))

    assert read_reference(b"123456789", small) == b"123456789"
    with pytest.raises(UnreachableReferenceError, match="embedded audio has 10 bytes"):
        read_reference(b"1234567890", small)
