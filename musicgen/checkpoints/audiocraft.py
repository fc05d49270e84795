"""AudioCraft's checkpoints: `state_dict.bin` and `compression_state_dict.bin`, and their YAML.

Both files are pickles of tensors and text. They are read with torch's restricted unpickler, which
accepts nothing else, so no code of a checkpoint is ever executed. torch is imported only then.

A checkpoint of a training run (`checkpoint.th`) holds OmegaConf's configuration object, optimizer
and history too. Its objects become inert stand-ins, from which plain values are read.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from musicgen.checkpoints.errors import CheckpointError, first_line
from musicgen.checkpoints.omegaconf_values import Inert, plain, resolved

if TYPE_CHECKING:
    from torch import Tensor

LM_FILE, CODEC_FILE = "state_dict.bin", "compression_state_dict.bin"
TRAINING_FILE = "checkpoint.th"  # of a training run, in place of LM_FILE
# Where the classes come from whose objects stand in a training checkpoint beside tensors. None of
# them is loaded, so this list keeps out nothing harmful; it says what is expected.
STOOD_IN_FOR = ("omegaconf", "typing", "builtins", "collections", "pathlib", "numpy", "argparse")
TEXT_PROJECTION = "condition_provider.conditioners.description.output_proj"
SELF_WAV = "condition_provider.conditioners.self_wav."
CHROMA_BUFFERS = f"{SELF_WAV}chroma."  # a Hann window, which anyone can compute

CODEC_NAMES = (
    (r"^(encoder|decoder)\.model\.", r"\1.layers."),
    (r"\.(conv\.conv|convtr\.convtr)\.", ".conv."),
    (r"^quantizer\.vq\.layers\.(\d+)\._codebook\.", r"quantizer.layers.\1.codebook."),
)


@dataclass(frozen=True)
class Package:
    """The content of one of the two files.

    A file holds tensors and a configuration, or nothing but the name of another model.

    Attributes:
        path: The file.
        state: Its tensors; empty if it only names another model.
        cfg: Its configuration; empty if it only names another model.
        pretrained: The model that it names, else None.
    """

    path: Path
    state: "dict[str, Tensor]"
    cfg: dict[str, Any]
    pretrained: str | None = None


def lm_file(folder: Path) -> Path:
    """The file with the language model of a checkpoint in AudioCraft's layout, if there is one."""
    exported = folder / LM_FILE
    return folder / TRAINING_FILE if not exported.is_file() else exported


def read_package(path: Path) -> Package:
    """Reads a file of any release. Tensors stay on disk until they are used.

    Raises:
        CheckpointError: The file is damaged, or is not one of AudioCraft's.
    """
    content = _unpickle(path, stand_ins=True)
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: holds no dictionary; it is no checkpoint of AudioCraft")
    if "pretrained" in content:
        return Package(path, {}, {}, str(content["pretrained"]))
    state = content.get("fsdp_best_state") or content.get("best_state") or {}
    if not isinstance(state, Mapping):
        state = {}
    if isinstance(state.get("model"), Mapping):  # of a training run: one level deeper
        state = state["model"]
    if not state or "xp.cfg" not in content:
        raise CheckpointError(
            f"{path}: has {', '.join(map(str, content)) or 'nothing'} where AudioCraft's "
            "checkpoints have best_state and xp.cfg; download it again"
        )
    odd = [name for name, tensor in state.items() if not hasattr(tensor, "shape")]
    if odd:
        raise CheckpointError(f"{path}: {odd[0]} is no tensor; export the checkpoint again")
    return Package(path, dict(state), _config(path, content["xp.cfg"]))


def read_full_package(path: Path) -> Package:
    """Reads a `compression_state_dict.bin` that holds an EnCodec itself.

    Raises:
        CheckpointError: As `read_package`, or the file only names another model.
    """
    package = read_package(path)
    if package.pretrained is not None:
        raise CheckpointError(
            f"{path}: only points at {package.pretrained!r}; give that as the codec"
        )
    return package


def read_tensors(path: Path) -> "dict[str, Tensor]":
    """Reads a pickle that is a dictionary of tensors."""
    return dict(_unpickle(path))


def _stand_ins(path: Path) -> list[Any]:
    """A stand-in for each class of a training checkpoint that the unpickler would refuse, and the
    name of that class."""
    from torch.serialization import get_unsafe_globals_in_checkpoint

    try:
        named = get_unsafe_globals_in_checkpoint(path)
    except Exception:  # damaged, or of an old torch: reading it says what is wrong
        return []
    if not any(name.startswith("omegaconf.") for name in named):
        return []  # no training checkpoint: whatever else is in it is refused
    known = [name for name in named if name.partition(".")[0] in STOOD_IN_FOR]
    return [(type(name.replace(".", "_"), (Inert,), {}), name) for name in known]


def _unpickle(path: Path, *, stand_ins: bool = False) -> Any:
    import pickle

    import torch

    try:
        with torch.serialization.safe_globals(_stand_ins(path) if stand_ins else []):
            try:
                return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            except RuntimeError:  # the file format of old torches can't be mapped
                return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: holds more than tensors and text, and is not loaded because that would "
            "execute its code; export it first (audiocraft.utils.export, or torch.save of its "
            f"best_state and the YAML of xp.cfg). torch says: {first_line(error)}"
        ) from error
    except (RuntimeError, EOFError, OSError) as error:
        raise CheckpointError(
            f"{path}: can't be read ({type(error).__name__}: {first_line(error)}); the "
            "file is truncated or damaged, download it again"
        ) from error


def _config(path: Path, text: object) -> dict[str, Any]:
    try:
        cfg = yaml.safe_load(text) if isinstance(text, str) else plain(text)
    except yaml.YAMLError as error:
        raise CheckpointError(f"{path}: xp.cfg is no YAML ({error}); download it again") from error
    if not isinstance(cfg, dict):
        raise CheckpointError(f"{path}: xp.cfg is no mapping; download it again")
    return resolved(cfg, path)


def rename_codec(state: "dict[str, Tensor]") -> "dict[str, Tensor]":
    """From AudioCraft's names of an EnCodec's tensors to transformers'."""
    renamed = {}
    for name, tensor in state.items():
        for pattern, replacement in CODEC_NAMES:
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor
    return renamed


def lm_state(package: Package) -> "dict[str, Tensor]":
    """The language model's tensors, without what can be computed."""
    return {
        name: tensor
        for name, tensor in package.state.items()
        if not name.startswith(CHROMA_BUFFERS)
    }
