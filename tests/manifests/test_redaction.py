"""What is shown of addresses and options: an allow-list."""

import pytest

from manifests.messages import shorten
from manifests.redaction import (
    redact,
    secrets_in,
    secrets_in_uri,
    shown_options,
    shown_row,
    shown_uri,
    without_hidden,
)


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("s3://bucket/a/b.wav", "s3://bucket/a/b.wav"),
        ("s3://me:pw@bucket/x", "s3://***@bucket/x"),
        ("https://me@h/x", "https://***@h/x"),
        ("https://h:8080/x?versionId=a+b/c", "https://h:8080/x?versionId=a+b/c"),
        ("https://[::1]:8080/x?generation=17&sig=1", "https://[::1]:8080/x?generation=17&***"),
        ("https://h/x?X-Amz-Credential=AKIA&X-Amz-Expires=60&X-Amz-Signature=a", "https://h/x?***"),
        ("https://h/x?anything", "https://h/x?***"),
        ("https://h/x?alt=media;token=abc", "https://h/x?***"),
        ("https://h/a;token=abc/b;c=d.wav", "https://h/a;***/b;***"),
        ("https://h/x#access_token=abc", "https://h/x#***"),
        ("https://me:p/w@h/x", "https://***@h/x"),
        ("https://me:p@w@h/x", "https://***@h/x"),
        ("https://h/@me/x.wav", "https://h/@me/x.wav"),
        ("https://h/x?k=it's a secret", "https://h/x?***"),
        ("songs/a;b.wav", "songs/a;b.wav"),
        ("songs/m.parquet?token=abc&x", "songs/m.parquet?***"),
        ("songs/what now?.wav", "songs/what now?.wav"),
        ("file:///a/b c.wav", "file:///a/b c.wav"),
    ],
)
def test_of_a_uri_only_what_is_harmless_is_shown(uri: str, shown: str) -> None:
    assert shown_uri(uri) == shown
    assert shown_uri(shown) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('{"uri": "https://a:b@h/x?sig=1"}', '{"uri": "https://***@h/x?***"}'),
        ("cannot read https://h/x?a=1: gone (retry)", "cannot read https://h/x?***: gone (retry)"),
        ("ClientError: https://h/x?a=1, (b)", "ClientError: https://h/x?***, (b)"),
        ("https://h/x: not found; check the path", "https://h/x: not found; check the path"),
        ("see <https://h/x?a=1> and s3://b/c.", "see <https://h/x?***> and s3://b/c."),
        ("m.parquet?token=abc: not found", "m.parquet?***: not found"),
        ("a song at 5 o'clock @ home", "a song at 5 o'clock @ home"),
    ],
)
def test_uris_are_found_in_texts(text: str, shown: str) -> None:
    assert redact(text) == shown


def test_secrets_of_a_uri_are_left_out_of_what_libraries_say_of_it() -> None:
    uri = "https://me:hunter%202@h/x;jsess=abcdef?sig=q%2Br%3D%3D&versionId=77777#frag"
    said = "InvalidURL hunter 2 / hunter%202 / q+r== / q%2Br%3D%3D / abcdef / frag / 77777"
    assert redact(said, secrets_in_uri(uri)) == (
        "InvalidURL *** / *** / *** / *** / *** / *** / 77777"
    )
    assert secrets_in_uri("s3://bucket/key.wav?versionId=77777") == []


def test_a_value_is_redacted_before_its_middle_is_left_out() -> None:
    uri = f"https://h/{'x' * 50}?X-Amz-Signature={'f' * 64}"
    assert "ff" not in shorten(uri)
    assert "hunter" not in shorten({"path": f"https://me:{'hunter2' * 20}@h/x"})


def test_of_a_row_addresses_are_shown_without_secrets() -> None:
    row = {
        "prompt": 'like https://h/x?key=1 " but slow',
        "melody_uri": 'https://h/x?sig="quoted" and more',
        "style_audio": {"path": "https://h/y?sig=1", "bytes": b"1"},
        "seed": 3,
    }
    assert shown_row(row) == {
        "prompt": 'like https://h/x?*** " but slow',
        "melody_uri": "https://h/x?***",
        "style_audio": {"path": "https://h/y?***", "bytes": b"1"},
        "seed": 3,
    }


OPTIONS = {
    "anon": False,
    "endpoint_url": "https://me:pw12@host:7480/?sig=abcd",
    "profile": "production",
    "client_kwargs": {
        "region_name": "eu-west-1",
        "headers": {"Authorization": "Bearer abcdef"},
        "cookies": ["one-cookie"],
    },
    "config_kwargs": {"connect_timeout": 5},
}


def test_options_are_recorded_by_name_and_only_harmless_ones_by_value() -> None:
    shown = shown_options(OPTIONS)
    assert shown == {
        "anon": False,
        "endpoint_url": "https://***@host:7480/?***",
        "profile": "***",
        "client_kwargs": {
            "region_name": "eu-west-1",
            "headers": {"Authorization": "***"},
            "cookies": "***",
        },
        "config_kwargs": {"connect_timeout": 5},
    }
    assert without_hidden(shown) == {
        "anon": False,
        "client_kwargs": {"region_name": "eu-west-1", "headers": {}},
        "config_kwargs": {"connect_timeout": 5},
    }


def test_what_is_not_recorded_of_the_options_is_left_out_of_messages() -> None:
    found = secrets_in(OPTIONS)
    assert {"Bearer abcdef", "one-cookie", "pw12", "abcd"} <= set(found)
    assert "eu-west-1" not in found
    assert redact("denied: Bearer abcdef", found) == "denied: ***"
