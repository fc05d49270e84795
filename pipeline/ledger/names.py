"""The names of all objects that this program writes into an output, and which of them a path is.

Readers, `verify`, `compact` and `gc` see only what has one of these names. Whatever else lies in an
output (references, notes, files of other programs) is neither read nor removed.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple, get_args

from pipeline.audio.settings import AudioFormat

Kind = Literal["clips", "failed", "scores"]

_KINDS: dict[str, Kind] = {kind: kind for kind in get_args(Kind)}
MERGED = "merged"  # stands for the replica in the name of a part that upkeep wrote
FOLDERS = ("clips", "failed", "scores", "audio", "runs", "lease", "attempts", "cache", "ratings")

_RUN = r"(?P<run>[0-9]{8}T[0-9]{6}-[0-9a-f]{6})"
_FORMATS = "|".join(get_args(AudioFormat))
_PART = re.compile(
    rf"(?P<kind>clips|failed|scores)/part-{_RUN}-(?P<replica>[0-9a-f]{{6}}|{MERGED})-(?P<seq>[0-9]{{6,}})"
    r"\.parquet"
)
SIDECAR = ".c2pa"  # ending of a signed manifest beside its audio
_ENDINGS = rf"{_FORMATS}|{SIDECAR[1:]}"
_AUDIO_FILE = rf"(?P<hash>[0-9a-f]{{2}})/(?P=hash)[0-9a-f]{{30}}-[0-9a-f]{{8}}\.(?:{_ENDINGS})"
_SHARD = rf"shard-{_RUN}-[0-9a-f]{{6}}-[0-9]{{6,}}\.tar"
_AUDIO = re.compile(rf"audio/(?:{_AUDIO_FILE}|{_SHARD})")
_RUN_RECORD = re.compile(rf"runs/{_RUN}\.json")
_LEASE = re.compile(r"lease/(?P<generation>[0-9]{8,})\.json")
_ATTEMPT = re.compile(rf"attempts/{_RUN}/[0-9a-f]{{6,64}}\.json")
_CACHE = re.compile(r"cache/(?:ledger/[0-9a-f]{32}\.keys|plan/[0-9a-f]{32}\.(?:plan|whole))")
_RATINGS = re.compile(rf"ratings/part-{_RUN}\.parquet")
# At the root of an output; a README.md there may also be somebody else's (`pipeline.dataset`).
REPORT, CARD, CROISSANT, METADATA = "report.html", "README.md", "croissant.json", "metadata.parquet"
_AT_ROOT = re.compile("|".join(map(re.escape, (REPORT, CARD, CROISSANT, METADATA))))
FIGURES = "scores/figures.json"  # of the whole set of clips, against reference audio
_FIGURES = re.compile(re.escape(FIGURES))
_TEMPORARY = re.compile(r"(?P<folder>(?:[^/]+/)*)\.(?P<name>[^/]+)\.[0-9a-f]{12}\.tmp")
# The file name of a clip's audio, wherever it is mentioned.
AUDIO_MENTIONED = re.compile(rf"[0-9a-f]{{32}}-[0-9a-f]{{8}}\.(?:{_FORMATS})|shard-[\w-]+\.tar")


class PartName(NamedTuple):
    """What the name of a part says."""

    kind: Kind
    run_id: str
    replica: str
    """the process that wrote it, or MERGED"""
    seq: int


def part_path(kind: Kind, run_id: str, replica: str, seq: int) -> str:
    """The path of a part below the output."""
    return f"{kind}/part-{run_id}-{replica}-{seq:06d}.parquet"


def part_name(path: str) -> PartName | None:
    """What a path below the output says if it is that of a part."""
    found = _PART.fullmatch(path)
    if found is None:
        return None
    return PartName(_KINDS[found["kind"]], found["run"], found["replica"], int(found["seq"]))


def is_audio(path: str) -> bool:
    """Whether this is the name of an audio object: of one clip, its sidecar, or a tar of many."""
    return _AUDIO.fullmatch(path) is not None


def sidecar_of(audio: str) -> str:
    """The path, or the name in a tar, of the sidecar of a clip's audio file."""
    return audio.rpartition(".")[0] + SIDECAR


def audio_of(path: str) -> list[str]:
    """The audio by which an object below audio/ stays: itself, or what a sidecar may belong to."""
    if not path.endswith(SIDECAR):
        return [path]
    return [f"{path.removesuffix(SIDECAR)}.{ending}" for ending in get_args(AudioFormat)]


def run_path(run_id: str) -> str:
    """The path of a run's record."""
    return f"runs/{run_id}.json"


def run_of_record(path: str) -> str | None:
    """The run whose record has that path, if it is the path of one."""
    found = _RUN_RECORD.fullmatch(path)
    return found["run"] if found else None


def rating_path(session: str) -> str:
    """The path of what one session of the page has rated; sessions are named as runs are."""
    return f"ratings/part-{session}.parquet"


def is_rating(path: str) -> bool:
    """Whether this is the name of an object with ratings."""
    return _RATINGS.fullmatch(path) is not None


def lease_path(generation: int) -> str:
    """The path of a lease file."""
    return f"lease/{generation:08d}.json"


def generation_of(path: str) -> int:
    """The generation that a lease file is about; 0 for any other path."""
    found = _LEASE.fullmatch(path)
    generation = int(found["generation"]) if found else 0
    return generation if path == lease_path(generation) else 0


def is_attempt(path: str) -> bool:
    """Whether this is an attempt record, which only the run that wrote it reads."""
    return _ATTEMPT.fullmatch(path) is not None


def is_temporary(path: str) -> bool:
    """Whether this is the temporary file of a local write of one of our objects."""
    found = _TEMPORARY.fullmatch(path)
    return found is not None and is_ours(found["folder"] + found["name"])


def is_leftover(path: str) -> bool:
    """Whether a killed writer has left this behind."""
    return is_temporary(path) or is_attempt(path)


def is_ours(path: str) -> bool:
    """Whether this program gives an object such a name; temporary files apart."""
    patterns = (_PART, _AUDIO, _RUN_RECORD, _ATTEMPT, _CACHE, _AT_ROOT, _FIGURES, _RATINGS)
    return any(p.fullmatch(path) for p in patterns) or generation_of(path) > 0
