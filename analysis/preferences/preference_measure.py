"""What is measured of a model or a steered model, at full strength and at budgets of damage, on test pairs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from preference_setups import BUDGETS, MAIN, MAX_SCALE, MAX_STRENGTH, TOPICS, Setup, asked

from contrans_lens.evaluation import (
    Cell,
    Damage,
    Interval,
    SolvedStrength,
    bootstrap_mean_ci,
    damage,
    generate_cells,
    model_damage,
    prompt_damage,
    scaled,
    solve_adapter_scale,
    solve_directions,
)
from contrans_lens.evaluation.behaviours import Measurement, NeutralText, PairedAnswers
from contrans_lens.models import HookedModel, open_model
from contrans_lens.testbed import SCIT_INSTRUCTIONS
from contrans_lens.testbed.world import KIND_REPLIES, RUDE_REPLIES

TOLERANCE = 0.04
"""Relative, of solved damage."""
COLUMNS = ("probability", "accuracy", "log_odds")
Numbers = dict[str, Any]


@dataclass(frozen=True, eq=False)
class State:
    """A model that may be steered."""

    model: HookedModel
    cell: Cell = ()

    def ask(self, behaviour: PairedAnswers) -> Measurement:
        """Measure it."""
        return behaviour.measure(self.model, [self.cell])

    def damage(self, base: HookedModel, texts: NeutralText) -> Damage:
        """Its distance from the base on neutral text."""
        if self.model is base:
            return damage(base, texts.texts, self.cell)
        return model_damage(base, self.model, texts.texts)


def measure_adapter(setup: Setup, folder: Path, budgets: Sequence[float] = BUDGETS, *, brief: bool = False) -> Numbers:
    """An adapter at full strength, scaled down to each budget that it exceeds, and up to the main one.

    What is scaled up was never fitted so, and may undo what was; what an adapter does within a budget is told by
    :func:`within`.

    Args:
        setup: base and topic.
        folder: of the adapter.
        budgets: of KL.
        brief: leave out all but the pairs and the damage.
    """
    state = State(open_scaled(setup, folder, 1.0))
    found: Numbers = {"full": measure(setup, state, brief=True) | {"scale": 1.0}}
    full = found["full"]["kl"]
    if not brief:
        # Where it costs more than the main budget, everything else is told of what is scaled down to that.
        found["full"] |= measure_more(setup, state) if full <= MAIN else {"rates": rates(setup, state)}
    for budget in budgets:
        if full <= budget and budget != MAIN:
            continue
        solved = solved_scale(setup, folder, budget, setup.neutral, full)
        state = State(open_scaled(setup, folder, solved.strength))
        few = brief or budget != MAIN or full <= MAIN
        found[f"{budget:g}"] = measure(setup, state, brief=few) | {"scale": solved.strength, "reached": solved.reached}
    return found


def within(found: Numbers, budget: float) -> Numbers:
    """An adapter at full strength where it costs no more than a budget, else scaled down to it."""
    return found["full"] if "full" in found and found["full"]["kl"] <= budget else found[f"{budget:g}"]


def measure_cells(setup: Setup, cells: dict[str, Cell], whole: Sequence[str]) -> dict[str, Numbers]:
    """Vectors at each budget; a vector has no full strength. Everything is told of ``whole`` ones at the main one."""
    found: dict[str, Numbers] = {name: {} for name in cells}
    for budget in BUDGETS:
        solved = solved_strengths(setup, list(cells.values()), budget, setup.neutral)
        for (name, cell), each in zip(cells.items(), solved, strict=True):
            state = State(setup.base, scaled(cell, each.strength))
            numbers = measure(setup, state, brief=budget != MAIN or name not in whole)
            found[name][f"{budget:g}"] = numbers | {"scale": each.strength, "reached": each.reached}
    return found


def open_scaled(setup: Setup, folder: Path, scale: float) -> HookedModel:
    """The base with a multiple of an adapter."""
    return open_model(setup.place, adapter=folder, adapter_scale=scale)


def solved_scale(setup: Setup, folder: Path, budget: float, texts: NeutralText, full: float) -> SolvedStrength:
    """The multiple of an adapter at a budget; ``full`` is its damage at 1, from which the search begins."""
    first = min(MAX_SCALE, max(0.02, (budget / max(full, 1e-9)) ** 0.5))
    return solve_adapter_scale(
        lambda scale: open_scaled(setup, folder, scale),
        setup.base,
        texts.texts,
        budget,
        tolerance=TOLERANCE,
        first_scale=first,
        max_scale=MAX_SCALE,
    )


def solved_strengths(
    setup: Setup, cells: Sequence[Cell], budget: float, texts: NeutralText, tolerance: float = TOLERANCE
) -> list[SolvedStrength]:
    """The strengths of vectors at a budget."""
    return solve_directions(
        setup.base,
        texts.texts,
        cells,
        budget=budget,
        tolerance=tolerance,
        max_strength=MAX_STRENGTH,
        checks=0,
    )


def measure(setup: Setup, state: State, *, brief: bool = False, prefix: str = "") -> Numbers:
    """Everything that is told of a state, on test pairs.

    Args:
        setup: base and topic.
        state: the model, steered or not.
        brief: the pairs and the damage alone.
        prefix: words before each prompt, for the method that has nothing else.
    """
    own = state.ask(setup.test.with_prefix(prefix))
    cost = state.damage(setup.base, setup.neutral)
    found: Numbers = {name: told(own.intervals(name)[0]) for name in COLUMNS}
    found |= {"items": listed(own, "probability"), "margins": listed(own, "log_odds")}
    found |= {"kl": cost.kl, "kl_ci": cost.kl_ci, "nll": cost.nll}
    if prefix:
        words = prompt_damage(setup.base, setup.neutral.texts, prefix)
        found |= {"kl": words.kl, "kl_ci": None, "nll": math.log(words.perplexity)}
    else:
        found["kl_other"] = state.damage(setup.base, setup.other_texts).kl
    return found if brief else found | measure_more(setup, state, prefix)


def measure_more(setup: Setup, state: State, prefix: str = "") -> Numbers:
    """Greedy answers, obedience to cues, the other topic, capability, and damage on other texts."""
    found: Numbers = {"rates": rates(setup, state, prefix), "obedience": obedience(setup, state, prefix)}
    found["other"] = told(state.ask(asked(setup.other, "test").with_prefix(prefix)).intervals("probability")[0])
    correct = setup.capability.with_prefix(prefix).measure(state.model, [state.cell])
    found["capability"] = told(correct.intervals("accuracy")[0])
    if prefix:
        return found  # there is no changed model whose damage on these texts could be told
    found["kl_elsewhere"] = state.damage(setup.base, setup.checked_neutral).kl
    for side in ("positive", "negative"):
        cued = setup.neutral.with_prefix(getattr(SCIT_INSTRUCTIONS[setup.topic], side))
        found[f"kl_{side}_cue"] = state.damage(setup.base, cued).kl
    return found


def obedience(setup: Setup, state: State, prefix: str = "") -> Numbers:
    """P(chosen) under p+ and P(rejected) under p- of each topic: what cues can still ask for."""
    found: Numbers = {}
    for topic in TOPICS:
        for side in ("positive", "negative"):
            pairs = setup.cued(topic, side).with_prefix(prefix)
            value = float(state.ask(pairs).means("probability")[0])
            found[f"{topic} {side}"] = value if side == "positive" else 1 - value
    return found


def rates(setup: Setup, state: State, prefix: str = "") -> Numbers:
    """Shares of greedy answers to the test prompts that are of the preferred kind, of the other kind, or neither."""
    prompts = [prefix + item.prompt for item in setup.test.items]
    written = generate_cells(state.model, prompts, [state.cell], max_new_tokens=5).texts[0]
    kinds = [
        kind_of(setup, text, item.positive, item.negative) for text, item in zip(written, setup.test.items, strict=True)
    ]
    names = ("kind", "rude", "other") if setup.topic == "kindness" else ("truth", "rumour", "other")
    found: Numbers = {}
    for number, name in enumerate(names):
        hits = torch.tensor([float(kind == number) for kind in kinds])
        found[name] = told(bootstrap_mean_ci(hits, setup.test.groups))
    return found


def kind_of(setup: Setup, text: str, positive: str, negative: str) -> int:
    """0: of the preferred kind, 1: of the other, 2: neither."""
    words = text.split()
    first = words[0].strip(".,!") if words else ""
    if setup.topic == "kindness":
        return 0 if first in KIND_REPLIES else 1 if first in RUDE_REPLIES else 2
    return 0 if text.startswith(positive) else 1 if text.startswith(negative) else 2


def told(interval: Interval) -> list[float]:
    """An interval as JSON values."""
    return [interval.value, interval.low, interval.high]


def listed(found: Measurement, column: str) -> list[float]:
    """The values of the one cell, item by item, in five digits."""
    return [round(value, 5) for value in found.column(column)[0].tolist()]
