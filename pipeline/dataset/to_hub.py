"""Publishes a dataset on the Hugging Face Hub: what is missing there, in commits of bounded size.

Audio comes first. Parts and the card come last; where parts of an earlier publication are to go,
all parts change in the one last commit, so that a reader never finds a clip twice.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from pipeline.ledger.names import CARD
from pipeline.storage import Storage
from pipeline.telemetry.words import counted

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
    from huggingface_hub.hf_api import RepoFile

SCHEME = "hf://"
_ADDRESS = re.compile(r"hf://datasets/(?P<repo>[\w.-]+/[\w.-]+)/?")
COMMIT_FILES, COMMIT_BYTES = 1000, 2 << 30
MOST_INLINE = 10 << 20  # the hub may take smaller files without its large file storage
# The hub advises against more files than this in one repository.
MOST_FILES = 100_000
NO_TOKEN = (
    "no token of the Hugging Face Hub: make one with the right to write at "
    "https://huggingface.co/settings/tokens, then `export HF_TOKEN=...` or `hf auth login`"
)

Say = Callable[[str], None]


class HubAddressError(ValueError):
    """The address is not one of a dataset on the hub, or there is no token for it."""


def repo_of(address: str) -> str:
    """USER/NAME of `hf://datasets/USER/NAME`."""
    found = _ADDRESS.fullmatch(address)
    if found is None:
        raise HubAddressError(
            f"--to {address} is not hf://datasets/USER/NAME, the address of a dataset on the hub"
        )
    return found["repo"]


def publish_to_hub(
    storage: Storage, address: str, say: Say, *, public: bool = False, dry_run: bool = False
) -> Published:
    """Uploads what the repository lacks, and makes it where it is missing; may be stopped at any
    moment and called again.

    Args:
        storage: root of the output.
        address: `hf://datasets/USER/NAME`.
        say: told what happens.
        public: for everybody to see; otherwise for its owner.
        dry_run: only find out what would be uploaded.

    Raises:
        HubAddressError: no such address, no token, or the repository is public and `public` false.
        PublishError: the hub refuses or can't be reached, the repository holds another dataset, or
            what was read is damaged.
    """
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.utils.tqdm import disable_progress_bars

    repo, token = repo_of(address), get_token()
    if token is None:
        raise HubAddressError(f"--to {address}: {NO_TOKEN}")
    disable_progress_bars()
    hub = _Hub(HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=token), repo, address)
    contents = read_contents(storage, with_records=False)
    with hub.explained(), described(storage, contents, repo) as (identity, files):
        private = hub.is_private()
        if private is False and not public:
            raise HubAddressError(
                f"--to {address} is public: say --public if everybody may see the clips, or make "
                "it private in its settings"
            )
        there = {} if private is None else hub.files()
        wanted = {item.path for item in contents.items}
        stale = sorted(path for path in there if is_published_name(path) and path not in wanted)
        if stale and not hub.is_same(identity, files[CARD]):
            refuse_others(address, stale)
        missing = [item for item in contents.items if not _stands(item, there.get(item.path))]
        changed = {n: file for n, file in files.items() if not _is_file(file, there.get(n))}
        sizes = [item.size for item in missing] + [f.stat().st_size for f in changed.values()]
        if not dry_run:
            if private is None:
                hub.create()
            _say_plan(say, sizes, len(contents.items))
            _upload(hub, storage, contents, missing, changed, stale, say)
            if public and private is not False:
                hub.open()
        n_bytes = sum(item.size for item in contents.items)
        n_bytes += sum(file.stat().st_size for file in files.values())
        n_files = len(contents.items) + len(files)
    return Published(
        address, n_files, n_bytes, len(sizes), sum(sizes), tuple(stale), not public, dry_run
    )


def _say_plan(say: Say, sizes: Sequence[int], n_files: int) -> None:
    say(f"{counted(len(sizes), 'file')} to upload ({sum(sizes)} bytes)")
    if n_files > MOST_FILES:
        say(
            f"warning: the hub advises against more than {MOST_FILES} files in a repository, this "
            f"has {n_files}: `run --audio parquet` makes fewer and larger ones"
        )


class _Hub:
    """One repository of datasets."""

    def __init__(self, api: HfApi, repo: str, address: str) -> None:
        self._api, self._repo, self._address = api, repo, address

    @contextmanager
    def explained(self) -> Iterator[None]:
        """What the hub or the way to it refuses becomes a PublishError."""
        from huggingface_hub.errors import HfHubHTTPError

        # Of the HTTP library that this version of huggingface_hub uses.
        http_error: type[Exception] = HfHubHTTPError.__bases__[0]
        try:
            yield
        except (http_error, RuntimeError, ConnectionError) as error:
            cause = error.__cause__ if isinstance(error, RuntimeError) else error
            status = getattr(getattr(cause, "response", None), "status_code", None)
            if status in (401, 403):
                way_out = "the token needs the right to write there"
            elif status == 429:
                way_out = "the hub asks for patience: the same command sends the rest later"
            else:
                way_out = "what was committed stays, and the same command sends the rest"
            said = " ".join(str(cause or error).split())[:300]
            raise PublishError(f"--to {self._address}: {said}; {way_out}") from error

    def is_private(self) -> bool | None:
        """None where the repository does not exist."""
        from huggingface_hub.errors import RepositoryNotFoundError

        try:
            return bool(self._api.dataset_info(self._repo).private)
        except RepositoryNotFoundError:
            return None

    def create(self) -> None:
        """Makes the repository, private until all is there."""
        self._api.create_repo(self._repo, repo_type="dataset", private=True, exist_ok=True)

    def open(self) -> None:
        """Makes it public."""
        self._api.update_repo_settings(self._repo, repo_type="dataset", private=False)

    def files(self) -> dict[str, RepoFile]:
        """What lies in it, by path."""
        from huggingface_hub.hf_api import RepoFile

        found = self._api.list_repo_tree(self._repo, recursive=True, repo_type="dataset")
        return {entry.path: entry for entry in found if isinstance(entry, RepoFile)}

    def is_same(self, identity: Identity, card: Path) -> bool:
        """Whether it is an earlier publication of this output."""
        from huggingface_hub.errors import EntryNotFoundError

        with tempfile.TemporaryDirectory() as folder:
            try:
                where = self._api.hf_hub_download(
                    self._repo, CARD, repo_type="dataset", local_dir=folder
                )
            except EntryNotFoundError:
                return False
            standing = Path(where).read_text(encoding="utf-8", errors="replace")
        return is_same_dataset(standing, identity, card)

    def send(self, additions: Sequence[CommitOperationAdd]) -> None:
        """Uploads the content of files that a later commit names."""
        self._api.preupload_lfs_files(self._repo, additions, repo_type="dataset")

    def commit(
        self, operations: Sequence[CommitOperationAdd | CommitOperationDelete], message: str
    ) -> None:
        """Makes one commit."""
        self._api.create_commit(self._repo, operations, commit_message=message, repo_type="dataset")


def _upload(
    hub: _Hub,
    storage: Storage,
    contents: Contents,
    missing: Sequence[Item],
    changed: Mapping[str, Path],
    stale: Sequence[str],
    say: Say,
) -> None:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    parts = {item.path for item in contents.parts} if stale else set()
    last: list[Any] = []
    sent, n_files = 0, len(missing) + len(changed)
    for batch in _batches(missing):
        with tempfile.TemporaryDirectory(prefix="musicgen-batch-") as folder:
            now, held = [], []
            for number, item in enumerate(batch):
                file = _file_of(storage, item, Path(folder) / str(number))
                if item.path not in parts:
                    now.append(CommitOperationAdd(item.path, file))
                    continue
                # What is small may go into the last commit itself, when the folder is gone.
                small = item.size <= MOST_INLINE
                content = Path(file).read_bytes() if small else file
                held.append(CommitOperationAdd(item.path, content))
            if held:
                hub.send(held)  # their content is there now; the last commit names them
                last += held
            if now:
                hub.commit(now, f"Add {counted(len(now), 'file')}")
        sent += len(batch)
        say(f"{sent} of {counted(n_files, 'file')} uploaded")
    last += [CommitOperationDelete(path) for path in stale]
    last += [CommitOperationAdd(name, str(file)) for name, file in changed.items()]
    if last:
        clips = counted(contents.figures.clips, "clip")
        hub.commit(last, f"{clips}, state {contents.snapshot.state}")
    if changed:
        say(f"{n_files} of {counted(n_files, 'file')} uploaded")


def _batches(items: Sequence[Item]) -> Iterator[list[Item]]:
    batch: list[Item] = []
    for item in items:
        if batch and (len(batch) == COMMIT_FILES or _bytes(batch) + item.size > COMMIT_BYTES):
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


def _bytes(items: Sequence[Item]) -> int:
    return sum(item.size for item in items)


def _file_of(storage: Storage, item: Item, place: Path) -> str:
    """A file of this machine with an object, which is what was committed."""
    file = storage.local_path(item.path)
    if file is None:
        storage.fetch(item.path, item.size, place)
        file = place
    item.check(
        storage.uri(item.path), file.stat().st_size, digest_of(file) if item.sha256 else None
    )
    return str(file)


def _stands(item: Item, entry: RepoFile | None) -> bool:
    """Whether the repository has an object; parts and tars have names that nothing else has."""
    if entry is None or entry.size != item.size:
        return False
    return item.sha256 is None or entry.lfs is None or entry.lfs.sha256 == item.sha256


def _is_file(file: Path, entry: RepoFile | None) -> bool:
    """Whether the repository has the same content under the name."""
    if entry is None or entry.size != file.stat().st_size:
        return False
    if entry.lfs is not None:
        return bool(entry.lfs.sha256 == digest_of(file))
    data = file.read_bytes()
    return bool(entry.blob_id == hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest())
