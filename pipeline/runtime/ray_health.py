"""Whether the Ray that a job runs on is still there; Ray itself ends the driver without a word."""

import socket
import time
from contextlib import closing
from functools import partial
from typing import Any

import ray

LOOK_S = 5.0  # between looks at a cluster that this process has joined
TRIES = 3  # that must fail one after the other, before a joined cluster counts as gone
TIMEOUT_S = 5.0
_NAMES = {"raylet": "raylet", "gcs_server": "GCS server"}


class RayGoneError(RuntimeError):
    """A process that Ray cannot do without has ended, and so has the job."""


class RayHealth:
    """Looks at the processes of Ray that the driver needs: the GCS, and the raylet of its node.

    Of a Ray that this process has started these are its children; of one that it has joined, both
    must take a connection.
    """

    def __init__(self) -> None:
        node = ray._private.worker._global_node  # nothing public tells
        self._node: Any = node
        self._is_ours = node is not None and bool(node.head)
        self._next_look = 0.0
        self._failed: dict[str, int] = {}

    def check(self) -> None:
        """Raises RayGoneError where one of them has ended. Cheap: it may be asked often."""
        gone = self._ended_child() if self._is_ours else self._silent_server()
        if gone is not None:
            raise RayGoneError(
                f"Ray's {gone} has ended (killed, out of memory, or its machine is gone), and the "
                "job with it: what is committed stands; the same command goes on from there"
            )

    def _ended_child(self) -> str | None:
        for kind, processes in list(self._node.all_processes.items()):
            if kind in _NAMES and any(each.process.poll() is not None for each in processes):
                return f"{_NAMES[kind]} on this machine"
        return None

    def _silent_server(self) -> str | None:
        now = time.monotonic()
        if self._node is None or now < self._next_look:
            return None
        self._next_look = now + LOOK_S
        gcs, raylet = str(self._node.gcs_address), str(self._node.raylet_socket_name)
        probes = {
            f"GCS server at {gcs}": partial(_takes_tcp, gcs),
            "raylet on this machine": partial(_takes_unix, raylet),
        }
        for name, answers in probes.items():
            self._failed[name] = 0 if answers() else self._failed.get(name, 0) + 1
            if self._failed[name] >= TRIES:
                return name
        return None

    def end_ours(self) -> None:
        """Ends what is left of a Ray that this process has started; Ray's own way of doing so asks
        the process that is gone."""
        if self._is_ours:
            self._node.kill_all_processes(check_alive=False, allow_graceful=False)


def _takes_tcp(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=TIMEOUT_S).close()
    except OSError:
        return False
    return True


def _takes_unix(path: str) -> bool:
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as probe:
        probe.settimeout(TIMEOUT_S)
        try:
            probe.connect(path)
        except OSError:
            return False
    return True
