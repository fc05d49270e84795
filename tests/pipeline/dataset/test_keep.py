"""What a run keeps current beside the parts: when it is written, and what stays as it is."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner

from pipeline.cli.root import main
from pipeline.dataset.card import identity_of
from pipeline.dataset.keep import refresh
from pipeline.ledger.lease import Lease, LeaseLostError
from pipeline.ledger.maintain import compact, gc
from pipeline.ledger.names import CARD, CROISSANT, METADATA, is_ours, is_temporary
from pipeline.ledger.verify import verify
from pipeline.run_record import read_status
from pipeline.storage import Storage, open_storage
from tests.pipeline.dataset.outputs import (
    LAYOUTS,
    MADE_WITH,
    add_clips,
    add_letter,
    keep,
    make_output,
)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path / "music"))


def card_of(storage: Storage) -> str:
    return storage.get(CARD).decode()


def front_matter(storage: Storage) -> dict:
    return yaml.safe_load(card_of(storage).split("---\n")[1])


def test_they_are_written_where_clips_were_committed_and_not_again(storage: Storage) -> None:
    assert keep(storage) == ([], [])  # an output without clips has no card
    add_clips(storage, range(3))
    assert keep(storage) == ([METADATA, CROISSANT, CARD], [])
    first = identity_of(card_of(storage))
    assert keep(storage) == ([], [])
    add_clips(storage, range(3, 5), replica="cccccc")
    assert keep(storage) == ([METADATA, CROISSANT, CARD], [])
    second = identity_of(card_of(storage))
    assert first is not None
    assert second is not None
    assert (first.clips, second.clips) == (3, 5)
    assert first.dataset == second.dataset
    assert first.state != second.state


@pytest.mark.parametrize("mode", ["parquet", "webdataset"])
def test_only_audio_in_files_has_a_metadata_file(storage: Storage, mode: str) -> None:
    add_clips(storage, range(3), mode)  # type: ignore[arg-type]
    assert keep(storage) == ([CROISSANT, CARD], [])
    assert keep(storage) == ([], [])


def test_one_that_is_gone_or_torn_is_written_again(storage: Storage, tmp_path: Path) -> None:
    add_clips(storage, range(3))
    keep(storage)
    (tmp_path / "music" / METADATA).unlink()
    assert keep(storage) == ([METADATA], [])
    (tmp_path / "music" / CROISSANT).unlink()
    assert keep(storage) == ([CROISSANT], [])
    (tmp_path / "music" / CARD).unlink()
    assert CARD in keep(storage)[0]


def test_the_metadata_file_has_the_rows_of_the_ledger_and_plain_relative_paths(
    storage: Storage, tmp_path: Path
) -> None:
    add_clips(storage, range(9))
    keep(storage)
    table = pq.read_table(tmp_path / "music" / METADATA)
    clips = pq.read_table(tmp_path / "music/clips")
    assert table["clip_id"].to_pylist() == clips["clip_id"].to_pylist()
    assert table.column_names[0] == "file_name"
    for name in table["file_name"].to_pylist():
        assert (tmp_path / "music" / name).is_file()
        assert ".." not in name
    assert set(clips.column_names) - set(table.column_names) == {"audio_path", "audio_member"}
    assert table["references"].to_pylist() == clips["references"].to_pylist()
    assert table["bpm"].to_pylist() == list(range(9))


def test_above_the_limit_the_run_says_that_it_is_not_written_and_does_not_read_again(
    storage: Storage,
) -> None:
    add_clips(storage, range(5))
    written, said = keep(storage, metadata_clips=4)
    assert written == [CROISSANT, CARD]
    assert len(said) == 1
    assert "not written for 5 clips (--metadata-clips 4): `musicgen-batch card`" in said[0]
    assert keep(storage, metadata_clips=4) == ([], [])  # the card says that it was decided
    assert keep(storage, metadata_clips=5) == ([METADATA], [])
    assert keep(storage, metadata_clips=None, force=True)[0] == [METADATA, CROISSANT, CARD]


def test_zero_switches_the_metadata_file_off(storage: Storage) -> None:
    add_clips(storage, range(2))
    assert keep(storage, metadata_clips=0) == ([CROISSANT, CARD], [])
    assert keep(storage, metadata_clips=0) == ([], [])


def test_files_of_somebody_else_stay_and_are_warned_of_once_a_run(storage: Storage) -> None:
    add_clips(storage, range(2))
    theirs = {CARD: b"# mine\n", CROISSANT: b'{"name": "mine"}', METADATA: b"mine"}
    storage.put_many(theirs)
    written, said = keep(storage)
    assert written == []
    assert sorted(line.split()[1].rpartition("/")[2] for line in said) == sorted(theirs)
    assert all("was not written by this program and stays" in line for line in said)
    assert "`configs`" in next(line for line in said if CARD in line)
    assert {name: storage.get(name) for name in theirs} == theirs
    keep(storage, force=True)
    assert {name: storage.get(name) for name in theirs} == theirs


def test_with_a_card_of_somebody_else_an_unchanged_output_is_not_read_again(
    storage: Storage,
) -> None:
    add_clips(storage, range(2))
    storage.put(CARD, b"# mine\n")
    assert keep(storage)[0] == [METADATA, CROISSANT]
    written, said = keep(storage)
    assert written == []
    assert len(said) == 1


def test_a_run_that_has_lost_its_lease_writes_nothing(storage: Storage) -> None:
    add_clips(storage, range(2))
    lost = Lease.acquire(storage, ttl_s=0.6)
    with Lease.acquire(storage, ttl_s=0.6) as lease:
        assert lease.generation > lost.generation
        with pytest.raises(LeaseLostError):
            refresh(lost, print)
    assert storage.size(CARD) is None


@pytest.mark.parametrize("mode", LAYOUTS)
def test_the_figures_of_the_card_are_those_of_the_ledger(tmp_path: Path, mode: str) -> None:
    storage = make_output(tmp_path / "music", mode, n=9)  # type: ignore[arg-type]
    status = read_status(storage)
    text = card_of(storage)
    assert f"| clips | {status.clips} |" in text
    assert f"| audio | {status.audio_s:.1f} s |" in text
    assert f"| rows that failed | {status.dead_letters} |" in text
    assert "| clips with a melody reference | 3 |" in text
    assert "| length of a clip | 0.1 to 0.18 s |" in text
    assert "| tiny | `0123456789abcdef0123456789abcdef` |  | Apache-2.0 | 9 |" in text
    assert "Columns of its own manifest: `bpm`." in text
    assert front_matter(storage)["license"] == "apache-2.0"


def test_several_models_and_licences(storage: Storage) -> None:
    add_clips(storage, range(4))
    other = {"model": "a|b <x>", "weights_licence": "CC-BY-NC-4.0", "weights_revision": None}
    made = replace(MADE_WITH, **other)
    add_clips(storage, range(4, 6), replica="cccccc", provenance=made)
    keep(storage)
    matter = front_matter(storage)
    assert matter["license"] == ["apache-2.0", "cc-by-nc-4.0"]
    assert "ai-generated" in matter["tags"]
    assert r"| a\|b \<x\> |" in card_of(storage)
    licences = json.loads(storage.get(CROISSANT))["license"]
    assert len(licences) == 2


def test_the_card_says_which_marks_clips_carry(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    add_clips(storage, range(3), replica="aaaaaa", c2pa="embedded")
    add_clips(storage, range(3, 4), replica="bbbbbb")
    keep(storage)

    card = storage.get(CARD).decode()

    assert "- Signed C2PA manifest: 3 of 4 clips (3 inside the file).\n" in card
    assert "- Watermark in the samples: no clip." in card


def test_upkeep_knows_them_as_ours(storage: Storage) -> None:
    add_clips(storage, range(8))
    add_letter(storage)
    keep(storage)
    for name in (CARD, CROISSANT, METADATA):
        assert is_ours(name)
        assert is_temporary(f".{name}.0123456789ab.tmp")
    storage.put(".metadata.parquet.0123456789ab.tmp", b"torn")
    report = verify(storage)
    assert report.ok
    assert (report.n_foreign, report.n_leftovers) == (0, 1)
    with Lease.acquire(storage) as lease:
        lease.beat()
        assert len(gc(storage, lease, min_age_s=-1).leftovers) == 1
        compact(storage, lease)
    assert all(storage.size(name) for name in (CARD, CROISSANT, METADATA))
    assert keep(storage)[0] == [METADATA, CROISSANT, CARD]  # the state names the parts


def test_the_commands_that_change_parts_keep_them_current(storage: Storage) -> None:
    add_clips(storage, range(8))
    output = ["--output", storage.root.removeprefix("file://")]
    done = CliRunner().invoke(main, ["card", *output, "--json"])
    assert done.exit_code == 0, done.output
    written = json.loads(done.stdout)["written"]
    assert [where.rpartition("/")[2] for where in written] == [METADATA, CROISSANT, CARD]
    before = identity_of(card_of(storage))
    assert CliRunner().invoke(main, ["compact", *output, "--dry-run"]).exit_code == 0
    assert identity_of(card_of(storage)) == before
    assert CliRunner().invoke(main, ["compact", *output]).exit_code == 0
    after = identity_of(card_of(storage))
    assert before is not None
    assert after is not None
    assert after.state != before.state
    assert keep(storage) == ([], [])
    storage.delete([min(info.path for info in storage.list("audio"))])
    assert CliRunner().invoke(main, ["verify", *output, "--repair"]).exit_code == 0
    assert "| clips | 7 |" in card_of(storage)
