"""Each side in a process of its own, which loads once and answers questions.

Two processes that take turns see the same noise of the machine, and each has its own memory
allocator settings. Run as a module this file is such a process: JSON lines in, JSON lines out.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Protocol

import torch

TOO_LITTLE = "too little memory"
# glibc's allocator, told to keep and reuse what a growing cache frees, instead of asking the kernel
# for fresh pages at every step.
TUNED_MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "8589934592",
    "MALLOC_TOP_PAD_": "268435456",
}


class Side(Protocol):
    """Something that answers questions: the name and arguments of a method."""

    def ask(self, question: str, **arguments: Any) -> Any:
        """The method's answer; MemoryError where the device has too little for it."""


class Inline:
    """A side in this process: for tests."""

    def __init__(self, side: str, **settings: Any) -> None:
        self._object = _make(side, settings)

    def ask(self, question: str, **arguments: Any) -> Any:
        """The method's answer."""
        return _answer(self._object, question, arguments)

    def __enter__(self) -> "Inline":
        return self

    def __exit__(self, *_: object) -> None:
        self._object = None


class Process:
    """A side in a process of its own.

    Args:
        side: ours or peer.
        env: Variables to set in it.
        settings: Of the side.
    """

    def __init__(self, side: str, env: Mapping[str, str] | None = None, **settings: Any) -> None:
        self.command = [sys.executable, "-m", "tests.bench.workers", side, json.dumps(settings)]
        self._process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **(env or {})},
            text=True,
        )
        self._read()  # it has loaded

    def ask(self, question: str, **arguments: Any) -> Any:
        """The method's answer; waits for it."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([question, arguments]) + "\n")
        self._process.stdin.flush()
        answer = self._read()
        if answer == TOO_LITTLE:
            raise MemoryError(f"{question} {arguments}")
        return answer

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{' '.join(self.command)} ended with {self._process.wait()}")
        return json.loads(line)

    def __enter__(self) -> "Process":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._process.kill()
        self._process.communicate()


def _make(side: str, settings: dict[str, Any]) -> Any:
    if side == "ours":
        from tests.bench.ours import Ours

        return Ours(**settings)
    from tests.bench.peer import Peer

    return Peer(**settings)


def _answer(working: Any, question: str, arguments: dict[str, Any]) -> Any:
    try:
        return getattr(working, question)(**arguments)
    except torch.OutOfMemoryError as error:
        raise MemoryError(question) from error
    finally:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def serve(side: str, settings: dict[str, Any]) -> None:
    """Answers until there are no more questions. What libraries print goes to stderr."""
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        working = _make(side, settings)
        answers.write("null\n")
        answers.flush()
        for line in sys.stdin:
            question, arguments = json.loads(line)
            try:
                answer = _answer(working, question, arguments)
            except MemoryError:
                answer = TOO_LITTLE
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


if __name__ == "__main__":
    serve(sys.argv[1], json.loads(sys.argv[2]))
