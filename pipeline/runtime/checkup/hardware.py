"""Checks GPUs, memory, disk and what Ray needs of the machine."""

from __future__ import annotations

import os
import resource
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.runtime.checkup.finding import NOTE, OK, WRONG, Finding

GB = 10**9
PREPARE_BYTES = 2 * 2**30  # --prepare-memory-mb, for the prepare actor and its processes
SPARE = 1.5  # of the weights: while they are loaded, file and model overlap
OBJECT_STORE_BYTES = 2**30  # of a local Ray
LEAST_FILES = 4096  # that a process may hold open; Ray has sockets to every actor
LONGEST_SOCKET = 107  # bytes of the path of a Unix socket, a limit of Linux
RAYS_FOLDERS = len("/ray/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store")


def gpus(
    facts: dict[str, Any], model_bytes: int | None, *, needed: bool = False
) -> Iterator[Finding]:
    """The GPUs that torch can use.

    Args:
        facts: Of the probe; empty where torch cannot be loaded.
        model_bytes: Of the weights' files, where a model is named.
        needed: Whether the settings ask for a GPU.
    """
    devices = [path.name for path in Path("/dev").glob("nvidia[0-9]*")]
    if not facts:
        return
    found = facts["gpus"]
    if not found and devices:
        yield Finding(
            "gpu", WRONG,
            f"{len(devices)} in /dev, torch can use none: "
            f"{facts['gpu_error'] or 'it is a build without CUDA'}",
            f"install a driver for CUDA {facts['cuda'] or '13.0'} (580 or newer), and start the "
            "container with its GPUs",
        )  # fmt: skip
    elif not found and needed:
        yield Finding(
            "gpu", WRONG, "none, and the settings ask for one",
            "run on a machine with a GPU, or take `engine: {device: auto}` and no "
            "`cluster.gpus_per_replica`",
        )  # fmt: skip
    elif not found:
        yield Finding("gpu", NOTE, "none: replicas compute on the CPU, many times slower")
    for index, gpu in enumerate(found):
        told = (
            f"{index}: {gpu['name']}, {gpu['free'] / GB:.1f} of {gpu['total'] / GB:.1f} GB free, "
            f"compute capability {gpu['capability']}"
        )
        if model_bytes is not None and gpu["free"] < model_bytes:
            yield Finding(
                "gpu", WRONG, f"{told}: less than the weights, {model_bytes / GB:.1f} GB",
                "end what else holds the GPU, or take a smaller model (`musicgen-batch models`)",
            )  # fmt: skip
        else:
            yield Finding("gpu", OK, told)


def memory(model_bytes: int | None) -> Iterator[Finding]:
    """The main memory that is free, within the limit of a container."""
    free = free_memory_bytes()
    needed = int(SPARE * (model_bytes or 0)) + PREPARE_BYTES
    what = "a prepare actor" + (" and a replica" if model_bytes else "")
    told = f"{free / GB:.1f} GB free"
    if free < needed:
        yield Finding(
            "memory", WRONG, f"{told}: less than {needed / GB:.1f} GB, what {what} may take",
            "give the machine or the container more, or lower --prepare-memory-mb",
        )  # fmt: skip
    else:
        yield Finding("memory", OK, f"{told}; {what} may take {needed / GB:.1f} GB")


def free_memory_bytes() -> int:
    """What the kernel calls available, or what the control group leaves, where that is less."""
    fields = dict(
        line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines() if ":" in line
    )
    free = int(fields["MemAvailable"].split()[0]) * 1024
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        (
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        ),
    ):
        try:
            most, now = Path(limit).read_text().strip(), Path(used).read_text().strip()
        except OSError:
            continue
        if most.isdigit():
            free = min(free, int(most) - int(now))
    return max(free, 0)


def rays_needs() -> Iterator[Finding]:
    """What a Ray on this machine needs: a folder, shared memory, open files, sockets."""
    folder = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir())
    set_it = "set RAY_TMPDIR to a short path on a disk with room"
    if len(os.fsencode(folder)) + RAYS_FOLDERS > LONGEST_SOCKET:
        most = LONGEST_SOCKET - RAYS_FOLDERS
        yield Finding(
            "ray folder", WRONG,
            f"{folder} has {len(os.fsencode(folder))} letters: sockets below it allow {most}",
            set_it,
        )  # fmt: skip
    elif not os.access(folder, os.W_OK | os.X_OK):
        yield Finding("ray folder", WRONG, f"{folder} can't be written to", set_it)
    else:
        free = shutil.disk_usage(folder).free
        state = OK if free >= 2 * GB else WRONG
        told = f"{folder} has {free / GB:.1f} GB free"
        needs = "" if state == OK else ": logs and what does not fit into memory need 2 GB"
        yield Finding("ray folder", state, told + needs, "" if state == OK else set_it)
    yield from _shared_memory()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < LEAST_FILES and hard < LEAST_FILES:
        yield Finding(
            "open files", WRONG, f"{soft} at most: Ray needs {LEAST_FILES}",
            "raise the hard limit: ulimit -n 65536, --ulimit nofile=65536:65536 for a container",
        )  # fmt: skip
    else:
        yield Finding("open files", OK, f"{hard} at most")


def _shared_memory() -> Iterator[Finding]:
    try:
        free = shutil.disk_usage("/dev/shm").free
    except OSError:
        free = 0
    if free < OBJECT_STORE_BYTES:
        yield Finding(
            "shared memory", NOTE,
            f"/dev/shm has {free / GB:.1f} GB free: Ray's object store of 1.1 GB goes to disk",
            "start the container with --shm-size=8gb",
        )  # fmt: skip
    else:
        yield Finding("shared memory", OK, f"/dev/shm has {free / GB:.1f} GB free")


def ports() -> Iterator[Finding]:
    """Ray's processes on one machine talk over ports of the loopback address."""
    try:
        with socket.socket() as server, socket.socket() as client:
            server.bind(("127.0.0.1", 0))
            server.listen()
            client.settimeout(5)
            client.connect(server.getsockname())
    except OSError as error:
        yield Finding(
            "ports", WRONG, f"127.0.0.1 does not take connections: {error}",
            "bring the loopback interface up: ip link set lo up",
        )  # fmt: skip
    else:
        yield Finding("ports", OK, "processes here reach each other over 127.0.0.1")
