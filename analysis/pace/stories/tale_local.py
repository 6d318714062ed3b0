"""What the methods do where they act: drift after the beginnings themselves, not on neutral text.

A removal that finds nothing in neutral text costs nothing there at any strength. What it does to the beginnings in
which it finds something is seen here: KL(unedited || edited) along a greedy continuation.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from tale_items import tale_items
from tale_lab import Lab
from tale_methods import METHODS, Recipe, method_cell
from tale_search import MAIN_BUDGET, interval_numbers

from contrans_lens.evaluation import scaled
from contrans_lens.evaluation.behaviours import Generations
from contrans_lens.pace.removal import Mode

NEW_TOKENS = {"stories-260k": 8, "storychars-1m": 24}
_SHOWN = 3


def local(lab: Lab, topic: str, mode: Mode, endings: list[list[str]], scored: Mapping[str, Any]) -> dict[str, Any]:
    """Drift after unwanted and opposite beginnings of test scenes, at the strengths of the main budget."""
    rows = scored["budgets"][f"{MAIN_BUDGET:g}"]
    cells = [
        scaled(method_cell(lab, Recipe.from_dict(scored["recipes"][name]), topic, mode), rows[name]["strength"])
        for name in METHODS
    ]
    items = tale_items(topic, "test", [(endings[0][0], endings[0][1])])
    found: dict[str, Any] = {name: {} for name in METHODS}
    for side in (items.unwanted, items.opposite):
        behaviour = Generations(
            tuple(item.prompt for item in side.items),
            _no_score,
            "nothing",
            max_new_tokens=NEW_TOKENS[lab.name],
            groups=side.groups,
        )
        every = [(), *cells]
        written = behaviour.write(lab.model, every)
        measured = behaviour.judged(written, lab.model, every)
        kl = measured.intervals("kl_along")
        for place, name in enumerate(METHODS):
            found[name][side.name] = interval_numbers(kl[place + 1])
            found[name][f"{side.name} texts"] = list(written.texts[place + 1][:_SHOWN])
        found["unsteered"] = {**found.get("unsteered", {}), f"{side.name} texts": list(written.texts[0][:_SHOWN])}
    return found


def _no_score(prompts: Sequence[str], texts: Sequence[str]) -> list[float]:
    return [0.0] * len(texts)
