"""Finds LoRA adapters, as peft saves them: two files in a folder. Free of torch."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from musicgen.checkpoints.errors import ModelNotFoundError
from musicgen.checkpoints.hub import part_folder
from musicgen.checkpoints.layout import CONFIG, check_safetensors
from musicgen.config import AdapterSource

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PICKLED_ADAPTER = "adapter_model.bin"
FILES = [ADAPTER_CONFIG, ADAPTER_WEIGHTS]


@dataclass(frozen=True)
class AdapterFolder:
    """A LoRA adapter that is there.

    Attributes:
        path: Its folder.
        scale: What its change of the weights is multiplied by.
        label: How provenance names it: the last part of its name, and the scale.
    """

    path: str
    scale: float
    label: str


def find_adapters(texts: Iterable[str]) -> tuple[AdapterFolder, ...]:
    """Finds adapters that the user names as `AdapterSource.of` reads them.

    Raises:
        ModelNotFoundError: One is not there, or is not complete.
        ValueError: A text is no name of an adapter.
    """
    return tuple(_find(AdapterSource.of(text)) for text in texts)


def _find(source: AdapterSource) -> AdapterFolder:
    way_out = "say adapter=<folder or hub id>"
    folder = part_folder(source.name, FILES, FILES, adapter_files, "adapter", way_out)
    label = AdapterSource(Path(source.name).expanduser().absolute().name, source.scale)
    return AdapterFolder(str(folder), source.scale, str(label))


def adapter_files(folder: Path) -> list[str]:
    """Names of the files that decide what an adapter changes; all are checked."""
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        if (folder / PICKLED_ADAPTER).is_file():
            found = f"its {PICKLED_ADAPTER} is a pickle; save it with safe_serialization=True"
        elif (folder / CONFIG).is_file():
            found = "this is a whole model, give it as the model"
        else:
            found = "save it with peft's save_pretrained"
        raise ModelNotFoundError(f"{folder}: no {' and no '.join(missing)}; {found}")
    check_safetensors(folder / ADAPTER_WEIGHTS)
    return FILES
