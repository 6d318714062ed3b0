"""The strength at which a vector, or a direction written at several hook points, reaches a damage budget.

Comparing vectors is fair at equal damage, so the strength is solved for on neutral text: the smallest ``s > 0`` with
``measure(s * vector) = budget`` (:mod:`contrans_lens.evaluation.budget_search`). All vectors move together, stacked as
batch rows.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from contrans_lens.errors import EvaluationError
from contrans_lens.evaluation.budget_search import BudgetSearch, DamageMeasure, SolvedStrength, search_together
from contrans_lens.evaluation.cells import Cell, Cells, cell_additions, scaled, stacks_as_rows
from contrans_lens.evaluation.meter import DamageMeter, DamageTotals
from contrans_lens.evaluation.norms import mean_norms
from contrans_lens.evaluation.scores import check_cells
from contrans_lens.models import HookedModel, tokenize

_FIRST_SHARE = 0.25  # first try: this share of the mean residual norm, where useful budgets mostly lie
_LARGEST_SHARE = 32.0  # where the search ends if no other end is given
_FIRST_PARTIAL, _LARGEST_PARTIAL = 0.25, 1.0  # the same for directions that project out or clamp


def solve_strength(
    model: HookedModel,
    texts: Sequence[str],
    hook_point: str,
    vector: Float[Tensor, " d_model"],
    *,
    budget: float,
    measure: DamageMeasure = "kl",
    tolerance: float = 0.02,
    max_strength: float | None = None,
    checks: int = 4,
    max_tokens: int | None = None,
    token_budget: int | None = None,
) -> SolvedStrength:
    """Smallest strength at which ``strength * vector``, added at every position, reaches a damage budget.

    Args:
        model: the target model.
        texts: neutral texts.
        hook_point: where the vector is added.
        vector: the vector for strength 1, in the residual's own units (``v / ||v||`` times the mean residual
            norm makes strengths come out in units of that norm). For the minus direction pass ``-vector``.
        budget: KL in nats per token above 0, or a ratio of perplexities above 1.
        measure: what the budget is in.
        tolerance: relative; the measure (its excess over 1 for a ratio) ends this close to the budget.
        max_strength: largest strength tried; where the vector has 32 mean residual norms if None.
        checks: evenly spaced strengths tried between zero and the answer in search of an earlier crossing; one that
            none of them hits goes unnoticed.
        max_tokens: use at most this many tokens of each text.
        token_budget: most tokens in one forward pass; chosen by device if None.

    Raises:
        EvaluationError: a budget that is no damage, a zero vector, or logits that are not finite even where
            the budget should be reached.
        HookPointError: the model has no such hook point.
    """
    return solve_strengths(
        model,
        texts,
        hook_point,
        vector[None],
        budget=budget,
        measure=measure,
        tolerance=tolerance,
        max_strength=max_strength,
        checks=checks,
        max_tokens=max_tokens,
        token_budget=token_budget,
    )[0]


def solve_strengths(
    model: HookedModel,
    texts: Sequence[str],
    hook_point: str,
    vectors: Float[Tensor, "vector d_model"],
    *,
    budget: float,
    measure: DamageMeasure = "kl",
    tolerance: float = 0.02,
    max_strength: float | None = None,
    checks: int = 4,
    max_tokens: int | None = None,
    token_budget: int | None = None,
) -> list[SolvedStrength]:
    """:func:`solve_strength` for several vectors at once, ``[vector, d_model]``, measured in the same passes.

    Raises:
        EvaluationError: as :func:`solve_strength`.
        HookPointError: the model has no such hook point.
    """
    return solve_cell_strengths(
        model,
        texts,
        {hook_point: vectors},
        budget=budget,
        measure=measure,
        tolerance=tolerance,
        max_strength=max_strength,
        checks=checks,
        max_tokens=max_tokens,
        token_budget=token_budget,
    )[hook_point]


def solve_cell_strengths(
    model: HookedModel,
    texts: Sequence[str],
    vectors: Mapping[str, Float[Tensor, "_ d_model"]],
    *,
    budget: float,
    measure: DamageMeasure = "kl",
    tolerance: float = 0.02,
    max_strength: float | None = None,
    checks: int = 4,
    max_tokens: int | None = None,
    token_budget: int | None = None,
) -> dict[str, list[SolvedStrength]]:
    """:func:`solve_strengths` at several hook points: texts are tokenised and run unsteered once, for all of them.

    Args:
        model: the target model.
        texts: neutral texts.
        vectors: by hook point, vectors for strength 1, ``[vector, d_model]``.
        budget: as in :func:`solve_strength`, like all that follow.
        measure: what the budget is in.
        tolerance: relative.
        max_strength: largest strength tried.
        checks: strengths tried in search of an earlier crossing.
        max_tokens: use at most this many tokens of each text.
        token_budget: most tokens in one forward pass.

    Returns:
        By hook point, one :class:`SolvedStrength` per vector.

    Raises:
        EvaluationError: no cells; or as :func:`solve_strength`.
        HookPointError: the model has no such hook point.
    """
    _check_budget(budget, measure, max_strength)
    check_cells(model, vectors)
    wide = {name: each.detach().to("cpu", torch.float64) for name, each in vectors.items()}
    names = list(wide)
    meter = DamageMeter(model, texts, names, max_tokens=max_tokens, token_budget=token_budget, details=False)
    residuals = mean_norms(model, [tokenize(model, list(texts), truncate="right", max_length=max_tokens)], names)
    searches: dict[tuple[str, int], BudgetSearch] = {}
    for name, cells in wide.items():
        norms = cells.norm(dim=1).tolist()
        if 0.0 in norms:
            raise EvaluationError(f"vector {norms.index(0.0)} at {name} is zero: no strength of it does anything.")
        for number, norm in enumerate(norms):
            unit = residuals[name] / norm
            searches[name, number] = _search(budget, measure, tolerance, unit, max_strength, checks)

    def totals(asked: dict[tuple[str, int], list[float]]) -> dict[tuple[str, int], list[float]]:
        rows: dict[str, list[Tensor]] = {}
        for (name, number), strengths in asked.items():
            rows.setdefault(name, []).extend(strength * wide[name][number] for strength in strengths)
        found = meter.cell_totals({name: torch.stack(each).float() for name, each in rows.items()})
        values = {name: iter(_values(meter, each, measure)) for name, each in found.items()}
        return {key: [next(values[key[0]]) for _ in strengths] for key, strengths in asked.items()}

    search_together(searches, totals)
    solved = {key: search.result(budget, measure) for key, search in searches.items()}
    return {name: [solved[name, number] for number in range(len(cells))] for name, cells in wide.items()}


def solve_directions(
    model: HookedModel,
    texts: Sequence[str],
    directions: Sequence[Cell],
    *,
    budget: float,
    measure: DamageMeasure = "kl",
    tolerance: float = 0.02,
    max_strength: float | None = None,
    checks: int = 4,
    max_tokens: int | None = None,
    prompt_tokens: int | None = None,
    token_budget: int | None = None,
) -> list[SolvedStrength]:
    """:func:`solve_strength` for directions: interventions at one or several hook points whose strengths grow together.

    Args:
        model: the target model.
        texts: neutral texts.
        directions: each is scaled as a whole; strength 1 is the direction as given. For the minus direction pass it
            negated.
        budget: as in :func:`solve_strength`, like all that follow.
        measure: what the budget is in.
        tolerance: relative.
        max_strength: largest multiple tried; where the vectors have 32 mean residual norms if None, or 1 for
            directions that project out or clamp.
        checks: strengths tried in search of an earlier crossing.
        max_tokens: use at most this many tokens of each text.
        prompt_tokens: first tokens of each text that are its prompt, as in :func:`contrans_lens.evaluation.damage`.
        token_budget: most tokens in one forward pass.

    Raises:
        EvaluationError: no directions, one that does nothing, or as :func:`solve_strength`.
        FingerprintMismatchError: a direction was made for another model.
        HookPointError: the model has no such hook point.
    """
    _check_budget(budget, measure, max_strength)
    checked = Cells(model, directions)
    names = checked.first_hook_points
    meter = DamageMeter(
        model,
        texts,
        names,
        max_tokens=max_tokens,
        prompt_tokens=prompt_tokens,
        token_budget=token_budget,
        details=False,
    )
    additions = {n: cell_additions(cell) for n, cell in enumerate(checked.cells) if stacks_as_rows(cell)}
    written = list(dict.fromkeys(name for each in additions.values() for name in each))
    batch = tokenize(model, list(texts), truncate="right", max_length=max_tokens)
    residuals = mean_norms(model, [batch], written) if written else {}
    searches: dict[int, BudgetSearch] = {}
    for number, cell in enumerate(checked.cells):
        if all(each.is_neutral for each in cell):
            raise EvaluationError(f"direction {number} does nothing at any strength; leave it out.")
        if number in additions:
            share = sum(float(vector.norm()) / residuals[name] for name, vector in additions[number].items())
            searches[number] = _search(budget, measure, tolerance, 1 / share, max_strength, checks)
        else:
            largest = max_strength or _LARGEST_PARTIAL
            first = min(_FIRST_PARTIAL, largest)
            searches[number] = BudgetSearch(_target(budget, measure), tolerance, first, largest, checks)

    def totals(asked: dict[int, list[float]]) -> dict[int, list[float]]:
        rows = [scaled(checked.cells[number], strength) for number, each in asked.items() for strength in each]
        values = iter(_values(meter, meter.totals_of(Cells(model, rows)), measure))
        return {number: [next(values) for _ in strengths] for number, strengths in asked.items()}

    search_together(searches, totals)
    return [searches[number].result(budget, measure) for number in range(len(checked))]


def _check_budget(budget: float, measure: DamageMeasure, max_strength: float | None) -> None:
    if not (math.isfinite(budget) and budget > (1.0 if measure == "perplexity_ratio" else 0.0)):
        raise EvaluationError(
            f"a {measure} budget of {budget} is no damage; give a KL above 0 or a perplexity ratio above 1."
        )
    if max_strength is not None and not (math.isfinite(max_strength) and max_strength > 0):
        raise EvaluationError(f"max_strength is {max_strength}; a finite number above 0 was expected.")


def _target(budget: float, measure: DamageMeasure) -> float:
    return budget - 1 if measure == "perplexity_ratio" else budget


def _search(
    budget: float,
    measure: DamageMeasure,
    tolerance: float,
    unit: float,
    max_strength: float | None,
    checks: int,
) -> BudgetSearch:
    """A search for an addition that has one mean residual norm at strength ``unit``."""
    return BudgetSearch(
        target=_target(budget, measure),
        tolerance=tolerance,
        first=min(_FIRST_SHARE * unit, max_strength or math.inf),
        largest=max_strength or _LARGEST_SHARE * unit,
        checks=checks,
    )


def _values(meter: DamageMeter, totals: DamageTotals, measure: DamageMeasure) -> list[float]:
    """The measure of every cell: KL, or the excess of the perplexity ratio over one; both start at zero."""
    sums = totals.kl if measure == "kl" else totals.nll
    means: list[float] = (sums.sum(1) / meter.counts.sum()).tolist()
    if measure == "kl":
        return means
    return [math.expm1(min(value - meter.unsteered_nll, 700.0)) for value in means]
