"""Scores on test items: every method at equal damage, at strength 1, and beside its controls."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from tale_items import TaleItems, tale_items
from tale_lab import Lab
from tale_methods import (
    MAX_STRENGTH,
    METHODS,
    PACE,
    REFERENCE,
    Recipe,
    method_cell,
    random_cells,
    shuffled_cells,
    topic_partition,
)
from tale_search import MAIN_BUDGET, interval_numbers
from torch import Tensor

from contrans_lens.evaluation import Cell, bootstrap_mean_cis, rank_p_value
from contrans_lens.pace.decomposition import decompose
from contrans_lens.pace.removal import ConceptRemoval, Mode
from contrans_lens.residuals import capture
from contrans_lens.tradeoff import Comparison, compare

BUDGETS = (0.03, MAIN_BUDGET, 0.3)
SOLVED = ("omp", "elastic net", "projection")
"""Methods for which strength 1 means something: what is found is taken out."""


def score(lab: Lab, topic: str, mode: Mode, endings: list[list[str]], found: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that is measured of one topic and mode, once, with the recipes that the search chose."""
    items = tale_items(topic, "test", [(pair[0], pair[1]) for pair in endings])
    chosen = {method: Recipe.from_dict(found["chosen"][method]) for method in METHODS}
    cells = {method: method_cell(lab, recipe, topic, mode) for method, recipe in chosen.items()}
    budgets = {}
    for budget in BUDGETS[1:2] if lab.sizes.small else BUDGETS:
        budgets[f"{budget:g}"] = _method_rows(lab, cells, items, budget)
    as_given = _method_rows(lab, {method: cells[method] for method in SOLVED}, items, None)
    return {
        "recipes": {method: recipe.to_dict() for method, recipe in chosen.items()},
        "budgets": budgets,
        "strength one": as_given,
        "controls": {REFERENCE: _controls(lab, topic, mode, chosen[REFERENCE], items)},
        "found": {method: _found(lab, topic, cells[method][0], chosen[method], items) for method in PACE},
    }


def elastic(lab: Lab, topic: str, mode: Mode, endings: list[list[str]], found: Mapping[str, Any]) -> dict[str, Any]:
    """Shuffled partitions under the elastic net's own recipe."""
    items = tale_items(topic, "test", [(pair[0], pair[1]) for pair in endings])
    return _controls(lab, topic, mode, Recipe.from_dict(found["chosen"]["elastic net"]), items)


def _method_rows(lab: Lab, cells: Mapping[str, Cell], items: TaleItems, budget: float | None) -> dict[str, Any]:
    """One row a method, beside the unedited model."""
    cloze = [lab.cloze()] if budget in (MAIN_BUDGET, None) else []
    compared = compare(
        lab.model,
        cells,
        [items.unwanted, items.opposite, *cloze],
        lab.neutral("score"),
        budget=budget,
        signs="plus",
        max_strength=MAX_STRENGTH,
        reference=REFERENCE,
    )
    shrinks = {method: shrink(compared, method)[0] for method in cells}
    columns = torch.stack([*shrinks.values(), *(each - shrinks[REFERENCE] for each in shrinks.values())], dim=1)
    intervals = [interval_numbers(each) for each in bootstrap_mean_cis(columns, items.unwanted.groups)]
    rows: dict[str, Any] = {"unsteered": _row(compared, "unsteered", bool(cloze))}
    for place, method in enumerate(cells):
        rows[method] = {**_row(compared, method, bool(cloze)), "shrink": intervals[place]}
        if method != REFERENCE:
            rows[method]["shrink_difference"] = intervals[len(cells) + place]
    return rows


def _row(compared: Comparison, method: str, cloze: bool) -> dict[str, Any]:
    unwanted, opposite, damage = (
        compared.row(method, "unwanted"),
        compared.row(method, "opposite"),
        compared.damage(method),
    )
    row: dict[str, Any] = {
        "strength": unwanted.strength,
        "reached": unwanted.reached,
        "kl": damage.kl,
        "perplexity": damage.perplexity,
        "log_odds": interval_numbers(unwanted.plus),
        "expectation": interval_numbers(compared.row(method, "unwanted", "expectation").plus),
        "effect": interval_numbers(unwanted.effect),
        "opposite_effect": interval_numbers(opposite.effect),
    }
    if unwanted.difference is not None and method != "unsteered":
        row["difference"] = interval_numbers(unwanted.difference)
    if cloze:
        accuracy = compared.row(method, "cloze")
        row |= {"cloze": interval_numbers(accuracy.plus), "cloze_effect": interval_numbers(accuracy.effect)}
    return row


def shrink(compared: Comparison, method: str) -> Float[Tensor, "draw item"]:
    """By how much the context effect falls: the change after opposite beginnings minus that after unwanted ones.

    A push towards other words that does not look at the context leaves it at 0; taking out what is there does not.
    """
    sides = [compared.values[side][method].column("log_odds") for side in ("unwanted", "opposite")]
    changes = [values[0::2] - values[1::2] for values in sides]
    return changes[1] - changes[0]


def _controls(lab: Lab, topic: str, mode: Mode, recipe: Recipe, items: TaleItems) -> dict[str, Any]:
    """PaCE beside draws of each null at the main budget; the draws use its recipe and choose nothing themselves."""
    families = {"shuffled": shuffled_cells(lab, recipe, topic, mode, lab.sizes.draws)}
    if recipe.method == REFERENCE:
        families["random"] = random_cells(lab, recipe, mode, lab.sizes.draws)
    compared = compare(
        lab.model,
        {"pace": method_cell(lab, recipe, topic, mode), **families},
        [items.unwanted, items.opposite],
        lab.neutral("score"),
        budget=MAIN_BUDGET,
        signs="plus",
        max_strength=MAX_STRENGTH,
        reference="pace",
        tolerance=0.05,
    )
    own = compared.row("pace", "unwanted")
    own_shrink = float(shrink(compared, "pace").mean())
    result: dict[str, Any] = {"pace": {"effect": interval_numbers(own.effect), "shrink": own_shrink}}
    for name in families:
        row, shrinks = compared.row(name, "unwanted"), shrink(compared, name).mean(1).tolist()
        result[name] = {
            "effect": interval_numbers(row.effect),
            "p": row.p_value,
            "p_one_sided": rank_p_value([-each for each in row.draws], -own.effect.value),
            "draws": list(row.draws),
            "shrink_p": rank_p_value(shrinks, own_shrink),
            "shrink_draws": shrinks,
            "strength": row.strength,
            "reached": row.reached,
            "kl": compared.damage(name).kl,
        }
    return result


def _found(lab: Lab, topic: str, removal: Any, recipe: Recipe, items: TaleItems) -> dict[str, Any]:
    """What a removal takes out of the last token of beginnings, at strength 1 at its first hook point.

    ``size``: norm of what is removed over the norm of the activation; ``present``: share of beginnings where anything
    is removed; ``negative``: share of removed coefficients that are negative, where removal adds the concept.
    """
    if not isinstance(removal, ConceptRemoval):
        raise TypeError(f"{removal} is no removal of concepts")
    dictionary = lab.dictionaries[recipe.reading]
    mask = topic_partition(lab, recipe.reading, topic).mask(dictionary)
    texts = {
        "unwanted": [item.prompt for item in items.unwanted.items],
        "opposite": [item.prompt for item in items.opposite.items],
        "neutral": [text[:60] for text in lab.neutral("score").texts],
    }
    result: dict[str, Any] = {"layer": recipe.layers[0]}
    for name, some in texts.items():
        states = capture(lab.model, some, [removal.hook_point]).tensor(removal.hook_point)
        made = decompose(dictionary, states, removal.hook_point, solver=removal.solver, only=mask)
        sizes = made.codes.combine(removal.prepared.atoms).norm(dim=1) / made.norms
        values = made.codes.values[made.codes.values != 0]
        result[name] = {
            "size": _mean(sizes),
            "present": _mean((made.codes.counts() > 0).float()),
            "negative": float((values < 0).float().mean()) if len(values) else None,
        }
    return result


def _mean(values: Float[Tensor, " row"] | Sequence[float]) -> list[float]:
    rows = torch.as_tensor(values).double()[:, None]
    return interval_numbers(bootstrap_mean_cis(rows, ("",) * len(rows))[0])
