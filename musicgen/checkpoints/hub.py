"""Finds the folder of a name: a local one, or a snapshot from the Hugging Face hub. Free of torch.

The hub's local cache is tried first, so a model that was downloaded once works offline.
"""

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from musicgen.checkpoints.errors import ModelNotFoundError, first_line

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
# Repositories that AudioCraft's checkpoints name without the owner that they have on the hub.
MOVED = {name: f"google-t5/{name}" for name in ("t5-small", "t5-base", "t5-large", "t5-3b")}
POINTER = "//pretrained/"  # AudioCraft's mark of a hub id


def local_folder(name: str) -> Path | None:
    """The folder that `name` is, or None."""
    path = Path(name).expanduser()
    return path.resolve() if path.is_dir() else None


def is_hub_id(name: str) -> bool:
    """Whether `name` has the form of a hub id."""
    return bool(HUB_ID.fullmatch(name)) and not name.startswith(".")


def from_hub(
    hub_id: str,
    revision: str | None,
    patterns: Sequence[str],
    check: Callable[[Path], object],
) -> Path:
    """The snapshot folder of a hub repository: the complete one in the cache, else a download.

    Args:
        hub_id: Which repository.
        revision: Branch, tag or commit.
        patterns: Files to fetch.
        check: Raises ModelNotFoundError for a folder that lacks something.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    fetch = partial(snapshot_download, hub_id, revision=revision, allow_patterns=list(patterns))
    try:
        cached = Path(fetch(local_files_only=True))
        check(cached)
        return cached
    except (LocalEntryNotFoundError, ModelNotFoundError, OSError):
        pass  # not in the cache, or only a part of it
    try:
        return Path(fetch())
    except (LocalEntryNotFoundError, HfHubHTTPError, ValueError, OSError) as error:
        raise ModelNotFoundError(
            f"model {hub_id!r}{f' at revision {revision!r}' if revision else ''}: no such folder, "
            "not complete in the local Hugging Face cache, and the hub did not give it "
            f"({type(error).__name__}: {first_line(error)}); check the name and "
            "the network, or give a local folder"
        ) from error


def part_folder(
    name: str,
    patterns: Sequence[str],
    fallback: Sequence[str],
    check: Callable[[Path], object],
    what: str,
    way_out: str,
) -> Path:
    """The folder of a sub-model that a checkpoint or the user refers to.

    Args:
        name: A folder, a hub id, or one of AudioCraft's references.
        patterns: Files to fetch from the hub.
        fallback: Files to fetch where those are not enough (older repositories).
        check: Raises ModelNotFoundError for a folder that lacks something.
        what: The kind of sub-model, for the error.
        way_out: What the user can do instead, for the error.

    Raises:
        ModelNotFoundError: There is no such folder or repository, or it is not complete.
    """
    bare = name.removeprefix(POINTER)
    folder = local_folder(bare)
    try:
        if folder is not None:
            check(folder)
            return folder
        hub_id = MOVED.get(bare, bare)
        if not is_hub_id(hub_id):
            raise ModelNotFoundError("no such folder and no hub id")
        folder = from_hub(hub_id, None, patterns, check)
        try:
            check(folder)
        except ModelNotFoundError:
            folder = from_hub(hub_id, None, fallback, check)
            check(folder)
    except ModelNotFoundError as error:
        raise ModelNotFoundError(f"{what} {name!r}: {error}; or {way_out}") from error
    return folder
