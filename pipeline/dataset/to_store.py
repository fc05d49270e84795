"""Copies a dataset into another store: what is missing there, audio first and the card last."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pipeline.dataset.card import Identity
from pipeline.dataset.contents import (
    Contents,
    Item,
    Published,
    PublishError,
    described,
    digest_of,
    is_published_name,
    is_same_dataset,
    read_contents,
    refuse_others,
)
from pipeline.dataset.metadata import standing_state
from pipeline.ledger.names import CARD, METADATA, REPORT
from pipeline.storage import THREADS, ObjectNotFoundError, Storage
from pipeline.telemetry.words import counted

FOLDERS = ("clips", "failed", "scores", "audio", "runs")
SMALL_BYTES = 4 << 20  # so many of THREADS such objects are in memory at once


def publish_to_store(
    storage: Storage, target: Storage, say: Callable[[str], None], *, dry_run: bool = False
) -> Published:
    """Copies what `target` lacks; may be stopped at any moment and called again.

    A copy holds dead letters, scores and records of runs too: a run can go on from it.

    Args:
        storage: root of the output.
        target: root of the copy.
        say: told what happens.
        dry_run: only find out what would be copied.

    Raises:
        PublishError: the target is an output of its own, or holds another dataset; or what was read
            is damaged.
    """
    _refuse_outputs(storage, target)
    contents = read_contents(storage, with_records=True)
    there = {info.path: info.size for folder in FOLDERS for info in target.list(folder)}
    wanted = {item.path: item for item in contents.items}
    stale = sorted(path for path in there if is_published_name(path) and path not in wanted)
    missing = [item for item in contents.items if there.get(item.path) != item.size]
    with described(storage, contents) as (identity, described_by):
        files = _report(storage, described_by[CARD].parent) | dict(described_by)
        if stale and not _is_same(target, identity, files[CARD]):
            refuse_others(target.root, stale)
        changed = {n: f for n, f in files.items() if not _stands(target, n, f, contents)}
        n_bytes = sum(item.size for item in missing) + _sizes(changed.values())
        n_files = len(missing) + len(changed)
        if not dry_run:
            say(f"{counted(n_files, 'file')} to copy ({n_bytes} bytes)")
            _copy(storage, target, missing)
            target.delete(stale)  # after the parts that hold their clips now
            for name, file in changed.items():  # the card is the last of them
                target.put_file(name, file)
            _verify(target, contents)
        total = sum(item.size for item in wanted.values()) + _sizes(files.values())
    n_wanted = len(wanted) + len(files)
    return Published(
        target.root, n_wanted, total, n_files, n_bytes, tuple(stale), None, dry_run=dry_run
    )


def _sizes(files: Iterable[Path]) -> int:
    return sum(file.stat().st_size for file in files)


def _refuse_outputs(storage: Storage, target: Storage) -> None:
    here, there = f"{storage.root}/", f"{target.root}/"
    if here.startswith(there) or there.startswith(here):
        raise PublishError(
            f"--to {target.root} is the output itself, or one lies inside the other: choose "
            "another place"
        )
    if target.list("lease"):
        raise PublishError(
            f"--to {target.root} is an output that runs have written to: choose another place"
        )


def _is_same(target: Storage, identity: Identity, card: Path) -> bool:
    """Whether the target is an earlier copy of this output."""
    try:
        standing = target.get(CARD)
    except ObjectNotFoundError:
        return False
    return is_same_dataset(standing.decode(errors="replace"), identity, card)


def _report(storage: Storage, folder: Path) -> dict[str, Path]:
    """The report, where the output has one, in a file of this machine."""
    size = storage.size(REPORT)
    if size is None:
        return {}
    storage.fetch(REPORT, size, folder / REPORT)
    return {REPORT: folder / REPORT}


def _stands(target: Storage, name: str, file: Path, contents: Contents) -> bool:
    if name == METADATA:
        return standing_state(target)[1] == contents.snapshot.state
    return target.size(name) == file.stat().st_size and target.get(name) == file.read_bytes()


def _copy(storage: Storage, target: Storage, items: Iterable[Item]) -> None:
    """Copies objects in their order: small ones side by side, big ones through a file."""

    def copy(item: Item) -> None:
        data = storage.get(item.path)
        digest = hashlib.sha256(data).hexdigest() if item.sha256 else None
        item.check(storage.uri(item.path), len(data), digest)
        target.put(item.path, data)

    small: list[Item] = []
    with ThreadPoolExecutor(THREADS) as pool, tempfile.TemporaryDirectory() as folder:
        for item in items:
            if item.size <= SMALL_BYTES:
                small.append(item)
                if len(small) < 8 * THREADS:
                    continue
            list(pool.map(copy, small))
            small = []
            if item.size > SMALL_BYTES:
                _copy_big(storage, target, item, Path(folder) / "object")
        list(pool.map(copy, small))


def _copy_big(storage: Storage, target: Storage, item: Item, file: Path) -> None:
    storage.fetch(item.path, item.size, file)
    digest = digest_of(file) if item.sha256 else None
    item.check(storage.uri(item.path), file.stat().st_size, digest)
    target.put_file(item.path, file)


def _verify(target: Storage, contents: Contents) -> None:
    """Every object has its size there."""
    there: Mapping[str, int] = {i.path: i.size for folder in FOLDERS for i in target.list(folder)}
    wrong = [item.path for item in contents.items if there.get(item.path) != item.size]
    if wrong:
        raise PublishError(
            f"{target.root} has {len(wrong)} of the copied objects in another size or not at all, "
            f"such as {wrong[0]}: is somebody else writing there? The same command copies them "
            "again"
        )
