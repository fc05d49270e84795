"""A store: whole objects or none, one winner of an exclusive create, retries, clear errors."""

from __future__ import annotations

import multiprocessing
import pickle
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from manifests.uris.policy import ReferenceAccess, ReferencePolicy
from manifests.uris.references import fetch, reference_token
from pipeline.storage import ObjectNotFoundError, RetryPolicy, Storage, StorageError, open_storage
from tests.faults import STALL_S, FaultProxy, fault_proxy
from tests.s3 import S3Server

IMPATIENT = RetryPolicy(attempts=4, first_delay_s=0.02, read_timeout_s=5, connect_timeout_s=1)


@pytest.fixture
def storage(output_root: str) -> Storage:
    return open_storage(output_root, retry=IMPATIENT)


@pytest.fixture
def proxy(s3: S3Server) -> Iterator[FaultProxy]:
    with fault_proxy(s3.endpoint) as proxy:
        yield proxy


@pytest.fixture
def shaky(s3: S3Server, proxy: FaultProxy) -> Storage:
    """A bucket behind the proxy."""
    return open_storage(s3.bucket(), {"endpoint_url": proxy.endpoint}, retry=IMPATIENT)


# --- what every store does


def test_what_was_put_can_be_read_listed_and_deleted(storage: Storage) -> None:
    assert not storage.exists()
    storage.put_many({"audio/ab/1.flac": b"one", "audio/cd/2.flac": b"two", "clips/p": b""})
    storage.put("audio/ab/1.flac", b"replaced")

    assert storage.exists()
    assert storage.get("audio/ab/1.flac") == b"replaced"
    assert storage.get("clips/p") == b""
    assert storage.get_range("audio/ab/1.flac", 2, 5) == b"pla"
    assert storage.size("audio/ab/1.flac") == 8
    assert storage.size("audio/ab") is None
    listed = storage.list("audio")
    assert [(info.path, info.size) for info in listed] == [
        ("audio/ab/1.flac", 8),
        ("audio/cd/2.flac", 3),
    ]
    assert all(info.mtime > 1.6e9 for info in listed)

    storage.delete(["audio/ab/1.flac", "audio/never/was"])
    assert [info.path for info in storage.list()] == ["audio/cd/2.flac", "clips/p"]


def test_a_folder_is_not_a_name_prefix(storage: Storage) -> None:
    storage.put_many({"clips/a": b"", "clips-old/b": b""})
    assert [info.path for info in storage.list("clips")] == ["clips/a"]
    assert storage.list("cli") == []


def test_writes_of_others_are_seen_at_once(output_root: str) -> None:
    """fsspec's listing cache never expires; with it, a resumed run would trust old listings."""
    ours, theirs = open_storage(output_root), open_storage(output_root)
    ours.put("clips/a", b"a")
    assert [info.path for info in ours.list("clips")] == ["clips/a"]
    theirs.put("clips/b", b"b")
    theirs.delete(["clips/a"])
    assert [info.path for info in ours.list("clips")] == ["clips/b"]
    assert ours.size("clips/a") is None
    assert ours.get("clips/b") == b"b"


def test_reading_what_is_not_there_names_the_uri(storage: Storage) -> None:
    with pytest.raises(ObjectNotFoundError, match=r"some.*out|out") as caught:
        storage.get("clips/none.parquet")
    assert storage.uri("clips/none.parquet") in str(caught.value)
    assert storage.size("clips/none.parquet") is None


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../b", "a\\b"])
def test_paths_stay_below_the_root(tmp_path: Path, path: str) -> None:
    with pytest.raises(ValueError, match="plain relative path"):
        open_storage(str(tmp_path)).put(path, b"")


def test_a_storage_travels_to_other_processes(storage: Storage) -> None:
    storage.put("a", b"1")
    assert pickle.loads(pickle.dumps(storage)).get("a") == b"1"
    context = multiprocessing.get_context("fork")  # s3fs instances don't survive a fork
    with context.Pool(1) as pool:
        assert pool.apply(storage.get, ("a",)) == b"1"


def test_range_file_reads_like_a_file(storage: Storage) -> None:
    data = bytes(range(256)) * 1000
    storage.put("big", data)
    file = storage.open_range("big", len(data))
    assert file.read(10) == data[:10]
    file.seek(-100, 2)
    assert file.read() == data[-100:]
    file.seek(100_000)
    assert file.read(100_000) == data[100_000:200_000]
    assert file.tell() == 200_000


# --- exclusive create


def test_create_once_has_one_winner_among_threads(storage: Storage) -> None:
    wins: list[str] = []
    start = threading.Barrier(8)

    def compete(name: str) -> None:
        start.wait()
        if storage.create_once("lease/1", f"owner {name}".encode(), name):
            wins.append(name)

    threads = [threading.Thread(target=compete, args=(f"t{i}",)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wins) == 1
    assert storage.get("lease/1") == f"owner {wins[0]}".encode()


def test_create_once_again_with_our_own_object_is_still_ours(storage: Storage) -> None:
    assert storage.create_once("part", b"rows of w1", "w1")
    assert storage.create_once("part", b"rows of w1", "w1")
    assert not storage.create_once("part", b"rows of w2", "w2")


def test_create_once_insists_on_a_token_in_the_data(storage: Storage) -> None:
    with pytest.raises(ValueError, match="token"):
        storage.create_once("part", b"anonymous", "w1")


def test_memory_is_a_store_too() -> None:
    storage = open_storage("memory://test-storage/out")
    assert storage.create_once("a/b", b"t1", "t1")
    assert not storage.create_once("a/b", b"t2", "t2")
    assert [info.path for info in storage.list()] == ["a/b"]
    storage.delete(["a/b", "a/c"])
    assert storage.list() == []


# --- local files


def test_a_killed_local_write_leaves_only_a_hidden_file(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    storage.put("audio/a.flac", b"whole")
    (tmp_path / "audio/.b.flac.00ff.tmp").write_bytes(b"tor")
    assert [info.path for info in storage.list("audio")] == ["audio/a.flac"]
    assert len(storage.list("audio", hidden=True)) == 2


def test_a_failed_local_write_leaves_nothing(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path), retry=IMPATIENT)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/file").touch()
    with pytest.raises(StorageError, match="taken"):
        storage.put("taken", b"data")
    assert [info.path for info in storage.list(hidden=True)] == ["taken/file"]


def test_relative_and_home_paths_are_made_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    storage = open_storage("out/demo")
    monkeypatch.chdir("/")  # workers run elsewhere
    storage.put("a", b"")
    assert (tmp_path / "out/demo/a").exists()
    assert "~" not in open_storage("~/x").root


# --- a store that misbehaves


@pytest.mark.s3
def test_a_busy_store_is_tried_again(shaky: Storage, proxy: FaultProxy) -> None:
    for method in ("PUT", "GET", "DELETE"):
        proxy.inject("slow_down", method, times=2)
    shaky.put("a", b"1")
    assert shaky.get("a") == b"1"
    assert [info.path for info in shaky.list()] == ["a"]
    shaky.delete(["a"])
    assert proxy.count("PUT") == proxy.count("DELETE") == 3


@pytest.mark.s3
def test_a_store_that_stays_busy_fails_after_as_many_requests_as_configured(
    shaky: Storage, proxy: FaultProxy
) -> None:
    """s3fs and botocore each retry by themselves; unbridled they made 25 requests of one."""
    proxy.inject("slow_down", "PUT", times=100)
    with pytest.raises(StorageError, match="did not recover"):
        shaky.put("a", b"1")
    assert proxy.count("PUT") == IMPATIENT.attempts


@pytest.mark.s3
def test_connections_that_break_are_made_again(shaky: Storage, proxy: FaultProxy) -> None:
    proxy.inject("reset", "PUT", times=2)
    proxy.inject("drop_response", "GET", times=1)
    shaky.put("a", b"1")
    assert shaky.get("a") == b"1"


@pytest.mark.s3
@pytest.mark.parametrize(("read_timeout_s", "deadline_s"), [(0.5, 300), (60, 1)])
def test_a_store_that_falls_silent_is_asked_again(
    s3: S3Server, proxy: FaultProxy, read_timeout_s: float, deadline_s: float
) -> None:
    hasty = RetryPolicy(2, 0.02, read_timeout_s=read_timeout_s, deadline_s=deadline_s)
    storage = open_storage(s3.bucket(), {"endpoint_url": proxy.endpoint}, retry=hasty)
    for method in ("PUT", "GET", "DELETE"):
        proxy.inject("stall", method)
    started_s = time.monotonic()
    assert storage.create_once("a", b"w1", "w1")
    assert storage.get("a") == b"w1"
    storage.delete(["a"])
    assert time.monotonic() - started_s < STALL_S


@pytest.mark.s3
@pytest.mark.parametrize("ranged", [False, True])
def test_a_truncated_answer_is_never_taken_for_the_object(
    shaky: Storage, proxy: FaultProxy, ranged: bool
) -> None:
    data = bytes(100_000)
    shaky.put("a", data)
    proxy.inject("truncate", "GET", "/a", times=2)
    read = shaky.get_range("a", 0, len(data)) if ranged else shaky.get("a")
    assert read == data


@pytest.mark.s3
def test_a_lost_answer_to_an_exclusive_create_is_recognised_as_ours(
    shaky: Storage, proxy: FaultProxy
) -> None:
    """The store made the object, the answer got lost, the second try finds it taken: by us."""
    proxy.inject("drop_response", "PUT", times=1)
    assert shaky.create_once("part", b"rows of w1", "w1")
    assert proxy.count("PUT") == 2
    assert shaky.get("part") == b"rows of w1"


@pytest.mark.s3
def test_even_if_every_answer_to_an_exclusive_create_is_lost(
    shaky: Storage, proxy: FaultProxy
) -> None:
    proxy.inject("drop_response", "PUT", times=100)
    assert shaky.create_once("part", b"rows of w1", "w1")


@pytest.mark.s3
def test_a_lost_answer_to_a_lost_race_is_not_ours(shaky: Storage, proxy: FaultProxy) -> None:
    shaky.put("part", b"rows of w2")
    proxy.inject("drop_response", "PUT", times=1)
    assert not shaky.create_once("part", b"rows of w1", "w1")
    assert shaky.get("part") == b"rows of w2"


@pytest.mark.s3
def test_objects_past_the_multipart_size_are_one_request(shaky: Storage, proxy: FaultProxy) -> None:
    """A killed multipart upload leaves orphans, and Ceph ignores the condition of its end."""
    assert shaky.create_once("part", b"w1" + bytes(110 * 2**20), "w1")
    assert proxy.count("PUT") >= 1  # a request that a busy machine makes too slow is sent again
    assert proxy.count("POST") == 0  # which a multipart upload begins with


# --- errors say where, what and the way out


@pytest.mark.s3
def test_a_missing_bucket_is_named(s3: S3Server) -> None:
    storage = open_storage("s3://no-such-bucket-here/out", retry=IMPATIENT)
    for action in (lambda: storage.put("a", b""), storage.list, storage.exists):
        with pytest.raises(StorageError, match=r"no-such-bucket-here.*the bucket does not exist"):
            action()


@pytest.mark.s3
def test_missing_credentials_are_explained(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = s3.bucket()
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    anew = RetryPolicy(attempts=2, read_timeout_s=4)  # not a file system that already signed in
    with pytest.raises(StorageError, match="AWS_ACCESS_KEY_ID"):
        open_storage(bucket, retry=anew).put("a", b"")


@pytest.mark.s3
def test_denied_access_is_explained_without_showing_secrets(
    s3: S3Server, proxy: FaultProxy
) -> None:
    """Nor may a 403 pass for "not there": a resumed run would start from nothing."""
    for method in ("GET", "PUT", "HEAD"):
        proxy.inject("deny", method, times=100)
    options = {"endpoint_url": proxy.endpoint, "key": "AK12345", "secret": "hush-hush-1234"}
    storage = open_storage(s3.bucket(), options, retry=IMPATIENT)
    actions = (lambda: storage.get("a"), lambda: storage.put("a", b""), lambda: storage.size("a"))
    for action in (*actions, storage.list, storage.exists):
        with pytest.raises(StorageError, match="access was denied") as caught:
            action()
        assert "hush" not in str(caught.value)
    assert "hush" not in repr(storage)


def test_an_unreachable_endpoint_is_explained() -> None:
    options = {"endpoint_url": "http://127.0.0.1:9", "key": "k", "secret": "s"}
    with pytest.raises(StorageError, match=r"s3://b/out.*check the endpoint"):
        open_storage("s3://b/out", options, retry=IMPATIENT).list()


def test_unknown_protocols_are_refused() -> None:
    with pytest.raises(StorageError, match=r"ftp://.*not one of"):
        open_storage("ftp://host/x")


# --- references


def test_the_token_of_a_reference_follows_its_content(output_root: str) -> None:
    storage = open_storage(output_root)
    storage.put("a.flac", b"melody")
    storage.put("b.flac", b"melody")
    uri = storage.uri("a.flac")
    access = ReferenceAccess()
    before = reference_token(uri, access)
    assert before.startswith("blake2b:" if storage.protocol == "file" else "etag:6:")
    assert before == reference_token(storage.uri("b.flac"), access)
    storage.put("a.flac", b"another")
    after = reference_token(uri, access)
    assert after != before
    assert fetch(uri, access) == (b"another", after)


def test_references_that_are_missing_or_too_big_are_errors(output_root: str) -> None:
    storage = open_storage(output_root)
    storage.put("folder/a.flac", bytes(1000))
    with pytest.raises(StorageError, match=r"1,000 bytes, more than the limit of 999"):
        fetch(
            storage.uri("folder/a.flac"), ReferenceAccess(ReferencePolicy(max_reference_bytes=999))
        )
    for missing in (fetch, reference_token):
        with pytest.raises(ObjectNotFoundError, match=r"none\.flac"):
            missing(storage.uri("none.flac"), ReferenceAccess())
        with pytest.raises(StorageError, match="folder"):
            missing(storage.uri("folder"), ReferenceAccess())
