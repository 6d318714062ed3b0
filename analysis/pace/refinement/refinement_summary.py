"""The numbers of the whole study: every setting and method pooled over pairs, by concept and over all, and by part."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool
from refinement_measure import Effects
from refinement_methods import AFTER, MANNERS, ORTHOGONAL, RANDOM_ATOMS, UNREFINED
from refinement_numbers import Numbers, Scorer, pooled, random_atoms, secondary
from refinement_texts import CONCEPTS, FAMILY, MAIN, unrelated
from torch import Tensor

from contrans_lens.texts import ContrastSplits

Parts = Mapping[tuple[str, str, str], Scorer]
MIXED = "mixed"
"""Both mixed settings of every concept, pooled."""


def related_items(splits: Mapping[str, ContrastSplits]) -> dict[str, dict[str, Bool[Tensor, " item"]]]:
    """By concept and behaviour of the emotions, which test items offer the concept's own word."""
    emotions = [name for name in CONCEPTS if FAMILY[name] == "emotions"]
    return {
        name: {other: ~torch.tensor(unrelated(splits[other].test.evaluation, name)) for other in emotions}
        for name in emotions
    }


def summary(parts: Parts, random: Mapping[str, Effects]) -> Numbers:
    """Pooled numbers, single parts, controls."""
    groups = {
        "main": [key for key in parts if key[2] in MAIN],
        **{name: [key for key in parts if key[2] == name] for name in CONCEPTS},
        "all concepts": list(parts),
    }
    made: Numbers = {"pooled": {}, "random_atoms": {}}
    for group, keys in groups.items():
        if keys:
            found = _settings({key: parts[key] for key in keys})
            whole = group in ("main", *MAIN)
            made["pooled"][group] = {setting: _methods(rows, whole) for setting, rows in found.items()}
            controls = {setting: _control(rows) for setting, rows in found.items()}
            made["random_atoms"][group] = {setting: each for setting, each in controls.items() if each}
    made["parts"] = {f"{a} -> {b}, {name}": _part(scorer) for (a, b, name), scorer in parts.items()}
    main = [found for part, found in made["parts"].items() if part.rsplit(", ", 1)[1] in MAIN]
    made["signs"] = {setting: _signs(main, setting) for setting in ("full", MIXED, "4 pairs", "8 pairs")}
    made["random_directions"] = _random(parts, random)
    return made


def again(parts: Parts) -> Numbers:
    """The settings of single vectors of the main concepts, pooled."""
    return {
        setting: _methods(rows, whole=True) for setting, rows in _settings(parts).items() if setting in ("full", MIXED)
    }


Rows = list[tuple[Scorer, str]]
"""A part and the setting's name in it."""


def _settings(parts: Parts) -> dict[str, Rows]:
    """The settings that all parts have."""
    found: dict[str, Rows] = {}
    for scorer in parts.values():
        for setting in dict.fromkeys(name.split("/")[0] for name in scorer.effects.odds[scorer.name]):
            called = MIXED if setting.startswith("mixed") else "second cue" if "cue" in setting else setting
            found.setdefault(called, []).append((scorer, setting))
    names = {setting: {scorer.name for scorer, _ in rows} for setting, rows in found.items()}
    return {setting: rows for setting, rows in found.items() if names[setting] == names["full"]}


class _Renamed(Scorer):
    """A part of which one setting is looked at: methods go by their name in it."""

    def __init__(self, scorer: Scorer, setting: str) -> None:
        cut = f"{setting}/"
        effects = scorer.effects
        odds, expectation = (
            {
                behaviour: {name.removeprefix(cut): v for name, v in rows.items() if name.startswith(cut)}
                for behaviour, rows in values.items()
            }
            for values in (effects.odds, effects.expectation)
        )
        costs = {name.removeprefix(cut): each for name, each in effects.costs.items() if name.startswith(cut)}
        super().__init__(scorer.name, Effects(odds, expectation, effects.groups, costs, effects.facts), scorer.related)
        self.setting = setting

    @property
    def methods(self) -> list[str]:
        """Methods of the setting."""
        return list(self.effects.odds[self.name])

    def cosine(self, method: str) -> float:
        """Cosine with the target's own vector, mean over draws."""
        found = self.effects.facts["cosine_with_native"][f"{self.setting}/{method}"]
        return float(sum(found) / len(found))


def _methods(rows: Rows, whole: bool) -> Numbers:
    scorers = [_Renamed(*row) for row in rows]
    shared = [name for name in scorers[0].methods if all(name in each.methods for each in scorers)]
    made: Numbers = {}
    for method in shared:
        if method != RANDOM_ATOMS:
            made[method] = pooled(scorers, method, UNREFINED) | (secondary(scorers, method) if whole else {})
            made[method]["cosine_with_native"] = sum(each.cosine(method) for each in scorers) / len(scorers)
    return made


def _control(rows: Rows) -> Numbers | None:
    scorers = [each for row in rows if RANDOM_ATOMS in (each := _Renamed(*row)).methods]
    return random_atoms(scorers) if scorers else None


def _part(scorer: Scorer) -> Numbers:
    made: Numbers = {name: each for name, each in scorer.effects.facts.items() if name != "cosine_with_native"}
    for setting in dict.fromkeys(name.split("/")[0] for name in scorer.effects.odds[scorer.name]):
        each = _Renamed(scorer, setting)
        made[setting] = {}
        for method in each.methods:
            if method != RANDOM_ATOMS:
                found = pooled([each], method, UNREFINED)
                kept = ("own", "leak", "share", "share_change")
                made[setting][method] = {name: found[name] for name in kept if name in found}
        if RANDOM_ATOMS in each.methods:
            made[setting][RANDOM_ATOMS] = random_atoms([each])
    return made


def _signs(parts: Sequence[Numbers], setting: str) -> Numbers:
    """In how many parts leak's share falls or rises, and beyond its interval."""
    made: Numbers = {}
    for method in (*MANNERS, ORTHOGONAL, *((AFTER,) if setting == "full" else ())):
        changes = [
            found[name][method]["share_change"]
            for found in parts
            for name in found
            if name == setting or (setting == MIXED and name.startswith("mixed"))
        ]
        made[method] = {
            "n": len(changes),
            "lower": sum(value < 0 for value, _, _ in changes),
            "lower_beyond": sum(high < 0 for _, _, high in changes),
            "higher_beyond": sum(low > 0 for _, low, _ in changes),
        }
    return made


def _random(parts: Parts, random: Mapping[str, Effects]) -> Numbers:
    """What random directions do to each family's items at the same damage, and what the main concepts' vectors do."""
    made: Numbers = {}
    for name, effects in random.items():
        by_family: dict[str, list[float]] = {}
        for behaviour, rows in effects.odds.items():
            size = rows["random directions"].mean(1).abs()
            by_family.setdefault(FAMILY[behaviour], []).append(float(size.mean()))
        made[name] = {family: sum(sizes) / len(sizes) for family, sizes in by_family.items()}
    made["mean"] = {
        family: sum(each[family] for each in made.values()) / len(made)
        for family in ("honesty", "kindness", "emotions")
    }
    return made
