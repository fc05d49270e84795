"""Classifier-free guidance: the rows that a clip needs, and how their logits are mixed.

none:   one row, conditional.
single: conditional and null rows; null + coef * (conditional - null).
double: rows with text and audio, with audio only, and null (MusicGen-Style, Rouard et al. 2024);
        null + coef * (audio + beta * (full - audio) - null).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from musicgen.conditioning.fuser import ClipConditions, RowCondition, fuse
from musicgen.config import FuseMethod, GuidanceKind, SamplingParams


def guidance_rows(
    clip: ClipConditions, method: FuseMethod, guidance: GuidanceKind
) -> list[RowCondition]:
    """The 1, 2 or 3 rows of `clip`, the conditional one first and the null one last."""
    full = fuse(clip, method, text=True, audio=True)
    null = fuse(clip, method, text=False, audio=False)
    if guidance == "none":
        return [full]
    if guidance == "single":
        return [full, null]
    return [full, fuse(clip, method, text=False, audio=True), null]


@dataclass
class RowGuidance:
    """Where each of R rows finds its clip's other rows, and how strongly it is guided.

    Attributes:
        lead: The clip's conditional row, whose tokens all of its rows take: int64 [R].
        audio: The clip's row without the text: int64 [R].
        null: The clip's row without any condition: int64 [R].
        coef: Guidance strength [R]; unused where not `guided`.
        beta: Strength of the text [R]; unused where not `double`.
        guided: Whether the row's logits are mixed: bool [R].
        double: Whether they are mixed by double guidance: bool [R].
    """

    lead: Tensor
    audio: Tensor
    null: Tensor
    coef: Tensor
    beta: Tensor
    guided: Tensor
    double: Tensor

    @classmethod
    def idle(cls, n_rows: int, device: torch.device) -> "RowGuidance":
        """Rows without guidance: each leads itself and keeps its own logits."""
        own = torch.arange(n_rows, device=device)
        one = torch.ones(n_rows, device=device)
        no = torch.zeros(n_rows, dtype=torch.bool, device=device)
        return cls(own, own.clone(), own.clone(), one, one.clone(), no, no.clone())

    def set(self, rows: Sequence[int], sampling: SamplingParams) -> None:
        """Give `rows`, in the order of `guidance_rows`, to one clip."""
        kind = sampling.guidance
        lead = rows[0]
        for row in rows:
            self.lead[row].fill_(lead)
            self.guided[row].fill_(row == lead and kind != "none")
            self.double[row].fill_(row == lead and kind == "double")
        self.audio[lead].fill_(rows[1] if kind == "double" else lead)
        self.null[lead].fill_(rows[-1])
        self.coef[lead].fill_(sampling.cfg_coef)
        self.beta[lead].fill_(1.0 if sampling.cfg_coef_beta is None else sampling.cfg_coef_beta)


def mix(logits: Tensor, rows: RowGuidance, n_leads: int, *, double: bool = True) -> Tensor:
    """Guided logits float32 [n_leads, K, card] of each clip, in its lead row.

    Args:
        logits: float32 [R, K, card].
        rows: How the rows combine.
        n_leads: How many rows, from the first one, may lead a clip.
        double: Whether any of them has double guidance.
    """
    own, lead = logits[:n_leads], slice(n_leads)
    null = logits[rows.null[lead]]  # [n_leads, K, card]
    pulled = own
    if double:
        audio = logits[rows.audio[lead]]
        beta = rows.beta[lead, None, None]
        pulled = torch.where(rows.double[lead, None, None], audio + beta * (own - audio), own)
    mixed = null + rows.coef[lead, None, None] * (pulled - null)
    return torch.where(rows.guided[lead, None, None], mixed, own)
