"""Agreement of text and audio by CLAP, as transformers has it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pipeline.audio.scores.protocol import Needs, ScoredClip, ScorerIdentity

if TYPE_CHECKING:
    from pipeline.audio.scores.protocol import Embedding


class ClapScorer:
    """Cosine of the embeddings of a clip and its prompt.

    CLAP hears at most ten seconds: longer clips are heard piece after piece, and the mean of the
    embeddings counts. (Its own feature extractor would draw a crop at random.)

    Args:
        identity: See `Scorer`.
        folder: The checkpoint: model, feature extractor, tokenizer.
    """

    def __init__(self, identity: ScorerIdentity, folder: Path) -> None:
        from transformers import AutoTokenizer, ClapFeatureExtractor, ClapModel

        self.identity = identity
        self._model: Any = ClapModel.from_pretrained(folder, local_files_only=True).float().eval()
        self._features = ClapFeatureExtractor.from_pretrained(folder, local_files_only=True)
        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.needs = Needs(int(self._features.sampling_rate), prompt=True)

    def score(self, clips: Sequence[ScoredClip]) -> list[float | None]:
        """See `Scorer`: each clip has a pass of its own, so that none depends on the others."""
        return [self._score(clip) if clip.prompt else None for clip in clips]

    @torch.inference_mode()
    def embed(self, clip: ScoredClip) -> Embedding:
        """See `Embedder`: of length 1."""
        embedding: Embedding = self._hear(clip).double().numpy()
        return embedding

    @torch.inference_mode()
    def _score(self, clip: ScoredClip) -> float:
        most = getattr(self._model.config.text_config, "max_position_embeddings", 514) - 2
        tokens = self._tokenizer(
            clip.prompt, return_tensors="pt", truncation=True, max_length=min(most, 77)
        )
        said = _unit(_pooled(self._model.get_text_features(**tokens)))
        return float(self._hear(clip) @ said)

    def _hear(self, clip: ScoredClip) -> Tensor:
        """The embedding of a clip's audio, [D]."""
        wav, most = clip.mono(self.needs.rate_hz).numpy(), int(self._features.nb_max_samples)
        found = []
        for start in range(0, len(wav), most):
            heard = self._features(
                wav[start : start + most], sampling_rate=self.needs.rate_hz, return_tensors="pt"
            )
            features = heard["input_features"].float()
            told = self._model.get_audio_features(
                input_features=features, is_longer=heard["is_longer"]
            )
            found.append(_unit(_pooled(told)))
        return _unit(torch.stack(found).mean(dim=0))


def _pooled(output: Any) -> Tensor:
    """The embedding in what transformers returns: a tensor up to version 4."""
    embedding: Tensor = output if isinstance(output, Tensor) else output.pooler_output
    first: Tensor = embedding[0]
    return first


def _unit(embedding: Tensor) -> Tensor:
    unit: Tensor = embedding / embedding.norm().clamp(min=1e-12)
    return unit
