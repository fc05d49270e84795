"""The model that a replica loads: the driver's, to the byte."""

from dataclasses import replace

import torch

from musicgen.checkpoints.describe import TINY
from musicgen.model import MusicGen
from pipeline.config import JobConfig
from pipeline.replica.malloc import keep_freed_memory
from pipeline.replica.messages import ReplicaSettings


def load_model(settings: ReplicaSettings, device: str, dtype: str) -> MusicGen:
    """The checkpoint of the job, which must be the driver's to the byte."""
    config, info = settings.config, settings.info
    if device == "cpu":
        keep_freed_memory()
    is_folder = info.revision is None and info.name != TINY
    source = replace(
        config.model.source,
        name=info.path if is_folder else info.name,  # a relative path is relative to the driver
        revision=info.revision or config.model.revision,
    )
    model = MusicGen.get_pretrained(
        source, device, dtype, keep_lm=False, repeatable=config.engine.repeatable
    )
    if model.info.weights_hash != info.weights_hash:
        raise RuntimeError(
            f"{model.info.path} on this node holds other weights ({model.info.weights_hash}) than "
            f"on the driver's ({info.weights_hash}): clips would not be what their rows say; "
            "give every node the same checkpoint, or name a --revision"
        )
    if info.style is not None:
        wanted, own = config.generation, info.style
        model.set_style_conditioner_params(
            eval_q=own.eval_q if wanted.style_eval_q is None else wanted.style_eval_q,
            excerpt_length=(
                own.excerpt_length_s if wanted.style_excerpt_s is None else wanted.style_excerpt_s
            ),
        )
    return model


def pick_device(config: JobConfig) -> str:
    if config.engine.device == "cpu":
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    if config.engine.device == "cuda":
        raise RuntimeError("device=cuda, but this actor sees no GPU; set --gpus-per-replica 1")
    return "cpu"


def pick_dtype(config: JobConfig, device: str) -> str:
    if config.engine.dtype != "auto":
        return config.engine.dtype
    return "fp16" if device == "cuda" else "fp32"
