"""What the server answers: the page, the clips, their audio, ratings, dead letters.

A clip is addressed by its clip_id alone, which is looked up in the index. No path of a request is a
path of a file: the files of the page are read when the server starts and served from memory.
"""

from __future__ import annotations

import csv
import io
import json
import re
import threading
from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import Any

import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from manifests.audio_file import decode_reference
from manifests.redaction import shown_uri
from pipeline.audio.pictures import LOWEST_HZ, spectrogram_png
from pipeline.dataset.browse.answers import NO_STORE, as_json, bytes_answer, refusal
from pipeline.dataset.browse.audio import AudioFinder
from pipeline.dataset.browse.guard import Guard
from pipeline.dataset.browse.index import ClipIndex
from pipeline.dataset.browse.live import Watcher
from pipeline.dataset.browse.query import Query, QueryError
from pipeline.dataset.browse.ratings import HIGHEST, Ratings
from pipeline.dataset.browse.references import (
    ReferenceReader,
    RefusedReferenceError,
    references_of,
)
from pipeline.ledger.clip_audio import MissingAudioError
from pipeline.storage import Storage, StorageError

PAGE_FILES = {".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8",
              ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}  # fmt: skip
IN_LIST = ("clip_id", "id", "take", "prompt", "n_samples", "sample_rate_hz", "loudness_lufs",
           "references", "qc_failed", "created_at", ":rating")  # fmt: skip
HIDDEN = ("row_key", "audio_member", ":part", ":position")
MOST_LETTERS = 100
MOST_BODY = 10_000
SPECTROGRAM = (880, 220)  # pixels
DRAWN_AT_ONCE = 2  # decoded audio takes memory
_CLIP_ID = re.compile(r"[0-9a-f]{32}")
_CACHED = {"Cache-Control": "private, max-age=3600"}


class NewRating(BaseModel):
    """What the page sends when a clip is rated."""

    model_config = ConfigDict(extra="forbid", strict=True)

    clip_id: str = Field(pattern=r"^[0-9a-f]{32}$")
    rating: int | None = Field(None, ge=1, le=HIGHEST)


class NotThereError(LookupError):
    """There is no such clip."""


class Browser:
    """The answers of one server.

    Args:
        storage: Root of the output.
        index: Its clips.
        watcher: What else is known of it.
        ratings: Its ratings.
        references: Reads reference audio.
    """

    def __init__(
        self,
        storage: Storage,
        index: ClipIndex,
        watcher: Watcher,
        ratings: Ratings,
        references: ReferenceReader,
    ) -> None:
        self._storage, self._index, self._watcher = storage, index, watcher
        self._ratings, self._references = ratings, references
        self._audio = AudioFinder(storage)
        self._page = _page_files()
        self._drawing = threading.BoundedSemaphore(DRAWN_AT_ONCE)

    def app(self, token: str, port: int) -> Guard:
        """The ASGI application."""
        routes = [
            Route("/", _answering(lambda request: self._file("index.html"))),
            Route("/page/{name}", _answering(lambda request: self._file(_name(request)))),
            Route("/api/about", _answering(self._about)),
            Route("/api/state", _answering(self._state)),
            Route("/api/clips", _answering(self._list)),
            Route("/api/clips/{clip_id}", _answering(self._detail)),
            Route("/api/values", _answering(self._values)),
            Route("/api/failed", _answering(self._failed)),
            Route("/api/ratings", self._rate, methods=["POST"]),
            Route("/api/ratings.csv", _answering(self._export)),
            Route("/clips/{clip_id}/audio", _answering(self._sound)),
            Route("/clips/{clip_id}/spectrogram.png", _answering(self._spectrogram)),
            Route("/clips/{clip_id}/references/{role}", _answering(self._reference)),
            Route("/clips/{clip_id}/references/{role}/loudness", _answering(self._loudness)),
        ]
        return Guard(Starlette(routes=routes), token, port)

    # --- the page

    def _file(self, name: str) -> Response:
        found = self._page.get(name)
        if found is None:
            return refusal("there is no such file of the page", 404)
        data, media_type = found
        return Response(data, 200, NO_STORE, media_type)

    def _about(self, request: Request) -> Response:
        columns = [column.described() for column in self._index.columns.values()]
        return as_json(
            {
                "name": self._storage.root.rstrip("/").rpartition("/")[2] or "output",
                "output": shown_uri(self._storage.root.removeprefix("file://")),
                "columns": columns,
                "lowest_hz": LOWEST_HZ,
                "highest_rating": HIGHEST,
            }
            | self._now()
        )

    def _state(self, request: Request) -> Response:
        return as_json(self._now())

    def _now(self) -> dict[str, Any]:
        """What changes while a run goes on."""
        self._watcher.touch()
        shown, counts = self._watcher.shown, self._index.counts
        run = shown.runs[-1] if shown.runs else {}
        return {
            "version": counts.version,
            "n_clips": counts.n_clips,
            "n_parts": counts.n_parts,
            "n_listed": counts.n_listed,
            "n_columns": len(self._index.columns),
            "is_loading": shown.is_loading,
            "problem": shown.problem,
            "n_failed": len(shown.letters),
            "shown_version": shown.version,
            "run": {name: run.get(name) for name in ("run_id", "state", "total", "done", "failed",
                                                     "done_before", "heartbeat_at")},
            "n_rated": len(self._ratings.stars()),
            "ratings_in": shown_uri(self._ratings.where.removeprefix("file://")),
            "ratings_elsewhere": self._ratings.read_only_because,
        }  # fmt: skip

    # --- clips

    def _list(self, request: Request) -> Response:
        query = Query.model_validate_json(request.query_params.get("query", "{}"))
        known = self._index.columns
        if not known or "clip_id" not in known:
            return as_json({"n_found": 0, "clips": []} | self._now())
        names = dict.fromkeys([name for name in IN_LIST if name in known])
        names |= dict.fromkeys(name for name in query.columns if name in known)
        n_found, rows = self._index.page(query.model_copy(update={"columns": tuple(names)}))
        return as_json({"n_found": n_found, "clips": [_listed(row) for row in rows]} | self._now())

    def _detail(self, request: Request) -> Response:
        row = self._clip(request)
        references = [
            {"role": each.role, "shown": each.shown, "file": each.shown.rpartition("/")[2]}
            for each in references_of(row)
        ]
        takes = [_listed(take) for take in self._index.takes(row["id"], IN_LIST)]
        facts = {name: value for name, value in row.items() if name not in HIDDEN}
        return as_json({"clip": facts, "takes": takes, "references": references})

    def _values(self, request: Request) -> Response:
        given = request.query_params
        found = self._index.values(given.get("column", ""), given.get("prefix", "")[:200])
        return as_json([{"value": value, "count": n} for value, n in found])

    def _clip(self, request: Request) -> dict[str, Any]:
        clip_id = request.path_params["clip_id"]
        row = self._index.clip(clip_id) if _CLIP_ID.fullmatch(clip_id) else None
        if row is None:
            raise NotThereError("there is no such clip in this output")
        return row

    # --- sound

    def _sound(self, request: Request) -> Response:
        audio = self._audio.of(self._clip(request))
        headers = {"Content-Type": audio.media_type, "ETag": f'"{audio.sha256}"'} | _CACHED
        if "download" in request.query_params:
            headers["Content-Disposition"] = f'attachment; filename="{audio.name}"'
        return bytes_answer(request.headers.get("range"), audio.size, audio.read, headers)

    def _spectrogram(self, request: Request) -> Response:
        row = self._clip(request)
        data = self._audio.of(row).whole()
        with self._drawing:
            wav, rate_hz = decode_reference(data, row["clip_id"])
            picture = spectrogram_png(wav, rate_hz, *SPECTROGRAM)
        return Response(picture, 200, _CACHED, "image/png")

    def _reference(self, request: Request) -> Response:
        data = self._references.read(self._clip(request), request.path_params["role"])
        headers = {"Content-Type": "audio/flac"} | _CACHED
        return bytes_answer(
            request.headers.get("range"), len(data), lambda start, end: data[start:end], headers
        )

    def _loudness(self, request: Request) -> Response:
        lufs = self._references.loudness(self._clip(request), request.path_params["role"])
        return as_json({"loudness_lufs": lufs})

    # --- what failed, and what people think

    def _failed(self, request: Request) -> Response:
        letters = self._watcher.shown.letters
        words = request.query_params.get("search", "")[:1000].split()
        for word in words:
            hit = None
            for name in ("id", "message", "error_class", "stage", "source"):
                here = pc.fill_null(
                    pc.match_substring(letters[name], word, ignore_case=True), False
                )
                hit = here if hit is None else pc.or_(hit, here)
            letters = letters.filter(hit)
        try:
            offset = max(0, min(int(request.query_params.get("offset", "0")), len(letters)))
        except ValueError:
            raise QueryError("offset is not a number") from None
        rows = letters.slice(offset, MOST_LETTERS).to_pylist()
        return as_json({"n_found": len(letters), "letters": rows})

    async def _rate(self, request: Request) -> Response:
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > MOST_BODY:
                return refusal("that is no rating: it is too long", 413)
        return await run_in_threadpool(_guarded, lambda: self._store(body))

    def _store(self, body: bytes) -> Response:
        new = NewRating.model_validate_json(body)
        if self._index.clip(new.clip_id) is None:
            raise NotThereError("there is no such clip in this output")
        self._ratings.rate(new.clip_id, new.rating)
        self._index.rate({new.clip_id: new.rating})
        return as_json({"clip_id": new.clip_id, "rating": new.rating} | self._now())

    def _export(self, request: Request) -> Response:
        text = io.StringIO()
        writer = csv.writer(text, quoting=csv.QUOTE_ALL)
        writer.writerow(["clip_id", "rating", "rated_at", "id", "take", "prompt"])
        standing = self._ratings.standing()
        rows = self._index.some([*standing], ("clip_id", "id", "take", "prompt"))
        for clip_id, rating in standing.items():
            row = rows.get(clip_id, {})
            about = [row.get(name) for name in ("id", "take", "prompt")]
            at = rating.at.isoformat(timespec="seconds")
            writer.writerow([clip_id, rating.stars, at, *about])
        headers = NO_STORE | {"Content-Disposition": 'attachment; filename="ratings.csv"'}
        return Response(text.getvalue(), 200, headers, "text/csv; charset=utf-8")


def _listed(row: dict[str, Any]) -> dict[str, Any]:
    """A row of a list: which references it has instead of what names them."""
    roles = [each.role for each in references_of(row)]
    return {name: value for name, value in row.items() if name != "references"} | {"roles": roles}


def _name(request: Request) -> str:
    return str(request.path_params["name"])


def _page_files() -> dict[str, tuple[bytes, str]]:
    found = {}
    for file in (files(__package__) / "page").iterdir():
        suffix = "." + file.name.rpartition(".")[2]
        if suffix in PAGE_FILES:
            found[file.name] = (file.read_bytes(), PAGE_FILES[suffix])
    return found


def _answering(
    answer: Callable[[Request], Response],
) -> Callable[[Request], Awaitable[Response]]:
    """An endpoint whose work is done in a thread."""

    async def endpoint(request: Request) -> Response:
        return await run_in_threadpool(_guarded, lambda: answer(request))

    return endpoint


def _guarded(action: Callable[[], Response]) -> Response:
    """Errors that have a message for the page become answers."""
    try:
        return action()
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        return refusal(f"not understood: {where + ': ' if where else ''}{first['msg']}", 400)
    except QueryError as error:
        return refusal(str(error), 400)
    except (NotThereError, MissingAudioError, RefusedReferenceError) as error:
        return refusal(str(error.args[0] if error.args else error), 404)
    except StorageError as error:
        return refusal(str(error), 502)
    except (ValueError, json.JSONDecodeError) as error:  # audio that can't be decoded
        return refusal(str(error), 422)
