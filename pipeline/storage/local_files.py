"""Files on a POSIX file system: complete and durable as soon as they are visible."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path


def publish(target: Path, data: bytes, *, replace: bool, sync: bool = True) -> None:
    """Makes `data` appear at `target` in one step, durable after a crash of process or machine.

    The bytes go to a hidden file in the same folder first, because a rename is only atomic there.

    Args:
        target: where the file appears.
        data: its whole content.
        replace: False makes an existing target a FileExistsError.
        sync: False where the file need not survive a crash of the machine, which is much faster.
    """
    _make_folder(target.parent)
    temporary = _temporary(target)
    try:
        if sync:
            _write_durably(temporary, data)
        else:
            temporary.write_bytes(data)
        if replace:
            temporary.replace(target)
        else:
            _link(temporary, target)
            temporary.unlink()
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise
    if sync:
        _sync_folder(target.parent)


def publish_file(target: Path, source: Path) -> None:
    """Makes a copy of a file appear at `target` in one step, as `publish` does, in place of what is
    there."""
    _make_folder(target.parent)
    temporary = _temporary(target)
    try:
        with source.open("rb") as read, temporary.open("xb") as file:
            shutil.copyfileobj(read, file, 1 << 20)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise
    _sync_folder(target.parent)


def _temporary(target: Path) -> Path:
    """A hidden name in the same folder, which nobody else has."""
    return target.with_name(f".{target.name}.{secrets.token_hex(6)}.tmp")


def walk(
    folder: Path, deep: bool = True, inside: frozenset[tuple[int, int]] = frozenset()
) -> Iterator[tuple[Path, os.stat_result]]:
    """Every file below `folder`, hidden ones too; files that vanish meanwhile are left out.

    Links to folders are followed, but for those that lead back to a folder that they lie in.

    Args:
        folder: where to begin; one that does not exist is empty.
        deep: at any depth; otherwise only what lies directly in the folder.
        inside: device and inode of the folders above.
    """
    try:
        here = folder.stat()
        entries = list(os.scandir(folder))
    except FileNotFoundError:
        return
    above = inside | {(here.st_dev, here.st_ino)}
    for entry in entries:
        with contextlib.suppress(FileNotFoundError):
            if entry.is_symlink() and not Path(entry.path).exists():
                continue  # it leads nowhere, or in a circle
            stat = entry.stat()
            if not entry.is_dir():
                yield Path(entry.path), stat
            elif deep and (stat.st_dev, stat.st_ino) not in above:
                yield from walk(Path(entry.path), deep, above)


def _write_durably(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _link(temporary: Path, target: Path) -> None:
    try:
        os.link(temporary, target)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
            raise
        raise OSError(
            error.errno, "this file system has no hard links; choose an output on another"
        ) from error


def _make_folder(folder: Path) -> None:
    """Create `folder` and its parents so that they survive a crash of the machine."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    try:
        folder.mkdir(exist_ok=True)
    except FileExistsError:  # a file, or a symbolic link to nothing
        raise NotADirectoryError(errno.ENOTDIR, "not a folder", str(folder)) from None
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems cannot sync a folder
            raise
    finally:
        os.close(descriptor)
