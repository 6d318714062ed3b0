"""PaCE with one more benign atom, the mean state: found after the first scores had been seen, so a hint, not a test."""

from collections.abc import Mapping
from itertools import product
from typing import Any

from tale_items import tale_items
from tale_lab import GROUND, READINGS, Lab
from tale_methods import LAYERS, MAX_STRENGTH, PARAMETERS, REFERENCE, Recipe, method_cell, topic_partition
from tale_score import shrink
from tale_search import MAIN_BUDGET, interval_numbers

from contrans_lens.evaluation import Cell, bootstrap_mean_cis, rank_p_value
from contrans_lens.pace.removal import Mode
from contrans_lens.tradeoff import compare


def grounded(lab: Lab, topic: str, mode: Mode, endings: list[list[str]], scored: Mapping[str, Any]) -> dict[str, Any]:
    """OMP on the dictionaries with the mean atom: chosen on validation as before, scored beside OMP without it."""
    pairs = [(pair[0], pair[1]) for pair in endings]
    places = product(READINGS, LAYERS, PARAMETERS[REFERENCE])
    tried = [Recipe(REFERENCE, f"{reading}{GROUND}", layers, k) for reading, layers, k in places]
    recipe = tried[_best(lab, [method_cell(lab, each, topic, mode) for each in tried], topic, pairs)]
    items = tale_items(topic, "test", pairs)
    compared = compare(
        lab.model,
        {
            "grounded": method_cell(lab, recipe, topic, mode),
            "omp": method_cell(lab, Recipe.from_dict(scored["recipes"][REFERENCE]), topic, mode),
            "shuffled": _shuffled(lab, recipe, topic, mode),
        },
        [items.unwanted, items.opposite],
        lab.neutral("score"),
        budget=MAIN_BUDGET,
        signs="plus",
        max_strength=MAX_STRENGTH,
        reference="grounded",
        tolerance=0.05,
    )
    own, control = compared.row("grounded", "unwanted"), compared.row("shuffled", "unwanted")
    difference = compared.row("omp", "unwanted").difference
    shrinks = {name: shrink(compared, name) for name in ("grounded", "shuffled")}
    own_shrink = bootstrap_mean_cis(shrinks["grounded"].T, items.unwanted.groups)[0]
    return {
        "recipe": recipe.to_dict(),
        "strength": own.strength,
        "reached": own.reached,
        "kl": compared.damage("grounded").kl,
        "effect": interval_numbers(own.effect),
        "opposite_effect": interval_numbers(compared.row("grounded", "opposite").effect),
        "shrink": interval_numbers(own_shrink),
        "omp_minus_grounded": None if difference is None else interval_numbers(difference),
        "p_one_sided": rank_p_value([-each for each in control.draws], -own.effect.value),
        "shrink_p": rank_p_value(shrinks["shuffled"].mean(1).tolist(), own_shrink.value),
        "draws": list(control.draws),
        "shrink_draws": shrinks["shuffled"].mean(1).tolist(),
    }


def _best(lab: Lab, cells: list[Cell], topic: str, endings: list[tuple[str, str]]) -> int:
    found = compare(
        lab.model,
        {str(number): cell for number, cell in enumerate(cells)},
        [tale_items(topic, "validation", endings).unwanted],
        lab.neutral("search"),
        budget=MAIN_BUDGET,
        signs="plus",
        max_strength=MAX_STRENGTH,
        reference="unsteered",
        tolerance=0.05,
    )
    return min(range(len(cells)), key=lambda number: found.row(str(number), "unwanted").effect.value)


def _shuffled(lab: Lab, recipe: Recipe, topic: str, mode: Mode) -> list[Cell]:
    """Draws that leave the mean atom benign."""
    own = topic_partition(lab, recipe.reading, topic)
    drawn = (own.shuffled(seed) for seed in range(4 * lab.sizes.draws))
    kept = [each for each in drawn if lab.dictionaries[recipe.reading].names[-1] not in each.undesirable]
    return [method_cell(lab, recipe, topic, mode, each) for each in kept[: lab.sizes.draws]]
