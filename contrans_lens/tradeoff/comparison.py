"""Several vectors or methods on one model, at equal damage: what each does to each behaviour, item by item.

A method is a direction (a cell), a family of control draws (several cells), or words put before the prompt. Directions
are written with both signs at the strength that uses up the budget on neutral text, the smaller of the two signs', so
that neither costs more. What is compared is the antisymmetric effect, paired by item::

    effect     = value(+) - value(-)                          what either sign does alike cancels
    difference = effect - effect of the reference
    change     = (value(+) + value(-)) / 2 - value(unsteered)    what both signs do alike: the cost of helpfulness

What has no meaningful minus direction, such as taking concepts out, is compared with ``signs="plus"``: strengths are
solved for the plus direction alone, and the unsteered model takes the place of the minus one::

    effect     = value(+) - value(unsteered)

Words have no strength: they are shown at the damage that they do, and ``budget`` may name them, so that vectors are
compared at the damage of the words.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch

from contrans_lens.errors import TradeoffError
from contrans_lens.evaluation import (
    Cell,
    SolvedStrength,
    prompt_damage,
    scaled,
    solve_directions,
)
from contrans_lens.evaluation.behaviours import Behaviour, Measurement, NeutralText
from contrans_lens.evaluation.budget_search import DamageMeasure
from contrans_lens.models import HookedModel, fingerprint
from contrans_lens.models.naming import described, model_name
from contrans_lens.texts import PromptCue
from contrans_lens.tradeoff.comparison_result import UNSTEERED_ROW, Comparison, DamageRow, Signs
from contrans_lens.tradeoff.comparison_rows import ComparisonRows
from contrans_lens.tradeoff.methods import Method, Methods

Say = Callable[[str], None]

_LARGEST_EXPONENT = 700.0


def compare(
    model: HookedModel,
    methods: Mapping[str, Method],
    behaviours: Sequence[Behaviour],
    neutral: NeutralText,
    *,
    budget: float | str | None,
    measure: DamageMeasure = "kl",
    reference: str | None = None,
    signs: Signs = "both",
    max_strength: float | None = None,
    tolerance: float = 0.02,
    level: float = 0.95,
    seed: int = 0,
    token_budget: int | None = None,
    say: Say = lambda step: None,
) -> Comparison:
    """Measure methods at equal damage on neutral text.

    Args:
        model: the model that is steered.
        methods: by name; native, transplanted, mean difference, principal component, probe, random draws, words, ...;
            none measures the unsteered model.
        behaviours: what is measured.
        neutral: texts on which damage is measured and strengths are solved.
        budget: damage allowed: nats of KL a token, or a perplexity ratio above 1; the name of a method of words, whose
            KL is then the budget; None: every direction at the strength it was given with.
        measure: what a number given as ``budget`` is in.
        reference: the direction that the others are compared with; None: the first one, or ``"unsteered"`` where there
            is none.
        signs: ``"both"``, or ``"plus"``: every method as it is given against the unsteered model.
        max_strength: largest multiple of a direction that is tried.
        tolerance: relative, of solved strengths.
        level: coverage of intervals.
        seed: of the bootstraps.
        token_budget: most tokens in one forward pass.
        say: told about each step.

    Raises:
        TradeoffError: no behaviours, a family of one draw, or a reference or budget that names no method.
        EvaluationError: a budget that is no damage, a direction that does nothing, or logits that are not finite.
        FingerprintMismatchError: a direction was made for another model.
        HookPointError: the model has no such hook point.
    """
    sides = Methods.of(methods, behaviours, reference)
    both = signs == "both"
    words = {name: _word_damage(model, neutral, name, cue, both) for name, cue in sides.cues.items()}
    if isinstance(budget, str):
        if budget not in words:
            raise TradeoffError(f"the budget names {budget!r}; of words there are {', '.join(words) or 'none'}.")
        budget, measure = words[budget].kl, "kl"
    strengths: list[SolvedStrength | None] = [None] * len(sides.cells)
    if budget is not None and sides.cells:
        say(f"solving {len(sides.cells)} strengths for a {measure} of {budget:.4g}")
        strengths = _solve(model, neutral, sides.cells, both, budget, measure, max_strength, tolerance, token_budget)
    # Cells that are run, and where each method's two sides stand among them; the unsteered model is run once.
    run: list[Cell] = [()]
    places = [0]
    for cell, solved in zip(sides.cells, strengths, strict=True):
        multiple = 1.0 if solved is None else solved.strength
        sides_of = [scaled(cell, multiple), *([scaled(cell, -multiple)] if both else [])]
        places += [len(run), len(run) + 1 if both else 0]
        run += sides_of
    measured: dict[str, Measurement] = {}
    worded: dict[tuple[str, str], Measurement] = {}
    for behaviour in behaviours:
        say(f"measuring {behaviour.name}")
        measured[behaviour.name] = behaviour.measure(model, run, token_budget=token_budget).of(places)
        for name, cue in sides.cues.items():
            asked = [behaviour.with_prefix(prefix) for prefix in ((cue.positive, cue.negative)[: 2 if both else 1])]
            found = [each.measure(model, [()], token_budget=token_budget) for each in asked]
            worded[name, behaviour.name] = _joined(found if both else [*found, measured[behaviour.name].of([0])])
    say("measuring damage")
    damage = neutral.measure(model, run, token_budget=token_budget).of(places)
    damages = [_damage_row(UNSTEERED_ROW, damage, [0], level, seed)]
    for name, numbers in sides.numbers.items():
        cells = [1 + 2 * number + sign for number in numbers for sign in ((0, 1) if both else (0,))]
        damages.append(_damage_row(name, damage, cells, level, seed))
    damages += list(words.values())
    rows = ComparisonRows(sides, measured, worded, strengths, level, seed, both)
    return Comparison(
        model=described(fingerprint(model), model_name(model)),
        budget=budget,
        measure=measure,
        reference=sides.reference,
        rows=tuple(rows.all()),
        damages=tuple(damages),
        values={behaviour: _named(found, sides) for behaviour, found in measured.items()},
        level=level,
        seed=seed,
        signs=signs,
    )


def _solve(
    model: HookedModel,
    neutral: NeutralText,
    cells: Sequence[Cell],
    both: bool,
    budget: float,
    measure: DamageMeasure,
    max_strength: float | None,
    tolerance: float,
    token_budget: int | None,
) -> list[SolvedStrength | None]:
    """For every direction the smaller strength of its two signs, or that of the plus sign alone."""
    solved = solve_directions(
        model,
        neutral.texts,
        [*cells, *(scaled(cell, -1.0) for cell in cells if both)],
        budget=budget,
        measure=measure,
        tolerance=tolerance,
        max_strength=max_strength,
        max_tokens=neutral.max_tokens,
        prompt_tokens=neutral.prompt_tokens,
        token_budget=token_budget,
    )
    if not both:
        return list(solved)
    pairs = zip(solved[: len(cells)], solved[len(cells) :], strict=True)
    return [min(pair, key=lambda each: each.strength) for pair in pairs]


def _joined(both: Sequence[Measurement]) -> Measurement:
    """Two measurements of one cell each as one of two cells."""
    first = both[0]
    columns = {name: torch.cat([each.columns[name] for each in both]) for name in first.columns}
    return replace(first, columns=columns, whole={})


def _word_damage(model: HookedModel, neutral: NeutralText, name: str, cue: PromptCue, both: bool) -> DamageRow:
    costs = [
        prompt_damage(model, neutral.texts, prefix, max_tokens=neutral.max_tokens)
        for prefix in ((cue.positive, cue.negative) if both else (cue.positive,))
    ]
    return DamageRow(
        method=name,
        kl=sum(each.kl for each in costs) / len(costs),
        perplexity=math.prod(each.perplexity for each in costs) ** (1 / len(costs)),
    )


def _damage_row(name: str, found: Measurement, cells: Sequence[int], level: float, seed: int) -> DamageRow:
    """Damage of a method, mean over its signs and draws; perplexity is the exponential of the mean."""
    if found.weights is None:
        raise TradeoffError("damage is a mean over tokens; the neutral measurement has no token counts.")
    mean = Measurement(
        found.behaviour,
        {column: values[list(cells)].mean(0, keepdim=True) for column, values in found.columns.items()},
        found.primary,
        found.groups,
        found.weights,
    )
    interval = {column: mean.intervals(column, level=level, seed=seed)[0] for column in mean.columns}
    return DamageRow(
        method=name,
        kl=interval["kl"].value,
        kl_ci=(interval["kl"].low, interval["kl"].high),
        kl_p95=float(found.whole["kl_p95"][list(cells)].mean()),
        tv=interval["tv"].value,
        tv_ci=(interval["tv"].low, interval["tv"].high),
        tv_p95=float(found.whole["tv_p95"][list(cells)].mean()),
        top_changed=interval["top_changed"].value,
        perplexity=math.exp(min(interval["nll"].value, _LARGEST_EXPONENT)),
    )


def _named(found: Measurement, sides: Methods) -> dict[str, Measurement]:
    """Per-item values by method: cells + and - of each draw in turn."""
    named = {UNSTEERED_ROW: found.of([0])}
    for name, numbers in sides.numbers.items():
        named[name] = found.of([1 + 2 * number + sign for number in numbers for sign in (0, 1)])
    return named
