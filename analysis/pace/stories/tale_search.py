"""Gate and search: does the unedited model show the behaviour, and how is each method applied best (validation)?"""

from typing import Any

from tale_items import chosen_endings, tale_items
from tale_lab import Lab
from tale_methods import MAX_STRENGTH, METHODS, method_cell, recipes

from contrans_lens.evaluation import Interval, bootstrap_mean_cis
from contrans_lens.pace.removal import Mode
from contrans_lens.tradeoff import compare

MAIN_BUDGET = 0.1
SHOWN = 0.25
"""Nats: the lower end of the context effect on test items must lie above this for the behaviour to count as shown."""


def interval_numbers(interval: Interval) -> list[float]:
    """Value, lower and upper end."""
    return [interval.value, interval.low, interval.high]


def gate(lab: Lab, topic: str) -> dict[str, Any]:
    """Endings, and whether the unedited model follows the beginnings at all.

    The context effect is the log-odds of the unwanted continuation after unwanted beginnings minus after opposite ones.
    """
    endings, pool = chosen_endings(lab.model, topic)
    items = tale_items(topic, "test", endings)
    effect = items.context_effect(lab.model)[:, None]
    found = {"context_effect": bootstrap_mean_cis(effect, items.unwanted.groups)[0]}
    for side in (items.unwanted, items.opposite):
        measured = side.measure(lab.model, [()])
        found[f"log_odds_{side.name}"] = measured.intervals("log_odds")[0]
        found[f"expectation_{side.name}"] = measured.intervals("expectation")[0]
    return {
        "endings": [list(pair) for pair in endings],
        "pool_effects": pool,
        "n_items": len(items.unwanted.items),
        "n_scenes": len(set(items.unwanted.groups)),
        "shown": found["context_effect"].low > SHOWN,
        **{name: interval_numbers(each) for name, each in found.items()},
    }


def search(lab: Lab, topic: str, mode: Mode, endings: list[list[str]]) -> dict[str, Any]:
    """Every recipe of every method at the main budget on validation items: the largest fall of the log-odds wins."""
    items = tale_items(topic, "validation", [(pair[0], pair[1]) for pair in endings])
    tried = [recipe for method in METHODS for recipe in recipes(method, lab.sizes)]
    cells = {str(number): method_cell(lab, recipe, topic, mode) for number, recipe in enumerate(tried)}
    found = compare(
        lab.model,
        cells,
        [items.unwanted],
        lab.neutral("search"),
        budget=MAIN_BUDGET,
        signs="plus",
        max_strength=MAX_STRENGTH,
        reference="unsteered",
        tolerance=0.05,
    )
    rows = []
    for number, recipe in enumerate(tried):
        row = found.row(str(number), "unwanted")
        kl = found.damage(str(number)).kl
        rows.append(
            {
                **recipe.to_dict(),
                "effect": row.effect.value,
                "strength": row.strength,
                "reached": row.reached,
                "kl": kl,
            }
        )
    chosen = {
        method: min((row for row in rows if row["method"] == method), key=lambda row: row["effect"])
        for method in METHODS
    }
    return {"tried": rows, "chosen": chosen}
