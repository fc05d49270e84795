"""Known answers of the identity. If one of these fails, every user's dataset is made again:
raise IDENTITY_VERSION and say so in the CHANGELOG, or find another way."""

import json
from typing import Any

import pytest

from manifests import identity
from manifests.schema import BUILT_IN_DEFAULTS, effective, parse_row

PARAMS = {
    "duration_us": 10_000_000,
    "use_sampling": True,
    "top_k": 250,
    "top_p": 0.0,
    "temperature": 1.0,
    "cfg_coef": 3.0,
    "cfg_coef_beta": None,
}
MODEL = "0123456789abcdef0123456789abcdef"


def clip_id(**changes: Any) -> str:
    what: dict[str, Any] = {
        "id": "song",
        "take": 0,
        "prompt": "a calm piano",
        "references": {},
        "params": PARAMS,
        "seed": 7,
        "model_hash": MODEL,
    }
    return identity.clip_id(**{**what, **changes})


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"b": 1, "a": [True, None, "x"]}, '{"a":[true,null,"x"],"b":1}'),
        (3, "3"),
        (3.0, "3.0"),
        (0.1 + 0.2, "0.30000000000000004"),
        (-0.0, "0.0"),
        (2**63 - 1, "9223372036854775807"),
        ("café\n", '"café\\n"'),
        (float("nan"), '{"float":"nan"}'),
        (b"abc", '{"bytes":"blake2b:cf4ab791c62b8d2b2109c90275287816"}'),
    ],
)
def test_canonical_json_has_one_spelling_per_value(value: Any, text: str) -> None:
    assert identity.canonical_json(value).decode() == text


def test_text_is_hashed_as_given_without_unicode_normalisation() -> None:
    assert clip_id(prompt="caf\u00e9") != clip_id(prompt="cafe\u0301")


def test_what_json_cannot_hold_still_has_a_spelling_for_dead_letters() -> None:
    assert identity.canonical_json({"prompt": "\ud800"})
    assert json.loads(identity.canonical_json({"x": complex(1, 2)})) == {"x": {"complex": "(1+2j)"}}


def test_frozen_row_ids() -> None:
    assert identity.row_id({"prompt": "a calm piano"}) == "32605a67f8a132db"
    row, _ = parse_row({"prompt": "a calm piano", "duration_s": 3}, source="m", row=0)
    assert row is not None
    assert row.id == "d18977b7a0a3dc1b"


def test_frozen_clip_ids() -> None:
    assert clip_id() == "7e4e8431b15bb71259121df72e530315"
    references = {"melody": identity.bytes_token(b"abc")}
    assert clip_id(prompt=None, references=references, take=3) == "4d4f3af36d3db1c11de527967b5bc59a"


def test_frozen_row_keys() -> None:
    row = {"id": "song", "prompt": "a calm piano", "melody_uri": "a.wav"}
    assert (
        identity.row_key(row, take=1, params=PARAMS, model_hash=MODEL)
        == "7ad747e375b6944859cdacbb2139fef7"
    )
    assert (
        identity.row_key(row, take=None, params=None, model_hash=MODEL)
        == "44826c7bc143256646c187357c342b0f"
    )


def test_frozen_seeds() -> None:
    assert identity.take_seed(None, "song", 0) == 5_881_691_982_016_604_051
    assert identity.take_seed(None, "song", 0, run_seed=1) == 4_008_183_578_338_697_820
    assert identity.take_seed(None, "song", 2) == 4_148_986_656_549_021_007
    assert identity.take_seed(5, "song", 2) == 1_286_844_606_007_334_690
    assert identity.retake_seed(5, 1) == 2_854_660_924_440_460_654


def test_take_0_uses_the_rows_seed_and_0_is_an_ordinary_seed() -> None:
    assert identity.take_seed(5, "song", 0) == 5
    assert identity.take_seed(0, "song", 0) == 0
    assert identity.retake_seed(0, 0) == 0
    assert identity.take_seed(0, "a", 1) == identity.take_seed(0, "b", 1)


def test_takes_and_retakes_have_seeds_of_their_own_in_range() -> None:
    takes = [identity.take_seed(None, "song", take) for take in range(200)]
    retakes = [identity.retake_seed(seed, r) for seed in takes for r in (1, 2)]
    assert len({*takes, *retakes}) == 600
    assert all(0 <= seed <= identity.MAX_SEED for seed in takes + retakes)


@pytest.mark.parametrize(
    "change",
    [
        {"id": "other"},
        {"take": 1},
        {"prompt": None},
        {"references": {"melody": "blake2b:00"}},
        {"references": {"continuation": "blake2b:00"}},
        {"params": {**PARAMS, "duration_us": 10_000_001}},
        {"params": {**PARAMS, "cfg_coef_beta": 5.0}},
        {"seed": 8},
        {"model_hash": "f" * 32},
    ],
)
def test_everything_that_determines_the_music_is_in_the_clip_id(change: dict[str, Any]) -> None:
    assert clip_id(**change) != clip_id()


def test_a_parameter_added_later_keeps_the_ids_of_clips_that_leave_it_null() -> None:
    assert clip_id(params={**PARAMS, "extend_stride_us": None}) == clip_id()


def test_row_keys_tell_takes_repeats_and_parameters_apart() -> None:
    def key(take: int | None = 0, repeat: int = 0, **params: Any) -> str:
        given = {**PARAMS, **params}
        return identity.row_key(
            {"id": "a"}, take=take, params=given, model_hash=MODEL, repeat=repeat
        )

    keys = {key(), key(take=1), key(take=None), key(repeat=1), key(cfg_coef=1.0)}
    assert len(keys) == 5


def test_row_key_holds_references_by_name_and_embedded_bytes_by_hash() -> None:
    def key(row: dict[str, Any]) -> str:
        return identity.row_key(row, take=0, params=PARAMS, model_hash=MODEL)

    assert key({"melody_uri": "a.wav"}) != key({"melody_uri": "b.wav"})
    assert key({"melody_audio": b"abc"}) != key({"melody_audio": b"abd"})
    assert key({"melody_audio": b"abc"}) == key({"melody_audio": bytearray(b"abc"), "id": None})


def test_identity_does_not_depend_on_the_manifests_number_types() -> None:
    """A JSON integer, a Parquet double and pandas' 3.0 for an integer are the same row."""
    as_json = {"prompt": "x", "duration_s": 3, "seed": 3, "cfg_coef": 1}
    as_frame = {
        "prompt": "x",
        "duration_s": 3.0,
        "seed": 3.0,
        "cfg_coef": 1.0,
        "top_k": float("nan"),
    }
    rows = [parse_row(raw, source="m", row=0)[0] for raw in (as_json, as_frame)]
    assert rows[0] == rows[1]
    ids = set()
    for row in rows:
        assert row is not None
        params = effective(row, BUILT_IN_DEFAULTS).as_identity()
        ids.add(clip_id(id=row.id, params=params, seed=row.seed))
    assert len(ids) == 1


def test_an_id_from_content_ignores_extra_columns_and_takes() -> None:
    plain, _ = parse_row({"prompt": "x"}, source="m", row=0)
    more, _ = parse_row({"prompt": "x", "takes": 4, "genre": "jazz"}, source="m", row=9)
    other, _ = parse_row({"prompt": "x", "temperature": 0.5}, source="m", row=0)
    assert plain is not None
    assert more is not None
    assert other is not None
    assert plain.id == more.id != other.id
