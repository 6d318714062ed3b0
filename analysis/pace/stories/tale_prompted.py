"""Per token, but only over the beginning: what is left of an effect when the continuation itself is not edited?

Both models spell: " sad" is two tokens in one and four in the other. An edit of every token also acts in mid-word,
where it can make "sa" go on otherwise than with "d". That lowers the odds of the word and says nothing about the mood.
Here each method keeps the strength of the main budget and acts on the beginning alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from tale_items import TaleItems, tale_items
from tale_lab import MAX_TOKENS, MODELS, PROMPT_TOKENS, Lab
from tale_methods import MAX_STRENGTH, METHODS, PACE, REFERENCE, Recipe, method_cell, shuffled_cells
from tale_search import MAIN_BUDGET, interval_numbers

from contrans_lens.evaluation import Cell, bootstrap_mean_cis, rank_p_value, scaled, solve_directions
from contrans_lens.interventions import PROMPT, Intervention
from contrans_lens.pace.removal import ConceptRemoval


def prompted(lab: Lab, topic: str, endings: list[list[str]], scored: Mapping[str, Any]) -> dict[str, Any]:
    """Effect and fall of the context effect of every method, with shuffled partitions at the same budget."""
    items = tale_items(topic, "test", [(pair[0], pair[1]) for pair in endings])
    chosen = {name: Recipe.from_dict(scored["recipes"][name]) for name in METHODS}
    rows = scored["budgets"][f"{MAIN_BUDGET:g}"]
    cells = [
        scaled(method_cell(lab, recipe, topic, "per_token"), rows[name]["strength"]) for name, recipe in chosen.items()
    ]
    effects, shrinks = _changes(lab, items, cells)
    columns = torch.cat([effects, shrinks]).T
    intervals = [interval_numbers(each) for each in bootstrap_mean_cis(columns, items.unwanted.groups)]
    found: dict[str, Any] = {
        name: {"effect": intervals[place], "shrink": intervals[len(METHODS) + place]}
        for place, name in enumerate(METHODS)
    }
    for name in PACE if lab.name == MODELS[0] else (REFERENCE,):
        place = METHODS.index(name)
        own = float(effects[place].mean()), float(shrinks[place].mean())
        found[name]["shuffled"] = _controls(lab, topic, chosen[name], items, own)
    return found


def _changes(lab: Lab, items: TaleItems, cells: Sequence[Cell]) -> tuple[torch.Tensor, torch.Tensor]:
    """Effects after unwanted beginnings and falls of the context effect, ``[cell, item]``."""
    restricted = [(), *(tuple(_only_prompt(each) for each in cell) for cell in cells)]
    sides = [side.measure(lab.model, restricted).column("log_odds") for side in (items.unwanted, items.opposite)]
    unwanted, opposite = (values[1:] - values[:1] for values in sides)
    return unwanted, opposite - unwanted


def _controls(
    lab: Lab, topic: str, recipe: Recipe, items: TaleItems, own: tuple[float, float]
) -> dict[str, float | list[float]]:
    cells = shuffled_cells(lab, recipe, topic, "per_token", lab.sizes.draws)
    solved = solve_directions(
        lab.model,
        lab.neutral("score").texts,
        cells,
        budget=MAIN_BUDGET,
        max_strength=MAX_STRENGTH,
        max_tokens=MAX_TOKENS,
        prompt_tokens=PROMPT_TOKENS,
        tolerance=0.05,
    )
    strong = [scaled(cell, each.strength) for cell, each in zip(cells, solved, strict=True)]
    effects, shrinks = (values.mean(1).tolist() for values in _changes(lab, items, strong))
    return {
        "draws": effects,
        "shrink_draws": shrinks,
        "p_one_sided": rank_p_value([-each for each in effects], -own[0]),
        "shrink_p": rank_p_value(shrinks, own[1]),
    }


def _only_prompt(each: Any) -> Intervention | ConceptRemoval:
    if not isinstance(each, Intervention | ConceptRemoval):
        raise TypeError(f"{each} has no positions")
    return replace(each, positions=PROMPT)
