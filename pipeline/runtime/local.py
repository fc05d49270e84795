"""The job in threads of this process, without Ray: the same steps, block sizes and replicas.

row groups ─► read_rows ─► Prepare ─► bounded queue ─► replicas ─► statuses
              one thread              of blocks        threads

It starts faster than Ray and needs nothing around it: for one machine, for trying things out and
for tests. What it lacks is a process per replica: a replica that hangs or loses its GPU ends this
process, and nothing remembers a row that killed it.
"""

import logging
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import replace
from functools import partial
from queue import Empty, Full, Queue
from typing import TypeVar

import pyarrow as pa

from pipeline.config import JobConfig
from pipeline.ledger.attempts import Attempt
from pipeline.planning.estimate import has_gpu
from pipeline.planning.pool import LocalPool, Pool
from pipeline.prepare.actor import Prepare, read_rows
from pipeline.replica.actor import Replica
from pipeline.replica.messages import lone_identity
from pipeline.runtime.runtime import Work

T = TypeVar("T")

log = logging.getLogger(__name__)

BLOCKS_PER_REPLICA = 2  # prepared and not yet taken
BLOCK_BYTES = 64 * 2**20  # of a block with large references
LOOK_S = 0.1  # between looks of a waiting thread at whether the job is over
LOADING_S = 10.0  # that a job which is over waits for a replica that is loading its model

Blocks = Queue[pa.Table | None]  # None comes after the last one
Results = Queue[pa.Table | BaseException | None]


class LocalRuntime:
    """Runs a job in this process.

    Args:
        config: The job.
    """

    def __init__(self, config: JobConfig) -> None:
        self._config = config
        self._over = threading.Event()
        self._prepare: Prepare | None = None  # set by `statuses`
        self._replicas: list[Replica] = []
        self._lock = threading.Lock()  # of the list, which `close` empties
        self._loading = threading.Lock()  # held while replicas load

    def pool(self, n_rows: int) -> Pool:
        """See `Runtime.pool`."""
        return LocalPool()

    def start(self, say: Callable[[str], None]) -> float:
        """See `Runtime.start`: all replicas share the GPU that torch takes by default."""
        if self._config.run.verbose:  # on Ray, actors have logs of their own
            logging.getLogger("pipeline").setLevel(logging.INFO)
        if self._config.run.max_gpu_hours is None or self._config.engine.device == "cpu":
            return 0.0
        import torch

        return 1.0 if torch.cuda.is_available() else 0.0

    def statuses(self, work: Work) -> Generator[pa.Table]:
        """See `Runtime.statuses`."""
        blocks: Blocks = Queue(BLOCKS_PER_REPLICA * self._config.cluster.replicas)
        results: Results = Queue()
        self._prepare = work.prepare_class(
            work.prepare, lambda: (work.known.clips, work.known.letters, work.known.rulings)
        )
        prepared = self._prepared(work, self._prepare)
        _start("read", partial(self._feed, prepared, blocks), results)
        _start("replicas", partial(self._run_replicas, work, blocks, results), results)
        try:
            while (result := self._next(results)) is not None:
                if isinstance(result, BaseException):
                    raise result
                yield result
        finally:
            self.close()

    def waits_for(self, n_done: int) -> str | None:
        """See `Runtime.waits_for`: threads always have a place."""
        return None

    def end_process(self, attempt: Attempt) -> bool:
        """See `Runtime.end_process`: threads have no process of their own."""
        return False

    def check(self) -> None:
        """See `Runtime.check`: threads are there as long as their process is."""

    def close(self) -> None:
        """See `Runtime.close`. Afterwards nothing is written into the output, unless a replica
        takes longer than LOADING_S to load."""
        self._over.set()
        if self._prepare is not None:
            self._prepare.close()
        if self._loading.acquire(timeout=LOADING_S):
            self._loading.release()
        else:
            log.warning("a replica is still loading its model after %g s", LOADING_S)
        self._close_replicas()

    def _close_replicas(self) -> None:
        with self._lock:
            replicas, self._replicas = self._replicas, []
        for each in replicas:
            if each.worker is not None:
                each.worker.close()

    def _prepared(self, work: Work, prepare: Prepare) -> Iterator[pa.Table]:
        """Blocks of prepared rows, as replicas take them."""
        manifest = work.prepare.spec.manifest
        index = {row_group: position for position, row_group in enumerate(manifest.row_groups)}
        row_groups = pa.table({"row_group": [index[row_group] for row_group in work.row_groups]})
        read = in_blocks(read_rows(manifest, row_groups), self._config.cluster.prepare_block_rows)
        tables = (table for block in read for table in prepare(block))
        return in_blocks(tables, self._config.cluster.block_rows)

    def _feed(self, prepared: Iterable[pa.Table], blocks: Blocks) -> None:
        """Puts blocks, and None after the last, where replicas take them."""
        for block in prepared:
            self._put(block, blocks)
            if self._over.is_set():
                return
        self._put(None, blocks)

    def _run_replicas(self, work: Work, blocks: Blocks, results: Results) -> None:
        """Feeds each replica with as many calls at once as Ray would make."""
        replicas = self._load_replicas(work)
        if self._over.is_set():  # `close` may not have waited for the last of them
            return self._close_replicas()
        calls = [
            _start("call", partial(self._call, each, blocks, results), results)
            for _ in range(self._config.tasks_in_flight(on_gpu=has_gpu()))
            for each in replicas
        ]
        for call in calls:
            call.join()
        results.put(None)

    def _load_replicas(self, work: Work) -> list[Replica]:
        """All replicas, or those that were loaded when the job was over."""
        replicas: list[Replica] = []
        with self._loading:
            while len(replicas) < self._config.cluster.replicas and not self._over.is_set():
                settings = replace(work.replica, find_identity=lone_identity)
                replicas.append(work.replica_class(settings))
                with self._lock:
                    self._replicas.append(replicas[-1])
        return replicas

    def _call(self, replica: Replica, blocks: Blocks, results: Results) -> None:
        """Has a replica make one block after the other."""
        while (block := self._next(blocks)) is not None:
            results.put(replica(block))
        self._put(None, blocks)  # for the other calls

    def _put(self, item: pa.Table | None, queue: Blocks) -> None:
        """Waits for room, unless the job is over."""
        while not self._over.is_set():
            try:
                return queue.put(item, timeout=LOOK_S)
            except Full:
                continue

    def _next(self, queue: "Queue[T | None]") -> T | None:
        """Waits for an item; None where none will come, or the job is over."""
        while not self._over.is_set():
            try:
                return queue.get(timeout=LOOK_S)
            except Empty:
                continue
        return None


def in_blocks(
    tables: Iterable[pa.Table], n_rows: int, n_bytes: int = BLOCK_BYTES
) -> Iterator[pa.Table]:
    """The rows of `tables` in order, `n_rows` at a time; the last block may be smaller, and so are
    blocks of large rows: one ends with the row that makes it larger than `n_bytes`."""
    held: pa.Table | None = None
    for table in tables:
        held = table if held is None else pa.concat_tables([held, table])
        while held.num_rows >= n_rows or held.nbytes > n_bytes:
            n_taken = _first_rows(held, n_rows, n_bytes)
            yield held.slice(0, n_taken)
            held = held.slice(n_taken)
    if held is not None and held.num_rows:
        yield held


def _first_rows(table: pa.Table, n_rows: int, n_bytes: int) -> int:
    """How many rows of the table a block takes."""
    n_most: int = min(n_rows, table.num_rows)
    if table.slice(0, n_most).nbytes <= n_bytes:
        return n_most
    n_taken = 1
    while n_taken < n_most and table.slice(0, n_taken).nbytes < n_bytes:
        n_taken += 1
    return n_taken


def _start(name: str, work: Callable[[], None], results: Results) -> threading.Thread:
    """A thread whose error becomes a result."""

    def run() -> None:
        try:
            work()
        except BaseException as error:  # the thread that takes the results raises it
            results.put(error)

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    return thread
