"""Parts: Parquet files whose publication commits their rows, and which of them are valid."""

from __future__ import annotations

import io
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.ledger.migrate import upgraded
from pipeline.ledger.names import MERGED, Kind, part_name
from pipeline.ledger.order import Span
from pipeline.ledger.schema import encode_part, open_part, replaced_by
from pipeline.storage import THREADS, ObjectInfo, ObjectNotFoundError, Storage, StorageError

T = TypeVar("T")
# Up to here one request for the whole object is cheaper than several for its columns.
READ_WHOLE_BYTES = 1 << 20
LISTINGS = 5


class UnreadablePartError(StorageError):
    """A part that is not a whole Parquet file of ours; storage was damaged or edited by hand."""


def new_run_id() -> str:
    """A name for a run that sorts by its start (UTC), to the second."""
    return time.strftime("%Y%m%dT%H%M%S", time.gmtime()) + "-" + secrets.token_hex(3)


def new_replica_id() -> str:
    """A unique name for one process of a replica, so that names of its parts are unique too."""
    return secrets.token_hex(3)


def publish_part(
    storage: Storage,
    path: str,
    table: pa.Table,
    schema: pa.Schema,
    replaces: Sequence[str] = (),
    spans: Sequence[Span] = (),
) -> str:
    """Commits rows: readers see all of them from the moment that this object exists.

    Args:
        storage: root of the output.
        path: of the new part.
        table: the rows.
        schema: what the part declares.
        replaces: names of the parts whose rows this one takes over.
        spans: who committed which of the rows.
    """
    token = path.rpartition("/")[2] + " " + secrets.token_hex(8)
    data = encode_part(table, schema, token, replaces, spans)
    if not storage.create_once(path, data, token):
        raise StorageError(
            f"{storage.uri(path)} was written by somebody else; "
            "parts have unique names, so this output was copied or edited by hand"
        )
    return path


def list_parts(
    storage: Storage, kind: Kind = "clips", run_id: str | None = None
) -> list[ObjectInfo]:
    """The valid parts, by name: those that a merged part replaces are left out.

    Args:
        storage: root of the output.
        kind: committed clips or dead letters.
        run_id: only parts which that run wrote.
    """
    return split_parts(storage, kind, run_id)[0]


def split_parts(
    storage: Storage, kind: Kind, run_id: str | None = None, *, strict: bool = True
) -> tuple[list[ObjectInfo], list[ObjectInfo]]:
    """The valid parts, and those that still exist although a merged part replaces them.

    Args:
        storage: root of the output.
        kind: committed clips or dead letters.
        run_id: only parts which that run wrote.
        strict: False counts a merged part that can't be read as valid instead of raising.
    """

    def split(found: list[ObjectInfo]) -> tuple[list[ObjectInfo], list[ObjectInfo]]:
        replaced: set[str] = set()
        for info in found:
            name = part_name(info.path)
            if name is not None and name.replica == MERGED:
                passed_over = () if strict else (UnreadablePartError,)
                with suppress(*passed_over), reading(storage, info) as part:
                    replaced |= {f"{kind}/{old}" for old in replaced_by(part)}
        return (
            [info for info in found if info.path not in replaced],
            [info for info in found if info.path in replaced],
        )

    def is_asked_for(info: ObjectInfo) -> bool:
        name = part_name(info.path)
        return name is not None and run_id in (None, name.run_id)

    return on_steady_listing(lambda: split([*filter(is_asked_for, storage.list(kind))]))


@contextmanager
def reading(storage: Storage, info: ObjectInfo) -> Iterator[pq.ParquetFile]:
    """Opens a part. Of a big one only the columns that are read are fetched."""
    try:
        if info.size <= READ_WHOLE_BYTES:
            yield open_part(io.BytesIO(storage.get(info.path)))
        else:
            yield open_part(storage.open_range(info.path, info.size))
    except StorageError:
        raise
    except (pa.ArrowException, OSError, KeyError) as error:
        raise UnreadablePartError(
            f"{storage.uri(info.path)} can't be read as a part ({error}); `musicgen-batch verify "
            "--repair` moves such parts away, and the next run makes their clips anew"
        ) from error


def read_part(storage: Storage, info: ObjectInfo, columns: Sequence[str] | None = None) -> pa.Table:
    """Reads some columns of one part, all by default."""
    with reading(storage, info) as part:
        wanted = list(columns) if columns is not None else None
        table = part.read(columns=wanted)
        missing = set(columns or ()) - set(table.column_names)
        if missing:
            raise KeyError(f"no columns {sorted(missing)}")
        return upgraded(table)


def read_known(storage: Storage, info: ObjectInfo, columns: Sequence[str]) -> pa.Table:
    """Reads those of some columns that a part has: extra columns may have come later."""
    with reading(storage, info) as part:
        known = set(part.schema_arrow.names)
        return upgraded(part.read(columns=[name for name in columns if name in known]))


def map_parts(
    storage: Storage,
    kind: Kind,
    action: Callable[[ObjectInfo], T],
    run_id: str | None = None,
) -> list[T]:
    """Applies `action` to all valid parts in parallel."""

    def act() -> list[T]:
        with ThreadPoolExecutor(THREADS) as pool:
            return list(pool.map(action, list_parts(storage, kind, run_id)))

    return on_steady_listing(act)


def on_steady_listing(action: Callable[[], T]) -> T:
    """Runs `action` again when a part that it had listed is gone: `compact` may have merged it."""
    for _ in range(LISTINGS - 1):
        try:
            return action()
        except ObjectNotFoundError:
            time.sleep(0.1)
    return action()
