"""The Ray cluster as a run finds it, or starts it."""

import logging
import math
import os
import re
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import ray
from ray.data import DataContext
from ray.job_config import JobConfig as RayJobConfig

from pipeline.config import ConfigError, JobConfig
from pipeline.runtime.placement import demand_of
from pipeline.runtime.ray_health import RayGoneError

OBJECT_STORE_BYTES = 1 << 30  # of a local Ray; audio never crosses it
SPARE_CPUS = 2  # of a local Ray, so that tasks that read and cut blocks run side by side
KNOCK_S = 10.0
STDERR = 2
_MANY_PROCESSES = "maximum expected startup concurrency"
_print_as_ray_does = ray._private.worker.print_to_stdstream  # nothing public chooses the stream
# [2026-11-28 12:52:09,548 I 28203 28203] logging.cc:303: Set ray log level ...
_RAYS_LINE = re.compile(rb"\[\S+ \S+ [DIW] \d+ \d+\] (\(\w+\) )?\w+\.cc:\d+: ")
PACKAGE_PARENT = Path(__file__).resolve().parents[2]


class OwnFolderOnly(RayJobConfig):  # type: ignore[misc]  # ray is not type-checked
    """Keeps the driver's current folder off the import path of Ray's workers.

    Ray puts that folder, and that of the driver's script, in front of its workers' path. A user's
    `musicgen.py` in there would be imported in place of this package. Of these folders only the one
    that the driver imported this package from is passed on: a checkout that isn't installed. An
    installed package is found without it. A job with a working directory stays as Ray has it.
    """

    def _serialize(self) -> str:
        """Ray calls this once it has added the folders."""
        folders: list[str] = self._py_driver_sys_path
        folders[:] = [folder for folder in folders if Path(folder).resolve() == PACKAGE_PARENT]
        serialized: str = super()._serialize()
        return serialized


def start_ray(config: JobConfig) -> None:
    """Joins the cluster that RAY_ADDRESS names (as in a submitted job), else starts a local one.

    Raises:
        ConfigError: Nothing answers at that address.
    """
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = False
    context.print_on_execution_start = False
    # A long model load or a long clip is no fault; `_watch` has its own stall detector.
    context.execution_no_progress_timeout_s = -1
    level = "info" if config.run.verbose else "error"
    logging.getLogger("ray").setLevel(level.upper())
    # What ends a dataset is raised, and told by whoever calls; Ray also logs its own stack of it.
    logging.getLogger("ray.data").setLevel("INFO" if config.run.verbose else "CRITICAL")
    if not config.run.verbose:
        # Ray's C++ side reports, as an error, a restart hazard at the start of every actor pool.
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        ray._private.worker.print_to_stdstream = _tell
    if ray.is_initialized():
        return
    with nullcontext() if config.run.verbose else rays_own_lines_left_out():
        try:
            _init(config, level)
        except Exception as error:  # Ray has no class of its own for it
            if "timed out during startup" not in str(error):
                raise
            raise RayGoneError(
                "Ray did not start in time, this machine is too busy for it: run again when it has "
                "a processor to spare, or set RAY_raylet_start_wait_time_s=300 in the environment"
            ) from error


def _init(config: JobConfig, level: str) -> None:
    if address := os.environ.get("RAY_ADDRESS"):
        knock(address)
        ray.init(job_config=OwnFolderOnly(), log_to_driver=config.run.verbose, logging_level=level)
        return
    n_cpus = math.ceil(demand_of(config, 0.0).cpus) + SPARE_CPUS  # logical ones
    ray.init(
        address="local",  # else a cluster that someone started on this machine is joined
        num_cpus=max(n_cpus, os.cpu_count() or 1),
        resources={
            k: v * config.cluster.replicas for k, v in config.cluster.replica_resources.items()
        },
        object_store_memory=OBJECT_STORE_BYTES,
        include_dashboard=False,
        job_config=OwnFolderOnly(),
        log_to_driver=config.run.verbose,
        logging_level=level,
    )


@contextmanager
def rays_own_lines_left_out() -> Iterator[None]:
    """Leaves out what Ray's C++ side writes to stderr while it starts, such as that its log level
    was set by the environment. All else appears at the end of the context."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held:
        before = os.dup(STDERR)
        os.dup2(held.fileno(), STDERR)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(before, STDERR)
            os.close(before)
            held.seek(0)
            for said in held:
                if not _RAYS_LINE.match(said):
                    os.write(STDERR, said)


def _tell(data: dict[str, Any], ignore_prefix: bool) -> None:
    """Prints what Ray has to say of the cluster: on stderr, where it does not mix with an answer,
    and without the warning that belongs to each start on a small machine."""
    lines = [text for text in data.get("lines", []) if _MANY_PROCESSES not in text]
    if lines:
        _print_as_ray_does(data | {"lines": lines, "is_err": True}, ignore_prefix)


def is_started_here() -> bool:
    """Whether this process has started the Ray that it uses, so that nobody adds nodes to it."""
    node = ray._private.worker._global_node  # nothing public tells
    return node is not None and bool(node.head)


def knock(address: str, named: str = "RAY_ADDRESS=") -> None:
    """Raises ConfigError where nobody listens at the address of a cluster. Ray itself tries for
    minutes, and warns in its own words meanwhile.

    Args:
        address: HOST:PORT; what has no port is not looked at.
        named: What the address was given by.
    """
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not port.isdigit():  # auto, local
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_S).close()
    except OSError as error:
        raise ConfigError(
            f"{named}{address}: no Ray cluster answers there ({error}); correct it, or unset "
            "it to run on this machine alone"
        ) from None


def gpus_per_replica(config: JobConfig) -> float:
    """As asked for; else one where the cluster has GPUs. Ray must run."""
    if config.cluster.gpus_per_replica is not None:
        return config.cluster.gpus_per_replica
    if config.engine.device == "cpu":
        return 0.0
    return 1.0 if ray.cluster_resources().get("GPU", 0) else 0.0


def leave_ray() -> None:
    """Disconnects this process from Ray and, where it started one, ends that."""
    ray.shutdown()
