"""What an intervention costs on neutral text: KL to the unsteered model, and perplexity.

At every position whose next token is real (BOS, or the first token of a text without BOS, is never
predicted)::

    KL_t  = sum_x p(x | <t) (log p(x | <t) - log q(x | <t))     p unsteered, q steered, nats per token
    NLL_t = -log q(x_t | <t)

Means are over all tokens of all texts; their intervals resample texts, since tokens of one text are not
independent. Log-probabilities and sums over the vocabulary are in float32 (float64 where the model is), sums
over tokens in float64. The unsteered log-probabilities are computed once per text and kept while they fit
into memory.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from contrans_lens.errors import EvaluationError
from contrans_lens.evaluation.continuations import plan_texts
from contrans_lens.evaluation.intervals import weighted_mean_cis
from contrans_lens.evaluation.scores import check_cells, log_probabilities, steering
from contrans_lens.evaluation.stacked import StackedRuns, Within
from contrans_lens.interventions import Intervention
from contrans_lens.models import HookedModel

_KEPT_VALUES = 1 << 26  # unsteered log-probabilities kept between passes: 256 MB in float32
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
    interventions: Intervention | Sequence[Intervention] = (),
    *,
    max_tokens: int | None = None,
    token_budget: int | None = None,
) -> Damage:
    """Damage of interventions on neutral text.

    Args:
        model: the target model.
        texts: neutral texts.
        interventions: what is done to the residual stream, together.
        max_tokens: use at most this many tokens of each text; the model's context if None.
        token_budget: most tokens in one forward pass; chosen by device if None.

    Raises:
        EvaluationError: a text with nothing to predict, or logits that are not finite.
        TextError: no texts, or an empty one.
        InterventionError: an intervention does not fit the model.
    """
    meter = DamageMeter(model, texts, max_tokens=max_tokens, token_budget=token_budget)
    return meter.report(meter.totals(None, within=steering(model, interventions)))[0]


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
    return meter.report(meter.totals(additions))


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
    return {name: meter.report(totals) for name, totals in meter.cell_totals(additions).items()}


@dataclass(frozen=True)
class DamageTotals:
    """Sums over the tokens of each text, for several vectors; not finite where the model's logits are not."""

    kl: Float[Tensor, "vector text"]
    """Summed KL, float64."""
    nll: Float[Tensor, "vector text"]
    """Summed negative log-likelihood, float64."""
    token_kl: Float[Tensor, "vector token"]
    """KL of every token, texts one after the other."""


class DamageMeter:
    """Neutral texts made ready to measure many vectors, strength after strength."""

    def __init__(
        self,
        model: HookedModel,
        texts: Sequence[str],
        hook_point: str | Sequence[str] | None = None,
        *,
        max_tokens: int | None = None,
        token_budget: int | None = None,
        fan_out: bool | None = None,
    ) -> None:
        """Tokenise the texts; see :func:`damage_vectors` for the arguments and what is raised.

        Several hook points may be given; they are then measured with :meth:`cell_totals`.
        """
        self._model = model
        self._hook_points = [hook_point] if isinstance(hook_point, str) else list(hook_point or ())
        rows, self._truncated = plan_texts(model, texts, max_tokens)
        self._runs = StackedRuns(model, rows, self._hook_points, token_budget=token_budget, fan_out=fan_out)
        self._targets = [torch.tensor([read.token for read in row.reads]) for row in rows]
        self.counts: Int[Tensor, " text"] = torch.tensor([len(target) for target in self._targets])
        """Predicted tokens of each text."""
        self._base: dict[int, Tensor] = {}
        self._kept = 0
        self._base_nll = torch.full((len(rows),), math.nan, dtype=torch.float64)

    @property
    def unsteered_nll(self) -> float:
        """Mean negative log-likelihood of the unsteered model; known once something was measured."""
        return float(self._base_nll.sum() / self.counts.sum())

    def totals(
        self,
        additions: Float[Tensor, "vector d_model"] | None,
        *,
        within: Within | None = None,
    ) -> DamageTotals:
        """Measure vectors at the one hook point, or (None) what the context ``within`` does.

        Raises:
            EvaluationError: additions that are not finite or of another width, or not one hook point to add them at;
                the unsteered model's logits are not finite.
        """
        if additions is None:
            return self._measure({"": None}, within)[""]
        if len(self._hook_points) != 1:
            raise EvaluationError(
                f"the meter was made for {len(self._hook_points)} hook points, so where to add is not clear; "
                "make it for one, or use cell_totals."
            )
        return self.cell_totals({self._hook_points[0]: additions})[self._hook_points[0]]

    def cell_totals(self, additions: Mapping[str, Float[Tensor, "_ d_model"]]) -> dict[str, DamageTotals]:
        """Measure vectors, by hook point, at some or all of the hook points the meter was made for.

        Raises:
            EvaluationError: another hook point, or as :meth:`totals`.
        """
        check_cells(self._model, additions)
        others = [name for name in additions if name not in self._hook_points]
        if others:
            raise EvaluationError(
                f"the meter was made for {', '.join(self._hook_points) or 'no hook point'}, not for {others[0]}."
            )
        return self._measure(dict(additions), None)

    def _measure(self, cells: dict[str, Tensor | None], within: Within | None) -> dict[str, DamageTotals]:
        ends = self.counts.cumsum(0)
        sizes = {name: 1 if additions is None else len(additions) for name, additions in cells.items()}
        found = {name: _no_totals(size, len(ends), int(ends[-1])) for name, size in sizes.items()}
        for group in self._runs.groups(max(sizes.values())):
            base, targets = self._unsteered(group), self._padded_targets(group)
            for name, additions in cells.items():
                totals = found[name]
                for part, logits in self._runs.logits(group, additions, name, within=within):
                    steered = log_probabilities(logits)
                    divergence, surprise = _divergence(base, steered), _surprise(steered, targets)
                    for row, text in enumerate(group):
                        count, end = int(self.counts[text]), int(ends[text])
                        totals.token_kl[part, end - count : end] = divergence[:, row, :count]
                        totals.kl[part, text] = divergence[:, row, :count].sum(-1)
                        totals.nll[part, text] = surprise[:, row, :count].sum(-1)
        return found

    def report(self, totals: DamageTotals) -> list[Damage]:
        """Means, percentiles and intervals, one :class:`Damage` per vector.

        Raises:
            EvaluationError: a vector's totals are not finite.
        """
        return list(self._reports(totals))

    def _reports(self, totals: DamageTotals) -> Iterator[Damage]:
        finite = (totals.kl + totals.nll).isfinite()
        if not bool(finite.all()):
            vector, text = (~finite).nonzero()[0].tolist()
            raise EvaluationError(
                f"the logits of text {text} under vector {vector} hold NaN or infinity. Lower the "
                "strength or use a wider dtype."
            )
        counts = self.counts.double()
        both = torch.cat([totals.kl, totals.nll])
        means = (both.sum(1) / counts.sum()).tolist()
        intervals: list[tuple[float, float] | None] = [None] * len(both)
        if len(counts) > 1:
            intervals = [(each.low, each.high) for each in weighted_mean_cis(both.T, counts)]
        p95 = totals.token_kl.quantile(0.95, dim=1).tolist()
        n_vectors = len(totals.kl)
        for vector in range(n_vectors):
            nll, nll_ci = means[n_vectors + vector], intervals[n_vectors + vector]
            yield Damage(
                kl=means[vector],
                kl_ci=intervals[vector],
                kl_p95=p95[vector],
                nll=nll,
                nll_ci=nll_ci,
                perplexity=_exp(nll),
                perplexity_ci=None if nll_ci is None else (_exp(nll_ci[0]), _exp(nll_ci[1])),
                unsteered_perplexity=_exp(self.unsteered_nll),
                n_tokens=int(counts.sum()),
                n_texts=len(counts),
                truncated_texts=sum(self._truncated),
                kl_per_text=totals.kl[vector] / counts,
                nll_per_text=totals.nll[vector] / counts,
            )

    def _unsteered(self, group: Sequence[int]) -> Float[Tensor, "row read vocab"]:
        """Log-probabilities of the unsteered model, computed once per text while they fit into memory."""
        if all(text in self._base for text in group):
            return pad_sequence([self._base[text] for text in group], batch_first=True)
        [(_, logits)] = self._runs.logits(group)
        base = log_probabilities(logits)[0]
        surprise = _surprise(base[None], self._padded_targets(group))[0]
        for row, text in enumerate(group):
            count = int(self.counts[text])
            self._base_nll[text] = surprise[row, :count].sum()
            if not math.isfinite(self._base_nll[text]):
                raise EvaluationError(
                    f"the unsteered model's logits of text {text} hold NaN or infinity; use a wider dtype, "
                    "or look at the model."
                )
            if self._kept + count * base.shape[-1] <= _KEPT_VALUES:
                self._base[text] = base[row, :count].clone()  # a view would keep the whole group in memory
                self._kept += count * base.shape[-1]
        return base

    def _padded_targets(self, group: Sequence[int]) -> Int[Tensor, "row read"]:
        most = max(int(self.counts[text]) for text in group)
        padded = torch.zeros(len(group), most, dtype=torch.long)
        for row, text in enumerate(group):
            padded[row, : int(self.counts[text])] = self._targets[text]
        return padded


def _no_totals(n_vectors: int, n_texts: int, n_tokens: int) -> DamageTotals:
    shapes = (n_vectors, n_texts), (n_vectors, n_texts), (n_vectors, n_tokens)
    return DamageTotals(*(torch.zeros(shape, dtype=torch.float64) for shape in shapes))


def _divergence(
    base: Float[Tensor, "row read vocab"], steered: Float[Tensor, "vector row read vocab"]
) -> Float[Tensor, "vector row read"]:
    """KL(base || steered) at every position, in float64 on the CPU; rounding below zero is cut off."""
    p = base.exp()
    cross = torch.einsum("rkv,nrkv->nrk", p, steered)
    entropy = torch.einsum("rkv,rkv->rk", p, base)
    return (entropy - cross).to("cpu", torch.float64).clamp_min(0.0)


def _surprise(
    log_p: Float[Tensor, "vector row read vocab"], targets: Int[Tensor, "row read"]
) -> Float[Tensor, "vector row read"]:
    """Negative log-probability of the text's own tokens, in float64 on the CPU."""
    index = targets.to(log_p.device)[None, :, :, None].expand(len(log_p), -1, -1, 1)
    return -log_p.gather(-1, index)[..., 0].to("cpu", torch.float64)


def _exp(nll: float) -> float:
    return math.exp(min(nll, _LARGEST_EXPONENT))
