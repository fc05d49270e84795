"""Column by column gives what row by row gives: verdicts, ids, keys, messages."""

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.ledger.id_set import pack_ids
from pipeline.planning import judge
from pipeline.planning.expand import Selection
from pipeline.planning.judge import Judge, slices_of
from tests.pipeline.planning.manifests import (
    NOTHING,
    odd_table,
    plan_row_by_row,
    some_stand,
    spec_of,
)


@pytest.mark.parametrize("seed", range(10))
def test_random_rows_get_the_verdicts_and_ids_of_the_row_by_row_path(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = random.Random(seed)
    monkeypatch.setattr(judge, "BATCH_ROWS", 64)
    (tmp_path / "a.wav").write_bytes(b"one")
    defaults = draw.choice(
        [{}, {"seed": 7, "top_p": 0.5}, {"style_eval_q": 3, "cfg_coef_beta": 2.0}]
    )
    spec = spec_of(tmp_path / "m.parquet", odd_table(draw, 150), 40, **defaults)
    if seed % 2:
        spec = replace(spec, limits=replace(spec.limits, watermark="some strength=1.0"))
    everything = plan_row_by_row(spec)
    known = some_stand(draw, everything)

    for selection in (Selection(NOTHING), Selection(known), Selection(known, retry=True)):
        wanted = plan_row_by_row(spec, selection)
        judges = Judge(spec, selection)
        found = [judges.judge(piece, wanted.repeats) for piece in slices_of(spec.manifest, 30)]

        outcomes: Counter[str] = sum((each.outcomes for each in found), Counter())
        assert outcomes == +wanted.outcomes
        assert [letter for each in found for letter in each.letters] == wanted.letters
        assert sum(each.pending_audio_s for each in found) == pytest.approx(wanted.audio_s)
        if not selection.retry and selection.known is NOTHING:
            ids = np.concatenate([each.clips for each in found])
            asked = pack_ids([clip.spec.clip_id for clip in wanted.clips])
            assert sorted(ids.tolist()) == sorted(asked.tolist())
            assert len(ids) == outcomes["pending"]
