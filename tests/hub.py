"""A stand-in for the Hugging Face Hub: the part of its HTTP API that uploads, lists and downloads.

Datasets only, one branch, everything in memory. The client is the real `huggingface_hub`, without
Xet (HF_HUB_DISABLE_XET): files go by the large file storage (LFS), as with any Git server.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN, READ_TOKEN = "hf_stand_in_write", "hf_stand_in_read"
PAGE = 9  # entries in an answer that lists files
LARGE = (".parquet", ".flac", ".wav", ".mp3", ".ogg", ".tar")


@dataclass
class File:
    """What a path of a repository holds."""

    data: bytes
    is_large: bool

    def entry(self, path: str) -> dict[str, Any]:
        pointer = f"version 1\noid sha256:{self.sha256}\nsize {len(self.data)}\n".encode()
        told: dict[str, Any] = {"type": "file", "path": path, "size": len(self.data)}
        if self.is_large:
            told["oid"] = git_oid(pointer)
            told["lfs"] = {"oid": self.sha256, "size": len(self.data), "pointerSize": len(pointer)}
        else:
            told["oid"] = git_oid(self.data)
        return told

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


@dataclass
class Repo:
    private: bool
    files: dict[str, File] = field(default_factory=dict)
    commits: list[list[str]] = field(default_factory=list)
    """what each commit did: `+path` or `-path`"""

    @property
    def sha(self) -> str:
        told = json.dumps([self.commits, sorted(f.sha256 for f in self.files.values())])
        return hashlib.sha1(told.encode()).hexdigest()


@dataclass
class Hub:
    """What the server holds, and what it was asked.

    Attributes:
        uploads: sha256 of every object that was sent, in order.
        begun: how many uploads began.
        hold_after: let no more than so many uploads through; the others wait for `released`.
    """

    endpoint: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    uploads: list[str] = field(default_factory=list)
    begun: int = 0
    hold_after: int | None = None
    held: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)


def is_private(asked: dict[str, Any], default: bool) -> bool:
    """What a request says of who may see a repository; earlier clients say it in another word."""
    if "visibility" in asked:
        return bool(asked["visibility"] != "public")
    return bool(asked.get("private", default))


def git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@contextmanager
def running_hub() -> Iterator[Hub]:
    """The server, on a free port of this machine."""
    hub = Hub()

    class Handler(_Handler):
        pass

    Handler.hub = hub
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.released.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        path, query = self._asked()
        match path.split("/"):
            case ["api", "whoami-v2"]:
                self._answer({"name": "user", "type": "user", "orgs": []})
            case ["api", "datasets", user, name, "tree", _, *_rest]:
                self._list(f"{user}/{name}", query)
            case ["api", "datasets", user, name, *_rest]:
                if repo := self._repo(f"{user}/{name}"):
                    self._answer(self._info(f"{user}/{name}", repo))
            case ["datasets", user, name, "resolve", _, *rest]:
                self._resolve(f"{user}/{name}", "/".join(rest))
            case _:
                self._refuse(404, path)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        path, _ = self._asked()
        body = self._body()
        match path.split("/"):
            case ["api", "validate-yaml"]:
                self._answer({"errors": [], "warnings": []})
            case ["api", "repos", "create"]:
                self._create(json.loads(body))
            case ["api", "datasets", user, name, "preupload", _]:
                if self._may_write():
                    self._preupload(f"{user}/{name}", json.loads(body))
            case ["datasets", _, _, "info", "lfs", "objects", "batch"]:
                if self._may_write():
                    self._batch(json.loads(body))
            case ["verify", oid]:
                self._answer({}) if oid in self.hub.objects else self._refuse(404, oid)
            case ["api", "datasets", user, name, "commit", _]:
                if self._may_write():
                    self._commit(f"{user}/{name}", body)
            case _:
                self._refuse(404, path)

    def do_PUT(self) -> None:
        path, _ = self._asked()
        body = self._body()
        match path.split("/"):
            case ["lfs", oid]:
                with self.hub.lock:
                    self.hub.begun += 1
                    full = self.hub.hold_after
                    waits = full is not None and self.hub.begun > full
                if waits:
                    self.hub.held.set()
                    self.hub.released.wait(60)
                    self.close_connection = True
                    return
                if hashlib.sha256(body).hexdigest() != oid:
                    self._refuse(400, "not the content of that name")
                    return
                with self.hub.lock:
                    self.hub.objects[oid] = body
                    self.hub.uploads.append(oid)
                self._answer({})
            case ["api", "datasets", user, name, "settings"]:
                if self._may_write() and (repo := self._repo(f"{user}/{name}")):
                    repo.private = is_private(json.loads(body), repo.private)
                    self._answer({"private": repo.private})
            case _:
                self._refuse(404, path)

    # --- what they do

    def _create(self, asked: dict[str, Any]) -> None:
        if not self._may_write():
            return
        repo_id = f"{asked.get('organization') or 'user'}/{asked['name']}"
        if repo_id in self.hub.repos:
            self._refuse(409, "You already created this dataset repo")
            return
        self.hub.repos[repo_id] = Repo(private=is_private(asked, False))
        self._answer({"url": f"{self.hub.endpoint}/datasets/{repo_id}"})

    def _info(self, repo_id: str, repo: Repo) -> dict[str, Any]:
        files = [{"rfilename": path} for path in sorted(repo.files)]
        return {
            **{"_id": "0" * 24, "id": repo_id, "author": repo_id.partition("/")[0]},
            **{"sha": repo.sha, "private": repo.private, "gated": False, "disabled": False},
            **{"tags": [], "downloads": 0, "likes": 0, "siblings": files},
        }

    def _list(self, repo_id: str, query: dict[str, list[str]]) -> None:
        if (repo := self._repo(repo_id)) is None:
            return
        begin = int(query.get("cursor", ["0"])[0])
        paths = sorted(repo.files)
        page = [repo.files[path].entry(path) for path in paths[begin : begin + PAGE]]
        more = {}
        if begin + PAGE < len(paths):
            where = f"{self.hub.endpoint}/api/datasets/{repo_id}/tree/main"
            next_page = f"{where}?recursive=true&cursor={begin + PAGE}"
            more = {"Link": f'<{next_page}>; rel="next"'}
        self._answer(page, more)

    def _preupload(self, repo_id: str, asked: dict[str, Any]) -> None:
        if (repo := self._repo(repo_id)) is None:
            return
        files = []
        for each in asked["files"]:
            standing = repo.files.get(each["path"])
            mode = "lfs" if each["path"].endswith(LARGE) else "regular"
            told = {"path": each["path"], "uploadMode": mode, "shouldIgnore": False}
            if standing:
                told["oid"] = standing.entry("")["oid"]
            files.append(told)
        self._answer({"files": files})

    def _batch(self, asked: dict[str, Any]) -> None:
        objects = []
        for each in asked["objects"]:
            told = {"oid": each["oid"], "size": each["size"]}
            if each["oid"] not in self.hub.objects:
                told["actions"] = {
                    "upload": {"href": f"{self.hub.endpoint}/lfs/{each['oid']}"},
                    "verify": {"href": f"{self.hub.endpoint}/verify/{each['oid']}"},
                }
            objects.append(told)
        self._answer({"transfer": "basic", "objects": objects})

    def _commit(self, repo_id: str, body: bytes) -> None:
        if (repo := self._repo(repo_id)) is None:
            return
        done, files = [], dict(repo.files)
        for line in body.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            match operation["key"]:
                case "file":
                    files[value["path"]] = File(base64.b64decode(value["content"]), False)
                    done.append(f"+{value['path']}")
                case "lfsFile":
                    if value["oid"] not in self.hub.objects:
                        self._refuse(400, f"no content for {value['path']}")
                        return
                    files[value["path"]] = File(self.hub.objects[value["oid"]], True)
                    done.append(f"+{value['path']}")
                case "deletedFile":
                    del files[value["path"]]
                    done.append(f"-{value['path']}")
        repo.files = files
        repo.commits.append(done)
        url = f"{self.hub.endpoint}/datasets/{repo_id}/commit/{repo.sha}"
        self._answer({"success": True, "commitOid": repo.sha, "commitUrl": url, "hookOutput": ""})

    def _resolve(self, repo_id: str, path: str) -> None:
        if (repo := self._repo(repo_id)) is None:
            return
        file = repo.files.get(path)
        if file is None:
            self._refuse(404, path, {"X-Error-Code": "EntryNotFound"})
            return
        tag = file.sha256 if file.is_large else file.entry(path)["oid"]
        told = {"ETag": f'"{tag}"', "X-Repo-Commit": repo.sha}
        self._send(200, file.data, told | {"Content-Type": "application/octet-stream"})

    # --- HTTP

    def _asked(self) -> tuple[str, dict[str, list[str]]]:
        parts = urlsplit(self.path)
        return unquote(parts.path).strip("/").replace(".git/", "/"), parse_qs(parts.query)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        pieces = []
        while size := int(self.rfile.readline(), 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def _token(self) -> str:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ")

    def _may_write(self) -> bool:
        if self._token() == TOKEN:
            return True
        self._refuse(403 if self._token() == READ_TOKEN else 401, "this token may not write")
        return False

    def _repo(self, repo_id: str) -> Repo | None:
        repo = self.hub.repos.get(repo_id)
        if repo is None or (repo.private and self._token() not in (TOKEN, READ_TOKEN)):
            self._refuse(404, "Repository Not Found", {"X-Error-Code": "RepoNotFound"})
            return None
        return repo

    def _answer(self, told: Any, headers: dict[str, str] | None = None) -> None:
        kind = {"Content-Type": "application/json"}
        self._send(200, json.dumps(told).encode(), kind | (headers or {}))

    def _refuse(self, status: int, why: str, headers: dict[str, str] | None = None) -> None:
        told = {"X-Error-Message": why, "Content-Type": "application/json"} | (headers or {})
        self._send(status, json.dumps({"error": why}).encode(), told)

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
