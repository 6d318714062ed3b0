"""The units of the study: the choice of settings of a setup, and everything measured of a setup with one seed."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from preference_choice import RAHF, SEED, Chosen
from preference_costs import once
from preference_measure import Numbers, State, measure, measure_adapter, solved_strengths
from preference_setups import BUDGETS, MAIN, SOURCES, Setup, opened
from preference_training import Made, Trainer, half_swapped
from preference_transfer import CONTROLS, Transfer
from preference_vectors import Vectors

from contrans_lens.evaluation import Cell, scaled
from contrans_lens.rahf.controls import constant, random_directions
from contrans_lens.rahf.summaries import SummarisedDifferences
from contrans_lens.testbed import SCIT_INSTRUCTIONS

TRAINED = (*RAHF, "preferred-SFT", "DPO")
WITHOUT_STEP_1 = ("random per token", "one random direction", "constant pattern")
"""Step 3 on other patterns in the place of SCIT's v."""


class Unit:
    """One setup and one seed; every part is kept in a file of its own."""

    def __init__(self, setup: Setup, seed: int) -> None:
        """Take the settings that were chosen."""
        self.setup, self.seed, self.chosen = setup, seed, Chosen(setup)
        self.folder = setup.folder / f"seed{seed}"
        pairs = setup.training_pairs(seed)
        self.trainer = Trainer(setup, seed, pairs, self.folder)
        self.shuffled = Trainer(setup, seed, pairs.shuffled(seed), self.folder / "shuffled")
        self.vectors = Vectors(setup, seed, self.trainer)

    def run(self) -> None:
        """Measure everything that is not there yet."""
        for name in TRAINED:
            self._adapter(f"method {name}", partial(self._trained, self.trainer, name))
        self._part("vectors", self._vectors)
        self._part("matched", self._matched)
        for name in TRAINED:
            if name != "RAHF-cues":  # its direction does not come from labels; its signs are exchanged instead
                self._adapter(f"control shuffled {name}", partial(self._trained, self.shuffled, name), (MAIN,))
        for name in ("half of the signs", *WITHOUT_STEP_1):
            self._adapter(f"control {name}", partial(self._other_pattern, name), (MAIN,))
        for source in SOURCES:
            transfer = Transfer(self.setup, self.seed, source, self.trainer)
            # One source stands for both in the controls, which cost a fit each.
            for name in ("carried", *(CONTROLS if source == SOURCES[0] else ())):
                make = partial(self._transferred, transfer, name)
                self._adapter(f"transfer {source} {name}", make, BUDGETS if name == "carried" else (MAIN,))
        if self.seed == SEED:
            self._part("references", self._references)
            self._part("random", self._random)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name.replace(' ', '-')}.json"

    def _part(self, name: str, make: Callable[[], Numbers]) -> Numbers:
        return once(self._path(name), make)

    def _adapter(self, name: str, make: Callable[[], Made], budgets: tuple[float, ...] = BUDGETS) -> None:
        def numbers() -> Numbers:
            made = make()
            found = measure_adapter(self.setup, made.folder, budgets, brief=not name.startswith("method"))
            return {**found, "spent": made.spent.to_dict(), "notes": made.notes}

        self._part(name, numbers)

    def _trained(self, trainer: Trainer, name: str) -> Made:
        choice = self.chosen.method(name)
        if name == "preferred-SFT":
            return trainer.preferred(choice.rate)
        return trainer.dpo(choice.rate) if name == "DPO" else trainer.rahf(RAHF[name], choice)

    def _other_pattern(self, name: str) -> Made:
        kind = "RAHF-cues" if name == "half of the signs" else "RAHF-SCIT"
        choice = self.chosen.method(kind)
        source, read = self.trainer.differences(RAHF[kind], choice)
        patterns: dict[str, Callable[[], SummarisedDifferences]] = {
            "half of the signs": lambda: half_swapped(source, self.seed),
            "random per token": lambda: random_directions(source, self.seed),
            "one random direction": lambda: random_directions(source, self.seed, one=True),
            "constant pattern": lambda: constant(source),
        }
        return self.trainer.fitted(patterns[name](), choice.alpha, f"control-{name.replace(' ', '-')}", read)

    def _transferred(self, transfer: Transfer, name: str) -> Made:
        return transfer.fit(name, self.chosen.transfer(transfer.source).alpha)

    def _vectors(self) -> Numbers:
        places, sweeps = self.chosen.places(), self.chosen.vectors()
        found: Numbers = self.vectors.measured(places)
        cosines = self.vectors.cosines(places)
        for kind, numbers in found.items():
            numbers |= {"cosine": cosines[kind], "choice": sweeps[kind]["spent"], "place": vars(places[kind])}
        return found

    def _matched(self) -> Numbers:
        """ConTrans's vector at the KL that each trained method has at full strength."""
        kind = f"ConTrans from {self.chosen.best_source()}"
        cell = self.vectors.cell(kind, self.chosen.places()[kind])
        found: Numbers = {}
        for name in TRAINED:
            kl = once(self._path(f"method {name}"), dict)["full"]["kl"]
            found[name] = self._at(cell, kl) | {"wanted": kl}
        return found

    def _at(self, cell: Cell, kl: float) -> Numbers:
        [solved] = solved_strengths(self.setup, [cell], kl, self.setup.neutral)
        numbers = measure(self.setup, State(self.setup.base, scaled(cell, solved.strength)), brief=True)
        return numbers | {"scale": solved.strength, "reached": solved.reached}

    def _references(self) -> Numbers:
        """The base, words before the prompt, and the aligned target of the testbed."""
        setup = self.setup
        aligned = setup.target.replace("target", "aligned")
        return {
            "base": measure(setup, State(setup.base)),
            "words": measure(setup, State(setup.base), prefix=SCIT_INSTRUCTIONS[setup.topic].positive),
            aligned: measure(setup, State(opened(aligned))),
        }

    def _random(self) -> Numbers:
        """Random directions in the place of every kind of vector."""
        measured: dict[str, Any] = once(self._path("vectors"), dict)
        places = self.chosen.places()
        strongest = {kind: measured[kind][f"{MAIN:g}"]["probability"][0] for kind in places}
        return self.vectors.random(places, strongest)
