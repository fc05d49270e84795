"""Which folder a model name means, and what is in it: read without torch, in milliseconds.

A checkpoint is a folder in transformers' format: `config.json`, safetensors weights (one file or
shards with an index) and a tokenizer. It comes from this package (`tiny`), from a local path, or
from the Hugging Face hub (the local cache is asked first, so a downloaded model works offline).
"""

import json
import math
import re
import struct
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

from musicgen.config import ChromaConfig

TINY = "tiny"
TINY_FOLDER = Path(__file__).parent / "tiny" / "checkpoint"
SHORT_NAMES = {
    name: f"facebook/musicgen-{name}"
    for name in (
        *("small", "medium", "large", "melody", "melody-large"),
        *("stereo-small", "stereo-medium", "stereo-large", "stereo-melody", "stereo-melody-large"),
    )
}
KINDS: dict[str, Literal["text", "melody"]] = {"musicgen": "text", "musicgen_melody": "melody"}
DEFAULT_MAX_DURATION_S = 30.0

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
TOKENIZERS = ("tokenizer.json", "spiece.model")
# Everything that decides what the model computes; generation_config.json is ignored by design.
FEATURES = ("preprocessor_config.json", "processor_config.json")
TOKENIZER_EXTRAS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
HUB_FILES = [CONFIG, INDEX, "*.safetensors", *TOKENIZERS, *FEATURES, *TOKENIZER_EXTRAS, "README.md"]
SPDX = {"cc-by-nc-4.0": "CC-BY-NC-4.0", "apache-2.0": "Apache-2.0", "mit": "MIT"}


class ModelNotFoundError(ValueError):
    """The name leads to no usable checkpoint; the message says what was looked for and where."""


@dataclass(frozen=True)
class ModelInfo:
    """What a run must know about a model before it is loaded."""

    name: str  # as the user gave it
    path: str  # the folder that it means
    kind: Literal["text", "melody"]
    sample_rate_hz: int
    channels: int
    frame_rate_hz: int
    hop_samples: int  # audio samples per frame
    n_codebooks: int
    max_duration_s: float  # longest clip of one window
    chroma: ChromaConfig | None  # how a melody is read; None: the model takes none
    weights_hash: str  # 32 hex digits over weight, config and tokenizer files
    revision: str | None  # of a hub snapshot
    weights_licence: str


def describe(name_or_path: str, *, revision: str | None = None) -> ModelInfo:
    """Finds the checkpoint that `name_or_path` means and reads what it is.

    Args:
        name_or_path: `tiny`, a short name (`small`, `stereo-melody`, …), a hub id
            (`facebook/musicgen-small`) or a local folder. A folder that is called like a short
            name is written `./small`.
        revision: branch, tag or commit of a hub id.

    Raises:
        ModelNotFoundError: nothing there, or a file of it is missing, truncated or of another kind.
    """
    folder, commit = _find(name_or_path, revision)
    files = checkpoint_files(folder)
    config = _read_json(folder / CONFIG)
    kind = KINDS.get(str(config.get("model_type")))
    if kind is None:
        raise ModelNotFoundError(
            f"{folder / CONFIG}: model_type={config.get('model_type')!r} is not a MusicGen; "
            f"known: {', '.join(KINDS)}"
        )
    codec, decoder = config.get("audio_encoder", {}), config.get("decoder", {})
    sample_rate_hz = int(codec.get("sampling_rate", 24_000))  # EncodecConfig's default
    hop_samples = math.prod(codec.get("upsampling_ratios", (8, 5, 4, 2)))
    if sample_rate_hz % hop_samples:
        raise ModelNotFoundError(
            f"{folder / CONFIG}: the codec's {sample_rate_hz} Hz are no whole number of frames of "
            f"{hop_samples} samples per second"
        )
    stats = tuple((n, str(folder / n), *_size_and_mtime(folder / n)) for n in files)
    return ModelInfo(
        name=name_or_path,
        path=str(folder),
        kind=kind,
        sample_rate_hz=sample_rate_hz,
        channels=int(decoder.get("audio_channels", 1)),
        frame_rate_hz=sample_rate_hz // hop_samples,
        hop_samples=hop_samples,
        n_codebooks=int(decoder.get("num_codebooks", 4)),
        max_duration_s=float(config.get("max_duration_s", DEFAULT_MAX_DURATION_S)),
        chroma=_chroma(folder, config, sample_rate_hz) if kind == "melody" else None,
        weights_hash=_hash_files(stats),
        revision=commit,
        weights_licence=_licence(folder, name_or_path),
    )


def checkpoint_files(folder: Path) -> list[str]:
    """Names of the files that decide what the model computes, in hashing order; all are checked."""
    if not (folder / CONFIG).is_file():
        raise ModelNotFoundError(f"{folder}: no {CONFIG}; {_way_out(folder)}")
    weights = weight_files(folder)
    for name in weights:
        _check_safetensors(folder / name)
    if not any((folder / name).is_file() for name in TOKENIZERS):
        raise ModelNotFoundError(
            f"{folder}: no tokenizer ({' or '.join(TOKENIZERS)}); copy the text encoder's "
            "tokenizer files into the folder"
        )
    optional = (*TOKENIZERS, *FEATURES, *TOKENIZER_EXTRAS, INDEX)
    return sorted({CONFIG, *weights, *(n for n in optional if (folder / n).is_file())})


def weight_files(folder: Path) -> list[str]:
    """The safetensors file of a checkpoint, or its shards as the index lists them."""
    if (folder / WEIGHTS).is_file():
        return [WEIGHTS]
    if not (folder / INDEX).is_file():
        raise ModelNotFoundError(f"{folder}: neither {WEIGHTS} nor {INDEX}; {_way_out(folder)}")
    names = sorted(set(_read_json(folder / INDEX).get("weight_map", {}).values()))
    missing = [name for name in names if not (folder / name).is_file()]
    if missing or not names:
        raise ModelNotFoundError(
            f"{folder}: {INDEX} names {len(names)} weight files, missing: {', '.join(missing)}; "
            "download the checkpoint again"
        )
    return names


def _find(name: str, revision: str | None) -> tuple[Path, str | None]:
    if name == TINY:
        return TINY_FOLDER, None
    hub_id = SHORT_NAMES.get(name, name)
    if Path(hub_id).expanduser().is_dir():
        return Path(hub_id).expanduser().resolve(), None
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", hub_id) or hub_id.startswith("."):
        raise ModelNotFoundError(
            f"model {name!r}: no such folder (looked in {Path(name).expanduser().absolute()}), and "
            f"no hub id; give a folder, an id like facebook/musicgen-small, or one of: "
            f"{', '.join((TINY, *SHORT_NAMES))}"
        )
    folder = _from_hub(hub_id, revision)
    return folder, folder.name


def _from_hub(hub_id: str, revision: str | None) -> Path:
    """The snapshot folder of a hub repository: the complete one in the cache, else a download."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        cached = Path(
            snapshot_download(
                hub_id, revision=revision, allow_patterns=HUB_FILES, local_files_only=True
            )
        )
        checkpoint_files(cached)
        return cached
    except (LocalEntryNotFoundError, ModelNotFoundError, OSError):
        pass  # not in the cache, or only a part of it
    try:
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=HUB_FILES))
    except (LocalEntryNotFoundError, HfHubHTTPError, ValueError, OSError) as error:
        raise ModelNotFoundError(
            f"model {hub_id!r}{f' at revision {revision!r}' if revision else ''}: no such folder, "
            "not complete in the local Hugging Face cache, and the hub did not give it "
            f"({type(error).__name__}: {str(error).strip().splitlines()[0]}); check the name and "
            "the network, or give a local folder"
        ) from error


def _way_out(folder: Path) -> str:
    if any(folder.glob("state_dict.bin")) or any(folder.glob("*.bin")):
        return "it holds pickled .bin weights, which are not read: save it with safetensors"
    return "a checkpoint in transformers' format is needed (save_pretrained with safetensors)"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:
        raise ModelNotFoundError(f"{path}: not valid JSON ({error}); download it again") from error
    if not isinstance(value, dict):
        raise ModelNotFoundError(f"{path}: holds no JSON object; download it again")
    return value


def _check_safetensors(path: Path) -> None:
    """Compares the file's size with what its own header promises."""
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


def _size_and_mtime(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


@lru_cache(maxsize=16)
def _hash_files(files: tuple[tuple[str, str, int, int], ...]) -> str:
    """blake2b-128 over name, size and bytes of each file; once per process and file state."""
    digest = blake2b(digest_size=16)
    for name, path, size, _ in files:
        digest.update(f"{name}\0{size}\0".encode())
        with Path(path).open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def _chroma(folder: Path, config: dict[str, Any], sample_rate_hz: int) -> ChromaConfig:
    """The melody reader's numbers; the defaults are those of the released melody models."""
    features: dict[str, Any] = {}
    for name in FEATURES:
        if (folder / name).is_file():
            read = _read_json(folder / name)
            features |= read.get("feature_extractor", read)
    return ChromaConfig(
        sample_rate_hz=int(features.get("sampling_rate", sample_rate_hz)),
        n_fft=int(features.get("n_fft", 16_384)),
        hop_length=int(features.get("hop_length", 4_096)),
        n_chroma=int(config.get("num_chroma", 12)),
        chroma_length=int(config.get("chroma_length", 235)),
    )


def _licence(folder: Path, name: str) -> str:
    """The `license:` of the model card's front matter, else what is known of the name."""
    card = folder / "README.md"
    if card.is_file():
        text = card.read_text(encoding="utf-8", errors="replace")
        front = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
        found = re.search(r"^license:\s*(\S+)", front[1], re.MULTILINE) if front else None
        if found:
            return SPDX.get(found[1].lower(), found[1])
    hub_id = SHORT_NAMES.get(name, name)
    return "CC-BY-NC-4.0" if hub_id.startswith("facebook/") else "unknown"
