"""The rows of an output in a DuckDB file on this machine, filled from the parts and kept current.

Parts never change, so each is read once, without the audio inside it. The newest come first: the
page shows clips while the others are still being read. DuckDB itself may open no file and reach no
network; it gets the rows from the storage layer, so a folder and an object store are alike.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.audio.scores.table import COLUMN
from pipeline.dataset.browse.columns import RATING, RATING_COLUMN, PageColumn, page_column
from pipeline.dataset.browse.query import Query, QueryError, compile_query
from pipeline.ledger.parts import list_parts, reading
from pipeline.storage import ObjectInfo, ObjectNotFoundError, Storage

if TYPE_CHECKING:
    import duckdb

FIRST_PARTS, PARTS_AT_ONCE = 8, 64  # how many are read before the page can show them
READERS = 8
MEMORY_MB = 1024
MOST_TAKES = 100
MOST_VALUES = 50
Row = dict[str, Any]


@dataclass(frozen=True)
class Counts:
    """How far the index is."""

    version: int
    """grows with every change"""
    n_clips: int
    n_parts: int
    n_listed: int
    """parts that stand in the output"""


class ClipIndex:
    """The clips of an output, to be searched. Threads may share it.

    Args:
        storage: Root of the output.
        folder: Where the index may put its files.
    """

    def __init__(self, storage: Storage, folder: Path) -> None:
        import duckdb

        self._storage = storage
        limits: dict[str, Any] = {
            "memory_limit": f"{MEMORY_MB}MB",
            "temp_directory": str(folder / "spill"),
        }
        self._connection = duckdb.connect(str(folder / "clips.duckdb"), config=limits)
        for setting in ("autoinstall_known_extensions", "autoload_known_extensions",
                        "enable_external_access", "python_enable_replacements"):  # fmt: skip
            self._connection.execute(f"SET {setting} = false")
        self._connection.execute("SET lock_configuration = true")
        self._writer = self._connection.cursor()  # a connection does one thing at a time
        self._writer.execute(
            f"CREATE TABLE clips (part INTEGER, position INTEGER, rating {RATING_COLUMN.sql_type})"
        )
        self._writing = threading.Lock()
        self._parts: dict[str, int] = {}  # path to number
        self._columns: dict[str, PageColumn] = {RATING: RATING_COLUMN}
        self._unshown: set[str] = set()
        self._ratings: dict[str, int] = {}
        self._counts = Counts(0, 0, 0, 0)
        self._next_part = 0
        self._is_closed = False

    @property
    def columns(self) -> dict[str, PageColumn]:
        """The known columns by name, in the order of `clips/`."""
        return dict(self._columns)

    @property
    def counts(self) -> Counts:
        """How far the index is."""
        return self._counts

    def cancel(self) -> None:
        """Ends a refresh that is under way at its next part."""
        self._is_closed = True

    def close(self) -> None:
        """Ends it."""
        self.cancel()
        with self._writing:
            self._writer.close()
            self._connection.close()

    # --- filling

    def refresh(self) -> bool:
        """Reads the parts that are new and forgets those that are gone; whether anything changed.

        Raises:
            StorageError: The store did not answer.
        """
        listed = list_parts(self._storage, "clips")
        paths = {info.path for info in listed}
        gone = [path for path in self._parts if path not in paths]
        new = [info for info in reversed(listed) if info.path not in self._parts]
        self._note(n_listed=len(listed))
        if not new and not gone:
            return False
        at_once = FIRST_PARTS if not self._parts else PARTS_AT_ONCE
        while (new or gone) and not self._is_closed:
            some, new = new[:at_once], new[at_once:]
            # What a merged part replaces goes in the same step in which its rows come.
            self._replace([] if new else gone, some)
            gone = gone if new else []
            at_once = PARTS_AT_ONCE
        return True

    def _replace(self, gone: Sequence[str], new: Sequence[ObjectInfo]) -> None:
        with ThreadPoolExecutor(READERS) as pool:
            read = list(pool.map(self._read, new))
        with self._writing:
            if self._is_closed:
                return
            columns, parts = dict(self._columns), dict(self._parts)
            self._writer.begin()
            try:
                self._forget(gone, parts)
                self._insert(read, columns, parts)
                self._writer.commit()
            except BaseException:
                self._writer.rollback()
                raise
            [(n_clips,)] = self._writer.execute("SELECT count(*) FROM clips").fetchall()
            # Only now can questions be about them.
            self._columns, self._parts = columns, parts
        self._note(n_clips=int(n_clips))

    def _read(self, info: ObjectInfo) -> tuple[ObjectInfo, pa.Table | None]:
        """The columns of a part but its audio; None where `compact` has just removed it."""
        if self._is_closed:
            return info, None
        try:
            with reading(self._storage, info) as part:
                names = [name for name in part.schema_arrow.names if name != "audio"]
                return info, part.read(columns=names, use_threads=False)
        except ObjectNotFoundError:
            return info, None

    def _forget(self, gone: Sequence[str], parts: dict[str, int]) -> None:
        numbers = [parts.pop(path) for path in gone]
        if numbers:
            self._writer.execute("DELETE FROM clips WHERE part IN (SELECT unnest(?))", [numbers])

    def _insert(
        self,
        read: Iterable[tuple[ObjectInfo, pa.Table | None]],
        columns: dict[str, PageColumn],
        parts: dict[str, int],
    ) -> None:
        """Adds rows whose clip is not known yet: a clip may stand in two parts for a while."""
        by_columns: dict[tuple[str, ...], list[pa.Table]] = {}
        for info, table in read:
            if table is None:
                continue
            number, self._next_part = self._next_part, self._next_part + 1
            parts[info.path] = number
            numbers = pa.repeat(pa.scalar(number, pa.int32()), len(table))
            table = table.append_column(":part", numbers)
            table = table.append_column(":position", pa.array(range(len(table)), pa.int32()))
            by_columns.setdefault(tuple(table.column_names), []).append(table)
        for tables in by_columns.values():
            self._insert_alike(pa.concat_tables(tables, promote_options="permissive"), columns)

    def _insert_alike(self, table: pa.Table, columns: dict[str, PageColumn]) -> None:
        self._learn(table.schema, columns)
        known = [column for name, column in columns.items() if name in table.column_names]
        arrays = [_plain(table[column.name]) for column in known]
        names = [column.sql for column in known]
        rows = pa.table([*arrays, table[":part"], table[":position"]], [*names, "part", "position"])
        taken = ", ".join(
            f"TRY_CAST({_text_of(array.type, name)} AS {column.sql_type})"
            for array, name, column in zip(arrays, names, known, strict=True)
        )
        clip = columns["clip_id"].sql
        self._writer.register("new_rows", rows)
        rated = pa.table(
            {"clip": list(self._ratings), "stars": pa.array(self._ratings.values(), pa.int8())},
            pa.schema([("clip", pa.string()), ("stars", pa.int8())]),
        )
        self._writer.register("rated", rated)
        try:
            self._writer.execute(
                f"INSERT INTO clips (part, position, rating, {', '.join(names)}) "
                f"SELECT part, position, stars, {taken} FROM new_rows "
                f"LEFT JOIN rated ON clip = {clip} "
                f"WHERE NOT EXISTS (FROM clips AS old WHERE old.{clip} = new_rows.{clip})"
            )
        finally:
            self._writer.unregister("new_rows")
            self._writer.unregister("rated")

    def _learn(self, schema: pa.Schema, columns: dict[str, PageColumn]) -> None:
        """Adds the columns that no part had before."""
        for field in schema:
            if field.name in columns or field.name in self._unshown or field.name[:1] == ":":
                continue
            column = page_column(field, len(columns))
            if column is None:
                self._unshown.add(field.name)
                continue
            self._writer.execute(f"ALTER TABLE clips ADD COLUMN {column.sql} {column.sql_type}")
            columns[field.name] = column

    def _note(self, **changes: int) -> None:
        old = self._counts
        version = old.version + ("n_clips" in changes)
        values = vars(old) | changes | {"version": version, "n_parts": len(self._parts)}
        self._counts = Counts(**values)

    # --- scores and ratings

    def score(self, scores: pa.Table) -> None:
        """Fills the score columns of clips that are read from rows of `scores/`.

        A score in the clip's own row stays, and of several of one scorer the latest counts.
        """
        with self._writing:
            if "clip_id" not in self._columns or self._is_closed:
                return
            columns = dict(self._columns)
            names = [COLUMN + name for name in pc.unique(scores["scorer"]).to_pylist()]
            self._learn(pa.schema([(name, pa.float64()) for name in names]), columns)
            plain = {name: _plain(scores[name]) for name in scores.column_names}
            self._writer.register("new_scores", pa.table(plain))
            try:
                for name in names:
                    column, clip = columns[name].sql, columns["clip_id"].sql
                    self._writer.execute(
                        f"UPDATE clips SET {column} = told.score FROM ("
                        "SELECT clip_id, arg_max(score, created_at) AS score FROM new_scores "
                        "WHERE scorer = ? AND score IS NOT NULL GROUP BY clip_id) AS told "
                        f"WHERE clips.{clip} = told.clip_id AND clips.{column} IS NULL",
                        [name.removeprefix(COLUMN)],
                    )
            finally:
                self._writer.unregister("new_scores")
            self._columns = columns
        self._note(n_clips=self._counts.n_clips)

    def rate(self, ratings: dict[str, int | None]) -> None:
        """Sets the ratings of clips, also of those whose part is not read yet; None clears one."""
        with self._writing:
            for clip, stars in ratings.items():
                if stars is None:
                    self._ratings.pop(clip, None)
                else:
                    self._ratings[clip] = stars
            column = self._columns.get("clip_id")
            if column is None or self._is_closed:
                return
            given = [[stars, clip] for clip, stars in ratings.items()]
            self._writer.executemany(f"UPDATE clips SET rating = ? WHERE {column.sql} = ?", given)

    # --- asking

    def page(self, query: Query) -> tuple[int, list[Row]]:
        """How many clips a query finds, and those of the page that it asks for."""
        columns = self._columns
        if "clip_id" not in columns:
            return 0, []
        sql = compile_query(query, columns)
        shown = [sql.column(name) for name in dict.fromkeys(("clip_id", *query.columns))]
        selected = ", ".join(column.sql for column in shown)
        order = sql.order(query.sort, query.descending)
        with self._asking() as cursor:
            n_found = self._counts.n_clips
            if sql.conditions:
                counted = cursor.execute(f"SELECT count(*) FROM clips{sql.where}", sql.values)
                n_found = (counted.fetchone() or (0,))[0]
            cursor.execute(
                f"SELECT {selected} FROM clips{sql.where}{order} LIMIT ? OFFSET ?",
                [*sql.values, query.limit, query.offset],
            )
            return n_found, [*_rows(cursor, shown)]

    def clip(self, clip_id: str) -> Row | None:
        """All columns of a clip, and `:part` and `:position`, where its row stands."""
        columns = self._columns
        if "clip_id" not in columns:
            return None
        with self._asking() as cursor:
            selected = ", ".join(["part", "position", *(c.sql for c in columns.values())])
            cursor.execute(
                f"SELECT {selected} FROM clips WHERE {columns['clip_id'].sql} = ? LIMIT 1",
                [clip_id],
            )
            found = cursor.fetchone()
        if found is None:
            return None
        row = dict(zip(columns, found[2:], strict=True))
        paths = {number: path for path, number in self._parts.items()}
        return row | {":part": paths.get(found[0]), ":position": found[1]}

    def some(self, clip_ids: Sequence[str], names: Sequence[str]) -> dict[str, Row]:
        """Some columns of some clips, by clip_id."""
        columns = self._columns
        if "clip_id" not in columns:
            return {}
        shown = [columns[name] for name in names if name in columns]
        with self._asking() as cursor:
            selected = ", ".join(column.sql for column in shown)
            wanted = f"{columns['clip_id'].sql} IN (SELECT unnest(?))"
            cursor.execute(f"SELECT {selected} FROM clips WHERE {wanted}", [list(clip_ids)])
            return {row["clip_id"]: row for row in _rows(cursor, shown)}

    def takes(self, id: str, names: Sequence[str]) -> list[Row]:
        """The clips of a row of the manifest, by take; the older of one take first."""
        columns = self._columns
        shown = [columns[name] for name in names if name in columns]
        order = ", ".join(columns[name].sql for name in ("take", "created_at", "clip_id"))
        with self._asking() as cursor:
            selected = ", ".join(column.sql for column in shown)
            cursor.execute(
                f"SELECT {selected} FROM clips WHERE {columns['id'].sql} = ? "
                f"ORDER BY {order} LIMIT {MOST_TAKES}",
                [id],
            )
            return [*_rows(cursor, shown)]

    def values(self, name: str, prefix: str = "") -> list[tuple[str, int]]:
        """The most frequent values of a column, with how often each occurs."""
        column = self._columns.get(name)
        if column is None:
            raise QueryError(f"there is no column {name[:80]!r} in this output")
        with self._asking() as cursor:
            cursor.execute(
                f"SELECT {column.sql}::VARCHAR AS v, count(*) AS n FROM clips "
                "WHERE v IS NOT NULL AND starts_with(lower(v), lower(?)) "
                f"GROUP BY v ORDER BY n DESC, v LIMIT {MOST_VALUES}",
                [prefix],
            )
            return [(str(value), int(n)) for value, n in cursor.fetchall()]

    @contextmanager
    def _asking(self) -> Iterator[duckdb.DuckDBPyConnection]:
        cursor = self._connection.cursor()
        try:
            yield cursor
        finally:
            cursor.close()


def _rows(cursor: duckdb.DuckDBPyConnection, shown: Sequence[PageColumn]) -> Iterator[Row]:
    for values in cursor.fetchall():
        yield {column.name: value for column, value in zip(shown, values, strict=True)}


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Times without a zone, which are UTC then."""
    if pa.types.is_timestamp(column.type):
        return column.cast(pa.timestamp("us"), safe=False)
    return column


def _text_of(kind: pa.DataType, name: str) -> str:
    return f"to_json({name})" if pa.types.is_nested(kind) else name
