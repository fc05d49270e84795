"""A recipe of seconds: every stage of the real one, on nets of a few thousand weights."""

from dataclasses import replace

from musicgen.tiny.training.recipe import CodecRecipe, LanguageRecipe, Recipe, TokensRecipe

LANGUAGE = LanguageRecipe(
    minutes=10,
    max_steps=16,
    frames_per_batch=400,
    crop_frames=25,
    dim=48,
    n_heads=2,
    n_layers=2,
    ffn_dim=96,
    text_dim=32,
    text_layers=1,
    warm_up_steps=4,
    learning_rate=5e-3,
)
TOY = Recipe(
    max_duration_s=2,
    codec=CodecRecipe(
        minutes=10,
        max_steps=12,
        batch=4,
        n_filters=4,
        hidden=16,
        card=32,
        warm_latents=400,
        test_pieces=4,
    ),
    tokens=TokensRecipe(minutes=10, pieces=12, chunk=6, test_pieces=4),
    language=LANGUAGE,
    finish=replace(LANGUAGE, max_steps=4, stream=22, p_melody_switch=0.5),
)
