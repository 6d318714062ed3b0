"""Measuring vectors at equal damage; what every item says is kept on disk."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from refinement_methods import Vectors
from refinement_pairs import N_NEUTRAL, Pair
from refinement_texts import behaviours
from torch import Tensor

from contrans_lens.artifacts import MANIFEST_NAME, load_artifact, read_manifest, save_artifact
from contrans_lens.concepts import ConceptVectors
from contrans_lens.evaluation import Cell, random_directions, scaled
from contrans_lens.evaluation.behaviours import NeutralText, PairedAnswers
from contrans_lens.testbed import neutral_texts
from contrans_lens.tradeoff import compare, direction
from contrans_lens.tradeoff.methods import Method

BUDGET, MAX_TOKENS = 0.05, 48
ROUGH_TEXTS = 3
"""Neutral texts where solvers are chosen."""
TOLERANCE, ROUGH_TOLERANCE = 0.03, 0.1
KIND = "pace_refinement_part"


@dataclass(frozen=True, eq=False)
class Effects:
    """Effects of methods on items, ``value(+) - value(-)``, and what they cost."""

    odds: Mapping[str, Mapping[str, Float[Tensor, "draw item"]]]
    """By behaviour and method, in nats of log-odds."""
    expectation: Mapping[str, Mapping[str, Float[Tensor, "draw item"]]]
    """The same in [-2, 2]."""
    groups: Mapping[str, Sequence[str]]
    """Group of each item, by behaviour."""
    costs: Mapping[str, Mapping[str, float]]
    """By method: KL, strength, change of the capability accuracy."""
    facts: Mapping[str, Any]


def measure(
    pair: Pair, place: str, made: Vectors, part: str, reference: str | None, facts: Mapping[str, Any]
) -> Effects:
    """All vectors at the target's hook point at equal damage, on the items of one part."""
    methods: dict[str, Method] = {}
    for name, vectors in made.items():
        cells = [direction(place, each.at(place), residual_norm=pair.norms[place]) for each in vectors]
        methods[name] = cells if len(cells) > 1 else cells[0]
    asked = behaviours(pair.splits, part)
    test = part == "test"
    neutral = neutral_texts(N_NEUTRAL)[: None if test else ROUGH_TEXTS]
    found = compare(
        pair.target.model,
        methods,
        asked,
        NeutralText(tuple(neutral), MAX_TOKENS),
        budget=BUDGET,
        reference=reference,
        tolerance=TOLERANCE if test else ROUGH_TOLERANCE,
    )
    columns: dict[str, dict[str, dict[str, Tensor]]] = {"log_odds": {}, "expectation": {}}
    for behaviour, by_method in found.values.items():
        if behaviour != "capability":
            for column, into in columns.items():
                values = {name: by_method[name].column(column) for name in methods}
                into[behaviour] = {name: each[::2] - each[1::2] for name, each in values.items()}
    costs = {}
    for name in methods:
        damage, row = found.damage(name), found.row(name, asked[0].name)
        costs[name] = {"kl": damage.kl, "strength": float(row.strength or 0.0), "reached": float(bool(row.reached))}
        if test:
            costs[name]["capability"] = found.row(name, "capability", "accuracy").change.value
    groups = {each.name: each.groups for each in asked if each.name != "capability"}
    return Effects(columns["log_odds"], columns["expectation"], groups, costs, facts)


def measured_again(pair: Pair, place: str, made: Vectors, asked: PairedAnswers, costs: Mapping[str, Any]) -> Effects:
    """Single vectors at the strengths that were solved before, on other items."""
    names = [name for name, vectors in made.items() if len(vectors) == 1]
    cells: list[Cell] = []
    for name in names:
        cell = direction(place, made[name][0].at(place), residual_norm=pair.norms[place])
        cells += [scaled(cell, sign * costs[name]["strength"]) for sign in (1.0, -1.0)]
    found = asked.measure(pair.target.model, cells)
    odds, expectation = (
        {asked.name: {name: (values[2 * i] - values[2 * i + 1])[None] for i, name in enumerate(names)}}
        for values in (found.column("log_odds"), found.column("expectation"))
    )
    return Effects(odds, expectation, {asked.name: asked.groups}, {name: costs[name] for name in names}, {})


def with_other_items(effects: Effects, other: Effects) -> Effects:
    """The methods that were measured again, their new items in place of the old ones."""
    names = other.costs.keys()
    odds, expectation = (
        {behaviour: {name: rows[name] for name in names} for behaviour, rows in {**old, **new}.items()}
        for old, new in ((effects.odds, other.odds), (effects.expectation, other.expectation))
    )
    return Effects(odds, expectation, {**effects.groups, **other.groups}, other.costs, effects.facts)


def joined(first: Effects, second: Effects) -> Effects:
    """The methods of two measurements on the same items."""
    odds, expectation = (
        {name: {**rows, **more[name]} for name, rows in values.items()}
        for values, more in ((first.odds, second.odds), (first.expectation, second.expectation))
    )
    cosines = {**first.facts["cosine_with_native"], **second.facts["cosine_with_native"]}
    facts = {**first.facts, "cosine_with_native": cosines}
    return Effects(odds, expectation, first.groups, {**first.costs, **second.costs}, facts)


def random_vectors(pair: Pair, place: str, draws: int) -> Vectors:
    """Isotropic directions, as a family."""
    drawn = random_directions(pair.target.states.states.shape[2], draws, 1.0, seed=1)
    return {"random directions": [ConceptVectors("random", each[None], (place,)) for each in drawn]}


def kept_or(folder: Path, key: Mapping[str, Any], make: Callable[[], Effects]) -> Effects:
    """What was measured before under the same key, or what is measured now and kept."""
    if (folder / MANIFEST_NAME).exists() and read_manifest(folder, KIND)["body"]["key"] == json.loads(
        json.dumps(dict(key))
    ):
        return _opened(folder)
    _save(folder, make(), key)
    return _opened(folder)


def _save(folder: Path, found: Effects, key: Mapping[str, Any]) -> None:
    tensors, names = {}, {}
    for column, values in (("odds", found.odds), ("expectation", found.expectation)):
        for behaviour, by_method in values.items():
            for number, (method, each) in enumerate(by_method.items()):
                tensors[f"{column}.{behaviour}.{number}"] = each.float().contiguous().clone()
                names[str(number)] = method
    groups = {name: list(each) for name, each in found.groups.items()}
    body = {"key": dict(key), "names": names, "groups": groups, "costs": found.costs, "facts": found.facts}
    save_artifact(folder, KIND, tensors, body)


def _opened(folder: Path) -> Effects:
    saved = load_artifact(folder, KIND)
    columns: dict[str, dict[str, dict[str, Tensor]]] = {"odds": {}, "expectation": {}}
    for name, values in saved.tensors.items():
        column, behaviour, number = name.split(".")
        columns[column].setdefault(behaviour, {})[saved.body["names"][number]] = values.double()
    body = saved.body
    return Effects(columns["odds"], columns["expectation"], body["groups"], body["costs"], body["facts"])
