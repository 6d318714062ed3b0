"""The measuring bench: a target with its test items and neutral texts, on which every row is measured alike."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from contrans_lens.errors import EvaluationError
from contrans_lens.evaluation import (
    bootstrap_draws_ci,
    bootstrap_mean_ci,
    score_items,
    score_vectors,
    solve_strengths,
)
from contrans_lens.evaluation.damage import report_damage
from contrans_lens.evaluation.meter import DamageMeter
from contrans_lens.evaluation.prompting import prompt_damage
from contrans_lens.models import HookedModel
from contrans_lens.pipeline.result import CurvePoint, Row
from contrans_lens.pipeline.settings import Settings
from contrans_lens.texts import EvaluationItem, PromptCue

_SWEEP_TEXTS = 4  # neutral texts that solve a strength in the layer sweep, where tenths decide
_SWEEP_TOLERANCE = 0.1
_MATCH_STEPS = 3
_MATCH_REACH = 1.0  # a strength changes at most by e in one step


@dataclass(frozen=True)
class Scores:
    """Scores of the same items under both signs."""

    plus: Float[Tensor, "draw item"]
    minus: Float[Tensor, "draw item"]

    @property
    def effect(self) -> Float[Tensor, "draw item"]:
        """score(+) - score(-) per draw and item."""
        return self.plus - self.minus


class Bench:
    """Measures vectors on one target: scores on test items, damage on neutral texts, both with both signs."""

    def __init__(
        self,
        model: HookedModel,
        items: Sequence[EvaluationItem],
        neutral: Sequence[str],
        residual_norms: dict[str, float],
        settings: Settings,
    ) -> None:
        """Score the unsteered model once.

        Args:
            model: the target.
            items: test items.
            neutral: texts on which damage is measured.
            residual_norms: mean residual norm by hook point, the unit of strength.
            settings: level, seed and budget.
        """
        self.model = model
        self.items = list(items)
        self.groups = [item.group for item in items]
        self.neutral = list(neutral)
        self.residual_norms = residual_norms
        self.settings = settings
        self.unsteered = score_items(model, self.items)
        self._meters: dict[str | None, DamageMeter] = {}

    def solve(self, hook_point: str, units: Float[Tensor, "vector d_model"], *, rough: bool = False) -> list[float]:
        """Strengths, in units of the residual norm, at which unit vectors use up the damage budget.

        Both signs are solved and the smaller strength is taken, so neither sign costs more than the budget. A strength
        that was given in the settings is returned as it is.

        Args:
            hook_point: where they are written.
            units: vectors of norm one.
            rough: fewer texts and a wider tolerance, for choosing between layers.
        """
        if self.settings.strength is not None:
            return [self.settings.strength] * len(units)
        norm = self.residual_norms[hook_point]
        solved = solve_strengths(
            self.model,
            self.neutral[:_SWEEP_TEXTS] if rough else self.neutral,
            hook_point,
            torch.cat([units, -units]) * norm,
            budget=self.settings.kl_budget,
            tolerance=_SWEEP_TOLERANCE if rough else 0.02,
            max_strength=self.settings.max_strength,
            checks=0 if rough else 3,
            max_tokens=self.settings.max_neutral_tokens,
        )
        half = len(units)
        return [min(solved[i].strength, solved[half + i].strength) for i in range(half)]

    def solve_rough(self, hook_point: str, units: Float[Tensor, "vector d_model"]) -> list[float]:
        """:meth:`solve` for choosing between layers."""
        return self.solve(hook_point, units, rough=True)

    def match(
        self, hook_point: str, units: Float[Tensor, "vector d_model"], near: float, *, rough: bool = False
    ) -> list[float]:
        """Strengths at which many unit vectors do about the damage that the budget allows: for control draws.

        All vectors take the same few steps, by the power of the strength that the last two measurements show (two at
        first), so that this costs a third of :meth:`solve` and comes within some hundredths of the budget for most
        vectors. As there, neither sign costs more.

        Args:
            hook_point: where they are written.
            units: vectors of norm one.
            near: a strength to begin with, such as the concept's own.
            rough: fewer texts, as in :meth:`solve`.
        """
        if self.settings.strength is not None:
            return [self.settings.strength] * len(units)
        texts = self.neutral[:_SWEEP_TEXTS] if rough else self.neutral
        meter = DamageMeter(self.model, texts, hook_point, max_tokens=self.settings.max_neutral_tokens, details=False)
        tried: list[tuple[Tensor, Tensor]] = []
        strengths = torch.full((len(units),), near, dtype=torch.float64)
        for _ in range(_MATCH_STEPS):
            written = units * (strengths * self.residual_norms[hook_point]).float()[:, None]
            kl = meter.totals(torch.cat([written, -written])).kl.sum(1) / meter.counts.sum()
            worst = kl.nan_to_num(nan=torch.inf).reshape(2, -1).amax(0).clamp(1e-12, 1e6)
            tried.append((strengths.log(), worst.log()))
            step = (math.log(self.settings.kl_budget) - worst.log()) / _powers(tried)
            strengths = (strengths * step.clamp(-_MATCH_REACH, _MATCH_REACH).exp()).clamp_max(
                self.settings.max_strength
            )
        return strengths.tolist()

    def score(self, hook_point: str, additions: Float[Tensor, "draw d_model"]) -> Scores:
        """Score the test items with each addition and with its negative."""
        scores = score_vectors(self.model, self.items, hook_point, torch.cat([additions, -additions]))
        return Scores(*scores.chunk(2))

    def damage(self, hook_point: str, additions: Float[Tensor, "draw d_model"]) -> tuple[Tensor, Tensor]:
        """KL and negative log-likelihood of each addition, mean over both signs and all tokens, ``[draw]`` each.

        Raises:
            EvaluationError: the steered model's logits are not finite.
        """
        meter = self._meter(hook_point)
        totals = meter.totals(torch.cat([additions, -additions]))
        if not (totals.kl.isfinite().all() and totals.nll.isfinite().all()):
            raise EvaluationError(
                f"logits hold NaN or infinity when vectors are written at {hook_point}. Lower the strength or use a "
                "wider dtype."
            )
        tokens = meter.counts.sum()
        kl, nll = ((part.sum(1) / tokens).reshape(2, -1).mean(0) for part in (totals.kl, totals.nll))
        return kl, nll

    def _meter(self, hook_point: str | None) -> DamageMeter:
        """The neutral texts made ready at a hook point; the unsteered log-probabilities are computed once."""
        if hook_point not in self._meters:
            limit = self.settings.max_neutral_tokens
            self._meters[hook_point] = DamageMeter(self.model, self.neutral, hook_point, max_tokens=limit)
        return self._meters[hook_point]

    def row(
        self,
        name: str,
        hook_point: str,
        units: Float[Tensor, "draw d_model"],
        strengths: Sequence[float],
        *,
        seeds: Sequence[int] = (),
    ) -> tuple[Row, Scores]:
        """Measure unit vectors at given strengths as one row; more than one is a family of control draws.

        Args:
            name: of the row.
            hook_point: where they are written.
            units: vectors of norm one.
            strengths: one a vector, in units of the residual norm.
            seeds: of the draws.
        """
        additions = units * torch.tensor(strengths)[:, None] * self.residual_norms[hook_point]
        scores = self.score(hook_point, additions)
        kl, nll = self.damage(hook_point, additions[: self.settings.damage_draws])
        return replace(
            self.scored_row(name, scores, is_family=len(units) > 1),
            kl=float(kl.mean()),
            perplexity=float(nll.exp().mean()),
            strength=sum(strengths) / len(strengths),
            seeds=tuple(seeds),
            hook_point=hook_point,
        ), scores

    def scored_row(self, name: str, scores: Scores, *, is_family: bool = False) -> Row:
        """A row with scores and their intervals, damage left open."""
        level, seed = self.settings.level, self.settings.seed
        if is_family:
            score = bootstrap_draws_ci(scores.plus, self.groups, level=level, seed=seed)
            effect = bootstrap_draws_ci(scores.effect, self.groups, level=level, seed=seed)
        else:
            score = bootstrap_mean_ci(scores.plus[0], self.groups, level=level, seed=seed)
            effect = bootstrap_mean_ci(scores.effect[0], self.groups, level=level, seed=seed)
        return Row(
            name=name,
            score=score.value,
            ci=(score.low, score.high),
            effect=effect.value,
            effect_ci=(effect.low, effect.high),
            raw_effect=score.value - float(self.unsteered.mean()),
            kl=None,
            perplexity=None,
            n=len(self.items),
            strength=None,
            draws=tuple(scores.effect.mean(1).tolist()) if is_family else (),
        )

    def unsteered_row(self) -> Row:
        """The target as it is; its effect is zero by definition."""
        both = Scores(self.unsteered[None], self.unsteered[None])
        meter = self._meter(None)
        [report] = report_damage(meter, meter.totals(None))
        return replace(self.scored_row("unsteered", both), kl=report.kl, perplexity=report.perplexity)

    def prompt_row(self, cue: PromptCue) -> Row:
        """The prompt-only control: the cue's words before each prompt, nothing written into the model.

        Its damage is the KL of the neutral text's tokens with the cue before them, mean of both cues.
        """
        scores = []
        costs = []
        for prefix in (cue.positive, cue.negative):
            asked = [replace(item, prompt=prefix + item.prompt) for item in self.items]
            scores.append(score_items(self.model, asked)[None])
            costs.append(prompt_damage(self.model, self.neutral, prefix, max_tokens=self.settings.max_neutral_tokens))
        kl = sum(cost.kl for cost in costs) / len(costs)
        perplexity = sum(cost.perplexity for cost in costs) / len(costs)
        return replace(self.scored_row("prompt", Scores(*scores)), kl=kl, perplexity=perplexity)

    def curve(
        self, name: str, hook_point: str, units: Float[Tensor, "draw d_model"], strengths: Sequence[float]
    ) -> list[CurvePoint]:
        """Effect and damage at several strengths; several vectors give a mean and the range of 95 % of them."""
        scale = torch.tensor(strengths)[:, None, None] * self.residual_norms[hook_point]
        additions = (units[None] * scale).flatten(0, 1)
        scores = self.score(hook_point, additions)
        kl, _ = self.damage(hook_point, additions)
        shape = len(strengths), len(units)
        plus, minus = (part.mean(1).reshape(shape) for part in (scores.plus, scores.minus))
        spread = (plus - minus).quantile(torch.tensor([0.025, 0.975], dtype=plus.dtype), dim=1).T.tolist()
        costs = kl.reshape(shape).mean(1).tolist()
        zero = float(self.unsteered.mean())
        origin = CurvePoint(name, 0.0, zero, zero, 0.0, (0.0, 0.0) if len(units) > 1 else None)
        return [origin] + [
            CurvePoint(
                name,
                strength,
                float(plus[i].mean()),
                float(minus[i].mean()),
                costs[i],
                (spread[i][0], spread[i][1]) if len(units) > 1 else None,
            )
            for i, strength in enumerate(strengths)
        ]


def _powers(tried: Sequence[tuple[Tensor, Tensor]]) -> Float[Tensor, "vector"]:
    """With which power of the strength each vector's KL grows: the slope between its last two logarithms, else two."""
    if len(tried) < 2:
        return torch.full_like(tried[-1][0], 2.0)
    (before, low), (now, high) = tried[-2:]
    slope = (high - low) / (now - before)
    return torch.where(slope.isfinite(), slope, 2.0).clamp(1.0, 6.0)
