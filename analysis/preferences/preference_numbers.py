"""All that was measured, over seeds: means with intervals over groups of pairs and seeds, and paired differences."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from preference_choice import Chosen
from preference_measure import COLUMNS, Numbers, told, within
from preference_setups import BUDGETS, MAIN, SOURCES, Setup
from preference_transfer import CONTROLS
from preference_units import TRAINED, WITHOUT_STEP_1

from contrans_lens.artifacts import read_json
from contrans_lens.evaluation import Interval, bootstrap_draws_ci, bootstrap_mean_ci

LABELS = tuple(f"{budget:g}" for budget in BUDGETS)
CONTRANS = "ConTrans"
BETWEEN = (
    ("RAHF-SCIT", "preferred-SFT"),
    ("RAHF-SCIT", "DPO"),
    ("RAHF-cues", "preferred-SFT"),
    ("RAHF-cues", "DPO"),
    ("RAHF-Dual", "preferred-SFT"),
    ("RAHF-SCIT", "RAHF-cues"),
)
"""Trained methods that are compared with each other."""
MEANS = (
    ("native SCIT mean", "native mean difference"),
    ("native cue mean", "native mean difference"),
    *((f"cue mean from {source}", f"{CONTRANS} from {source}") for source in SOURCES),
)
"""Means of v as concept vectors, and the mean difference that each stands beside."""
Rows = Sequence[Mapping[str, Any]]


def setup_numbers(setup: Setup) -> Numbers:
    """One setup, all seeds that are finished."""
    seeds = [seed for seed in setup.sizes.seeds if (setup.folder / f"seed{seed}.json").exists()]
    read = Reading(setup, seeds)
    adapters = {name: read.adapter(f"method {name}") for name in TRAINED}
    vectors = read.vectors()
    best = f"ConTrans from {Chosen(setup).best_source()}"
    controls = {name.removeprefix("control "): read.adapter(name, (LABELS[-1],)) for name in control_names()}
    return {
        "seeds": seeds,
        "chosen": read_json(setup.folder / "chosen.json"),
        "tried": {name: read_json(setup.folder / f"chosen-{name}.json")["tried"] for name in TRAINED},
        "best_source": Chosen(setup).best_source(),
        "references": {name: brief(name, row) for name, row in read.part("references", 0).items()},
        "methods": adapters,
        "vectors": vectors,
        "controls": controls,
        "transfer": {name: read.adapter(f"transfer {name}", labels) for name, labels in transfer_names()},
        "random": read.part("random", 0),
        "matched": {name: read.matched(name) for name in TRAINED},
        "within": {label: {name: read.against(name, best, label) for name in TRAINED} for label in LABELS},
        "between": {
            label: {f"{one} - {other}": read.between(one, other, label) for one, other in BETWEEN} for label in LABELS
        },
        "means": {f"{one} - {other}": read.vector_difference(one, other) for one, other in MEANS},
        "costs": {**{name: read.cost(f"method {name}") for name in TRAINED}, **read.vector_costs(best)},
        "transfer_against": {source: read.transfer_against(source, best) for source in SOURCES},
        "seconds": {
            "choice": read_json(setup.folder / "chosen.json")["cpu_seconds"],
            **{f"seed {seed}": read_json(setup.folder / f"seed{seed}.json")["cpu_seconds"] for seed in seeds},
        },
    }


def control_names() -> list[str]:
    """The controls of the trained methods, as their files are called."""
    shuffled = [f"control shuffled {name}" for name in TRAINED if name != "RAHF-cues"]
    return [*shuffled, *(f"control {name}" for name in ("half of the signs", *WITHOUT_STEP_1))]


def transfer_names() -> list[tuple[str, tuple[str, ...]]]:
    """What was transferred, with the budgets it was measured at."""
    carried = [(f"{source} carried", LABELS) for source in SOURCES]
    return [*carried, *((f"{SOURCES[0]} {name}", (LABELS[-1],)) for name in CONTROLS)]


class Reading:
    """The finished parts of a setup."""

    def __init__(self, setup: Setup, seeds: Sequence[int]) -> None:
        """Nothing is read yet."""
        self.setup, self.seeds, self.groups = setup, seeds, setup.test.groups

    def part(self, name: str, seed: int) -> Numbers:
        """A part as it was kept."""
        return read_json(self.setup.folder / f"seed{seed}" / f"{name.replace(' ', '-')}.json")

    def adapter(self, name: str, labels: Sequence[str] = LABELS) -> Numbers:
        """An adapter over seeds: at full strength, at each budget, and within each budget."""
        parts = [self.part(name, seed) for seed in self.seeds]
        found = {label: self.over_seeds([part[label] for part in parts]) for label in ("full", LABELS[-1])}
        found |= {
            f"within {label}": self.over_seeds([within(part, float(label)) for part in parts]) for label in labels
        }
        errors = [part["notes"]["relative_error"] for part in parts if "relative_error" in part["notes"]]
        return found | ({"relative_error": errors} if errors else {})

    def vectors(self) -> Numbers:
        """Every kind of vector over seeds."""
        parts = [self.part("vectors", seed) for seed in self.seeds]
        found: Numbers = {}
        for kind in parts[0]:
            found[kind] = {label: self.over_seeds([part[kind][label] for part in parts]) for label in LABELS}
            found[kind] |= {"place": parts[0][kind]["place"], "cosine": [part[kind]["cosine"] for part in parts]}
        return found

    def over_seeds(self, rows: Rows) -> Numbers:
        """Means over seeds; P(chosen), accuracy of pairs and margin with intervals over groups and seeds together."""
        found: Numbers = {"probability": self.interval([row["items"] for row in rows])}
        margins = [row["margins"] for row in rows]
        found["log_odds"] = self.interval(margins)
        found["accuracy"] = self.interval([[(m > 0) + 0.5 * (m == 0) for m in each] for each in margins])
        found["seeds"] = {name: [row[name][0] for row in rows] for name in COLUMNS} | {"kl": [r["kl"] for r in rows]}
        for name in ("kl", "nll", "kl_other", "scale", "kl_elsewhere", "kl_positive_cue", "kl_negative_cue"):
            if all(name in row for row in rows):
                found[name] = mean([row[name] for row in rows])
        found["reached"] = sum(row.get("reached", True) for row in rows)
        for name in ("other", "capability"):
            if all(name in row for row in rows):
                found[name] = mean([row[name][0] for row in rows])
        for name in ("rates", "obedience"):
            if all(name in row for row in rows):
                found[name] = {key: mean([first(row[name][key]) for row in rows]) for key in rows[0][name]}
        return found

    def interval(self, values: Sequence[Sequence[float]]) -> list[float]:
        """Mean over seeds and pairs, both resampled; pairs by group."""
        drawn = torch.tensor(values, dtype=torch.float64)
        found: Interval = (
            bootstrap_draws_ci(drawn, self.groups) if len(drawn) > 1 else bootstrap_mean_ci(drawn[0], self.groups)
        )
        return told(found)

    def difference(self, first_rows: Rows, second_rows: Rows) -> Numbers:
        """First minus second on the same pairs, seed by seed."""
        found: Numbers = {}
        for name, column in (("probability", "items"), ("log_odds", "margins")):
            pairs = [
                (torch.tensor(one[column]) - torch.tensor(other[column])).tolist()
                for one, other in zip(first_rows, second_rows, strict=True)
            ]
            found[name] = self.interval(pairs)
            found[f"{name}_seeds"] = [mean(each) for each in pairs]
        found["kl"] = [mean([row["kl"] for row in rows]) for rows in (first_rows, second_rows)]
        found["kl_other"] = [mean([row["kl_other"] for row in rows]) for rows in (first_rows, second_rows)]
        return found

    def matched(self, name: str) -> Numbers:
        """A trained method at full strength minus ConTrans's vector at the same KL."""
        own = [self.part(f"method {name}", seed)["full"] for seed in self.seeds]
        vector = [self.part("matched", seed)[name] for seed in self.seeds]
        values = {"method": self.over_seeds(own)["probability"], "vector": self.over_seeds(vector)["probability"]}
        return self.difference(own, vector) | values | {"reached": sum(row["reached"] for row in vector)}

    def against(self, name: str, kind: str, label: str) -> Numbers:
        """A trained method within a budget minus ConTrans's vector at it."""
        own = [within(self.part(f"method {name}", seed), float(label)) for seed in self.seeds]
        return self.difference(own, [self.part("vectors", seed)[kind][label] for seed in self.seeds])

    def between(self, one: str, other: str, label: str) -> Numbers:
        """A trained method minus another, each within a budget."""
        rows = [
            [within(self.part(f"method {name}", seed), float(label)) for seed in self.seeds] for name in (one, other)
        ]
        return self.difference(rows[0], rows[1])

    def vector_difference(self, one: str, other: str) -> Numbers:
        """A kind of vector minus another at each budget."""
        parts = [self.part("vectors", seed) for seed in self.seeds]
        return {
            label: self.difference([p[one][label] for p in parts], [p[other][label] for p in parts]) for label in LABELS
        }

    def transfer_against(self, source: str, kind: str) -> Numbers:
        """What was carried and fitted, minus the target's own v fitted, and minus ConTrans's vector."""
        found: Numbers = {}
        for label in LABELS:
            carried, own = (
                [within(self.part(name, seed), float(label)) for seed in self.seeds]
                for name in (f"transfer {source} carried", "method RAHF-cues")
            )
            vector = [self.part("vectors", seed)[kind][label] for seed in self.seeds]
            found[label] = {"own v": self.difference(carried, own), "vector": self.difference(carried, vector)}
        return found

    def cost(self, name: str) -> Numbers:
        """What a method took, mean over seeds."""
        spent = [self.part(name, seed)["spent"] for seed in self.seeds]
        return {
            "cpu_seconds": mean([each["cpu_seconds"] for each in spent]),
            "block_tokens": mean([each["block_tokens"] for each in spent]),
            "parts": {part: mean([each["parts"][part] for each in spent]) for part in spent[0]["parts"]},
        }

    def vector_costs(self, best: str) -> Numbers:
        """What vectors took: reading, maps, and the choice of the hook points, which is part of the method."""
        found: Numbers = {}
        for label, kind in ((CONTRANS, best), ("native mean difference", "native mean difference")):
            parts = [self.part("vectors", seed)[kind] for seed in self.seeds]
            both = [(part["spent"], part["choice"]) for part in parts]
            found[label] = {
                "cpu_seconds": mean([one["cpu_seconds"] + two["cpu_seconds"] for one, two in both]),
                "block_tokens": mean([one["block_tokens"] + two["block_tokens"] for one, two in both]),
                "parts": {
                    name: mean([(one["parts"] | two["parts"])[name] for one, two in both])
                    for name in both[0][0]["parts"] | both[0][1]["parts"]
                },
            }
        return found


def overall(setups: Mapping[str, Numbers]) -> Numbers:
    """Over setups: who wins against ConTrans's vector, and how often the interval says so."""
    found: Numbers = {}
    for name in TRAINED:
        for where, pick in (
            ("at its own KL", lambda each, name=name: each["matched"][name]),
            (f"within {MAIN:g}", lambda each, name=name: each["within"][f"{MAIN:g}"][name]),
            (f"within {BUDGETS[0]:g}", lambda each, name=name: each["within"][f"{BUDGETS[0]:g}"][name]),
        ):
            rows = [pick(each)["probability"] for each in setups.values()]
            found.setdefault(name, {})[where] = {
                "difference": mean([row[0] for row in rows]),
                "method_wins": sum(row[1] > 0 for row in rows),
                "vector_wins": sum(row[2] < 0 for row in rows),
                "open": sum(row[1] <= 0 <= row[2] for row in rows),
            }
    return found


def brief(name: str, row: Numbers) -> Numbers:
    """A reference without its pairs; words are no model of their own, whose damage elsewhere could be told."""
    left_out = ("items", "margins", *(key for key in row if name == "words" and key.startswith("kl_")))
    return {key: value for key, value in row.items() if key not in left_out}


def first(value: Any) -> float:
    """The value of an interval, or the number itself."""
    return float(value[0] if isinstance(value, list) else value)


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean."""
    return sum(values) / len(values)
