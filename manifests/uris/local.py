"""Reading a local file that somebody else has named: an ordinary file, up to a size."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from manifests.uris.errors import StorageError
from manifests.uris.policy import Bounds, Content

_CHUNK = 2**20
_KINDS = {
    stat.S_IFDIR: "a folder: name a file in it",
    stat.S_IFIFO: "a named pipe: name an ordinary file",
    stat.S_IFSOCK: "a socket: name an ordinary file",
    stat.S_IFCHR: "a device: name an ordinary file",
    stat.S_IFBLK: "a device: name an ordinary file",
}
# File systems whose files are the kernel's answers, by the names of /proc/self/mountinfo.
_OF_THE_KERNEL = frozenset(
    {
        *("proc", "sysfs", "devtmpfs", "devpts", "cgroup", "cgroup2", "debugfs", "tracefs"),
        *("securityfs", "configfs", "bpf", "pstore", "mqueue", "efivarfs", "binfmt_misc"),
        *("selinuxfs", "nsfs", "rpc_pipefs", "fusectl", "autofs"),
    }
)
_MOUNTS = Path("/proc/self/mountinfo")


def read_local(path: str, bounds: Bounds, keep: bool) -> Content:
    """The content of a file; OSError where there is none, StorageError where it won't do."""
    with _ordinary(path, bounds) as (descriptor, _):
        content = Content(bounds, keep)
        while chunk := os.read(descriptor, _CHUNK):
            content.add(chunk)
        return content


def stat_local(path: str, bounds: Bounds) -> os.stat_result:
    """What the file system says of a file that `read_local` would read."""
    with _ordinary(path, bounds) as (_, found):
        return found


@contextmanager
def _ordinary(path: str, bounds: Bounds) -> Iterator[tuple[int, os.stat_result]]:
    """An open file and its state. What it is is asked before it is opened, since opening a device
    can set it off, and again of what was opened."""
    _check_kind(Path(path).stat(), bounds)
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        found = os.fstat(descriptor)
        _check_kind(found, bounds)
        bounds.check_size(found.st_size)
        yield descriptor, found
    finally:
        os.close(descriptor)


def _check_kind(found: os.stat_result, bounds: Bounds) -> None:
    kind = stat.S_IFMT(found.st_mode)
    if kind != stat.S_IFREG:
        raise StorageError(f"{bounds.where} is {_KINDS.get(kind, 'no ordinary file')}")
    if found.st_blocks == 0:  # as all files of the kernel have it, and sparse and empty ones
        mounted = _mounted(found.st_dev)
        if mounted in _OF_THE_KERNEL:
            raise StorageError(
                f"{bounds.where} is a file of the kernel ({mounted}): name an ordinary file"
            )


def _mounted(device: int) -> str:
    """The type of the file system with this device number; "" where that is not known."""
    name = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = _MOUNTS.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    for line in lines:
        mount, _, source = line.partition(" - ")
        if mount.split()[2] == name:
            return source.split()[0]
    return ""
