"""What addresses stand for: files, globs, folders, Hugging Face datasets, standard input."""

import gzip
import io
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from manifests.build import build
from manifests.reader import ManifestError
from manifests.sources.options import reading
from manifests.sources.tables import Tables
from tests.faults import FaultProxy, fault_proxy
from tests.s3 import S3Server


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def found(*uris: str) -> list[tuple[str, int, str]]:
    with Tables(uris) as tables:
        return [(row.source, row.row, row.raw["prompt"]) for row in tables.rows()]


def test_several_files_are_one_table_with_numbers_over_all(tmp_path: Path) -> None:
    write(tmp_path, a_csv="prompt\n1\n2\n", b_jsonl='{"prompt": "3"}\n', c_tsv="prompt\n4\n")
    assert found(*(str(tmp_path / name) for name in ("a.csv", "b.jsonl", "c.tsv"))) == [
        ("a.csv", 0, "1"),
        ("a.csv", 1, "2"),
        ("b.jsonl", 2, "3"),
        ("c.tsv", 3, "4"),
    ]


def test_a_glob_and_a_folder_are_read_in_the_order_of_names(tmp_path: Path) -> None:
    write(tmp_path, b_csv="prompt\n2\n", a_csv="prompt\n1\n", sub__c_csv="prompt\n3\n")
    write(tmp_path, _hidden_csv="prompt\n9\n", README_md="x")
    assert found(f"{tmp_path}/?.csv") == [("a.csv", 0, "1"), ("b.csv", 1, "2")]
    assert [row[::2] for row in found(str(tmp_path))] == [
        ("a.csv", "1"),
        ("b.csv", "2"),
        ("sub/c.csv", "3"),
    ]


def test_references_count_from_the_folder_of_their_own_file(tmp_path: Path) -> None:
    for name in "ab":
        write(tmp_path, **{f"{name}__m_csv": f"id,melody_uri\n{name},{name}.wav\n"})
    build(str(tmp_path / "?" / "m.csv"), str(tmp_path / "out" / "m.parquet"))
    uris = pq.read_table(tmp_path / "out" / "m.parquet")["melody_uri"].to_pylist()
    assert uris == ["../a/a.wav", "../b/b.wav"]


def test_an_id_of_two_files_is_an_issue_with_both_places(tmp_path: Path) -> None:
    write(tmp_path, a_csv="id,prompt\nx,1\n", b_csv="id,prompt\ny,2\nx,3\n")
    summary = build(str(tmp_path / "*.csv"), str(tmp_path / "m.parquet"))
    (issue,) = summary.issues
    assert issue.message.startswith("b.csv line 3 row 2 (id=x): ")
    assert "is also the id of row 0" in issue.message


@pytest.mark.parametrize(
    ("uris", "words"),
    [
        (["none.csv"], "none.csv: not found"),
        (["*.csv"], "no file matches; check the pattern"),
        (["empty"], "no table is in this folder"),
        (["mixed"], "holds files of several forms .1 csv, 1 jsonl."),
        (["-", "-"], "is named twice"),
        (["a.tar"], "is an archive"),
    ],
)
def test_addresses_that_stand_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uris: list[str], words: str
) -> None:
    write(tmp_path, empty__readme_md="x", mixed__a_csv="prompt\n1", mixed__b_jsonl="{}", a_tar="x")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ManifestError, match=words):
        found(*uris)


def test_a_name_that_says_nothing_can_be_told(tmp_path: Path) -> None:
    write(tmp_path, a_dump="prompt;id\n1;x\n")
    with Tables([str(tmp_path / "a.dump")], reading=reading(form="csv")) as tables:
        assert [row.raw for row in tables.rows()] == [{"prompt": "1", "id": "x"}]


class Stdin:
    def __init__(self, data: bytes) -> None:
        self.buffer = io.BytesIO(data)


def test_standard_input_is_read_once_and_gone_over_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", Stdin(b'{"melody_uri": "a.wav"}\n{"prompt": "b"}\n'))
    monkeypatch.chdir(tmp_path)
    summary = build("-", str(tmp_path / "out" / "m.parquet"))
    assert summary.n_rows == 2
    made = pq.read_table(tmp_path / "out" / "m.parquet")
    assert made["melody_uri"].to_pylist() == ["../a.wav", None]
    monkeypatch.setattr(sys, "stdin", Stdin(b""))
    with pytest.raises(ManifestError, match="standard input is empty"):
        found("-")


@pytest.fixture
def proxy(s3: S3Server) -> Iterator[FaultProxy]:
    with fault_proxy(s3.endpoint) as proxy:
        yield proxy


@pytest.mark.s3
def test_objects_of_a_store_are_fetched_once(s3: S3Server, proxy: FaultProxy) -> None:
    import fsspec

    root = s3.bucket()
    store = fsspec.filesystem("s3", use_listings_cache=False)
    for name in "ab":
        text = f"id;melody_uri;words\n{name};{name}.wav;café\n".encode("latin-1")
        store.pipe_file(f"{root}/in/{name}.csv.gz", gzip.compress(text))
    options = {"endpoint_url": proxy.endpoint}

    summary = build(f"{root}/in/*.csv.gz", f"{root}/out/m.parquet", storage_options=options)

    assert (summary.n_rows, len(summary.notes)) == (2, 4)  # delimiter and encoding of both
    assert [proxy.count("GET", f"in/{name}.csv.gz") for name in "ab"] == [1, 1]
    rows = pq.read_table(f"{root}/out/m.parquet", filesystem=store).to_pylist()
    assert [row["melody_uri"] for row in rows] == ["../in/a.wav", "../in/b.wav"]
    assert [row["words"] for row in rows] == ["café", "café"]


@pytest.mark.slow  # loads `datasets`
def test_a_hugging_face_dataset_on_disk(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    one = Dataset.from_dict({"caption": ["a", "b"], "n": [1, 2]})
    two = Dataset.from_dict({"caption": ["c"], "n": [3]})
    one.save_to_disk(str(tmp_path / "one"))
    write(tmp_path / "one", cache_arrow="what a map left behind")
    DatasetDict({"train": one, "test": two}).save_to_disk(str(tmp_path / "both"))
    how = reading(columns=["prompt=caption"])
    for name, prompts in {"one": ["a", "b"], "both": ["c", "a", "b"], "both/test": ["c"]}.items():
        summary = build(str(tmp_path / name), str(tmp_path / "m.parquet"), reading=how)
        assert pq.read_table(tmp_path / "m.parquet")["prompt"].to_pylist() == prompts
        said = [note for note in summary.notes if "all of its splits are read" in note]
        assert len(said) == (name == "both")
