"""The settings of a model under the keys of AudioCraft's `xp.cfg`, whatever its checkpoint's
layout."""

from typing import Any

from musicgen.checkpoints.describe import ModelInfo
from musicgen.config import LMConfig

GUIDANCE = 3.0  # of all released models


class Settings(dict[str, Any]):
    """A section of settings, whose values are items and attributes."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the settings have no {name!r}; there are {list(self)}") from None


def reference_settings(info: ModelInfo, lm: LMConfig) -> Settings:
    """What AudioCraft's `xp.cfg` says about such a model: a copy, to be read."""
    audio = {"melody": {"model": "chroma_stem"}, "style": {"model": "style"}}.get(info.kind)
    conditioners = {"description": {"model": "t5"}} | ({"self_wav": audio} if audio else {})
    text_only = ["description"] if lm.fuse == "cross" else []
    prepended = [] if lm.fuse == "cross" else list(reversed(conditioners))
    settings: Settings = _sections(
        {
            "sample_rate": info.sample_rate_hz,
            "channels": info.channels,
            "dataset": {"segment_duration": info.max_duration_s},
            "compression_model_n_q": info.codec_n_q,
            "interleave_stereo_codebooks": {"use": info.channels == 2},
            "lm_model": "transformer_lm",
            "transformer_lm": {
                "dim": lm.dim,
                "num_heads": lm.n_heads,
                "num_layers": lm.n_layers,
                "hidden_scale": lm.ffn_dim / lm.dim,
                "n_q": lm.n_codebooks,
                "card": lm.card,
            },
            "codebooks_pattern": {"modeling": "delay", "delay": {"delays": list(lm.delays)}},
            "classifier_free_guidance": {"inference_coef": GUIDANCE},
            "conditioners": conditioners,
            "fuser": {"cross": text_only, "prepend": prepended, "sum": []},
        }
    )
    return settings


def _sections(value: Any) -> Any:
    if isinstance(value, dict):
        return Settings({key: _sections(inner) for key, inner in value.items()})
    return value
