"""The losses of RAHF (arXiv 2312.15997), over real tokens only, with labels shifted by one."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from contrans_lens.errors import RahfError
from contrans_lens.rahf.tokens import AnswerBatch

ActivityLoss = Literal["norm", "mse"]
"""``"norm"``: mean of ``||A - target||_2``, as the published code computes it. ``"mse"``: mean of the square of every
number, as the paper's figure says."""


def answer_nll(logits: Float[Tensor, "batch pos vocab"], batch: AnswerBatch) -> Float[Tensor, " batch"]:
    """Mean cross-entropy of each row's answer, nats per token: ``CE(r | p) = -1/|r| sum_t log P(r_t | p, r_<t)``.

    The logits at a position predict the token after it, so they are compared with the labels shifted by one.

    Args:
        logits: of the batch's tokens.
        batch: the rows; each has an answer.
    """
    here = batch.answer[:, 1:]
    targets = batch.ids[:, 1:][here]
    losses = functional.cross_entropy(logits[:, :-1][here].float(), targets, reduction="none")
    rows = torch.arange(len(batch.ids), device=logits.device)[:, None].expand_as(here)[here]
    summed = torch.zeros(len(batch.ids), dtype=losses.dtype, device=losses.device).index_add(0, rows, losses)
    return summed / here.sum(1)


def scit_contrast(
    match: Float[Tensor, "..."], mismatch: Float[Tensor, "..."], epsilon: float | int = 0.2
) -> Float[Tensor, "..."]:
    """The contrastive term of SCIT, from mean cross-entropies under the matching and the other instruction.

    With ``a = exp(-match)`` and ``b = exp(-mismatch)``::

        (1 - eps) (-log(a / (a + b))) + eps (-log(b / (a + b)))

    computed as softplus, so that it stays finite where a and b vanish. Equal ones give log 2 for every epsilon.

    Args:
        match: nats per token under the instruction that fits the answer.
        mismatch: under the other one.
        epsilon: label smoothing, from 0 to 1.

    Raises:
        RahfError: epsilon is outside [0, 1].
    """
    if not 0 <= epsilon <= 1:
        raise RahfError(f"epsilon={epsilon}; a number from 0 to 1 was expected.")
    gap = match - mismatch
    return (1 - epsilon) * functional.softplus(gap) + epsilon * functional.softplus(-gap)


def activity_loss(
    student: Float[Tensor, "token layer d_model"],
    target: Float[Tensor, "token layer d_model"],
    loss: ActivityLoss = "norm",
) -> Float[Tensor, ""]:
    """How far the student's residuals are from their targets, as a mean over layers and real tokens.

    ::

        norm:  mean || A_LoRA - (A_base + alpha v) ||_2
        mse:   mean (A_LoRA - (A_base + alpha v))^2, over the width, too

    Args:
        student: residuals of the model that learns, at the positions that are read.
        target: where they should go.
        loss: which of the two.

    Raises:
        RahfError: there is no such loss, or no token.
    """
    if loss not in ("norm", "mse"):
        raise RahfError(f"loss={loss!r}; 'norm' or 'mse' was expected.")
    if student.numel() == 0:
        raise RahfError("there are no answer tokens to fit; check that the answers are not empty.")
    gap = student - target
    return gap.norm(dim=-1).mean() if loss == "norm" else gap.square().mean()
