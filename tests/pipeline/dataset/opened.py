"""Rows of an output as `datasets` gives them."""

from pathlib import Path
from typing import Any


def load_rows(folder: Path, mode: str) -> list[dict[str, Any]]:
    """All rows as `datasets` gives them without torchcodec: prompt, id and audio bytes."""
    from datasets import Audio, Features, Value, load_dataset

    if mode == "files":
        rows = load_dataset("parquet", data_files=str(folder / "metadata.parquet"), split="train")
        rows = rows.map(lambda row: {"audio": str(folder / row["file_name"])})
        rows = rows.cast_column("audio", Audio(decode=False))
        return [row | {"data": Path(row["audio"]["path"]).read_bytes()} for row in rows]
    if mode == "parquet":
        rows = load_dataset(str(folder), split="train")
        rows = rows.cast_column("audio", Audio(decode=False))
        return [row | {"data": row["audio"]["bytes"]} for row in rows]
    told = {"id": Value("string"), "take": Value("int32"), "n_samples": Value("int64")}
    kinds = Features({"flac": Value("binary"), "txt": Value("string"), "json": told})
    tars = load_dataset(str(folder), split="train", features=kinds)
    return [row["json"] | {"prompt": row["txt"], "data": row["flac"]} for row in tars]
