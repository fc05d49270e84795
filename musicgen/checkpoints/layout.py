"""The files of a checkpoint: which must exist, whether they are complete, their hash. No torch."""

import json
import struct
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

from musicgen.checkpoints.audiocraft import CODEC_FILE, LM_FILE, lm_file
from musicgen.checkpoints.errors import ModelNotFoundError

OWN = "musicgen_batch"  # model_type of our own layout
CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
PICKLED = "pytorch_model.bin"  # of a sub-model: read by torch's restricted unpickler
TOKENIZERS = ("tokenizer.json", "spiece.model")
# Everything that decides what the model computes; generation_config.json is ignored by design.
FEATURES = ("preprocessor_config.json", "processor_config.json")
TOKENIZER_EXTRAS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")

Layout = Literal["transformers", "own", "audiocraft"]


def layout_of(folder: Path) -> Layout:
    """The layout of the checkpoint in `folder`; if it has two, the one with safetensors."""
    has_safetensors = (folder / WEIGHTS).is_file() or (folder / INDEX).is_file()
    if lm_file(folder).is_file() and not ((folder / CONFIG).is_file() and has_safetensors):
        return "audiocraft"
    if not (folder / CONFIG).is_file():
        raise ModelNotFoundError(f"{folder}: no {CONFIG}; {_way_out(folder)}")
    return "own" if read_json(folder / CONFIG).get("model_type") == OWN else "transformers"


def checkpoint_files(folder: Path) -> list[str]:
    """Names of the files that decide what the model computes, in hashing order; all are checked."""
    if layout_of(folder) == "audiocraft":
        names = (lm_file(folder).name, CODEC_FILE)
        return [name for name in names if (folder / name).is_file()]
    weights = weight_files(folder)
    if not any((folder / name).is_file() for name in TOKENIZERS):
        raise ModelNotFoundError(
            f"{folder}: no tokenizer ({' or '.join(TOKENIZERS)}); copy the text encoder's "
            "tokenizer files into the folder"
        )
    return sorted({CONFIG, *weights, *_optional_files(folder)})


def part_files(folder: Path) -> list[str]:
    """As `checkpoint_files`, for the folder of a sub-model."""
    if (folder / CODEC_FILE).is_file():
        return [CODEC_FILE]
    pickled = [PICKLED] if (folder / PICKLED).is_file() else []
    has_safetensors = (folder / WEIGHTS).is_file() or (folder / INDEX).is_file()
    weights = weight_files(folder) if has_safetensors else pickled
    if not weights or not (folder / CONFIG).is_file():
        raise ModelNotFoundError(
            f"{folder}: a sub-model needs {CONFIG} and {WEIGHTS} (or {PICKLED}); "
            "save it with save_pretrained"
        )
    return sorted({CONFIG, *weights, *_optional_files(folder)})


def _optional_files(folder: Path) -> list[str]:
    optional = (*TOKENIZERS, *FEATURES, *TOKENIZER_EXTRAS, INDEX)
    return [name for name in optional if (folder / name).is_file()]


def weight_files(folder: Path) -> list[str]:
    """The safetensors file of a checkpoint, or its shards as the index lists them; checked."""
    names = [WEIGHTS]
    if not (folder / WEIGHTS).is_file():
        if not (folder / INDEX).is_file():
            raise ModelNotFoundError(f"{folder}: neither {WEIGHTS} nor {INDEX}; {_way_out(folder)}")
        names = sorted(set(read_json(folder / INDEX).get("weight_map", {}).values()))
    missing = [name for name in names if not (folder / name).is_file()]
    if missing or not names:
        raise ModelNotFoundError(
            f"{folder}: {INDEX} names {len(names)} weight files, missing: {', '.join(missing)}; "
            "download the checkpoint again"
        )
    for name in names:
        check_safetensors(folder / name)
    return names


def _way_out(folder: Path) -> str:
    if any(folder.glob("*.bin")):
        return (
            "it holds pickled .bin weights, which are not read (but for AudioCraft's "
            f"{LM_FILE} and {CODEC_FILE}): save it with safetensors"
        )
    return (
        "a checkpoint in transformers' format (save_pretrained with safetensors) or AudioCraft's "
        f"({LM_FILE}) is needed"
    )


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file."""
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise ModelNotFoundError(f"{path}: {error.strerror}; the folder is incomplete") from error
    except ValueError as error:
        raise ModelNotFoundError(f"{path}: not valid JSON ({error}); download it again") from error
    if not isinstance(value, dict):
        raise ModelNotFoundError(f"{path}: holds no JSON object; download it again")
    return value


def check_safetensors(path: Path) -> None:
    """Raises ModelNotFoundError if the file's size is not the one in its own header."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        n_header = struct.unpack("<Q", head)[0] if len(head) == 8 else size
        header = file.read(n_header) if n_header < size else b""
    try:
        entries = json.loads(header)
        ends = [entry["data_offsets"][1] for name, entry in entries.items() if name[:2] != "__"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelNotFoundError(
            f"{path}: no readable safetensors header ({size} bytes); download it again"
        ) from error
    expected = 8 + n_header + max(ends, default=0)
    if size != expected:
        raise ModelNotFoundError(
            f"{path}: {size} bytes where its header promises {expected}; the file is truncated or "
            "damaged, download it again"
        )


def hash_files(files: list[tuple[str, Path]]) -> str:
    """blake2b-128 over label, size and bytes of each file; once per process and file state.

    For a label without a file (`Path()`) only the label is hashed.
    """
    return _hash_files(tuple((label, str(path), *_size_and_mtime(path)) for label, path in files))


def _size_and_mtime(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return (stat.st_size, stat.st_mtime_ns) if path.is_file() else (0, 0)


@lru_cache(maxsize=16)
def _hash_files(files: tuple[tuple[str, str, int, int], ...]) -> str:
    digest = blake2b(digest_size=16)
    for name, path, size, _ in files:
        digest.update(f"{name}\0{size}\0".encode())
        if Path(path).is_file():
            with Path(path).open("rb") as file:
                while block := file.read(1 << 22):
                    digest.update(block)
    return digest.hexdigest()
