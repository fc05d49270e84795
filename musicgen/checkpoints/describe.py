"""Finds the folder that a model name means and reads what is in it, in milliseconds, without torch.

A checkpoint is a folder in one of three layouts:

transformers: `config.json`, safetensors weights (one file or shards with an index), a tokenizer.
own: the same files, written by `musicgen.checkpoints.convert` for models that transformers can't
    represent.
audiocraft: `state_dict.bin` and `compression_state_dict.bin`, or the `checkpoint.th` of a training
    run. T5 (and MERT, and mostly EnCodec) are not in them: they are found by the name that the
    checkpoint gives, or where the user says. (To describe such a folder torch is needed, and
    imported.)

The folder is part of this package (`tiny`), a local path, or a snapshot from the Hugging Face hub.
"""

import re
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any

from musicgen.checkpoints import limits
from musicgen.checkpoints.adapter_folders import AdapterFolder, adapter_files, find_adapters
from musicgen.checkpoints.audiocraft import CODEC_FILE, LM_FILE, lm_file, read_package
from musicgen.checkpoints.audiocraft_config import read_lm_settings
from musicgen.checkpoints.errors import CheckpointError, ModelNotFoundError
from musicgen.checkpoints.hub import from_hub, is_hub_id, local_folder
from musicgen.checkpoints.layout import (
    CONFIG,
    FEATURES,
    OWN,
    Layout,
    checkpoint_files,
    hash_files,
    layout_of,
    part_files,
    read_json,
)
from musicgen.checkpoints.submodel_folders import (
    GIVEN,
    HUB_FILES,
    SubmodelFolders,
    codec_facts,
    codec_rates,
    find_audiocraft_parts,
    find_parts,
)
from musicgen.config import ChromaConfig, LMConfig, ModelSource, StyleConfig, WeightsFormat
from musicgen.registry import AUDIOGEN, SHORT_NAMES, Kind
from musicgen.windows import default_stride_s

__all__ = ["ModelInfo", "ModelNotFoundError", "checkpoint_files", "describe"]

TINY = "tiny"
TINY_FOLDER = Path(__file__).parents[1] / "tiny" / "checkpoint"
KINDS: dict[str, Kind] = {"musicgen": "text", "musicgen_melody": "melody"}
DEFAULT_MAX_DURATION_S = 30.0

AUDIOCRAFT_FILES = [LM_FILE, CODEC_FILE, "README.md"]
SPDX = {"cc-by-nc-4.0": "CC-BY-NC-4.0", "apache-2.0": "Apache-2.0", "mit": "MIT"}


@dataclass(frozen=True)
class ModelInfo:
    """Facts about a model that are known before its weights are loaded."""

    name: str  # as the user gave it
    path: str  # the folder that it means
    kind: Kind
    sample_rate_hz: int
    channels: int
    frame_rate_hz: int
    hop_samples: int  # audio samples per frame
    n_codebooks: int
    max_duration_s: float  # longest clip of one window
    chroma: ChromaConfig | None  # the melody's chromagram; None: the model takes no melody
    weights_hash: str  # 32 hex digits over weight, config and tokenizer files
    revision: str | None  # of a hub snapshot
    weights_licence: str
    style: StyleConfig | None = None  # the style conditioner; None: the model takes no style
    codec_n_q: int | None = None  # codebooks of the codec that are used; None: all
    layout: Layout = "transformers"
    submodels: SubmodelFolders = field(default_factory=SubmodelFolders)
    own_stride_s: float | None = None  # between windows; None: what suits the window
    adapters: tuple[AdapterFolder, ...] = ()  # merged into the language model, in this order
    weights: WeightsFormat = "full"  # of the language model, after adapters are merged

    @property
    def full_name(self) -> str:
        """The name of the model, of what is merged into it, and of its weights' format."""
        merged = " + ".join((self.name, *(adapter.label for adapter in self.adapters)))
        return merged if self.weights == "full" else f"{merged} in {self.weights}"

    @property
    def default_stride_s(self) -> float:
        """Seconds between the beginnings of two windows where a clip asks for nothing else."""
        if self.own_stride_s is not None:
            return self.own_stride_s
        return default_stride_s(self.max_duration_s)

    def stride_s(self, asked_s: float | None) -> float | None:
        """The stride of a clip that asks for `asked_s`; None: what suits the window."""
        return self.own_stride_s if asked_s is None else asked_s


def describe(source: ModelSource | str | PathLike[str]) -> ModelInfo:
    """Finds the checkpoint that `source` (or a name or path alone) means and reads what it is.

    Raises:
        ModelNotFoundError: There is no such checkpoint, or a file of it is missing, truncated or
            of another kind.
        CheckpointError: The files are there, but this version does not know what they hold.
    """
    source = ModelSource.of(source)
    folder, commit = _find(source.name, source.revision)
    layout = layout_of(folder)
    if layout == "audiocraft":
        facts, submodels = _describe_audiocraft(folder, source)
    else:
        read = _describe_own if layout == "own" else _describe_transformers
        facts, submodels = read(folder), find_parts(source)
    if submodels.codec not in (None, GIVEN):
        facts |= codec_facts(folder, submodels.codec, facts["sample_rate_hz"])
    adapters = find_adapters(source.adapter)
    return ModelInfo(
        name=source.name,
        path=str(folder),
        weights_hash=_hash(folder, layout, submodels, adapters, source.weights),
        revision=commit,
        weights_licence=_licence(folder, source.name),
        layout=layout,
        submodels=submodels,
        adapters=adapters,
        weights=source.weights,
        **facts,
    )


def _describe_transformers(folder: Path) -> dict[str, Any]:
    config = read_json(folder / CONFIG)
    kind = KINDS.get(str(config.get("model_type")))
    if kind is None:
        raise ModelNotFoundError(
            f"{folder / CONFIG}: model_type={config.get('model_type')!r} is not a MusicGen; "
            f"known: {', '.join((*KINDS, OWN))}"
        )
    decoder = config.get("decoder", {})
    limits.check(folder / CONFIG, "decoder", decoder, limits.DECODER)
    limits.check(folder / CONFIG, "text_encoder", config.get("text_encoder", {}), limits.T5)
    facts = codec_rates(folder / CONFIG, config.get("audio_encoder", {}))
    return facts | {
        "kind": kind,
        "channels": int(decoder.get("audio_channels", 1)),
        "n_codebooks": int(decoder.get("num_codebooks", 4)),
        **_lengths(folder / CONFIG, config),
        "chroma": _chroma(folder, config, facts["sample_rate_hz"]) if kind == "melody" else None,
    }


def _describe_own(folder: Path) -> dict[str, Any]:
    config = read_json(folder / CONFIG)
    lm = own_lm_config(folder)
    return codec_rates(folder / CONFIG, config["audio_encoder"]) | {
        "kind": kind_of(lm),
        "channels": limits.whole(folder / CONFIG, "channels", config["channels"], limits.CHANNELS),
        "n_codebooks": lm.n_codebooks,
        **_lengths(folder / CONFIG, config),
        "chroma": lm.chroma,
        "style": lm.style,
        "codec_n_q": config.get("codec_n_q"),
    }


def _lengths(where: Path, config: dict[str, Any]) -> dict[str, float | None]:
    """Window and stride of a config.json, which transformers' own does not have."""
    stride_s = config.get("own_stride_s")
    return {
        "max_duration_s": limits.seconds(
            where, "max_duration_s", config.get("max_duration_s", DEFAULT_MAX_DURATION_S)
        ),
        "own_stride_s": stride_s and limits.seconds(where, "own_stride_s", stride_s),
    }


def own_lm_config(folder: Path) -> LMConfig:
    """The shape of the language model of a folder in our own layout."""
    try:
        lm = dict(read_json(folder / CONFIG)["lm"])
        limits.check(folder / CONFIG, "lm", lm, limits.OWN_LM)
        limits.delays(folder / CONFIG, "lm.delays", lm["delays"], lm["n_codebooks"])
        lm["delays"] = tuple(lm["delays"])
        lm["chroma"] = ChromaConfig(**lm["chroma"]) if lm["chroma"] else None
        lm["style"] = StyleConfig(**lm["style"]) if lm["style"] else None
        return LMConfig(**lm)
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"{folder / CONFIG}: its `lm` is not one that this version knows ({error}); convert "
            "the model again"
        ) from error


def kind_of(lm: LMConfig) -> Kind:
    """The condition that a language model takes beside text; "text" where it takes none."""
    if lm.style is not None:
        return "style"
    return "text" if lm.chroma is None else "melody"


def _describe_audiocraft(
    folder: Path, source: ModelSource
) -> tuple[dict[str, Any], SubmodelFolders]:
    settings = read_lm_settings(read_package(lm_file(folder)))
    wanted = replace(source, text_encoder=source.text_encoder or settings.text_encoder)
    submodels = find_audiocraft_parts(folder, wanted, settings.codec, settings.lm.style)
    facts = {
        "kind": kind_of(settings.lm),
        "channels": settings.channels,
        "n_codebooks": settings.lm.n_codebooks,
        "max_duration_s": settings.max_duration_s,
        "own_stride_s": AUDIOGEN.stride_in(settings.max_duration_s)
        if settings.is_audiogen
        else None,
        "chroma": settings.lm.chroma,
        "style": settings.lm.style,
        "codec_n_q": settings.codec_n_q,
        "sample_rate_hz": settings.sample_rate_hz,
    }
    if submodels.codec is None:
        facts |= codec_facts(folder, str(folder), settings.sample_rate_hz)
    elif submodels.codec == GIVEN:  # `load` replaces these by the rates of the module
        facts |= {"frame_rate_hz": 50, "hop_samples": settings.sample_rate_hz // 50}
    return facts, submodels


def _find(name: str, revision: str | None) -> tuple[Path, str | None]:
    if name == TINY:
        _no_revision(name, revision)
        return TINY_FOLDER, None
    hub_id = SHORT_NAMES.get(name, name)
    folder = local_folder(hub_id)
    if folder is not None:
        _no_revision(name, revision)
        return folder, None
    if not is_hub_id(hub_id):
        raise ModelNotFoundError(
            f"model {name!r}: no such folder (looked in {Path(name).expanduser().absolute()}), and "
            f"no hub id; give a folder, an id like facebook/musicgen-small, or one of: "
            f"{', '.join((TINY, *SHORT_NAMES))}"
        )
    folder = from_hub(hub_id, revision, HUB_FILES, checkpoint_files)
    if not any(folder.glob("*.safetensors")) and not (folder / LM_FILE).is_file():
        # In AudioCraft's layout only, as musicgen-style is.
        folder = from_hub(hub_id, revision, AUDIOCRAFT_FILES, checkpoint_files)
    return folder, folder.name


def _no_revision(name: str, revision: str | None) -> None:
    if revision is not None:
        raise ModelNotFoundError(
            f"model {name!r}: it has no revision {revision!r}, only hub ids have revisions; leave "
            "--revision out"
        )


def _hash(
    folder: Path,
    layout: Layout,
    submodels: SubmodelFolders,
    adapters: tuple[AdapterFolder, ...],
    weights: WeightsFormat,
) -> str:
    """The hash of the checkpoint's files, of those of sub-models and adapters from elsewhere, and
    of the format that its weights are rounded to."""
    names = checkpoint_files(folder)
    if layout == "audiocraft" and submodels.codec is not None:
        names = [
            lm_file(folder).name
        ]  # the EnCodec is hashed below, in the folder that it comes from
    files = [(name, folder / name) for name in names]
    for role, part in vars(submodels).items():
        if part == GIVEN:
            files.append((f"{role}/{GIVEN}", Path()))
        elif part is not None:
            files += [(f"{role}/{name}", Path(part) / name) for name in part_files(Path(part))]
    for adapter in adapters:
        place = Path(adapter.path)
        files += [(f"adapter/{adapter.scale!r}/{n}", place / n) for n in adapter_files(place)]
    if weights != "full":
        files.append((f"weights/{weights}", Path()))
    return hash_files(files)


def _chroma(folder: Path, config: dict[str, Any], sample_rate_hz: int) -> ChromaConfig:
    """The parameters of the chromagram; defaults are those of the released melody models."""
    features: dict[str, Any] = {}
    for name in FEATURES:
        if (folder / name).is_file():
            read = read_json(folder / name)
            features |= read.get("feature_extractor", read)
    return ChromaConfig(
        sample_rate_hz=int(features.get("sampling_rate", sample_rate_hz)),
        n_fft=int(features.get("n_fft", 16_384)),
        hop_length=int(features.get("hop_length", 4_096)),
        n_chroma=int(config.get("num_chroma", 12)),
        chroma_length=int(config.get("chroma_length", 235)),
    )


def _licence(folder: Path, name: str) -> str:
    """The `license:` of the model card's front matter, else the licence of facebook's models."""
    card = folder / "README.md"
    if card.is_file():
        text = card.read_text(encoding="utf-8", errors="replace")
        front = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
        found = re.search(r"^license:\s*(\S+)", front[1], re.MULTILINE) if front else None
        if found:
            return SPDX.get(found[1].lower(), found[1])
    hub_id = SHORT_NAMES.get(name, name)
    return "CC-BY-NC-4.0" if hub_id.startswith("facebook/") else "unknown"
