"""What is bad about the commands of `commands`: files, models, outputs, settings, servers."""

import errno
import os
import shutil
import subprocess
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from musicgen.checkpoints.describe import TINY_FOLDER
from pipeline import ledger
from pipeline.audio.marks.credentials import CERTIFICATE, KEY
from pipeline.audio.marks.trial_pair import make_trial_pair
from pipeline.ledger.lease import Lease
from pipeline.storage import RetryPolicy, open_storage
from tests.errors.case import Place
from tests.pipeline.outputs import RUN, clip, commit


def write(name: str, text: str | bytes) -> Any:
    return lambda place: place[name].write_bytes(text if isinstance(text, bytes) else text.encode())


def table(name: str, **columns: list[Any]) -> Any:
    return lambda place: pq.write_table(pa.table(columns), place[name])


def both(*makers: Any) -> Any:
    return lambda place: [make(place) for make in makers]


def link(name: str, to: str) -> Any:
    return lambda place: place[name].symlink_to(place[to])


def cut_manifest(place: Place) -> None:
    table("cut.parquet", prompt=["x"])(place)
    place["cut.parquet"].write_bytes(place["cut.parquet"].read_bytes()[:-40])


def damaged_page(place: Place) -> None:
    """The footer is sound, the rows are not."""
    table("rotten.parquet", prompt=[f"{'la' * 40} {i}" for i in range(500)])(place)
    data = bytearray(place["rotten.parquet"].read_bytes())
    data[200:1200] = bytes(1000)
    place["rotten.parquet"].write_bytes(data)


def newer_manifest(place: Place) -> None:
    schema = {b"musicgen_batch.manifest_schema": b"99"}
    rows = pa.table({"prompt": ["x"]}).replace_schema_metadata(schema)
    pq.write_table(rows, place["newer.parquet"])


def changes_while_read(place: Place) -> None:
    """Somebody writes the manifest anew between its footer and its rows."""
    from manifests.reader import Manifest

    opened = Manifest.open

    def open_then_replace(uri: str, **options: Any) -> Manifest:
        manifest = opened(uri, **options)
        table("good.parquet", prompt=["another", "song"])(place)
        return manifest

    place.monkeypatch.setattr(Manifest, "open", open_then_replace)


def model(name: str, file: str, keep: slice | None) -> Any:
    """The bundled model with a part of one file, or without it."""

    def use(place: Place) -> None:
        shutil.copytree(TINY_FOLDER, place[name])
        path = place[f"{name}/{file}"]
        path.write_bytes(path.read_bytes()[keep]) if keep else path.unlink()

    return use


def full_disk(place: Place) -> None:
    """A disk without a byte left: a real one where we may mount, else one that says so."""
    place["out"].mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(place["out"])]
    if (
        os.geteuid() == 0
        and subprocess.run(mount, capture_output=True, check=False).returncode == 0
    ):
        place.request.addfinalizer(lambda: subprocess.run(["umount", place["out"]], check=True))
        place["out/ballast"].write_bytes(bytes(4096))
        return

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    place.monkeypatch.setattr("pipeline.storage.local_files.os.fsync", full)


def without_credentials(place: Place) -> None:
    s3_server(place)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        place.monkeypatch.delenv(name)


def wrong_credentials(place: Place) -> None:
    """A store that lets nobody in, as it does with a wrong secret."""
    from tests.faults import fault_proxy

    server = s3_server(place)
    proxy = fault_proxy(server.endpoint)
    running = proxy.__enter__()
    place.request.addfinalizer(lambda: proxy.__exit__(None, None, None))
    for method in ("GET", "HEAD", "PUT", "POST"):
        running.inject("deny", method, times=1000)
    place.monkeypatch.setenv("AWS_ENDPOINT_URL", running.endpoint)


def silent_endpoint(place: Place) -> None:
    s3_server(place)
    place.monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    impatient = lambda: RetryPolicy(attempts=2, first_delay_s=0.01)  # noqa: E731
    place.monkeypatch.setattr("pipeline.storage.store.RetryPolicy", impatient)


def s3_server(place: Place) -> Any:
    """The S3 server; s3fs asks for credentials anew."""
    import s3fs

    server = place.request.getfixturevalue("s3")
    s3fs.S3FileSystem.clear_instance_cache()
    place.request.addfinalizer(s3fs.S3FileSystem.clear_instance_cache)
    return server


def another_run(place: Place) -> None:
    lease = Lease.acquire(open_storage(str(place["out"])), ttl_s=1.0)
    lease.start_heartbeat()
    place.request.addfinalizer(lease.release)


def an_output(place: Place) -> None:
    commit(open_storage(str(place["out"])), [clip("a")], 0)


def an_output_with_moods(place: Place) -> None:
    storage = open_storage(str(place["out"]))
    commit(storage, [clip("a", mood=3)], 0, extras=pa.schema([("mood", pa.int64())]))


def a_newer_output(place: Place) -> None:
    an_output(place)
    (part,) = place["out/clips"].glob("*.parquet")
    rows = pq.read_table(part)
    metadata = {**rows.schema.metadata, ledger.schema.VERSION_KEY: b"99"}
    pq.write_table(rows.replace_schema_metadata(metadata), part)


def a_damaged_part(place: Place) -> None:
    an_output(place)
    place[f"out/clips/part-{RUN}-bbbbbb-000000.parquet"].write_bytes(b"PAR1 half of it")


def settings(text: str | bytes) -> Any:
    return write("job.yaml", text)


def no_pair(place: Place) -> None:
    """An environment without keys of C2PA."""
    for name in (KEY, CERTIFICATE):
        place.monkeypatch.delenv(name, raising=False)


def a_pair(place: Place, key: bytes, chain: bytes) -> None:
    """Key and certificate of C2PA as files that the environment names."""
    for name, path, data in ((KEY, "key.pem", key), (CERTIFICATE, "cert.pem", chain)):
        place[path].write_bytes(data)
        place.monkeypatch.setenv(name, str(place[path]))


def an_expired_pair(place: Place) -> None:
    old = make_trial_pair(datetime(2024, 3, 1, 12, tzinfo=UTC), days=30)
    a_pair(place, old.key, old.chain)


def a_key_of_another_certificate(place: Place) -> None:
    a_pair(place, make_trial_pair().key, make_trial_pair().chain)


def a_key_alone(place: Place) -> None:
    a_pair(place, make_trial_pair().key, b"")
    place.monkeypatch.delenv(CERTIFICATE)


def a_key_without_its_frame(place: Place) -> None:
    """The middle of a PEM text, as people paste it."""
    pair = make_trial_pair()
    a_pair(place, pair.key, pair.chain)
    place.monkeypatch.setenv(KEY, pair.key.decode().splitlines()[1])


def no_audioseal(place: Place) -> None:
    place.monkeypatch.setattr("pipeline.audio.marks.settings.find_spec", lambda name: None)
