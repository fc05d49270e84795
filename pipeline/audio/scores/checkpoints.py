"""Finds the weights of a scorer on this machine and names them: no download, no torch."""

from __future__ import annotations

from hashlib import blake2b
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

from pipeline.audio.scores.protocol import ScorerError, ScorerIdentity
from pipeline.audio.scores.settings import ScorerSpec

# Raised where a measure changes, so that scores of before and after are told apart.
VERSIONS = {"melody": 1, "key": 1, "tempo": 1, "voice": 1, "spectrum": 1}
BUILT_IN = "built in"
CLAP, AESTHETICS = "laion/larger_clap_music", "facebook/audiobox-aesthetics"
_DEFAULTS = {"clap": CLAP, "aesthetics": AESTHETICS}
_HUB = ("config.json", "model.safetensors")


def identify(spec: ScorerSpec) -> ScorerIdentity:
    """Which scorer a spec means on this machine.

    Raises:
        ScorerError: Its weights or its package are not here.
    """
    if spec.name in VERSIONS:
        digest = blake2b(f"{spec.name} {VERSIONS[spec.name]}".encode(), digest_size=16)
        if spec.name == "voice":
            digest.update(files("musicgen.tiny").joinpath("voices.json").read_bytes())
        return ScorerIdentity(spec.name, BUILT_IN, digest.hexdigest())
    if spec.name == "aesthetics" and not _has_aesthetics():
        raise ScorerError(
            "score: aesthetics needs a package that is not installed: pip install "
            "'musicgen-batch[aesthetics]'"
        )
    source = spec.source or _DEFAULTS[spec.name]
    return ScorerIdentity(spec.name, _shown(source), _digest(spec.name, place_of(spec)))


def place_of(spec: ScorerSpec) -> Path:
    """The folder (or, for aesthetics, the file) with a scorer's weights.

    Raises:
        ScorerError: They are not on this machine.
    """
    source = spec.source or _DEFAULTS[spec.name]
    place = Path(source).expanduser()
    if place.exists():
        return place
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(source, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, OSError) as error:
        raise ScorerError(
            f"score: {spec.name}={source} is neither a folder nor in the cache of the hub, and a "
            f"run downloads no scorer: `hf download {source}` on every machine, or give the folder "
            f"that holds it"
        ) from error


def _digest(name: str, place: Path) -> str:
    from musicgen.checkpoints.errors import ModelNotFoundError
    from musicgen.checkpoints.layout import hash_files, part_files

    if place.is_file():
        return hash_files([("weights", place)])
    try:
        names = part_files(place) if name == "clap" else [n for n in _HUB if (place / n).is_file()]
    except ModelNotFoundError as error:
        raise ScorerError(f"score: {name}: {error}") from error
    if not names:
        raise ScorerError(f"score: {name}: {place} holds none of {', '.join(_HUB)}")
    return hash_files([(each, place / each) for each in names])


def _shown(source: str) -> str:
    """A checkpoint as rows name it: a hub id, or the folder's own name; its place stays private."""
    path = Path(source).expanduser()
    return path.name if path.exists() else source


def _has_aesthetics() -> bool:
    try:
        return find_spec("audiobox_aesthetics") is not None
    except ValueError:  # it is loaded, as something that has no origin
        return False
