"""Publishing on the hub, against a stand-in of its API with the real client."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pipeline.cli.root import main
from pipeline.dataset.card import identity_of
from pipeline.dataset.contents import PublishError
from pipeline.dataset.to_hub import HubAddressError, publish_to_hub, repo_of
from pipeline.ledger import list_parts
from pipeline.ledger.lease import Lease
from pipeline.ledger.maintain import compact
from pipeline.storage import Storage
from tests.hub import READ_TOKEN, TOKEN, Hub, running_hub
from tests.pipeline.dataset.opened import load_rows
from tests.pipeline.dataset.outputs import LAYOUTS, add_clips, keep, make_output

pytestmark = pytest.mark.slow

TO = "hf://datasets/user/music"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with running_hub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
        yield server


def publish(*args: str) -> Result:
    return CliRunner().invoke(main, ["publish", *args])


def data_files(storage: Storage) -> set[str]:
    """What must be published: parts, and the audio that they name."""
    parts = {info.path for info in list_parts(storage, "clips")}
    return parts | {info.path for info in storage.list("audio")}


@pytest.mark.parametrize("mode", LAYOUTS)
def test_a_dataset_is_published_once_and_loads_back(hub: Hub, tmp_path: Path, mode: str) -> None:
    from huggingface_hub import DatasetCard, snapshot_download

    storage = make_output(tmp_path / "music", mode)  # type: ignore[arg-type]
    storage.put("notes.txt", b"private")
    storage.put("audio/00/orphan.flac", b"nobody names it")
    done = publish("--output", str(tmp_path / "music"), "--to", TO, "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    repo = hub.repos["user/music"]
    described = {"README.md", "croissant.json"} | (
        {"metadata.parquet"} if mode == "files" else set()
    )
    assert set(repo.files) == (data_files(storage) - {"audio/00/orphan.flac"}) | described
    assert repo.private
    assert (told["sent_files"], told["private"]) == (len(repo.files), True)
    assert told["sent_bytes"] == sum(len(file.data) for file in repo.files.values())

    again = json.loads(publish("--output", str(tmp_path / "music"), "--to", TO, "--json").stdout)
    assert (again["sent_files"], again["sent_bytes"]) == (0, 0)
    assert len(hub.uploads) == len(set(hub.uploads))

    folder = snapshot_download(
        "user/music", repo_type="dataset", local_dir=tmp_path / "back", endpoint=hub.endpoint,
        token=TOKEN,
    )  # fmt: skip
    card = DatasetCard.load(Path(folder) / "README.md")
    assert card.data.license == "apache-2.0"
    assert 'load_dataset("user/music", split="train")' in card.text
    rows = load_rows(Path(folder), mode)
    assert sorted(row["prompt"] for row in rows) == sorted(
        f"tune number {n}, calm" for n in range(10)
    )
    assert all(row["data"] for row in rows)


def test_one_that_is_killed_in_mid_upload_sends_only_the_rest(hub: Hub, tmp_path: Path) -> None:
    make_output(tmp_path / "music")
    hub.hold_after = 5
    environment = os.environ | {"HF_HUB_DISABLE_XET": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", "publish", "--output", str(tmp_path / "music"),
         "--to", TO],
        env=environment,
    )  # fmt: skip
    assert hub.held.wait(60)
    while len(hub.uploads) < 5:  # those that were let through
        time.sleep(0.05)
    process.kill()
    process.wait()
    before = list(hub.uploads)
    assert len(before) == 5
    hub.hold_after = None
    hub.released.set()

    done = publish("--output", str(tmp_path / "music"), "--to", TO)
    assert done.exit_code == 0, done.output
    assert len(set(hub.uploads)) == len(hub.uploads), "what was there was sent again"
    assert set(before) < set(hub.uploads)
    assert len(hub.repos["user/music"].files) == 10 + 3 + 3


def test_after_compaction_the_parts_change_in_one_commit(hub: Hub, tmp_path: Path) -> None:
    storage = make_output(tmp_path / "music")
    publish_to_hub(storage, TO, print)
    old = {path for path in hub.repos["user/music"].files if path.startswith("clips/")}
    add_clips(storage, range(10, 12), replica="cccccc")
    with Lease.acquire(storage) as lease:
        compact(storage, lease)
    keep(storage)
    done = publish_to_hub(storage, TO, print)
    repo = hub.repos["user/music"]
    new = {path for path in repo.files if path.startswith("clips/")}
    assert len(new) == 1
    assert not new & old
    assert set(done.removed) == old
    last = repo.commits[-1]
    assert {f"-{path}" for path in old} | {f"+{path}" for path in new} <= set(last)
    assert "+README.md" in last
    assert not any(line[1:].startswith("clips/") for line in repo.commits[-2])


def test_another_dataset_is_not_mixed_in_or_removed(hub: Hub, tmp_path: Path) -> None:
    publish_to_hub(make_output(tmp_path / "one"), TO, print)
    before = dict(hub.repos["user/music"].files)
    storage = make_output(tmp_path / "two", n=3)
    with Lease.acquire(storage) as lease:
        compact(storage, lease)
    keep(storage)
    with pytest.raises(PublishError, match=r"objects of another dataset .*choose an empty place"):
        publish_to_hub(storage, TO, print)
    assert hub.repos["user/music"].files == before


def test_the_public_is_let_in_last_and_only_when_asked(hub: Hub, tmp_path: Path) -> None:
    storage = make_output(tmp_path / "music")
    assert publish_to_hub(storage, TO, print, public=True).private is False
    assert hub.repos["user/music"].private is False
    with pytest.raises(HubAddressError, match="is public: say --public"):
        publish_to_hub(storage, TO, print)


def test_a_dry_run_sends_nothing(hub: Hub, tmp_path: Path) -> None:
    make_output(tmp_path / "music")
    done = publish("--output", str(tmp_path / "music"), "--to", TO, "--dry-run")
    assert done.exit_code == 0, done.output
    assert "would send 16 of 16 files" in done.stdout
    assert hub.repos == {}
    assert hub.uploads == []


def test_without_a_token_it_says_where_to_get_one(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_output(tmp_path / "music")
    monkeypatch.delenv("HF_TOKEN")
    done = publish("--output", str(tmp_path / "music"), "--to", TO)
    assert done.exit_code == 2
    assert "https://huggingface.co/settings/tokens" in done.output
    assert "HF_TOKEN" in done.output
    assert hub.repos == {}


def test_a_token_that_may_only_read_is_told_apart(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_output(tmp_path / "music")
    monkeypatch.setenv("HF_TOKEN", READ_TOKEN)
    done = publish("--output", str(tmp_path / "music"), "--to", TO)
    assert done.exit_code == 1
    assert "the token needs the right to write there" in done.output
    assert READ_TOKEN not in done.output


def test_damaged_audio_is_not_published(hub: Hub, tmp_path: Path) -> None:
    storage = make_output(tmp_path / "music")
    victim = min(info.path for info in storage.list("audio"))
    data = bytearray(storage.get(victim))
    data[-1] ^= 1
    storage.put(victim, bytes(data))
    with pytest.raises(PublishError, match=r"is not what was committed.*verify --repair"):
        publish_to_hub(storage, TO, print)
    assert hub.repos["user/music"].files == {}


def test_a_card_of_somebody_else_is_published_as_it_is(hub: Hub, tmp_path: Path) -> None:
    storage = make_output(tmp_path / "music")
    storage.put("README.md", b"# mine\n")
    publish_to_hub(storage, TO, print)
    assert hub.repos["user/music"].files["README.md"].data == b"# mine\n"
    assert identity_of("# mine\n") is None


@pytest.mark.parametrize(
    "address", ["hf://user/music", "hf://datasets/music", "hf://datasets/a/b/c"]
)
def test_an_address_must_be_that_of_a_dataset(address: str) -> None:
    with pytest.raises(HubAddressError, match="hf://datasets/USER/NAME"):
        repo_of(address)
