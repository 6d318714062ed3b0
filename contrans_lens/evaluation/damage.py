"""What an intervention costs on neutral text: distance from the unsteered model, and perplexity.

At every position whose next token is real (BOS, or the first token of a text without BOS, is never
predicted)::

    KL_t  = sum_x p(x | <t) (log p(x | <t) - log q(x | <t))     p unsteered, q steered, nats per token
    TV_t  = 1/2 sum_x |p(x | <t) - q(x | <t)|                   in [0, 1]
    NLL_t = -log q(x_t | <t)

and whether the most probable token is another one.

Means are over all tokens of all texts; their intervals resample texts, since tokens of one text are not
independent.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from contrans_lens.errors import EvaluationError
from contrans_lens.evaluation.cells import steering
from contrans_lens.evaluation.intervals import weighted_mean_cis
from contrans_lens.evaluation.meter import DamageMeter, DamageTotals, warn_of_unseen_damage
from contrans_lens.interventions import Edit
from contrans_lens.models import HookedModel

_LARGEST_EXPONENT = 700.0  # exp() beyond this is not a finite float


@dataclass(frozen=True)
class Damage:
    """Damage of one intervention on neutral text. Intervals are None where one text is all there is."""

    kl: float
    """KL(unsteered || steered), mean over tokens, nats per token."""
    kl_ci: tuple[float, float] | None
    """Its interval over texts."""
    kl_p95: float
    """95th percentile of the KL over tokens."""
    tv: float
    """Total variation between the two next-token distributions, mean over tokens, in [0, 1]."""
    tv_ci: tuple[float, float] | None
    """Its interval over texts."""
    tv_p95: float
    """95th percentile of the total variation over tokens."""
    top_changed: float
    """Share of the tokens at which another token is the most probable one."""
    top_changed_ci: tuple[float, float] | None
    """Its interval over texts."""
    nll: float
    """Mean negative log-likelihood of the text under the steered model, nats per token."""
    nll_ci: tuple[float, float] | None
    """Its interval over texts."""
    perplexity: float
    """``exp(nll)``."""
    perplexity_ci: tuple[float, float] | None
    """Its interval over texts."""
    unsteered_perplexity: float
    """Perplexity of the same texts under the unsteered model."""
    n_tokens: int
    """Predicted tokens behind the means."""
    n_texts: int
    """Texts behind them."""
    truncated_texts: int
    """Texts of which only the beginning was used."""
    kl_per_text: Float[Tensor, " text"] = field(repr=False, compare=False)
    """Mean KL of each text, float64."""
    nll_per_text: Float[Tensor, " text"] = field(repr=False, compare=False)
    """Mean negative log-likelihood of each text, float64."""

    def to_dict(self) -> dict[str, Any]:
        """The scalars as plain JSON values; intervals as ``[low, high]`` or None."""
        scalars = {name: value for name, value in vars(self).items() if not isinstance(value, Tensor)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in scalars.items()}


def damage(
    model: HookedModel,
    texts: Sequence[str],
    interventions: Edit | Sequence[Edit] = (),
    *,
    max_tokens: int | None = None,
    prompt_tokens: int | None = None,
    token_budget: int | None = None,
) -> Damage:
    """Damage of interventions on neutral text.

    Args:
        model: the target model.
        texts: neutral texts.
        interventions: what is done to the residual stream, together.
        max_tokens: use at most this many tokens of each text; the model's context if None.
        prompt_tokens: take the first so many tokens of each text (BOS included) for its prompt, and measure what
            follows; needed where interventions begin at the end of the prompt. None: everything is measured.
        token_budget: most tokens in one forward pass; chosen by device if None.

    Raises:
        EvaluationError: a text with nothing to predict, or logits that are not finite.
        TextError: no texts, or an empty one.
        InterventionError: an intervention does not fit the model.
    """
    warn_of_unseen_damage((interventions,) if isinstance(interventions, Edit) else interventions, prompt_tokens)
    meter = DamageMeter(model, texts, max_tokens=max_tokens, prompt_tokens=prompt_tokens, token_budget=token_budget)
    return report_damage(meter, meter.totals(None, within=steering(model, interventions)))[0]


def damage_vectors(
    model: HookedModel,
    texts: Sequence[str],
    hook_point: str,
    additions: Float[Tensor, "vector d_model"],
    *,
    max_tokens: int | None = None,
    token_budget: int | None = None,
    fan_out: bool | None = None,
) -> list[Damage]:
    """Damage of many vectors, each added alone at every position of one hook point.

    The same numbers as :func:`damage` with one absolute addition at a time; vectors are stacked as batch
    rows, what lies before the hook point is computed once per text, and so are the unsteered
    log-probabilities.

    Args:
        model: the target model.
        texts: neutral texts.
        hook_point: where the vectors are added.
        additions: the vectors in the residual's own units, strength included, ``[vector, d_model]``.
        max_tokens: use at most this many tokens of each text; the model's context if None.
        token_budget: most tokens in one forward pass; chosen by device if None.
        fan_out: share the part before the hook point between vectors; None finds out whether the model stands
            it.

    Raises:
        HookPointError: the model has no such hook point.
        EvaluationError: as :func:`damage`; or additions that are not finite or of another width.
    """
    meter = DamageMeter(model, texts, hook_point, max_tokens=max_tokens, token_budget=token_budget, fan_out=fan_out)
    return report_damage(meter, meter.totals(additions))


def damage_cells(
    model: HookedModel,
    texts: Sequence[str],
    additions: Mapping[str, Float[Tensor, "_ d_model"]],
    *,
    max_tokens: int | None = None,
    token_budget: int | None = None,
    fan_out: bool | None = None,
) -> dict[str, list[Damage]]:
    """Damage of the cells of a sweep: vectors at several hook points, each added alone.

    The same numbers as :func:`damage_vectors` at one hook point after the other, but texts are tokenised once and the
    unsteered model is run on each of them once, for all hook points.

    Args:
        model: the target model.
        texts: neutral texts.
        additions: by hook point, vectors in the residual's own units, strength included, ``[vector, d_model]``.
        max_tokens: use at most this many tokens of each text; the model's context if None.
        token_budget: most tokens in one forward pass; chosen by device if None.
        fan_out: share the part before a hook point between vectors; None finds out whether the model stands it.

    Returns:
        By hook point, one :class:`Damage` per vector.

    Raises:
        HookPointError: the model has no such hook point.
        EvaluationError: no cells; or as :func:`damage_vectors`.
    """
    names = list(additions)
    meter = DamageMeter(model, texts, names, max_tokens=max_tokens, token_budget=token_budget, fan_out=fan_out)
    return {name: report_damage(meter, totals) for name, totals in meter.cell_totals(additions).items()}


def report_damage(meter: DamageMeter, totals: DamageTotals) -> list[Damage]:
    """Means, percentiles and intervals of what a meter measured, one :class:`Damage` per vector or cell.

    Raises:
        EvaluationError: a vector's totals are not finite, or the meter was made without details.
    """
    return list(_reports(meter, totals))


def _reports(meter: DamageMeter, totals: DamageTotals) -> Iterator[Damage]:
    finite = (totals.kl + totals.nll).isfinite()
    if not bool(finite.all()):
        vector, text = (~finite).nonzero()[0].tolist()
        raise EvaluationError(
            f"the logits of text {text} under vector {vector} hold NaN or infinity. Lower the "
            "strength or use a wider dtype."
        )
    if totals.tv is None or totals.token_tv is None or totals.changed is None:
        raise EvaluationError("the meter was made without details, which a report needs; make it with them.")
    counts = meter.counts.double()
    kinds = torch.stack([totals.kl, totals.nll, totals.tv, totals.changed])
    means = kinds.sum(2) / counts.sum()
    intervals: list[tuple[float, float] | None] = [None] * (4 * len(totals.kl))
    if len(counts) > 1:
        intervals = [(each.low, each.high) for each in weighted_mean_cis(kinds.flatten(0, 1).T, counts)]
    kl_p95, tv_p95 = (each.quantile(0.95, dim=1).tolist() for each in (totals.token_kl, totals.token_tv))
    for vector in range(len(totals.kl)):
        kl, nll, tv, changed = means[:, vector].tolist()
        kl_ci, nll_ci, tv_ci, changed_ci = intervals[vector :: len(totals.kl)]
        yield Damage(
            kl=kl,
            kl_ci=kl_ci,
            kl_p95=kl_p95[vector],
            tv=tv,
            tv_ci=tv_ci,
            tv_p95=tv_p95[vector],
            top_changed=changed,
            top_changed_ci=changed_ci,
            nll=nll,
            nll_ci=nll_ci,
            perplexity=_exp(nll),
            perplexity_ci=None if nll_ci is None else (_exp(nll_ci[0]), _exp(nll_ci[1])),
            unsteered_perplexity=_exp(meter.unsteered_nll),
            n_tokens=int(counts.sum()),
            n_texts=len(counts),
            truncated_texts=meter.truncated_texts,
            kl_per_text=totals.kl[vector] / counts,
            nll_per_text=totals.nll[vector] / counts,
        )


def _exp(nll: float) -> float:
    return math.exp(min(nll, _LARGEST_EXPONENT))
