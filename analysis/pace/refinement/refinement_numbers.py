"""Own effect, leak into other concepts and their ratio, with intervals over items; controls as ranks.

Items are resampled by group, and groups that several parts share (the same lands, things and events) are resampled
together, so that parts can be averaged and methods compared within a resample. Where a method is a family of draws of
the contrasts, draws are resampled too, the same draws for every method.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float
from refinement_measure import Effects
from refinement_methods import KEEP, RANDOM_ATOMS, UNREFINED
from refinement_texts import CONCEPTS, FAMILY
from torch import Tensor

from contrans_lens.evaluation.resampling import block_size, expanded_percentiles, resample_counts

N_RESAMPLES, LEVEL = 2000, 0.95
FAMILIES = ("honesty", "kindness", "emotions")

Numbers = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Score:
    """One quantity of one method in one part: its value by draw, and resampled."""

    value: Float[Tensor, " draw"]
    resampled: Float[Tensor, "resample draw"]
    seed: int = 0
    """Of the resampling of draws: that of the concept, whose draws of contrasts are the same in every pair."""

    @cached_property
    def mean(self) -> float:
        """Mean over draws."""
        return float(self.value.mean())

    @cached_property
    def means(self) -> Float[Tensor, " resample"]:
        """Mean over draws, resampled as well where there are several."""
        n = self.value.shape[0]
        if n == 1:
            return self.resampled[:, 0]
        counts = torch.cat(list(resample_counts(n, N_RESAMPLES, 99 + self.seed, block_size(n))))
        return (self.resampled * counts).sum(1) / n


class Scorer:
    """Scores of the methods of one part."""

    def __init__(self, name: str, effects: Effects, related: Mapping[str, Bool[Tensor, " item"]]) -> None:
        """Prepare the resamples.

        Args:
            name: the concept.
            effects: what was measured.
            related: by behaviour of the concept's own family, which items offer the concept's own word.
        """
        self.name, self.effects, self.related = name, effects, related
        self.others = [family for family in FAMILIES if family != FAMILY[name]]
        self.seed = CONCEPTS.index(name)
        self._weights: dict[str, tuple[list[str], Tensor]] = {}

    def own(self, method: str, column: str = "odds") -> Score:
        """Mean effect on the concept's own items."""
        return self._mean(self._values(self.name, method, column), self.name)

    def leak(self, method: str, column: str = "odds", *, stir: bool = False) -> Score:
        """Size of the mean effect on other concepts' items: mean over a family's concepts, then over families.

        With ``stir`` the mean size of the effect of single items, whichever way each goes.
        """
        return _average([self.pushed(method, family, column, stir=stir) for family in self.others])

    def pushed(self, method: str, family: str, column: str = "odds", *, stir: bool = False) -> Score:
        """The same for one family."""
        parts = []
        for behaviour in self.effects.odds:
            if FAMILY[behaviour] == family:
                values = self._values(behaviour, method, column)
                found = self._mean(values.abs() if stir else values, behaviour)
                parts.append(replace(found, value=found.value.abs(), resampled=found.resampled.abs()))
        return _average(parts)

    def relatives(self, method: str) -> Score | None:
        """Size of the mean effect on items of the other emotions that do not offer the emotion's own word."""
        parts = []
        for behaviour, offered in self.related.items():
            if behaviour != self.name:
                found = self._mean(self._values(behaviour, method, "odds"), behaviour, ~offered)
                parts.append(replace(found, value=found.value.abs(), resampled=found.resampled.abs()))
        return _average(parts) if parts else None

    def _values(self, behaviour: str, method: str, column: str) -> Float[Tensor, "draw item"]:
        return (self.effects.odds if column == "odds" else self.effects.expectation)[behaviour][method]

    def _mean(
        self, values: Float[Tensor, "draw item"], behaviour: str, chosen: Bool[Tensor, " item"] | None = None
    ) -> Score:
        names, weights = self._resamples(FAMILY[behaviour])
        kept = torch.ones(values.shape[1]) if chosen is None else chosen.float()
        index = torch.tensor([names.index(group) for group in self.effects.groups[behaviour]])
        sums = torch.zeros(len(names), len(values), dtype=torch.float64)
        sums.index_add_(0, index, (values * kept).T.double())
        counts = torch.zeros(len(names), dtype=torch.float64).index_add_(0, index, kept.double())
        resampled = (weights @ sums) / (weights @ counts)[:, None]
        return Score((values * kept).sum(1).double() / kept.sum(), resampled, self.seed)

    def _resamples(self, family: str) -> tuple[list[str], Float[Tensor, "resample group"]]:
        if family not in self._weights:
            behaviours = [each for each in self.effects.groups if FAMILY[each] == family]
            names = sorted({group for each in behaviours for group in self.effects.groups[each]})
            seed = FAMILIES.index(family)
            weights = torch.cat(list(resample_counts(len(names), N_RESAMPLES, seed, block_size(len(names)))))
            self._weights[family] = names, weights
        return self._weights[family]

    @property
    def n_groups(self) -> int:
        """Groups of the family that has fewest."""
        return min(len(self._resamples(family)[0]) for family in FAMILIES)

    def n_draws(self, method: str) -> int:
        """Draws of a family; 1 of a single vector."""
        return len(self._values(self.name, method, "odds"))


def _average(scores: Sequence[Score]) -> Score:
    value, resampled = (
        torch.stack([getattr(each, name) for each in scores]).mean(0) for name in ("value", "resampled")
    )
    return Score(value, resampled, scores[0].seed)


def interval(value: float, resampled: Float[Tensor, " resample"], n_groups: int) -> list[float]:
    """Value, low, high."""
    low, high = expanded_percentiles(resampled[:, None], n_groups, LEVEL)
    return [value, float(low[0]), float(high[0])]


def pooled(scorers: Sequence[Scorer], method: str, reference: str) -> Numbers:
    """A method over parts: mean own effect, mean leak, their ratio, mean share, and differences to the reference."""
    n = min(each.n_groups for each in scorers)
    if scorers[0].n_draws(method) > 1:
        n = min(n, sum({each.name: each.n_draws(method) for each in scorers}.values()))
    found: Numbers = {"n_parts": len(scorers)}
    own, leak = (_over(scorers, method, what) for what in ("own", "leak"))
    base_own, base_leak = (_over(scorers, reference, what) for what in ("own", "leak"))
    found["own"], found["leak"] = interval(*own, n), interval(*leak, n)
    found["ratio"] = interval(leak[0] / own[0], leak[1] / own[1], n)
    shares = [_share(each, method) for each in scorers]
    share = sum(value for value, _ in shares) / len(shares), torch.stack([each for _, each in shares]).mean(0)
    found["share"] = interval(*share, n)
    if method == reference:
        return found
    others = [_share(each, reference) for each in scorers]
    before = sum(value for value, _ in others) / len(others), torch.stack([each for _, each in others]).mean(0)
    found["share_change"] = interval(share[0] - before[0], share[1] - before[1], n)
    change = leak[1] / own[1] - base_leak[1] / base_own[1]
    found["ratio_change"] = interval(leak[0] / own[0] - base_leak[0] / base_own[0], change, n)
    found["leak_change"] = interval(leak[0] - base_leak[0], leak[1] - base_leak[1], n)
    found["own_change"] = interval(own[0] - base_own[0], own[1] - base_own[1], n)
    found["resampling_bias"] = float(change.mean()) - found["ratio_change"][0]
    return found


def _share(scorer: Scorer, method: str) -> tuple[float, Float[Tensor, " resample"]]:
    """Leak over leak and own effect, in [0, 1]: 1 where the own effect is on the wrong side."""
    own, leak = scorer.own(method), scorer.leak(method)
    return leak.mean / (leak.mean + max(own.mean, 0.0)), leak.means / (leak.means + own.means.clamp_min(0))


def secondary(scorers: Sequence[Scorer], method: str) -> Numbers:
    """Other ways to look at the same: bounded expectations, single items, families apart, relatives, costs."""
    own = {column: sum(each.own(method, column).mean for each in scorers) for column in ("odds", "expectation")}
    ratio = {
        "ratio_expectation": sum(each.leak(method, "expectation").mean for each in scorers) / own["expectation"],
        "ratio_stir": sum(each.leak(method, stir=True).mean for each in scorers) / own["odds"],
    }
    families = {
        family: sum(each.pushed(method, family).mean for each in scorers if family in each.others)
        / max(1, sum(family in each.others for each in scorers))
        for family in FAMILIES
        if any(family in each.others for each in scorers)
    }
    relatives = [found.mean for each in scorers if (found := each.relatives(method)) is not None]
    costs = [each.effects.costs[method] for each in scorers]
    return {
        **ratio,
        "leak_by_family": families,
        "relatives": sum(relatives) / len(relatives) if relatives else None,
        **{name: sum(each[name] for each in costs) / len(costs) for name in ("kl", "capability")},
        "reached": all(each["reached"] for each in costs),
    }


def random_atoms(scorers: Sequence[Scorer]) -> Numbers:
    """``keep`` against as many random atoms: draw k of every part makes pooled draw k; p is a one-sided rank."""
    own = torch.stack([each.own(RANDOM_ATOMS).value for each in scorers]).mean(0)
    leak = torch.stack([each.leak(RANDOM_ATOMS).value for each in scorers]).mean(0)
    ratios = torch.where(own > 0, leak / own.clamp_min(1e-9), torch.inf)
    found: Numbers = {"n_parts": len(scorers), "draws": len(ratios)}
    kept = {}
    for method in (KEEP, UNREFINED):
        kept[method] = sum(e.leak(method).mean for e in scorers) / sum(e.own(method).mean for e in scorers)
        found[f"{method}_ratio"] = kept[method]
    found |= {"ratio_median": float(ratios.median()), "ratio_least": float(ratios.min())}
    found["ratio_most"] = float(ratios.max()) if bool(ratios.isfinite().all()) else None
    found |= {"own_mean": float(own.mean()), "leak_mean": float(leak.mean())}
    found["p"] = (1 + int((ratios <= kept[KEEP]).sum())) / (1 + len(ratios))
    return found


def _over(scorers: Sequence[Scorer], method: str, what: str) -> tuple[float, Float[Tensor, " resample"]]:
    scores = [each.own(method) if what == "own" else each.leak(method) for each in scorers]
    return sum(each.mean for each in scores) / len(scores), torch.stack([each.means for each in scores]).mean(0)
