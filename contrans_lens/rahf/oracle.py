"""The oracle of a fit: the base model whose residual stream *is* the target where answers are read.

It needs no adapter and cannot be missed, so it says what a perfect fit would do to the model's words. How far a
fitted adapter is from it, in its words, is the KL divergence of :func:`kl_to_oracle`.
"""

from collections.abc import Callable, Sequence

from jaxtyping import Bool, Float
from torch import Tensor

from contrans_lens.errors import RahfError
from contrans_lens.models.plain import PlainModel, residual_hooks
from contrans_lens.rahf.protocol import Differences
from contrans_lens.rahf.targets import check_alpha, evaluating, read_residuals
from contrans_lens.rahf.tokens import AnswerBatch, collate


def oracle_logits(
    base: PlainModel, differences: Differences, rows: Sequence[int], alpha: float | int = 5.0
) -> Float[Tensor, "token vocab"]:
    """Logits of the base while its residual stream is set to the target at every token that is read.

    At every hook point of the differences and every position that they are read on, the residual stream becomes
    ``A_base,l(t) + alpha v_l(t)``, with ``A_base`` of the base as it is. Between two hook points the blocks run on
    what was set; what they make of it is overwritten at the next one, so that words depend on the last hook point and,
    through attention, on what was set at earlier tokens. Prompts are not touched.

    Args:
        base: the whole model.
        differences: v, the rows, the hook points and the positions.
        rows: numbers of the rows to run, in one batch.
        alpha: how many times v.

    Returns:
        Logits where the differences are read, row by row. With ``where="answer"`` those at the last token of a row say
        what comes after the answer.

    Raises:
        RahfError: alpha is not finite.
        HookPointError: the model lacks a hook point.
    """
    check_alpha(alpha)
    batch = _batch(base, differences, rows)
    read = batch.reads(differences.where)
    with evaluating(base.model):
        own = read_residuals(base.model, batch, differences.hook_points, differences.where)
        target = (own + alpha * differences.of(rows).to(own)).unbind(1)
        setters = [(name, _setter(read, values)) for name, values in zip(differences.hook_points, target, strict=True)]
        with residual_hooks(base.model, setters):
            return _logits(base, batch)[read]


def kl_to_oracle(
    base: PlainModel,
    model: PlainModel,
    differences: Differences,
    alpha: float | int = 5.0,
    *,
    rows: Sequence[int] | None = None,
    batch_size: int = 16,
) -> float:
    """Mean ``KL(oracle || model)`` over the tokens that are read, in nats.

    Args:
        base: the whole base model, which the oracle is made of.
        model: the model that is compared: the base, or one with an adapter (:meth:`FittedAdapter.open`).
        differences: v, the rows, the hook points and the positions.
        alpha: how many times v.
        rows: numbers of the rows; all of them if None.
        batch_size: rows run at once.

    Raises:
        RahfError: alpha is not finite, or no rows are named.
        HookPointError: the base lacks a hook point.
    """
    total, n_tokens = 0.0, 0
    chosen = range(len(differences.rows)) if rows is None else rows
    for start in range(0, len(chosen), batch_size):
        numbers = chosen[start : start + batch_size]
        wanted = oracle_logits(base, differences, numbers, alpha).double().log_softmax(-1)
        batch = _batch(model, differences, numbers)
        with evaluating(model.model):
            found = _logits(model, batch)[batch.reads(differences.where)].double().log_softmax(-1)
        total += float((wanted.exp() * (wanted - found.to(wanted.device))).sum())
        n_tokens += len(wanted)
    if n_tokens == 0:
        raise RahfError("no rows were named; leave rows away to compare on all of them.")
    return total / n_tokens


def _setter(read: Bool[Tensor, "batch pos"], values: Float[Tensor, "token d_model"]) -> Callable[[Tensor], Tensor]:
    """Writes values at the positions that are read, and keeps the others."""

    def set_to(residual: Tensor) -> Tensor:
        changed = residual.clone()
        changed[read] = values.to(residual)
        return changed

    return set_to


def _batch(plain: PlainModel, differences: Differences, rows: Sequence[int]) -> AnswerBatch:
    return collate([differences.rows[row] for row in rows], plain.pad).to(plain.device)


def _logits(plain: PlainModel, batch: AnswerBatch) -> Float[Tensor, "batch pos vocab"]:
    logits: Tensor = plain.model(input_ids=batch.ids, attention_mask=batch.mask.long(), use_cache=False).logits
    return logits
