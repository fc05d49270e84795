"""A running server of the page, what asks it, and outputs for it."""

from __future__ import annotations

import http.client
import io
import json
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pyarrow as pa

from pipeline import ledger
from pipeline.dataset.browse.serve import in_thread, serving
from pipeline.ledger.schema import clip_schema
from pipeline.storage import Storage
from tests.pipeline.report.outputs import RUN, Row

EXTRAS = pa.schema([("genre", pa.string())])


@dataclass(frozen=True)
class Answer:
    """What the server said."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """Asks a server, with its token unless told otherwise. Paths are sent as they are."""

    def __init__(self, url: str) -> None:
        self.url = url
        parts = urlsplit(url)
        self.host, self.port = str(parts.hostname), int(parts.port or 0)
        self.token = url.partition("token=")[2]

    def ask(
        self,
        path: str,
        *,
        method: str = "GET",
        body: bytes | None = None,
        with_token: bool = True,
        **headers: str,
    ) -> Answer:
        """One request; `content_type=` becomes the header Content-Type."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if with_token:
            given.setdefault("Authorization", f"Bearer {self.token}")
        connection = http.client.HTTPConnection(self.host, self.port, timeout=30)
        try:
            connection.putrequest(
                method, path, skip_host="Host" in given, skip_accept_encoding=True
            )
            if body is not None:
                given["Content-Length"] = str(len(body))
            for name, value in given.items():
                connection.putheader(name, value)
            connection.endheaders(body)
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, found, response.read())
        finally:
            connection.close()

    def clips(self, **query: Any) -> Any:
        """A page of clips."""
        answer = self.ask(f"/api/clips?query={quote(json.dumps(query))}")
        assert answer.status == 200, answer.body
        return answer.json

    def ids(self, **query: Any) -> list[str]:
        """The row ids on a page of clips."""
        return [clip["id"] for clip in self.clips(**query)["clips"]]

    def rate(self, clip_id: str, rating: Any) -> Answer:
        """Rates a clip."""
        body = json.dumps({"clip_id": clip_id, "rating": rating}).encode()
        return self.ask("/api/ratings", method="POST", body=body)

    def wait(self, condition: Callable[[Any], bool], timeout_s: float = 20) -> Any:
        """The state of the output, once it is as it should be."""
        deadline = time.monotonic() + timeout_s
        while not condition(state := self.ask("/api/state").json):
            assert time.monotonic() < deadline, state
            time.sleep(0.05)
        return state


@contextmanager
def browsing(storage: Storage, folder: Path, **options: Any) -> Iterator[Client]:
    """A server whose parts are all read.

    Args:
        storage: Root of the output.
        folder: For ratings where the output can't be written to.
        options: Of `serving`.
    """
    elsewhere = folder / "ratings-elsewhere"
    options = {"interval_s": 0.1} | options
    with serving(storage, ratings_folder=elsewhere, **options) as served:
        thread = in_thread(served)
        try:
            client = Client(served.url)
            client.wait(lambda state: not state["is_loading"])
            yield client
        finally:
            served.stop()
            thread.join()


def commit(
    storage: Storage,
    clips: Sequence[tuple[Row, bytes]],
    seq: int = 0,
    *,
    mode: Any = "files",
    extras: pa.Schema = EXTRAS,
) -> None:
    """Publishes one part as a replica does, with the audio where the mode wants it."""
    rows = [dict(row) for row, _ in clips]
    if mode == "webdataset":
        buffer, path = io.BytesIO(), f"audio/shard-{RUN}-a1b2c3-{seq:06d}.tar"
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for row, (_, data) in zip(rows, clips, strict=True):
                row |= {"audio_path": path, "audio_member": f"{row['clip_id']}.flac"}
                beside = {f"{row['clip_id']}.json": b"{}" * 99, f"{row['clip_id']}.txt": b"words"}
                for name, content in {row["audio_member"]: data, **beside}.items():
                    entry = tarfile.TarInfo(name)
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))
        storage.put(path, buffer.getvalue())
    elif mode == "parquet":
        for row, (_, data) in zip(rows, clips, strict=True):
            row |= {"audio_path": None, "audio": {"bytes": data, "path": "x.flac"}}
    else:
        storage.put_many({row["audio_path"]: data for row, data in clips if data})
    table = pa.Table.from_pylist(rows, schema=clip_schema(extras, mode))
    ledger.write_clip_part(storage, table, RUN, "a1b2c3", seq)
