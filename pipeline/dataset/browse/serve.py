"""Starts the server of the page on a port of this machine, and ends it."""

from __future__ import annotations

import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manifests.uris.policy import ReferencePolicy
from pipeline.dataset.browse.guard import is_loopback, new_token
from pipeline.storage import Storage

if TYPE_CHECKING:
    import uvicorn

PACKAGES = ("starlette", "uvicorn", "duckdb")


class BrowseError(ValueError):
    """The page can't be served; the message says why and the way out."""


@dataclass(frozen=True)
class Served:
    """A server that is ready to run.

    Attributes:
        url: The address, with its token.
        server: Of uvicorn.
        listener: The socket that it listens on.
    """

    url: str
    server: Any
    listener: socket.socket

    def run(self) -> None:
        """Serves until it is interrupted."""
        self.server.run(sockets=[self.listener])

    def stop(self) -> None:
        """Ends it, from another thread."""
        self.server.should_exit = True


def check_packages() -> None:
    """Raises BrowseError where a package is missing."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise BrowseError(
            f"`browse` needs {', '.join(missing)}: pip install 'musicgen-batch[browse]'"
        )


@contextmanager
def serving(
    storage: Storage,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    policy: ReferencePolicy | None = None,
    ratings_folder: Path | None = None,
    interval_s: float | None = None,
) -> Iterator[Served]:
    """A server for the page of an output; what it holds on this machine is removed at the end.

    Args:
        storage: Root of the output.
        host: A name or an address of this machine alone.
        port: To listen on; 0 takes a free one.
        policy: Limits of reference audio.
        ratings_folder: Where ratings go if the output can't be written to.
        interval_s: Shortest pause between two looks at the output while the page is open.

    Raises:
        BrowseError: A package is missing, or the host or port can't be had.
    """
    check_packages()
    listener = _listen(host, port)
    try:
        with tempfile.TemporaryDirectory(prefix="musicgen-browse-") as folder:
            yield from _served(storage, listener, Path(folder), policy, ratings_folder, interval_s)
    finally:
        listener.close()


def _served(
    storage: Storage,
    listener: socket.socket,
    folder: Path,
    policy: ReferencePolicy | None,
    ratings_folder: Path | None,
    interval_s: float | None,
) -> Iterator[Served]:
    from pipeline.dataset.browse.app import Browser
    from pipeline.dataset.browse.index import ClipIndex
    from pipeline.dataset.browse.live import INTERVAL_S, Watcher
    from pipeline.dataset.browse.ratings import Ratings, local_folder
    from pipeline.dataset.browse.references import ReferenceReader

    index = ClipIndex(storage, folder)
    references = ReferenceReader(storage, policy or ReferencePolicy())
    ratings = Ratings(storage, ratings_folder or local_folder(storage))
    index.rate(dict(ratings.load()))
    watcher = Watcher(storage, index, interval_s or INTERVAL_S)
    token = new_token()
    address, port = listener.getsockname()[:2]
    app = Browser(storage, index, watcher, ratings, references).app(token, port)
    watcher.start()
    try:
        shown = f"[{address}]" if ":" in address else address
        yield Served(f"http://{shown}:{port}/?token={token}", _server(app), listener)
    finally:
        watcher.stop()
        index.close()
        references.close()


def _server(app: Any) -> uvicorn.Server:
    import uvicorn

    class Server(uvicorn.Server):
        """Ends at a signal as at `stop`: uvicorn's own would send itself the signal again, and what
        lies in the temporary folder would stay."""

        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            if threading.current_thread() is not threading.main_thread():
                yield
                return
            ends = (signal.SIGINT, signal.SIGTERM)
            before = {number: signal.signal(number, self.handle_exit) for number in ends}
            try:
                yield
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)

    return Server(
        uvicorn.Config(
            app,
            loop="asyncio",
            http="h11",
            ws="none",
            lifespan="off",
            log_level="warning",
            access_log=False,  # addresses hold the token
            server_header=False,
            timeout_graceful_shutdown=2,
        )
    )


def _listen(host: str, port: int) -> socket.socket:
    if not is_loopback(host):
        raise BrowseError(
            f"--host {host} is not this machine alone; the page is for you, so it listens on "
            "127.0.0.1, ::1 or localhost. From elsewhere: ssh -L 8123:127.0.0.1:8123 HOST, with "
            "--port 8123"
        )
    address = "127.0.0.1" if host == "localhost" else host
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise BrowseError(
            f"--port {port} on {host} can't be had ({error.strerror}); another --port, or none, "
            "takes a free one"
        ) from error
    return listener


def in_thread(served: Served) -> threading.Thread:
    """Runs a server beside the caller, who ends it with `Served.stop`."""
    thread = threading.Thread(target=served.server.run, kwargs={"sockets": [served.listener]})
    thread.start()
    return thread
