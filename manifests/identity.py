"""Who a row and a clip are: hashes over canonical JSON, and the seeds that follow from them.

These functions decide what a rerun skips. Their output is frozen by known-answer tests: a change
of any value regenerates the datasets of every user, so it needs a new `IDENTITY_VERSION`.

A parameter that is added later stays out of the hash where it is null (see `clip_id`): clips made
before it existed keep their ids.
"""

import json
import math
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from json.encoder import encode_basestring
from typing import Any

IDENTITY_VERSION = 1
MAX_SEED = 2**63 - 1


def canonical_json(value: Any) -> bytes:
    """One spelling per value: sorted keys, no spaces, UTF-8, floats as Python's `repr`.

    Text is hashed as given, without Unicode normalisation. 3 and 3.0 differ, so callers convert to
    the column's type first; -0.0 is written as 0.0. Bytes stand as their hash, and what JSON can't
    hold (NaN, timestamps in a row that failed validation) as a tagged text.
    """
    return _ENCODER.encode(_plain(value)).encode("utf-8", "surrogatepass")


_ENCODER = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
)


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, float):
        return value + 0.0 if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, bytes | bytearray | memoryview):
        return {"bytes": bytes_token(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return {type(value).__name__: str(value)}


def bytes_token(data: bytes | bytearray | memoryview) -> str:
    """Identity of a reference by its content, wherever it lies: `blake2b:` + 32 hex digits."""
    content = ContentHash()
    content.update(data)
    return content.token


class ContentHash:
    """`bytes_token` of what comes in pieces."""

    def __init__(self) -> None:
        self._hash = blake2b(digest_size=16)

    def update(self, data: bytes | bytearray | memoryview) -> None:
        """Takes the next piece."""
        self._hash.update(data)

    @property
    def token(self) -> str:
        """The token of all pieces so far."""
        return "blake2b:" + self._hash.hexdigest()


def id_digest(id: str) -> bytes:
    """16 bytes that stand for a row's id where rows with the same id are looked for."""
    return blake2b(id.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def row_id(content: Mapping[str, Any]) -> str:
    """Id of a row that has none: 16 hex digits over its columns that are not null.

    Args:
        content: What decides the row's music, in column types (`PromptRow.content()`). `id`,
            `takes` and extra columns are not part of it: more takes keep the first ones.
    """
    return _digest("row-id", _given(content), size=8).hex()


def row_key(
    row: Mapping[str, Any],
    *,
    take: int | None,
    params: Mapping[str, Any] | None,
    model_hash: str,
    repeat: int = 0,
) -> str:
    """32 hex digits under which a dead letter of a row stands, known without any reference's bytes.

    Args:
        row: The row as written, references by name: `PromptRow.as_written()`, or the raw row where
            it failed validation.
        take: Which take; None where the row failed as a whole.
        params: `EffectiveParams.as_identity()`; None where the row failed validation.
        model_hash: `ModelInfo.weights_hash`.
        repeat: 0 for the first row with its id, 1, 2, ... for those that repeat it: a duplicate's
            dead letter must not stand for the row that it repeats.
    """
    what = {
        "row": _given(row),
        "take": take,
        "params": None if params is None else _given(params),
        "model": model_hash,
        "repeat": repeat,
    }
    return _digest("row-key", what, size=16).hex()


def clip_id(
    *,
    id: str,
    take: int,
    prompt: str | None,
    references: Mapping[str, str],
    params: Mapping[str, Any],
    seed: int,
    model_hash: str,
) -> str:
    """32 hex digits that name one clip for good: the hash of all that determines its music.

    Args:
        id: The row's id.
        take: 0 to takes - 1.
        prompt: Text, or None.
        references: Role (`melody`, `continuation`, `style`) to token: `bytes_token` for local,
            web and embedded audio, size and ETag for object stores.
        params: `EffectiveParams.as_identity()`, durations in integer microseconds; null entries
            don't count.
        seed: The take's seed, before any re-take: a re-take is the same clip, tried again.
        model_hash: `ModelInfo.weights_hash`.
    """
    what = {
        "id": id,
        "take": take,
        "prompt": prompt,
        "references": dict(references),
        "params": _given(params),
        "seed": seed,
        "model": model_hash,
    }
    return _digest("clip-id", what, size=16).hex()


def take_seed(seed: int | None, id: str, take: int, run_seed: int = 0) -> int:
    """Seed of take `take`: the row's own (or one from run seed and id) for take 0, else derived."""
    first = _seed_from("row-seed", run_seed, id) if seed is None else seed
    return first if take == 0 else _seed_from("take-seed", first, take)


def retake_seed(seed: int, retake: int) -> int:
    """Seed of re-take `retake` after failed quality checks; re-take 0 is the take itself."""
    return seed if retake == 0 else _seed_from("re", seed, retake)


class BulkNames:
    """Ids and keys of rows that have one set of parameters and no references, as packed bytes: what
    `clip_id`, `row_key` and `take_seed` give, in a tenth of their time.

    All but a row's id, prompt, seed and take is the same text for all of them. That text is made
    once, by `canonical_json` itself.

    Args:
        own: Parameters that the rows give themselves, as `PromptRow.as_written()` has them.
        params: `EffectiveParams.as_identity()`.
        model_hash: `ModelInfo.weights_hash`.
        run_seed: From which rows without a seed get theirs.
    """

    def __init__(
        self, own: Mapping[str, Any], params: Mapping[str, Any], model_hash: str, run_seed: int
    ) -> None:
        id, prompt, seed, take = _HOLES
        clip = {"id": id, "take": take, "prompt": prompt, "references": {}}
        clip |= {"params": _given(params), "seed": seed, "model": model_hash}
        self._clip = _pieces("clip-id", clip, (id, prompt, seed, take))
        key = {"take": take, "params": _given(params), "model": model_hash, "repeat": 0}
        row = dict(own) | {"id": id, "prompt": prompt}
        self._key = _pieces("row-key", key | {"row": row}, (id, prompt, take))
        row["seed"] = seed
        self._key_with_seed = _pieces("row-key", key | {"row": row}, (id, prompt, seed, take))
        self._row_seed = _pieces("row-seed", [run_seed, id], (id,))
        self._take_seed = _pieces("take-seed", [seed, take], (seed, take))

    def first_seed(self, quoted_id: str) -> int:
        """Seed of take 0 of a row that gives none."""
        before, after = self._row_seed
        return _seed_of(f"{before}{quoted_id}{after}")

    def seed_of_take(self, seed: int, take: int) -> int:
        """Seed of a take, from that of take 0."""
        if take == 0:
            return seed
        before, between, after = self._take_seed
        return _seed_of(f"{before}{seed}{between}{take}{after}")

    def clip_id(self, quoted_id: str, quoted_prompt: str, seed: int, take: int) -> bytes:
        """See the function `clip_id`; id and prompt as `quoted` gives them."""
        a, b, c, d, e = self._clip
        text = f"{a}{quoted_id}{b}{quoted_prompt}{c}{seed}{d}{take}{e}"
        return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()

    def row_key(self, quoted_id: str, quoted_prompt: str, seed: int | None, take: int) -> bytes:
        """See the function `row_key`; `seed` as the row gives it."""
        if seed is None:
            a, b, d, e = self._key
            text = f"{a}{quoted_id}{b}{quoted_prompt}{d}{take}{e}"
        else:
            a, b, c, d, e = self._key_with_seed
            text = f"{a}{quoted_id}{b}{quoted_prompt}{c}{seed}{d}{take}{e}"
        return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


quoted = encode_basestring  # a text as `canonical_json` writes it
# Stand for id, prompt, seed and take; no other text of a row's parameters holds these characters.
_HOLES = tuple(f"\ue000{what}\ue000" for what in ("id", "prompt", "seed", "take"))


def _pieces(tag: str, what: Any, holes: Sequence[str]) -> list[str]:
    """The canonical text around the holes, in the order in which they stand there."""
    pieces = [canonical_json([tag, IDENTITY_VERSION, what]).decode("utf-8", "surrogatepass")]
    for hole in holes:
        before, _, after = pieces.pop().partition(quoted(hole))
        pieces += [before, after]
    return pieces


def _seed_of(text: str) -> int:
    data = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "big") & MAX_SEED


def _seed_from(tag: str, *parts: int | str) -> int:
    return int.from_bytes(_digest(tag, list(parts), size=8), "big") & MAX_SEED


def _given(mapping: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in mapping.items() if value is not None}


def _digest(tag: str, what: Any, *, size: int) -> bytes:
    """The tag keeps hashes of different kinds apart, even over equal values."""
    return blake2b(canonical_json([tag, IDENTITY_VERSION, what]), digest_size=size).digest()
