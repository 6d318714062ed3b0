"""Signs that a curve must not be read the way the laws read it.

Every guard gives all its flags, fired or not, with the numbers they rest on.
"""

from collections.abc import Mapping

from contrans_lens.errors import TradeoffError
from contrans_lens.tradeoff.curve import Curve, shared_strengths
from contrans_lens.tradeoff.estimates import Estimate, estimate
from contrans_lens.tradeoff.fits import SATURATED, AlignmentFit, HelpfulnessFit
from contrans_lens.tradeoff.flags import (
    ALPHA,
    FLAT_ALPHA,
    LEAST_SHARE,
    Flag,
    lack_of_fit_test,
    range_test,
    reversal_test,
    turning_test,
)
from contrans_lens.tradeoff.monotone import turning_point

FEWEST_ITEMS, FEWEST_GROUPS, FEWEST_STRENGTHS = 30, 10, 7
"""Below these a curve is said to rest on too little."""
MARGIN_SHARE = 0.25
"""How much worse than unsteered a measure of degeneration may get, as a share of its unsteered value."""

_CONSTANT = 1e-9
_MISSED_SHARE = 0.1  # of the means' variance, that a parabola may miss
_STEP_SHARE = 0.8  # of the whole range, between two neighbouring strengths


def guard_alignment(
    curve: Curve, fit: AlignmentFit | None = None, *, n_resamples: int = 1000, seed: int = 0
) -> tuple[Flag, ...]:
    """Flags of a behaviour curve.

    ``few_items``, ``few_strengths``, ``one_sided``, ``no_zero``, ``constant``, ``flat``, ``not_monotone``,
    ``u_shaped``, ``step`` (the whole change happens between two neighbouring strengths, so the gain is not
    identified), ``reversed`` (behaviour falls as the strength grows) and ``saturated`` (no linear claim can be made).

    Args:
        curve: behaviour over strength; to judge a part of it, pass its window.
        fit: its fit, for the half-point in the text of ``saturated``.
        n_resamples: resamples behind each test.
        seed: their seed.

    Raises:
        TradeoffError: too few resamples.
    """
    reversal, depth = reversal_test(curve, n_resamples, seed), turning_test(curve, n_resamples, seed)
    spread = range_test(curve, n_resamples, seed)
    flat = not spread.significant(FLAT_ALPHA)
    matters = LEAST_SHARE * spread.statistic
    turns = depth.significant(ALPHA) and depth.statistic > matters
    where = float(curve.strengths[turning_point(curve.mean)])
    return (
        *_grid_flags(curve, len(curve.strengths)),
        _constant(curve),
        Flag(
            "flat",
            flat,
            f"means differ by {spread.statistic:.3g} over the grid ({spread.told})" + ": no effect detected" * flat,
            spread.statistic,
            spread.p_value,
        ),
        Flag(
            "not_monotone",
            reversal.significant(ALPHA) and reversal.statistic > matters,
            f"largest reversal {reversal.statistic:.3g} ({reversal.told})",
            reversal.statistic,
            reversal.p_value,
        ),
        Flag(
            "u_shaped",
            turns,
            f"both ends lie {max(depth.statistic, 0.0):.3g} beyond an inner point ({depth.told})"
            + (f": turns round at r = {where:g}; fit {_monotone_part(curve, where)}" if turns else ""),
            depth.statistic,
            depth.p_value,
        ),
        _step(curve, flat),
        _reversed(curve, n_resamples, seed),
        _saturated(curve, fit),
    )


def guard_helpfulness(
    curve: Curve, fit: HelpfulnessFit | None = None, *, floor: float = 0.0, n_resamples: int = 1000, seed: int = 0
) -> tuple[Flag, ...]:
    """Flags of a helpfulness curve.

    ``few_items``, ``few_strengths``, ``one_sided``, ``no_zero``, ``constant``, ``no_cost`` (the curvature's interval
    holds zero, or without a fit the curve is flat), ``at_floor`` (the unsteered model does no better than guessing, so
    no loss can be seen) and, with a fit, ``rises`` (helpfulness is least near zero), ``off_centre`` (its top is not
    among the strengths fitted) and ``not_parabolic`` (the parabola misses the means by more than noise, and by more
    than a tenth of their variance: fit a narrower window, or give the floor).

    Args:
        curve: helpfulness over strength.
        fit: its fit.
        floor: what guessing earns, e.g. 1/4 for restricted probabilities over four choices.
        n_resamples: resamples behind each test.
        seed: their seed.

    Raises:
        TradeoffError: too few resamples.
    """
    flags = [*_grid_flags(curve, len(curve.strengths) if fit is None else fit.n_points), _constant(curve)]
    if curve.has_zero:
        flags.append(_at_floor(curve, floor, n_resamples, seed))
    if fit is None:
        spread = range_test(curve, n_resamples, seed)
        flat = not spread.significant(FLAT_ALPHA)
        text = f"means differ by {spread.statistic:.3g} over the grid ({spread.told})"
        return (*flags, Flag("no_cost", flat, "no cost detected: " * flat + text, spread.statistic, spread.p_value))
    return (*flags, *_parabola_flags(curve.window(*fit.window), fit, n_resamples, seed))


def _parabola_flags(part: Curve, fit: HelpfulnessFit, n_resamples: int, seed: int) -> tuple[Flag, ...]:
    """Whether there is a cost, and whether a parabola says it well."""
    k, linear, parabola = fit.k, fit.linear, fit.fits["parabola"]
    top = None if not k.above_zero or k.value is None or linear.value is None else linear.value / (2 * k.value)
    outside = top is not None and not fit.window[0] <= top <= fit.window[1]
    where = "the parabola has no top" if top is None else f"the parabola's top is at r = {top:.3g}"
    window = f"[{fit.window[0]:g}, {fit.window[1]:g}]"
    missed = lack_of_fit_test(part, parabola.design(part.strengths), n_resamples, seed)
    poor = missed.significant(ALPHA) if missed.p_value is not None else True
    return (
        Flag("no_cost", fit.no_cost_detected or k.below_zero, fit.verdict, k.value),
        Flag("rises", k.below_zero, f"curvature k = {k}" + " below zero: least near zero" * k.below_zero, k.value),
        Flag("off_centre", outside, f"{where}, fitted on {window}", top),
        Flag(
            "not_parabolic",
            poor and parabola.r_squared < 1 - _MISSED_SHARE,
            f"the parabola has R^2 = {parabola.r_squared:.3f} on {window} ({missed.told})",
            missed.statistic,
            missed.p_value,
        ),
    )


def guard_degeneration(
    alignment: Curve,
    degeneration: Mapping[str, Curve],
    *,
    margins: Mapping[str, float] | None = None,
    level: float = 0.95,
    n_resamples: int = 1000,
    seed: int = 0,
) -> tuple[Flag, ...]:
    """Whether behaviour gains only where the text falls apart; one flag ``degenerates:<name>`` a measure.

    A measure has degenerated from the first positive strength on at which it is worse than unsteered by more than its
    margin and by more than noise. The flag fires where behaviour gains, and less than half of its largest gain is had
    before that.

    Args:
        alignment: behaviour over strength.
        degeneration: measures by name over strengths, larger is worse: NLL, repetition, compressibility.
        margins: by name, how much worse a measure may get, in its units; a quarter of its unsteered value if not
            given. Give one for measures that are near zero unsteered.
        level: of the intervals, after correction for the number of strengths.
        n_resamples: resamples behind each interval.
        seed: their seed.

    Raises:
        TradeoffError: a margin without a measure; strength 0 and a positive one are not among those that behaviour and
            a measure share; too few resamples.
    """
    unknown = [name for name in margins or {} if name not in degeneration]
    if unknown:
        raise TradeoffError(f"a margin was given for {unknown[0]!r}, which was not measured.")
    flags = []
    for name, curve in degeneration.items():
        shared = shared_strengths(alignment, curve)
        shared = shared[shared >= 0]
        if len(shared) < 2 or shared[0] != 0:
            raise TradeoffError(
                f"behaviour and {name!r} need strength 0 and a positive one in common; sweep both on one grid."
            )
        margin = (margins or {}).get(name, MARGIN_SHARE * abs(curve.at_zero))
        flags.append(_degenerates(name, alignment.at(shared), curve.at(shared), margin, level, n_resamples, seed))
    return tuple(flags)


def _degenerates(
    name: str, behaviour: Curve, measure: Curve, margin: float, level: float, n_resamples: int, seed: int
) -> Flag:
    gains = _changes(behaviour, level, n_resamples, seed)
    losses = _changes(measure, level, n_resamples, seed)
    bad = [each.above_zero and (each.value or 0.0) > margin for each in losses]
    gained = [each.value or 0.0 for each in gains]
    top = max(range(len(gained)), key=gained.__getitem__)
    text = f"behaviour gains {gains[top]} at r = {float(behaviour.strengths[top + 1]):g}"
    if not gains[top].above_zero:
        return Flag(f"degenerates:{name}", False, f"{text}: no gain to explain", 0.0)
    if not any(bad):
        return Flag(f"degenerates:{name}", False, f"{text}; {name} never gets worse by more than {margin:.3g}", 0.0)
    first = bad.index(True)
    share = 1 - max([0.0, *gained[:first]]) / gained[top]
    text = (
        f"{text}, {share:.0%} of it not before {name} gets worse by {losses[first]} (from {measure.at_zero:.3g}) at "
        f"r = {float(measure.strengths[first + 1]):g}"
    )
    return Flag(f"degenerates:{name}", share > 0.5, text, share)


def _changes(curve: Curve, level: float, n_resamples: int, seed: int) -> list[Estimate]:
    """Changes against strength 0, which comes first, with intervals that hold at all strengths together."""
    change = curve.mean[1:] - curve.mean[0]
    level = 1 - (1 - level) / len(change)
    if not curve.resamples:
        return [Estimate(float(each), level=level) for each in change]
    drawn = curve.resampled(n_resamples, seed)
    draws = drawn[:, 1:] - drawn[:, :1]
    return [estimate(float(each), draws[:, i], curve.n_groups, level) for i, each in enumerate(change)]


def _grid_flags(curve: Curve, n_points: int) -> tuple[Flag, ...]:
    """What the grid and the items allow; ``n_points`` strengths are used."""
    low, high = float(curve.strengths[0]), float(curve.strengths[-1])
    items = curve.n_items < FEWEST_ITEMS or curve.n_groups < FEWEST_GROUPS
    return (
        Flag(
            "few_items",
            items,
            f"{curve.n_items} items in {curve.n_groups} groups; {FEWEST_ITEMS} in {FEWEST_GROUPS} are advised",
            float(curve.n_items),
        ),
        Flag(
            "few_strengths",
            n_points < FEWEST_STRENGTHS,
            f"{n_points} strengths are used; {FEWEST_STRENGTHS} are advised",
            float(n_points),
        ),
        Flag("one_sided", low >= 0 or high <= 0, f"strengths from {low:g} to {high:g}; both signs are advised"),
        Flag("no_zero", not curve.has_zero, f"strength 0 was {'' if curve.has_zero else 'not '}measured"),
    )


def _constant(curve: Curve) -> Flag:
    spread = float(curve.values.amax(0).sub(curve.values.amin(0)).max())
    text = f"no item changes by more than {spread:.3g} over the grid"
    return Flag("constant", spread <= _CONSTANT, text, spread)


def _step(curve: Curve, flat: bool) -> Flag:
    """Whether nearly the whole change lies between two neighbouring strengths."""
    if len(curve.strengths) < 2:
        return Flag("step", False, "one strength")
    jumps = curve.mean.diff().abs()
    place = int(jumps.argmax())
    share = float(jumps[place] / (curve.mean.max() - curve.mean.min()).clamp_min(1e-300))
    between = f"{float(curve.strengths[place]):g} and {float(curve.strengths[place + 1]):g}"
    text = f"{min(share, 1.0):.0%} of the change lies between r = {between}"
    return Flag("step", share > _STEP_SHARE and not flat, text, share)


def _reversed(curve: Curve, n_resamples: int, seed: int) -> Flag:
    drawn = curve.resampled(n_resamples, seed) if curve.resamples else None
    draws = None if drawn is None else drawn[:, -1] - drawn[:, 0]
    change = estimate(float(curve.mean[-1] - curve.mean[0]), draws, curve.n_groups, 0.95)
    text = f"behaviour changes by {change} from the first to the last strength"
    return Flag("reversed", change.below_zero, text, change.value)


def _at_floor(curve: Curve, floor: float, n_resamples: int, seed: int) -> Flag:
    draws = curve.resampled(n_resamples, seed)[:, curve.zero] - floor if curve.resamples else None
    start = estimate(curve.at_zero - floor, draws, curve.n_groups, 0.95)
    text = f"the unsteered model earns {start} above the floor {floor:g}"
    return Flag("at_floor", not start.above_zero, text, start.value)


def _saturated(curve: Curve, fit: AlignmentFit | None) -> Flag:
    start = curve.at_zero if curve.has_zero else None
    if start is None and fit is not None:
        start = fit.B0.value
    if start is None:
        return Flag("saturated", False, "where the unsteered model stands is not known")
    fired = abs(start) > SATURATED
    half = "" if fit is None else f"; r_half = {fit.r_half}"
    claim = f": no linear claim{half}" if fired else ""
    return Flag("saturated", fired, f"the unsteered behaviour is {start:.3g}{claim}", start)


def _monotone_part(curve: Curve, turn: float) -> str:
    """The side of the turning point on which the unsteered model stands."""
    low, high = float(curve.strengths[0]), float(curve.strengths[-1])
    if turn == 0:
        return "each side by itself"
    return f"[{turn:g}, {high:g}]" if turn < 0 else f"[{low:g}, {turn:g}]"
