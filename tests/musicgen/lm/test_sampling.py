"""Noise by Random123's vectors, filters by AudioCraft's numbers, draws by their distribution."""

import pytest
import torch

from musicgen.config import SamplingParams
from musicgen.lm.sampling import (
    FilterShape,
    RowSampling,
    choose,
    draw,
    filter_probs,
    philox4x32,
    uniform,
)
from tests.musicgen.toy import GOLDEN

SAMPLING = torch.load(GOLDEN / "sampling.pt", weights_only=True)

# kat_vectors of Random123: counter, key, result of philox4x32 with 10 rounds
KNOWN_ANSWERS = [
    ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    (
        [0xFFFFFFFF] * 4,
        [0xFFFFFFFF] * 2,
        [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD],
    ),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


def rows_of(*params: SamplingParams) -> tuple[RowSampling, FilterShape]:
    rows = RowSampling.idle(len(params), torch.device("cpu"))
    for row, one in enumerate(params):
        rows.set(row, one)
    return rows, FilterShape.of(params)


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_philox_gives_the_published_words(
    counter: list[int], key: list[int], answer: list[int]
) -> None:
    assert philox4x32(torch.tensor(counter), (key[0], key[1])).tolist() == answer


def test_noise_is_keyed_by_seed_frame_and_codebook() -> None:
    seed = (5 << 32) | 7
    word = int(philox4x32(torch.tensor([11, 2, 0, 0]), (7, 5))[0])
    noise = uniform(seed, n_codebooks=4, n_frames=20)
    assert noise[2, 11] == word / 2**32
    assert torch.equal(uniform(seed, 4, 12), noise[:, :12])  # a longer clip begins the same way
    assert noise.unique().numel() == noise.numel()
    assert not torch.equal(uniform(seed + 1, 4, 20), noise)
    assert not torch.equal(uniform(seed + 2**32, 4, 20), noise)  # the seed's upper half counts


def test_noise_fills_the_unit_interval() -> None:
    noise = uniform(2**63 - 1, n_codebooks=8, n_frames=5000)
    assert noise.min() >= 0
    assert noise.max() < 1
    counts = torch.histc(noise.float(), bins=20, min=0, max=1)
    expected = noise.numel() / 20
    assert ((counts - expected) ** 2 / expected).sum() < 43.8  # chi-square, 19 df, p = 0.001


@pytest.mark.parametrize("name", SAMPLING["cases"])
def test_filters_keep_what_audiocraft_keeps(name: str) -> None:
    case, logits = SAMPLING["cases"][name], SAMPLING["logits"]
    params = SamplingParams(temperature=case["temp"], top_k=case["top_k"], top_p=case["top_p"])
    kept = filter_probs(logits, *rows_of(params, params))
    kept = kept / kept.sum(-1, keepdim=True)
    expected = case["filtered_probs"]
    if name == "topp05_t13":
        # Six tokens of row [0, 0] are equally likely and four fit: which, is up to the sort.
        assert kept[0, 0].count_nonzero() == expected[0, 0].count_nonzero()
        kept[0, 0], expected[0, 0] = kept[0, 0].sort().values, expected[0, 0].sort().values
    assert torch.equal(kept > 0, expected > 0)
    torch.testing.assert_close(kept, expected, rtol=1e-6, atol=1e-7)


def test_each_row_has_its_own_parameters() -> None:
    logits = torch.randn(5, 4, 48, generator=torch.Generator().manual_seed(1))
    params = [
        SamplingParams(use_sampling=False),
        SamplingParams(top_k=3),
        SamplingParams(top_k=10, temperature=0.5),
        SamplingParams(top_p=0.7),
        SamplingParams(top_k=1000),
    ]
    noise = uniform(3, 4, 5).T  # [R, K]
    together = choose(logits, *_with_noise(rows_of(*params), noise))
    for row, one in enumerate(params):
        alone = choose(logits[row : row + 1], *_with_noise(rows_of(one), noise[row : row + 1]))
        assert torch.equal(together[row : row + 1], alone)


def _with_noise(
    rows: tuple[RowSampling, FilterShape], noise: torch.Tensor
) -> tuple[RowSampling, torch.Tensor, FilterShape]:
    return rows[0], noise, rows[1]


@pytest.mark.parametrize("params", [SamplingParams(temperature=0), SamplingParams(top_k=1)])
def test_zero_temperature_and_top_1_take_the_most_likely(params: SamplingParams) -> None:
    logits = torch.randn(1, 4, 48, generator=torch.Generator().manual_seed(2))
    noise = torch.full((1, 4), 0.999999)
    tokens = choose(logits, *_with_noise(rows_of(params), noise))
    assert torch.equal(tokens, logits.argmax(-1))


def test_the_most_likely_is_the_first_of_equals() -> None:
    rows, shape = rows_of(SamplingParams(use_sampling=False))
    assert (choose(torch.zeros(1, 4, 48), rows, torch.zeros(1, 4), shape) == 0).all()


def test_draws_follow_the_kept_probabilities() -> None:
    logits = torch.tensor([2.0, 1.5, 1.0, 0.0, -1.0, -9.0]).view(1, 1, 6)
    kept = filter_probs(logits, *rows_of(SamplingParams(top_k=4)))[0, 0]  # [card]
    noise = uniform(99, n_codebooks=1, n_frames=40_000)[0]  # [n]
    counts = torch.bincount(draw(kept.expand(40_000, -1), noise), minlength=6)
    expected = kept / kept.sum() * 40_000
    assert counts[4:].sum() == 0
    chi_square = ((counts - expected)[:4] ** 2 / expected[:4]).sum()
    assert chi_square < 16.3  # 3 df, p = 0.001


def test_the_ends_of_the_noise_stay_among_the_kept() -> None:
    probs = torch.tensor([0.0, 0.3, 0.0, 0.7, 0.0])
    assert draw(probs, torch.tensor(0.0, dtype=torch.float64)) == 1
    assert draw(probs, torch.tensor((2**32 - 1) / 2**32, dtype=torch.float64)) == 3
