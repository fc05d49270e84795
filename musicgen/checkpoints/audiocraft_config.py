"""Translates the YAML in AudioCraft's checkpoints to our configuration and transformers' EnCodec's.

What a MusicGen is made of is translated; a switch that is set to what no MusicGen has is an error
that names it. Free of torch.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from musicgen.checkpoints import limits
from musicgen.checkpoints.audiocraft import SELF_WAV, TEXT_PROJECTION, Package
from musicgen.checkpoints.errors import CheckpointError
from musicgen.checkpoints.hub import POINTER
from musicgen.config import ChromaConfig, FuseMethod, LMConfig, StyleConfig
from musicgen.registry import AUDIOGEN

# What our transformer is, and what AudioCraft's is where the entry is absent. It has more switches;
# no released MusicGen uses them.
LM_SWITCHES: dict[str, tuple[Any, Any]] = {
    "activation": ("gelu", "relu"),
    "norm_first": (True, False),
    "norm": ("layer_norm", "layer_norm"),
    "bias_ff": (False, True),
    "bias_attn": (False, True),
    "bias_proj": (False, True),
    "causal": (True, False),
    "positional_embedding": ("sin", "sin"),
    "max_period": (10_000, 10_000),
    "positional_scale": (1, 1),
    "xpos": (False, False),
    "layer_scale": (None, None),
    "qk_layer_norm": (False, False),
    "qk_layer_norm_cross": (False, False),
    "past_context": (None, None),
    "kv_repeat": (1, 1),
}
# Everything that a chromagram may be told, and the only values of what changes nothing here.
CHROMA_ENTRIES = {
    *("sample_rate", "n_chroma", "radix2_exp", "argmax", "match_len_on_eval", "eval_wavs"),
    *("n_eval_wavs", "cache_path", "winhop", "winlen", "nfft", "norm"),
}
DECODER_ENTRIES = {"trim_right_ratio", "final_activation", "final_activation_params"}
SAME_CODEC = "//pretrained/facebook/encodec_32khz"
STYLE_SCALES = {"xsmall": (256, 8, 4), "default": (512, 8, 8), "large": (1024, 16, 24)}


@dataclass(frozen=True)
class LMSettings:
    """The configuration in the language model's file.

    Attributes:
        lm: Shape of the model.
        text_encoder: Name of the T5.
        sample_rate_hz: Of the audio.
        channels: Of the audio.
        max_duration_s: Longest window.
        codec_n_q: Codebooks of the codec that are used; None: all.
        codec: The EnCodec that it was trained on, as AudioCraft refers to it, or None.
        is_audiogen: Whether it is an AudioGen, whose windows have a stride of their own.
    """

    lm: LMConfig
    text_encoder: str
    sample_rate_hz: int
    channels: int
    max_duration_s: float
    codec_n_q: int | None
    codec: str | None
    is_audiogen: bool


def read_lm_settings(package: Package) -> LMSettings:
    """Translates the YAML of `state_dict.bin`."""
    try:
        return _lm_settings(package)
    except CheckpointError:
        raise
    except ValueError as error:  # the shape's own checks
        raise CheckpointError(f"{package.path}: xp.cfg: {error}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{package.path}: xp.cfg lacks or garbles {error}; it is not that of a MusicGen"
        ) from error


def _lm_settings(package: Package) -> LMSettings:
    cfg, where = package.cfg, package.path
    if (kind := cfg.get("lm_model", "transformer_lm")) != "transformer_lm":
        raise CheckpointError(f"{where}: lm_model={kind!r}, only 'transformer_lm' is known")
    transformer = cfg["transformer_lm"]
    limits.check(where, "transformer_lm", transformer, limits.TRANSFORMER_LM)
    for name, (known, absent) in LM_SWITCHES.items():
        if (found := transformer.get(name, absent)) != known:
            told = (
                "" if name in transformer else " (it is absent, and that is AudioCraft's default)"
            )
            raise CheckpointError(
                f"{where}: transformer_lm.{name}={found!r}{told}, only {known!r} is known"
            )
    stereo = cfg.get("interleave_stereo_codebooks") or {}
    if stereo.get("use") and stereo.get("per_timestep"):
        raise CheckpointError(f"{where}: stereo interleaved per time step is not known")
    sample_rate_hz = limits.whole(where, "sample_rate", cfg["sample_rate"], limits.RATE_HZ)
    duration_s = limits.seconds(
        where, "dataset.segment_duration", cfg["dataset"]["segment_duration"]
    )
    conditioners = {k: v for k, v in cfg["conditioners"].items() if k != "args"}
    if conditioners["description"]["model"] != "t5" or not {"description", "self_wav"} >= set(
        conditioners
    ):
        raise CheckpointError(
            f"{where}: its conditioners are {', '.join(conditioners)}; only a T5 description and "
            "self_wav are known"
        )
    if conditioners["description"]["t5"].get("normalize_text"):
        raise CheckpointError(
            f"{where}: conditioners.description.t5.normalize_text=True, only False is known: "
            "prompts are read as they are written"
        )
    audio = conditioners.get("self_wav") or {"model": None}
    lm = LMConfig(
        dim=transformer["dim"],
        n_heads=transformer["num_heads"],
        n_layers=transformer["num_layers"],
        ffn_dim=_ffn_dim(transformer, where),
        n_codebooks=transformer["n_q"],
        card=transformer["card"],
        delays=_delays(cfg, where),
        text_dim=package.state[f"{TEXT_PROJECTION}.weight"].shape[1],
        fuse=_fuse_method(cfg, where),
        chroma=_chroma(audio, duration_s, where) if audio["model"] == "chroma_stem" else None,
        style=_style(package, audio, sample_rate_hz) if audio["model"] == "style" else None,
    )
    if audio["model"] not in (None, "chroma_stem", "style"):
        raise CheckpointError(f"{where}: self_wav is a {audio['model']!r}, which is not known")
    return LMSettings(
        lm=lm,
        text_encoder=str(conditioners["description"]["t5"]["name"]),
        sample_rate_hz=sample_rate_hz,
        channels=limits.whole(
            where, "channels", cfg.get("channels", 2 if stereo.get("use") else 1), limits.CHANNELS
        ),
        max_duration_s=duration_s,
        codec_n_q=cfg.get("compression_model_n_q"),
        codec=_trained_on(cfg),
        is_audiogen=_is_audiogen(cfg, sample_rate_hz),
    )


def _ffn_dim(transformer: dict[str, Any], where: Path) -> int:
    scale = transformer.get("hidden_scale", 4)
    if type(scale) not in (int, float) or not 0 < scale <= 64:
        raise CheckpointError(
            f"{where}: transformer_lm.hidden_scale={scale!r} must be a number, more than 0 and at "
            "most 64"
        )
    return int(scale * transformer["dim"])


def _trained_on(cfg: dict[str, Any]) -> str | None:
    """The EnCodec that the language model was trained on, where it is one of the hub's."""
    named = cfg.get("compression_model_checkpoint")
    return named if isinstance(named, str) and named.startswith(POINTER) else None


def _is_audiogen(cfg: dict[str, Any], sample_rate_hz: int) -> bool:
    """By the solver that trained it; without that entry, by the sample rate."""
    solver = cfg.get("solver")
    return sample_rate_hz == AUDIOGEN.sample_rate_hz if solver is None else solver == "audiogen"


def _delays(cfg: dict[str, Any], where: Path) -> tuple[int, ...]:
    pattern = cfg.get("codebooks_pattern") or {}
    n_codebooks = cfg["transformer_lm"]["n_q"]
    kind = pattern.get("modeling") or cfg["transformer_lm"].get("q_modeling")
    delay = pattern.get("delay") or {}
    if kind != "delay" or delay.get("flatten_first") or delay.get("empty_initial"):
        raise CheckpointError(
            f"{where}: codebooks follow {kind!r} with {delay}; only the plain delay pattern is "
            "known"
        )
    delays = delay.get("delays")
    if delays is None:
        delays = list(range(n_codebooks))
    return limits.delays(where, "codebooks_pattern.delay.delays", delays, n_codebooks)


def _fuse_method(cfg: dict[str, Any], where: Path) -> FuseMethod:
    fuser = cfg["fuser"]
    cross, prepend = fuser.get("cross") or [], fuser.get("prepend") or []
    other = [
        name for name in ("sum", "input_interpolate", "cross_attention_pos_emb") if fuser.get(name)
    ]
    if other or (cross, sorted(prepend)) not in (
        (["description"], []),
        ([], ["description"]),
        ([], ["description", "self_wav"]),
    ):
        raise CheckpointError(
            f"{where}: conditions enter by cross={cross}, prepend={prepend}, {', '.join(other)}; "
            "known are the description by cross-attention, or prepended with self_wav"
        )
    return "cross" if cross else "prepend"


def _chroma(audio: dict[str, Any], duration_s: float, where: Path) -> ChromaConfig:
    chroma = audio["chroma_stem"]
    if not chroma.get("argmax", False):
        raise CheckpointError(f"{where}: a chroma without argmax is not known")
    limits.check(where, "conditioners.self_wav.chroma_stem", _given(chroma), limits.CHROMA)
    n_fft, rate = 2 ** int(chroma["radix2_exp"]), int(chroma["sample_rate"])
    hop = int(chroma.get("winhop") or n_fft // 4)
    fixed: dict[str, tuple[Any, ...]] = {
        "nfft": (None, n_fft),
        "winlen": (None, n_fft),
        "norm": (None, math.inf),
    }
    for name in chroma.keys() - CHROMA_ENTRIES:
        fixed[name] = ()
    for name, known in fixed.items():
        if (found := chroma.get(name)) not in known and (name in chroma or known):
            raise CheckpointError(
                f"{where}: conditioners.self_wav.chroma_stem.{name}={found!r} is not known"
            )
    return ChromaConfig(
        n_fft=n_fft,
        hop_length=hop,
        n_chroma=int(chroma["n_chroma"]),
        chroma_length=1 + int(rate * duration_s) // hop,
        sample_rate_hz=rate,
    )


def _style(package: Package, audio: dict[str, Any], sample_rate_hz: int) -> StyleConfig:
    style, state = audio["style"], package.state
    where = "conditioners.self_wav.style"
    limits.check(package.path, where, _given(style), limits.STYLE)
    scale = style.get("transformer_scale", "default")
    plain = style.get("batch_norm", True) and not style.get("use_middle_of_segment", False)
    if scale not in STYLE_SCALES or not plain or not style.get("n_q_out", 6):
        raise CheckpointError(
            f"{package.path}: a style reader of scale {scale!r} without transformer, batch norm or "
            f"quantiser, or one that reads the middle, is not known; scales: {set(STYLE_SCALES)}"
        )
    dim, n_heads, n_layers = STYLE_SCALES[scale]
    heard = style["model_name"]
    known: dict[str, Any] = {}
    if heard == "encodec":
        own = _trained_on(package.cfg) or SAME_CODEC
        if (named := style["encodec_checkpoint"]) != own:
            raise CheckpointError(
                f"{package.path}: {where}.encodec_checkpoint={named!r}, but styles are heard by "
                f"the model's own EnCodec, {own!r}; no other is known"
            )
        known |= {
            "features_name": str(style["encodec_checkpoint"]),
            "feature_bins": state[f"{SELF_WAV}embed.0.weight"].shape[0],
            "feature_rate_hz": 50,
            "feature_sample_rate_hz": sample_rate_hz,
        }
    else:
        known["feature_dim"] = state[f"{SELF_WAV}embed.weight"].shape[1]
    return StyleConfig(
        dim=dim,
        n_heads=n_heads,
        n_layers=n_layers,
        ffn_dim=4 * dim,
        n_codebooks=int(style.get("n_q_out", 6)),
        bins=int(style.get("bins", 1024)),
        eval_q=int(style.get("eval_q", 3)),
        ds_factor=int(style.get("ds_factor", 15)),
        excerpt_length_s=float(style.get("length", 3.0)),
        features=heard,
        encodec_n_q=int(style.get("encodec_n_q", 4)),
        sample_rate_hz=int(style.get("sample_rate", sample_rate_hz)),
        **known,
    )


def _given(section: dict[str, Any]) -> dict[str, Any]:
    """The entries of a section that are not null."""
    return {name: value for name, value in section.items() if value is not None}


def codec_config(package: Package) -> dict[str, Any]:
    """The YAML of `compression_state_dict.bin` as transformers' EncodecConfig."""
    try:
        return _codec_config(package.cfg, package.path)
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{package.path}: xp.cfg lacks or garbles {error}; it is not that of an EnCodec"
        ) from error


def _codec_config(cfg: dict[str, Any], where: Path) -> dict[str, Any]:
    encodec, seanet, rvq = cfg["encodec"], cfg["seanet"], cfg["rvq"]
    decoder, encoder = seanet.get("decoder") or {}, seanet.get("encoder") or {}
    limits.check(where, "seanet", seanet, limits.SEANET)
    limits.check(where, "rvq", rvq, limits.RVQ)
    alpha = (seanet.get("activation_params") or {}).get("alpha", 1.0)
    for side, entries in (("encoder", encoder), ("decoder", decoder)):
        for name in entries.keys() - DECODER_ENTRIES:
            raise CheckpointError(
                f"{where}: seanet.{side}.{name}={entries[name]!r}: settings of one side alone are "
                "not known"
            )
    known = {
        "compression_model": (cfg.get("compression_model", "encodec"), "encodec"),
        "seanet.norm": (seanet["norm"], "weight_norm"),
        "encodec.autoencoder": (encodec.get("autoencoder", "seanet"), "seanet"),
        "encodec.quantizer": (encodec.get("quantizer", "rvq"), "rvq"),
        "encodec.sample_rate": (encodec.get("sample_rate", cfg["sample_rate"]), cfg["sample_rate"]),
        "encodec.channels": (encodec.get("channels", cfg["channels"]), cfg["channels"]),
        "seanet.channels": (seanet.get("channels", cfg["channels"]), cfg["channels"]),
        "seanet.norm_params": (seanet.get("norm_params") or {}, {}),
        "seanet.activation": (seanet["activation"], "ELU"),
        "seanet.activation_params.alpha": (alpha, 1.0),
        "seanet.decoder.final_activation": (decoder.get("final_activation"), None),
        "seanet.disable_norm_outer_blocks": (seanet.get("disable_norm_outer_blocks", 0), 0),
    }
    for name, (found, wanted) in known.items():
        if found != wanted:
            raise CheckpointError(f"{where}: {name}={found!r}, only {wanted!r} is known")
    sample_rate_hz = limits.whole(where, "sample_rate", cfg["sample_rate"], limits.RATE_HZ)
    ratios = limits.ratios(where, "seanet.ratios", seanet["ratios"])
    causal = seanet.get("causal", encodec["causal"])
    if type(causal) is not bool:
        raise CheckpointError(f"{where}: seanet.causal={causal!r} must be true or false")
    frame_rate_hz = math.ceil(sample_rate_hz / math.prod(ratios))
    n_bits = math.ceil(math.log2(rvq["bins"]))
    return {
        "sampling_rate": sample_rate_hz,
        "audio_channels": int(cfg["channels"]),
        "normalize": bool(encodec.get("renormalize", False)),
        "num_filters": seanet["n_filters"],
        "hidden_size": seanet["dimension"],
        "codebook_size": rvq["bins"],
        "upsampling_ratios": ratios,
        "num_residual_layers": seanet["n_residual_layers"],
        "num_lstm_layers": seanet["lstm"],
        "kernel_size": seanet["kernel_size"],
        "residual_kernel_size": seanet["residual_kernel_size"],
        "last_kernel_size": seanet["last_kernel_size"],
        "dilation_growth_rate": seanet["dilation_base"],
        "compress": seanet["compress"],
        "use_causal_conv": causal,
        "use_conv_shortcut": not seanet["true_skip"],
        "pad_mode": seanet["pad_mode"],
        "trim_right_ratio": decoder.get("trim_right_ratio", 1.0),
        # kbit/s of all codebooks, half a bit more: transformers divides and rounds down.
        "target_bandwidths": [(frame_rate_hz * n_bits * rvq["n_q"] + 0.5) / 1000],
    }
