"""The numbers of one setup: fits over nested windows, prediction against fit, the useful regime, and control draws."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from law_checks import cost_extrapolation, extrapolation, linearity_by_reach, local_powers
from tradeoff_gains import at_budget, best_gain, law_optimum, net_gain

from contrans_lens.evaluation.behaviours import Measurement
from contrans_lens.tradeoff import (
    AlignmentFit,
    AnalysisSettings,
    Curve,
    HelpfulnessFit,
    SweepResult,
    TradeoffResult,
    alignment_mechanism,
    analyse,
    fit_alignment,
    fit_helpfulness,
    helpfulness_mechanism,
)
from contrans_lens.tradeoff.fits import CurveFit

NEAR_FIT = 0.6
"""Laws are also fitted on |r| up to here, in units of the residual norm: about where damage begins."""
PREDICTED_FROM = 0.25
"""Constants are predicted from logit shifts at |r| up to here."""
COLUMNS = {
    "answers": ("expectation",),
    "capability": ("p_restricted", "p_mean", "accuracy", "format_failure"),
    "knowledge": ("p_restricted", "p_mean", "accuracy", "format_failure"),
    "cloze": ("p_restricted", "p_mean", "accuracy", "format_failure"),
    "neutral": ("kl", "nll", "top_changed"),
}
CONTROLS_OF = {
    "native": ("random", "shuffled"),
    "transplanted": ("random", "shuffled"),
    "native-layers": ("random-layers",),
}
Numbers = dict[str, Any]


def setup_numbers(
    result: SweepResult, chosen: Mapping[str, Any], floors: Mapping[str, float], kl_budget: float
) -> Numbers:
    """Everything the study keeps of a setup.

    Args:
        result: the sweeps of the setup put together.
        chosen: hook points and what they were chosen by.
        floors: what guessing earns, by behaviour of helpfulness.
        kl_budget: nats per token, where effects are compared.
    """
    costs = [name for name in floors if name in result.plan["behaviours"]]
    analyses = {name: analyse(with_cost(result, name), AnalysisSettings(floor=floors[name])) for name in costs}
    first = analyses[costs[0]]
    draws = {
        family: [_draw(result, draw, costs, floors, kl_budget) for draw in members]
        for family, members in result.families.items()
    }
    directions = {}
    for name in result.directions:
        found = _direction(result, name, first, kl_budget)
        found["helpfulness"] = {cost: _cost(result, name, cost, analyses[cost], floors[cost]) for cost in costs}
        found["controls"] = {
            family: _ranks(found, draws[family], costs) for family in CONTROLS_OF[name] if family in draws
        }
        directions[name] = found
    answers = result.measurement(result.directions[0], "answers")
    counted = Curve(torch.tensor(result.strengths), answers.column(), answers.groups)
    return {
        "chosen": dict(chosen),
        "strengths": list(result.strengths),
        "items": {
            name: [result.measurement("native", name).n_items, result.curve("native", name).n_groups]
            for name in ("answers", *costs)
        },
        "unsteered": counted.at_zero,
        "directions": directions,
        "families": draws,
        "bands": {family: _bands(result, members, costs) for family, members in result.families.items()},
    }


def with_cost(result: SweepResult, cost: str) -> SweepResult:
    """The same sweep with another behaviour as helpfulness."""
    roles = {"alignment": "answers", "helpfulness": cost}
    return SweepResult(result.model, {**result.plan, "roles": roles}, result.measured)


def _direction(result: SweepResult, name: str, analysis: TradeoffResult, kl_budget: float) -> Numbers:
    curve, shift = result.curve(name, "answers"), "answers shift"
    odds = result.curve(name, "answers", "log_odds")
    found = analysis.directions[name]
    near = fit_near(curve)
    mechanism = alignment_mechanism(
        result.curve(name, shift, "delta"),
        result.curve(name, shift, "gap"),
        result.measurement(name, shift).column("p0")[0],
        behaviour=curve,
        window=PREDICTED_FROM,
    )
    return {
        "claim": found.claim,
        "flags": {flag.name: flag.text for flag in found.fired},
        "swing": found.swing,
        "full": _alignment(found.alignment),
        "near": _alignment(near),
        "by_reach": [_fit_at(curve, reach) for reach in _reaches(curve)],
        "odds_linearity": linearity_by_reach(odds, _reaches(curve)),
        "predicted": mechanism.to_dict(),
        "extrapolated": extrapolation(curve, odds, PREDICTED_FROM, _reaches(curve)),
        "at_budget": at_budget(result, name, kl_budget),
        "kl_powers": local_powers(result.curve(name, "neutral", "kl")),
        "curves": _curves(result, name),
    }


def fit_near(curve: Curve) -> AlignmentFit:
    """The laws of behaviour fitted where damage has hardly begun."""
    return fit_alignment(curve, window=(-NEAR_FIT, NEAR_FIT))


def _alignment(fit: AlignmentFit) -> Numbers:
    named = {key: getattr(fit, key).to_dict() for key in ("a", "b0", "B0", "slope0", "r_half")}
    plateaus = {key: each.to_dict() for key, each in fit.fits["plateaus"].parameters.items()}
    plateaus["slope0"] = fit.fits["plateaus"].derived["slope0"].to_dict()
    return {**_ranking(fit), **named, "plateaus": plateaus}


def _ranking(fit: CurveFit) -> Numbers:
    return {
        "window": list(fit.window),
        "n_points": fit.n_points,
        "best": fit.best.name,
        "criterion": fit.criterion,
        "r_squared": {name: each.r_squared for name, each in fit.fits.items()},
        "delta": {name: each.delta if math.isfinite(each.delta) else None for name, each in fit.fits.items()},
    }


def _fit_at(curve: Curve, reach: float) -> Numbers:
    fit = fit_alignment(curve, window=(-reach, reach), n_resamples=0)
    return {"reach": reach, **_ranking(fit), "a": fit.a.value}


def _reaches(curve: Curve) -> list[float]:
    """Strengths that bound a window of seven strengths or more."""
    positive = curve.strengths[curve.strengths > 0]
    return [float(each) for each in positive[2:]]


def _cost(result: SweepResult, name: str, cost: str, analysis: TradeoffResult, floor: float) -> Numbers:
    found, curve, shift = analysis.directions[name], result.curve(name, cost), f"{cost} shift"
    numbers: Numbers = {}
    if found.helpfulness is not None and found.regime is not None:
        numbers |= {"top": _helpfulness(found.helpfulness), "verdict": found.helpfulness.verdict}
        regime = found.regime.to_dict()
        regime.pop("front")
        numbers["regime"] = regime
    full = fit_helpfulness(curve, window=(float(curve.strengths[0]), float(curve.strengths[-1])))
    near = fit_helpfulness(curve, window=(-NEAR_FIT, NEAR_FIT))
    numbers |= {"full": _ranking(full), "near": _helpfulness(near)}
    numbers["p_mean"] = _helpfulness(fit_helpfulness(result.curve(name, cost, "p_mean"), window=(-NEAR_FIT, NEAR_FIT)))
    if shift in result.plan["behaviours"]:
        mu, sigma = result.curve(name, shift, "mu"), result.curve(name, shift, "sigma")
        p0 = result.measurement(name, shift).column("p0")[0]
        numbers["predicted"] = helpfulness_mechanism(mu, sigma, p0, helpfulness=curve, window=PREDICTED_FROM).to_dict()
        numbers["extrapolated"] = cost_extrapolation(curve, mu, sigma, p0, PREDICTED_FROM, _reaches(curve))
    numbers["net_gain"] = net_gain(result.curve(name, "answers"), curve)
    numbers["tanh_optimum"] = law_optimum(fit_near(result.curve(name, "answers")), near)
    numbers["flags"] = {flag.name: flag.text for flag in found.fired}
    return numbers


def _helpfulness(fit: HelpfulnessFit) -> Numbers:
    bell = fit.fits["gaussian_bell"]
    terms = {key: each.to_dict() for key, each in {**bell.parameters, **bell.derived}.items()}
    return {**_ranking(fit), "H0": fit.H0.to_dict(), "l": fit.linear.to_dict(), "k": fit.k.to_dict(), "gaussian": terms}


def _draw(
    result: SweepResult, draw: str, costs: Sequence[str], floors: Mapping[str, float], kl_budget: float
) -> Numbers:
    """A control draw: its fit, what it does at most, and what some of the draws cost."""
    curve, odds = result.curve(draw, "answers"), result.curve(draw, "answers", "log_odds")
    fit = fit_alignment(curve, n_resamples=0)
    near = fit_alignment(curve, window=(-NEAR_FIT, NEAR_FIT), n_resamples=0)
    delta = odds.values - odds.values[odds.zero]
    gap = Curve(odds.strengths, delta, odds.groups)
    p0 = odds.values[odds.zero].sigmoid()
    predicted = alignment_mechanism(gap, gap, p0, window=PREDICTED_FROM, n_resamples=200).constants["slope0"]
    found: Numbers = {
        "swing": best_gain(curve),
        "slope0": near.slope0.value,
        "predicted_slope0": predicted.value,
        "r_squared": {name: each.r_squared for name, each in fit.fits.items()},
        "best": fit.best.name,
        "range": float(curve.mean.max() - curve.mean.min()),
    }
    for cost in costs:
        if (draw, cost) in result.measured:
            helpful = result.curve(draw, cost)
            top = fit_helpfulness(helpful, floor=floors[cost], n_resamples=0)
            found[cost] = {"k": top.k.value, "l": top.linear.value, "window": list(top.window)}
            found[cost]["net_gain"] = net_gain(curve, helpful, both_signs=True)
            found["at_budget"] = at_budget(result, draw, kl_budget)
    return found


def _ranks(found: Numbers, draws: Sequence[Numbers], costs: Sequence[str]) -> Numbers:
    """Two-sided ranks among control draws: a draw counts with whichever sign does more."""

    def rank(value: float | None, drawn: Sequence[float | None]) -> Numbers | None:
        kept = [abs(each) for each in drawn if each is not None]
        if value is None or not kept:
            return None
        p = (1 + sum(each >= value for each in kept)) / (1 + len(kept))
        return {"p": p, "n": len(kept), "mean": sum(kept) / len(kept), "most": max(kept)}

    ranks: Numbers = {
        "swing": rank(found["swing"], [draw["swing"] for draw in draws]),
        "slope0": rank(found["near"]["slope0"]["value"], [draw["slope0"] for draw in draws]),
    }
    budgeted = [draw["at_budget"]["effect"] for draw in draws if "at_budget" in draw]
    ranks["at_budget"] = rank(found["at_budget"]["effect"], budgeted)
    for cost in costs:
        costly = [draw[cost] for draw in draws if cost in draw]
        ranks[cost] = {
            "net_gain": rank(found["helpfulness"][cost]["net_gain"]["gain"], [c["net_gain"]["gain"] for c in costly]),
            "k": [c["k"] for c in costly],
        }
    return ranks


def _curves(result: SweepResult, name: str) -> Numbers:
    """Means with their intervals over the strengths, column by column."""
    found: Numbers = {}
    for behaviour, columns in COLUMNS.items():
        if (name, behaviour) in result.measured:
            measured = result.measurement(name, behaviour)
            found[behaviour] = {column: _band_of(measured, column) for column in columns}
    return found


def _band_of(measured: Measurement, column: str) -> Numbers:
    intervals = measured.intervals(column)
    return {part: [getattr(each, part) for each in intervals] for part in ("value", "low", "high")}


def _bands(result: SweepResult, members: Sequence[str], costs: Sequence[str]) -> Numbers:
    """Mean, least and most of the draws' mean curves."""
    found: Numbers = {}
    for behaviour in ("answers", *costs):
        curves = [result.curve(draw, behaviour).mean for draw in members if (draw, behaviour) in result.measured]
        if curves:
            means = torch.stack(curves)
            parts = {"mean": means.mean(0), "least": means.amin(0), "most": means.amax(0)}
            found[behaviour] = {part: values.tolist() for part, values in parts.items()}
    return found
