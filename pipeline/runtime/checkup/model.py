"""Checks that a checkpoint is complete and loads without a network."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from musicgen.config import ModelSource
from pipeline.runtime.checkup.finding import OK, WRONG, Finding, first_line

CHECK = "checkpoint"
GB = 10**9


def checkpoint(source: ModelSource) -> tuple[list[Finding], int | None, str | None]:
    """Looks at every file that the model needs, and reads them all once.

    Returns:
        The finding, the bytes of the files (None where it is not complete) and the hash of the
        weights.
    """
    from musicgen.checkpoints.describe import checkpoint_files, describe

    try:
        with _offline():
            info = describe(source)
        size = sum(
            (Path(info.path) / name).stat().st_size for name in checkpoint_files(Path(info.path))
        )
    except (OSError, ValueError) as error:
        return [_incomplete(source, error)], None, None
    told = (
        f"{source.name}: {info.kind}, {info.sample_rate_hz} Hz, {size / GB:.2f} GB, complete "
        f"without a network, weights {info.weights_hash[:12]}"
    )
    return [Finding(CHECK, OK, told)], size, info.weights_hash


@contextmanager
def _offline() -> Iterator[None]:
    """The hub's package, which is imported within, downloads nothing."""
    name = "HF_HUB_OFFLINE"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _incomplete(source: ModelSource, error: Exception) -> Finding:
    said = str(error).strip().splitlines()[0] if str(error).strip() else first_line(error)
    return Finding(
        CHECK, WRONG, said,
        f"where there is a network, write one folder that loads offline: musicgen-batch convert "
        f"{source.name} FOLDER; then give --model FOLDER",
    )  # fmt: skip


def differing(hashes: dict[str, str]) -> Iterator[Finding]:
    """Whether all nodes of a cluster hold the same weights.

    Args:
        hashes: Of the weights, by node.
    """
    if len(set(hashes.values())) > 1:
        told = ", ".join(f"{node} {found[:12]}" for node, found in sorted(hashes.items()))
        yield Finding(
            CHECK, WRONG, f"nodes hold different weights: {told}",
            "copy one folder to every node, or mount it: a replica refuses weights that are not "
            "the driver's",
        )  # fmt: skip
