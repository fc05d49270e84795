"""Our model against transformers', with the same random weights.

transformers hides padded text from the cross-attention, so its text batches are row-independent as
ours are. Its melody batches are not (they pad text and melodies to the longest of the batch, which
shifts every other row), so there each of our rows is compared with transformers at batch size 1.
Neither does "no prompt" alike: a row of ours without text is a row of theirs with a zero mask.
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from musicgen import MusicGen
from musicgen.conditioning.fuser import fuse
from musicgen.config import SamplingParams
from musicgen.lm.model import LMModel
from musicgen.request_builder import GenerationRequest
from tests.musicgen.checkpoint_files import (
    CARD,
    SAMPLE_RATE_HZ,
    feature_extractor,
    save_melody_model,
    save_text_model,
)
from tests.musicgen.toy import engine_logits

CFG = 3.0
CLOSE = {"atol": 1e-5, "rtol": 1e-5}
Forward = Callable[..., Tensor]
PROMPTS = ["a calm piano", "loud fast techno with deep bass and drums", None]


@dataclass
class Pair:
    """One model twice: transformers' and ours."""

    theirs: PreTrainedModel
    ours: MusicGen

    def inputs(self, prompts: list[str | None]) -> dict[str, Tensor]:
        """What transformers takes for prompts, of which some may be missing."""
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(self.ours.info.path)
        batch = tokenizer([p or "" for p in prompts], return_tensors="pt", padding=True)
        mask = batch.attention_mask * torch.tensor([[bool(p)] for p in prompts])
        return {"input_ids": batch.input_ids, "attention_mask": mask}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("text")
    return Pair(save_text_model(folder), MusicGen.get_pretrained(str(folder), device="cpu"))


@pytest.fixture(scope="module")
def stereo(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("stereo")
    theirs = save_text_model(folder, channels=2)
    return Pair(theirs, MusicGen.get_pretrained(str(folder), device="cpu"))


@pytest.fixture(scope="module")
def melody(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("melody")
    return Pair(save_melody_model(folder), MusicGen.get_pretrained(str(folder), device="cpu"))


def their_tokens(model: PreTrainedModel, n_frames: int, **inputs: Any) -> Tensor:
    """Greedy codes [B, K, T] under guidance: what generate() hands to its codec."""
    heard: list[Tensor] = []
    decode: Callable[..., Any] = model.audio_encoder.decode

    def listen(codes: Tensor, **_: Any) -> Any:
        heard.append(codes[0])
        return SimpleNamespace(audio_values=torch.zeros(codes.shape[1], 1, 1))

    model.audio_encoder.decode = listen
    try:
        model.generate(
            **inputs, do_sample=False, guidance_scale=CFG, max_length=n_frames + n_delay(model)
        )
    finally:
        model.audio_encoder.decode = decode
    return heard[0] if len(heard) == 1 else torch.stack(heard, dim=2).flatten(1, 2)


def n_delay(model: PreTrainedModel) -> int:
    """Steps beyond the frames: the largest delay and the first, special step."""
    config = model.config.decoder
    return (config.num_codebooks - 1) // config.audio_channels + 1


def our_tokens(
    model: MusicGen, rows: list[dict[str, Any]], n_frames: int, slots: int = 4
) -> Tensor:
    """Greedy codes [B, K, T] under guidance, all rows side by side."""
    engine = model.make_engine(slots)
    sampling = SamplingParams(use_sampling=False, cfg_coef=CFG)
    for key, row in enumerate(rows):
        row = {"prompt": None, "seed": 0, **row}
        clip = GenerationRequest(str(key), n_frames=n_frames, sampling=sampling, **row)
        engine.submit(model.make_request(clip))
    codes: dict[str, Tensor] = {}
    while len(codes) < len(rows):
        codes |= {clip.key: clip.codes for clip in engine.step() if clip.codes is not None}
    return torch.stack([codes[str(key)] for key in range(len(rows))])


def random_sequence(n_rows: int, n_codebooks: int = 4, n_steps: int = 25) -> Tensor:
    """Delayed tokens [B, K, S], special ones among them."""
    generator = torch.Generator().manual_seed(5)
    sequence = torch.randint(CARD, (n_rows, n_codebooks, n_steps), generator=generator)
    sequence[:, :, 0] = CARD
    sequence[:, -1, :4] = CARD
    return sequence


@pytest.fixture(params=["reference", "engine"])
def forward(request: pytest.FixtureRequest) -> Forward:
    """(model, sequence, rows) to logits: by the model's forward pass, and by the engine's steps."""
    return {"reference": LMModel.__call__, "engine": engine_logits}[request.param]


def our_logits(
    forward: Forward, model: MusicGen, rows: list[dict[str, Any]], sequence: Tensor
) -> list[Tensor]:
    """Teacher-forced [B, K, S, card] of the conditional rows and of their null rows."""
    sampling = SamplingParams()
    clips = [
        model.make_request(
            GenerationRequest(
                "", n_frames=50, sampling=sampling, **{"prompt": None, "seed": 0, **row}
            )
        ).conditions
        for row in rows
    ]
    method = model.lm.cfg.fuse
    return [
        forward(model.lm, sequence, [fuse(clip, method, text=on, audio=on) for clip in clips])
        for on in (True, False)
    ]


@torch.no_grad()
def their_logits(
    model: PreTrainedModel, inputs: dict[str, Tensor], sequence: Tensor
) -> list[Tensor]:
    """The same from transformers: null rows have a zero mask and no melody."""
    n_rows, n_codebooks, n_steps = sequence.shape
    null = {
        "input_ids": inputs["input_ids"],
        "attention_mask": torch.zeros_like(inputs["attention_mask"]),
    }
    logits = []
    for given in (inputs, null):
        out = model(**given, decoder_input_ids=sequence.flatten(0, 1)).logits
        logits.append(out[:, -n_steps:].unflatten(0, (n_rows, n_codebooks)))
    return logits


def assert_logits_agree(ours: list[Tensor], theirs: list[Tensor]) -> None:
    for mine, yours in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, yours, **CLOSE)
    (c, u), (their_c, their_u) = ours, theirs
    guided, their_guided = u + CFG * (c - u), their_u + CFG * (their_c - their_u)
    torch.testing.assert_close(guided, their_guided, atol=5e-5, rtol=1e-5)
    assert (c - u).abs().mean() > 0.05, "the condition makes no difference: nothing is tested"


@pytest.mark.parametrize("prompts", [PROMPTS[:1], PROMPTS], ids=["one row", "padded batch"])
def test_text_logits(text: Pair, prompts: list[str | None], forward: Forward) -> None:
    sequence = random_sequence(len(prompts))
    ours = our_logits(forward, text.ours, [{"prompt": p} for p in prompts], sequence)
    assert_logits_agree(ours, their_logits(text.theirs, text.inputs(prompts), sequence))


@pytest.mark.parametrize("prompts", [PROMPTS[:1], PROMPTS], ids=["one row", "padded batch"])
def test_text_greedy_tokens(text: Pair, prompts: list[str | None]) -> None:
    ours = our_tokens(text.ours, [{"prompt": p} for p in prompts], 40)
    theirs = their_tokens(text.theirs, 40, **text.inputs(prompts))
    assert torch.equal(ours, theirs)
    assert ours.unique().numel() > 10


def test_text_continuation(text: Pair) -> None:
    wav = 0.3 * torch.randn(1, 1, 500, generator=torch.Generator().manual_seed(3))  # 16 frames
    ours = our_tokens(text.ours, [{"prompt": PROMPTS[0], "continuation": wav[0]}], 40)
    theirs = their_tokens(text.theirs, 40, **text.inputs(PROMPTS[:1]), input_values=wav)
    assert torch.equal(ours[..., :16], theirs[..., :16])
    assert torch.equal(ours, theirs)


def test_stereo_tokens_and_audio(stereo: Pair, forward: Forward) -> None:
    sequence = random_sequence(2, n_codebooks=8)
    rows, inputs = [{"prompt": p} for p in PROMPTS[:2]], stereo.inputs(PROMPTS[:2])
    theirs = their_logits(stereo.theirs, inputs, sequence)
    assert_logits_agree(our_logits(forward, stereo.ours, rows, sequence), theirs)
    tokens = our_tokens(stereo.ours, rows, 30)
    assert tokens.shape == (2, 8, 30)
    assert torch.equal(tokens, their_tokens(stereo.theirs, 30, **inputs))
    wav = stereo.theirs.generate(**inputs, do_sample=False, guidance_scale=CFG, max_length=34)
    ours = torch.stack([stereo.ours.decode(codes) for codes in tokens])
    torch.testing.assert_close(ours, wav, atol=1e-5, rtol=1e-5)


def tune(seconds: float, first: int) -> Tensor:
    """A melody [1, N] that climbs a semitone every 0.2 s."""
    time_s = torch.arange(int(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    hz = 110 * 2 ** ((first + (time_s / 0.2).long()) / 12)
    return torch.sin(2 * torch.pi * torch.cumsum(hz, 0) / SAMPLE_RATE_HZ)[None]


MIXED = [
    (PROMPTS[0], tune(2.0, 0)),
    (PROMPTS[1], tune(4.5, 3)),
    (None, tune(1.0, 5)),
    (PROMPTS[1], None),
    (None, None),
]


def mixed_rows(model: MusicGen) -> list[dict[str, Any]]:
    return [
        {
            "prompt": prompt,
            "melody_chroma": None if wav is None else model.melody_chroma(wav, SAMPLE_RATE_HZ),
        }
        for prompt, wav in MIXED
    ]


def their_melody_inputs(melody: Pair, prompt: str | None, wav: Tensor | None) -> dict[str, Tensor]:
    inputs = melody.inputs([prompt])
    if wav is not None:
        features = feature_extractor()(wav[0].numpy(), sampling_rate=SAMPLE_RATE_HZ)
        inputs["input_features"] = torch.as_tensor(features["input_features"])
    return inputs


def test_melody_chroma_equals_the_feature_extractor(melody: Pair) -> None:
    for _, wav in MIXED[:3]:
        theirs = their_melody_inputs(melody, None, wav)["input_features"][0].argmax(-1)
        ours = melody.ours.melody_chroma(wav, SAMPLE_RATE_HZ)
        assert ours.tolist() == theirs.tolist()
        assert ours.unique().numel() > 3


def test_each_melody_row_of_a_mixed_batch_has_the_logits_of_batch_size_1(
    melody: Pair, forward: Forward
) -> None:
    sequence = random_sequence(len(MIXED))
    c, u = our_logits(forward, melody.ours, mixed_rows(melody.ours), sequence)
    for row, (prompt, wav) in enumerate(MIXED):
        inputs = their_melody_inputs(melody, prompt, wav)
        their_c, their_u = their_logits(melody.theirs, inputs, sequence[row : row + 1])
        torch.testing.assert_close(c[row], their_c[0], **CLOSE)
        torch.testing.assert_close(u[row], their_u[0], **CLOSE)
    assert (c[0] - u[0]).abs().mean() > 0.05


def test_each_melody_row_of_a_mixed_batch_has_the_tokens_of_batch_size_1(melody: Pair) -> None:
    tokens = our_tokens(melody.ours, mixed_rows(melody.ours), 40, slots=len(MIXED))
    for ours, (prompt, wav) in zip(tokens, MIXED, strict=True):
        theirs = their_tokens(melody.theirs, 40, **their_melody_inputs(melody, prompt, wav))
        assert torch.equal(ours, theirs[0])


@pytest.mark.parametrize("kind", ["text", "melody"])
def test_a_mixed_batch_gives_each_row_its_own_logits(
    kind: str, text: Pair, melody: Pair, forward: Forward
) -> None:
    model = {"text": text, "melody": melody}[kind].ours
    rows = [{"prompt": p} for p in PROMPTS] if kind == "text" else mixed_rows(model)
    sequence = random_sequence(len(rows))
    together = our_logits(forward, model, rows, sequence)
    for i, row in enumerate(rows):
        alone = our_logits(forward, model, [row], sequence[i : i + 1])
        for batched, single in zip(together, alone, strict=True):
            torch.testing.assert_close(batched[i], single[0], **CLOSE)
