"""Who may ask the page's server, and what no request gets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.dataset.browse.guard import is_loopback
from pipeline.dataset.browse.serve import BrowseError, serving
from pipeline.storage import open_storage
from tests.pipeline.dataset.browse.servers import Client, browsing
from tests.pipeline.report.outputs import RUN, some_clips, write_output

SECRET = b"the content of a file that nobody may have"
CLIP = some_clips(1)[0][0]["clip_id"]
HOSTILE = [
    "/../secret.txt",
    "/../../../../../../etc/passwd",
    "//etc/passwd",
    "///etc/passwd",
    "/etc/passwd",
    "/%2e%2e/secret.txt",
    "/%2e%2e%2fsecret.txt",
    "/..%2f..%2f..%2fetc%2fpasswd",
    "/..%252f..%252fetc%252fpasswd",
    "/..\\..\\etc\\passwd",
    "/page/../../secret.txt",
    "/page/..%2f..%2fsecret.txt",
    "/page/%2e%2e%2f%2e%2e%2fapp.py",
    "/page/..%5c..%5capp.py",
    "/page//etc/passwd",
    "/page/%2fetc%2fpasswd",
    "/page/app.py",
    "/page/__init__.py",
    "/page/",
    "/page/index.html%00.png",
    "/clips/../secret.txt/audio",
    "/clips/..%2f..%2fsecret.txt/audio",
    "/clips/%2fetc%2fpasswd/audio",
    f"/clips/{CLIP}/../../secret.txt",
    f"/clips/{CLIP}%2f..%2f..%2fsecret.txt/audio",
    f"/clips/{CLIP}.flac/audio",
    f"/clips/{CLIP.upper()}/audio",
    f"/clips/{CLIP[:-1]}/audio",
    f"/clips/{CLIP}%00/audio",
    "/clips/" + "f" * 32 + "/audio",
    f"/clips/{CLIP}/references/..%2f..%2fsecret.txt",
    f"/clips/{CLIP}/references/melody",
    "/clips/*/audio",
    "/clips/%25/audio",
    "/clips/' OR 1=1 --/audio".replace(" ", "%20"),
    f"/runs/{RUN}.json",
    f"/clips/part-{RUN}-a1b2c3-000000.parquet",
    "/secret.txt",
    "/audio/",
    "http://169.254.169.254/latest/meta-data/",
    "file:///etc/passwd",
]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("guard")
    (folder / "secret.txt").write_bytes(SECRET)
    storage = write_output(folder / "out", some_clips(2))
    (folder / "out" / "secret.txt").write_bytes(SECRET)
    with browsing(storage, folder) as opened:
        yield opened


@pytest.mark.parametrize("path", HOSTILE)
def test_nothing_but_clips_by_their_id_is_served(client: Client, path: str) -> None:
    answer = client.ask(path)

    assert 400 <= answer.status < 500, path
    for inside in (SECRET, b"root:", b"PAR1", b"import ", b'"config"'):
        assert inside not in answer.body


def test_there_are_at_least_30_hostile_paths() -> None:
    assert len(set(HOSTILE)) >= 30


@pytest.mark.parametrize(
    "path",
    ["/", "/page/main.js", "/api/about", "/api/state", "/api/clips", f"/api/clips/{CLIP}",
     "/api/failed", "/api/ratings.csv", f"/clips/{CLIP}/audio", f"/clips/{CLIP}/spectrogram.png"],
)  # fmt: skip
def test_everything_needs_the_token(client: Client, path: str) -> None:
    assert client.ask(path).status == 200
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": client.token},
                    {"Cookie": f"musicgen_browse_{client.port}=wrong"},
                    {"Cookie": f"other={client.token}"}):  # fmt: skip
        answer = client.ask(path, with_token=False, **headers)
        assert answer.status == 403, headers
        assert client.token.encode() not in answer.body
        assert "set-cookie" not in answer.headers
    assert client.ask(f"{path}?token=wrong", with_token=False).status == 403
    with_cookie = client.ask(
        path, with_token=False, Cookie=f"musicgen_browse_{client.port}={client.token}"
    )
    assert with_cookie.status == 200


def test_the_address_opens_the_page_and_leaves_a_cookie_for_it_alone(client: Client) -> None:
    opened = client.ask(f"/?token={client.token}", with_token=False)

    assert opened.status == 200
    cookie = opened.headers["set-cookie"]
    assert cookie.startswith(f"musicgen_browse_{client.port}={client.token};")
    assert {"HttpOnly", "SameSite=Strict"} <= set(cookie.split("; "))
    assert client.ask(f"/api/state?token={client.token}", with_token=False).status == 403


@pytest.mark.parametrize(
    "host", ["example.org", "example.org:{port}", "127.0.0.1", "127.0.0.1:1", "0.0.0.0:{port}",
             "localhost.example.org:{port}", "169.254.169.254:{port}", ""]
)  # fmt: skip
def test_a_name_that_resolves_to_this_machine_is_no_host(client: Client, host: str) -> None:
    assert client.ask("/api/state", Host=host.format(port=client.port)).status == 403


def test_names_of_this_machine_are_hosts(client: Client) -> None:
    for name in ("127.0.0.1", "localhost", "[::1]"):
        assert client.ask("/api/state", Host=f"{name}:{client.port}").status == 200


@pytest.mark.parametrize(
    "origin", ["null", "http://example.org", "https://127.0.0.1:{port}", "http://127.0.0.1:1",
               "http://localhost:{port}"]
)  # fmt: skip
def test_another_origin_is_refused(client: Client, origin: str) -> None:
    given = origin.format(port=client.port)
    assert client.ask("/api/state", Origin=given).status == 403
    body = b'{"clip_id": "%s", "rating": 1}' % CLIP.encode()
    assert client.ask("/api/ratings", method="POST", body=body, Origin=given).status == 403
    own = f"http://127.0.0.1:{client.port}"
    assert client.ask("/api/state", Origin=own).status == 200


def test_what_another_site_embeds_is_refused_although_the_browser_adds_the_cookie(
    client: Client,
) -> None:
    cookie = f"musicgen_browse_{client.port}={client.token}"
    for site in ("cross-site", "same-site"):  # another port of this machine is of the same site
        fetched = {"Cookie": cookie, "Sec-Fetch-Site": site, "Sec-Fetch-Mode": "no-cors"}
        assert client.ask(f"/clips/{CLIP}/audio", with_token=False, **fetched).status == 403
        opened = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate"}
        assert client.ask(f"/?token={client.token}", with_token=False, **opened).status == 200


def test_a_form_of_another_page_rates_nothing(client: Client) -> None:
    body = b'{"clip_id": "%s", "rating": 1}' % CLIP.encode()
    cookie = f"musicgen_browse_{client.port}={client.token}"
    answer = client.ask("/api/ratings", method="POST", body=body, with_token=False, Cookie=cookie)
    assert answer.status == 403


@pytest.mark.parametrize("path", ["/", "/api/clips", f"/clips/{CLIP}/audio", "/nothing"])
def test_every_answer_forbids_what_the_page_does_not_need(client: Client, path: str) -> None:
    for with_token in (True, False):
        headers = client.ask(path, with_token=with_token).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self';" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_only_ratings_can_be_changed(client: Client, method: str) -> None:
    for path in ("/", f"/clips/{CLIP}/audio", "/api/clips"):
        assert client.ask(path, method=method, body=b"").status in (403, 405)


def test_only_this_machine_is_listened_on(tmp_path: Path) -> None:
    assert [is_loopback(host) for host in ("127.0.0.1", "127.8.8.8", "::1", "localhost")] == (
        [True] * 4
    )
    for host in ("0.0.0.0", "::", "10.0.0.1", "example.org", ""):
        assert not is_loopback(host)
        with (
            pytest.raises(BrowseError, match="ssh -L"),
            serving(open_storage(str(tmp_path)), host=host),
        ):
            pass


def test_two_servers_have_two_tokens(client: Client, tmp_path: Path) -> None:
    with browsing(write_output(tmp_path / "out", some_clips(1)), tmp_path) as other:
        assert other.token != client.token
        assert len(other.token) >= 40
        wrong = client.ask("/api/state", Authorization=f"Bearer {other.token}", with_token=False)
        assert wrong.status == 403
