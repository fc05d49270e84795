"""What the processes of a test do: it stands where `make_listener` or `make_reader` does otherwise,
and nothing in the product's settings leads here."""

import ctypes
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from manifests.audio_file import Heard, make_listener
from manifests.isolation.server import Note
from manifests.row_errors import BadReferenceError
from manifests.uris.policy import ReferenceAccess
from musicgen.checkpoints.describe import ModelInfo
from pipeline.prepare.references import HeardRow, RowReferences, make_reader

Handler = Callable[[Any, Note], Any]


def do(what: str) -> object:
    """Does the harm that a text names; a part behind `:` is a number, or a path to wait for."""
    what, _, rest = what.partition(":")
    if what == "crash":
        ctypes.string_at(0)
    if what == "abort":
        os.abort()
    if what == "exit":
        os._exit(int(rest))
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "hang":
        while True:
            time.sleep(60)
    if what == "refuse":
        raise BadReferenceError("it is no audio")
    if what == "fail":
        raise KeyError("no such thing")
    if what == "take":
        return int(np.ones(int(rest) * 2**17).sum()) // 2**17  # so many MB
    if what == "wait":
        time.sleep(float(rest))
    return os.getpid()


def make_doer() -> Handler:
    """Does what the text says."""

    def handle(work: str, note: Note) -> object:
        note(f"the work {work}")
        return do(work)

    return handle


def make_nothing() -> Handler:
    """Fails as a start does where something is not installed."""
    raise RuntimeError("demucs is not installed here")


def make_counting_listener(access: ReferenceAccess) -> Handler:
    """The product's, which also leaves a line beside each file that it reads."""
    listen = make_listener(access)

    def handle(place: str, note: Note) -> Heard:
        with Path(f"{place}.reads").open("a") as log:
            log.write("read\n")
        return listen(place, note)

    return handle


def _harm_in(places: list[str | bytes]) -> str | None:
    """A file whose name begins with `harm-` says what happens to who reads it."""
    for place in places:
        name = Path(place).stem if isinstance(place, str) else ""
        if name.startswith("harm-"):
            return name.split("-")[1]
    return None


def make_harmed_listener(access: ReferenceAccess) -> Handler:
    """The product's, to which some files do harm once they are decoded."""
    listen = make_listener(access)

    def handle(place: str | bytes, note: Note) -> Heard:
        heard = listen(place, note)
        do(_harm_in([place]) or "")
        return heard

    return handle


def make_harmed_reader(access: ReferenceAccess, info: ModelInfo, separation: str | None) -> Handler:
    """The same for the prepare pool."""
    read = make_reader(access, info, separation)

    def handle(row: RowReferences, note: Note) -> HeardRow:
        heard = read(row, note)
        do(_harm_in(list(row.places.values())) or "")
        return heard

    return handle
