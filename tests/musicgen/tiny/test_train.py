"""The recipe from end to end at toy size: every stage learns, stops, goes on, and is exported."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    EncodecModel,
    MusicgenMelodyForConditionalGeneration,
    T5EncoderModel,
)

from musicgen import MusicGen
from musicgen.conditioning.fuser import RowCondition, fuse
from musicgen.config import SamplingParams
from musicgen.engine.linear import has_fast_bf16
from musicgen.request_builder import GenerationRequest
from musicgen.tiny.evaluation.evaluate import Evaluation, Scope
from musicgen.tiny.training.codec import (
    CodecTraining,
    batch_of,
    codec_config,
    round_trip,
    train_codec,
)
from musicgen.tiny.training.export import export, is_trained, training_figures
from musicgen.tiny.training.figures import GOALS, missed
from musicgen.tiny.training.isometry import initialise
from musicgen.tiny.training.language import (
    LEAD_IN,
    Batch,
    LanguageTraining,
    cut,
    draw,
    name_a_key,
    train_language,
)
from musicgen.tiny.training.measures import si_snr_db
from musicgen.tiny.training.recipe import Recipe, Stage, keep_recipe, what_was_made
from musicgen.tiny.training.tokens import Tokens, make_tokens
from musicgen.tiny.training.untrained import Language, new_language
from tests.musicgen.tiny.recipes import TOY


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the work of all stages and, in `tiny`, the exported model."""
    folder = tmp_path_factory.mktemp("made")
    codec = train_codec(TOY, folder)
    train, test = make_tokens(TOY, codec, folder / "tokens")
    language = train_language(TOY, train, test, folder)
    made = {"pieces_made": len(train), **what_was_made(folder)}
    export(TOY, codec, language, folder / "tiny", made)
    steps, figures = made["steps_made"], training_figures(folder / "tiny")
    assert figures["language_steps"].value == steps["language"] + steps["finish"] > 0
    assert figures["language_bits"].value == (16 if has_fast_bf16() else 32)
    return folder


@pytest.mark.long
def test_the_folder_is_a_model_for_us_and_for_transformers(made: Path) -> None:
    ours = MusicGen.get_pretrained(str(made / "tiny"), device="cpu")
    assert (ours.max_duration, ours.sample_rate, ours.frame_rate) == (2.0, 16_000, 50)
    assert is_trained(made / "tiny")
    assert sum(file.stat().st_size for file in (made / "tiny").iterdir()) < 1_000_000

    theirs, report = MusicgenMelodyForConditionalGeneration.from_pretrained(
        made / "tiny", dtype=torch.float32, output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    ids = torch.tensor([ours.text_encoder.tokenizer("C# minor, slow flute melody").input_ids])
    chroma = torch.nn.functional.one_hot(torch.arange(15)[None] % 12, 12).float()  # [1, n, 12]
    assert ours.lm.cfg.chroma is not None
    assert chroma.shape[1] == ours.lm.cfg.chroma.chroma_length
    codes = torch.randint(32, (1, 4, 9))
    provider = ours.lm.condition_provider.conditioners
    hidden = ours.text_encoder.encode("C# minor, slow flute melody")
    prefix = [
        provider["self_wav"].output_proj(chroma[0]),
        provider["description"].output_proj(hidden),
    ]
    with torch.no_grad():
        logits = ours.lm(codes, [RowCondition(prefix=torch.cat(prefix))])  # [1, K, S, card]
        expected = theirs(
            input_ids=ids, input_features=chroma, decoder_input_ids=codes.view(4, 9)
        ).logits  # [K, P + S, card]
    torch.testing.assert_close(logits[0], expected[:, -9:], atol=1e-4, rtol=1e-4)


@pytest.mark.long
def test_every_figure_of_the_evaluation_comes_out_of_the_engine(made: Path) -> None:
    model = MusicGen.get_pretrained(str(made / "tiny"), device="cpu", max_slots=4)
    few = {"pieces": 4, "seeds": 2, "long_clips": 2, "keys_per_song": 1, "voice_clips": 2}
    scope = Scope(clip_s=1.2, prompt_s=0.4, **few)
    evaluation = Evaluation(model, scope)
    table = evaluation.table()
    assert table.keys() == {*GOALS, "nats_per_token"}
    assert "in_scale_melody" in missed(table)  # it has learnt nothing yet
    names = ("in_scale", "chroma", "voice", "tempo", "continuation")
    shares = [entry.value for key, entry in table.items() if key.startswith(names)]
    assert len(shares) == 7
    assert all(0 <= share <= 1 for share in shares)
    takes = evaluation.generate(evaluation.captions())
    assert [len(clips) for clips in takes] == [4, 4]
    assert not torch.equal(takes[0][0], takes[1][0])  # another seed
    assert len(takes[0][0]) == 1.2 * 16_000


@pytest.mark.long
def test_a_run_that_was_stopped_goes_on_to_the_same_weights(made: Path, tmp_path: Path) -> None:
    whole = replace(TOY, language=replace(TOY.language, max_steps=0, full_from=1.0))
    tokens = Tokens.read([made / "tokens" / "0000.pt"])
    weights = []
    for stops in ((8,), (3, 8)):
        training_run = LanguageTraining(new_language(whole), whole)
        stage = Stage(tmp_path / str(len(stops)), "language", 1e6)
        for stop in stops:
            if (state := stage.load()) is not None:
                training_run = LanguageTraining(new_language(whole), whole)
                training_run.load(state)
            texts = training_run.tokenise(tokens.captions)
            keyed = name_a_key(tokens.captions)
            while stage.step < stop:
                training_run.step(tokens, texts, keyed, stage)
                stage.step += 1
            stage.save(training_run.state())
        weights.append(training_run.average)
    for straight, resumed in zip(*weights, strict=True):
        torch.testing.assert_close(straight, resumed, atol=1e-6, rtol=1e-5)


@pytest.mark.long
def test_a_codec_that_was_stopped_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    found = []
    for stops in ((6,), (2, 6), (4, 6)):  # codebooks are made before step 3
        stage = Stage(tmp_path / "-".join(map(str, stops)), "codec", 1e6, max_steps=12)
        for stop in stops:
            torch.manual_seed(TOY.seed)
            run = CodecTraining(EncodecModel(codec_config(TOY.codec)), TOY)
            if (state := stage.load()) is not None:
                run.load(state)
            while stage.step < stop:
                run.step(batch_of(TOY, stage.step), stage)
                stage.step += 1
            stage.save(run.state())
        assert run.quantises
        found.append(run.model.state_dict())
    for name, straight in found[0].items():
        for resumed in found[1:]:
            torch.testing.assert_close(straight, resumed[name], atol=1e-5, rtol=1e-4)


@pytest.mark.long
def test_what_is_finished_is_not_made_again(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("a finished stage must not train")

    monkeypatch.setattr(CodecTraining, "step", never)
    monkeypatch.setattr(LanguageTraining, "step", never)
    codec = train_codec(TOY, made)
    train, test = make_tokens(TOY, codec, made / "tokens")
    assert (len(train), len(test)) == (12, 4)
    train_language(TOY, train, test, made)


def test_the_codec_begins_as_nearly_the_identity() -> None:
    """At full size, before the first step; default weights give noise."""
    recipe = Recipe()
    wav = batch_of(recipe, 0)
    model = EncodecModel(codec_config(recipe.codec))
    mean = {}
    for name in ("default", "initialised"):
        if name == "initialised":
            initialise(model, wav)
        heard = round_trip(model, wav, quantised=False)
        pairs = zip(heard[:, 0], wav[:, 0], strict=True)
        mean[name] = sum(si_snr_db(ours, theirs) for ours, theirs in pairs) / len(wav)
    assert mean["default"] < -10
    assert mean["initialised"] > 2


@pytest.mark.long
def test_the_codec_learns_and_uses_its_codebooks(made: Path) -> None:
    trained = train_codec(TOY, made)
    wav = batch_of(TOY, 1000)  # [B, 1, N]: of no step
    used = torch.unique(trained.quantizer.encode(trained.encoder(wav))[0])
    assert len(used) >= 8

    model = EncodecModel(codec_config(TOY.codec))
    initialise(model, wav)
    stage = Stage(made / "again", "codec", 1e6)
    run = CodecTraining(model, replace(TOY, codec=replace(TOY.codec, plain_share=1.0)))
    losses = [run.step(wav, stage) for _ in range(12)]
    assert losses[-1] < 0.9 * losses[0]


def test_a_crop_takes_its_frames_and_begins_again_at_the_end() -> None:
    x = torch.arange(6).expand(2, 3, 6)
    found = cut(x, torch.tensor([0, 4]), 4)
    assert found[:, 2].tolist() == [[0, 1, 2, 3], [4, 5, 0, 1]]


def test_rows_are_told_what_the_recipe_says() -> None:
    keyed = torch.arange(12) < 9
    batches = [draw(TOY, keyed, step, 0.0) for step in range(200)]
    names = ("text", "melody", "empty", "first", "switch", "rows")
    text, melody, empty, first, switch, rows = (
        torch.cat([getattr(batch, name) for batch in batches]) for name in names
    )
    assert text.float().mean().item() == pytest.approx(0.45 + 0.55 * 0.8, abs=0.03)
    assert melody.float().mean().item() == pytest.approx(0.55 * 0.7, abs=0.03)
    assert not (empty & text).any()
    assert empty[~text].float().mean().item() == pytest.approx(0.5, abs=0.06)
    assert {batch.n_frames for batch in batches} == {25}
    assert set(first.tolist()) == set(range(0, 176, 7))  # 25 frames of 200
    assert (first > 0).float().mean().item() == pytest.approx(0.4 * 25 / 26, abs=0.03)
    switches = switch > 0
    assert switches.float().mean().item() == pytest.approx(0.75 * 0.45 * 0.4, abs=0.03)
    assert (text & ~melody & keyed[rows])[switches].all()
    assert (switch[switches] >= 4).all()
    assert (switch < 20).all()
    late = [draw(TOY, keyed, step, 0.9) for step in range(80)]
    assert {batch.n_frames for batch in late} == {25, 100}
    windows = torch.cat([batch.first for batch in late if batch.n_frames == 100])
    assert set(windows.tolist()) == set(range(0, 99, 7))

    finish = replace(TOY, language=replace(TOY.finish, p_text_only=0.0, p_switch=0.0))
    led = [draw(finish, keyed, step, 0.0) for step in range(200)]
    melody, switch = (torch.cat([getattr(b, name) for b in led]) for name in ("melody", "switch"))
    assert melody[switch > 0].all()
    assert (switch[melody] > 0).float().mean().item() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(("fast", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_losses_are_computed_in_bf16_where_the_cpu_is_fast_in_it(
    monkeypatch: pytest.MonkeyPatch, fast: bool, dtype: torch.dtype
) -> None:
    monkeypatch.setattr("musicgen.tiny.training.language.has_fast_bf16", lambda: fast)
    run = LanguageTraining(new_language(TOY), TOY)
    found: dict[str, set[torch.dtype]] = {"lm": set(), "text": set()}
    for name, model in run.models.items():
        for module in model.modules():
            if isinstance(module, nn.Linear):
                module.register_forward_hook(lambda _m, _i, out, n=name: found[n].add(out.dtype))
    n_frames, chroma = TOY.piece_frames, run.language.lm.cfg.chroma
    assert chroma is not None
    tokens = Tokens(
        codes=torch.zeros(2, TOY.codec.n_codebooks, n_frames, dtype=torch.long),
        chroma=torch.ones(2, 2 * chroma.chroma_length, dtype=torch.long),
        onsets=torch.zeros(2, n_frames, dtype=torch.bool),
        captions=["C minor, slow flute melody", "fast organ melody"],
    )
    said = run.evaluate(tokens)
    assert found == {"lm": {dtype}, "text": {dtype}}
    assert said["dtype"] == ("bf16" if fast else "fp32")


def test_captions_that_name_a_key_are_known() -> None:
    captions = ["Bb minor, fast flute tune", "fast flute tune", "C# major, tune", "tune, C major"]
    assert name_a_key(captions).tolist() == [True, False, True, False]


@pytest.mark.long
def test_music_before_a_switch_is_heard_and_not_judged(made: Path) -> None:
    language = replace(TOY.language, jump_weight=4.0)
    exact = replace(TOY, autocast=False, language=language)
    run = LanguageTraining(new_language(exact), exact)
    tokens = Tokens.read([made / "tokens" / "0000.pt"])
    texts, rows = run.tokenise(tokens.captions), torch.tensor([0, 1])
    none, yes = torch.zeros(2, dtype=torch.long), torch.ones(2, dtype=torch.bool)
    batch = Batch(rows, none, 60, yes, ~yes, ~yes, torch.tensor([40, 0]))
    weights = run.weights(tokens, batch)  # [B, K, T]
    assert (weights[0, :, :40] == 0).all()
    assert (weights[0, :, 40:] >= 2).all()  # an opening: the first second
    assert (weights[0, :, 40:43] >= 8).all()
    assert (weights[0, :, 43:] <= 6).all()
    assert (weights[1, :, 50:] < weights[1, :, :50].max()).all()
    within = run.weights(tokens, replace(batch, first=torch.tensor([7, 14])))
    assert (within[1, :, :LEAD_IN] == 0).all()
    assert (within[1, :, LEAD_IN:] >= 1).all()
    assert (within[0, :, 40:] >= 1).all()
    mixed = tokens.codes[:2, :, :60].clone()
    mixed[0, :, :40] = tokens.codes[1, :, :40]
    with torch.no_grad():
        losses = run.losses(tokens, texts, batch, weights)
        wanted = run.language.lm.compute_loss(
            mixed, run.conditions(tokens, texts, batch), weights
        ).per_codebook
    torch.testing.assert_close(losses, wanted)


@pytest.mark.long
def test_the_loss_reads_conditions_as_the_engine_lays_them_out(made: Path) -> None:
    model = MusicGen.get_pretrained(str(made / "tiny"), device="cpu")
    words: Any = model.text_encoder
    trained = T5EncoderModel(words.model.config).eval()  # as the training runs it
    trained.load_state_dict(words.model.state_dict())
    run = LanguageTraining(
        Language(model.lm, trained, words.tokenizer), replace(TOY, autocast=False)
    )
    tokens = Tokens.read([made / "tokens" / "0000.pt"])
    #        caption    melody       like an empty prompt
    told = [(True, False, False), (False, True, False), (False, True, True), (False, False, False)]
    text, melody, empty = (torch.tensor(column) for column in zip(*told, strict=True))
    rows, none = torch.tensor([0, 1, 1, 2]), torch.zeros(4, dtype=torch.long)
    first = torch.tensor([0, 35, 35, 0])
    batch = Batch(rows, first, 100, text, melody, empty, none)
    with torch.no_grad():
        found = run.conditions(tokens, run.tokenise(tokens.captions), batch)
    for index, (keeps_text, keeps_melody, is_empty) in enumerate(told):
        row = int(rows[index])
        later = tokens.chroma[row, 5:20]  # 35 frames of the codec
        clip = model.make_request(
            GenerationRequest(
                "x",
                prompt=None if is_empty else tokens.captions[row],
                melody_chroma=later if keeps_melody else None,
                n_frames=100,
                seed=0,
                sampling=SamplingParams(),
            )
        ).conditions
        wanted = fuse(clip, "prepend", text=keeps_text or is_empty, audio=keeps_melody).prefix
        torch.testing.assert_close(found[index].prefix, wanted, atol=1e-5, rtol=1e-5)


def test_stages_go_on_under_their_own_recipe_alone(tmp_path: Path) -> None:
    keep_recipe(TOY, tmp_path / "work")
    keep_recipe(TOY, tmp_path / "work")
    with pytest.raises(SystemExit, match="the recipe has changed since these stages were begun"):
        keep_recipe(replace(TOY, seed=7), tmp_path / "work")
