"""The choice of settings, on validation pairs and validation text alone, with seed 0, for every method alike."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from preference_costs import once
from preference_measure import COLUMNS, Numbers, State, open_scaled, solved_scale
from preference_setups import MAIN, SOURCES, Setup
from preference_training import Choice, Kind, Made, Trainer
from preference_transfer import Transfer
from preference_vectors import Place, Vectors

SEED = 0
RAHF: dict[str, Kind] = {"RAHF-SCIT": "scit", "RAHF-cues": "cues", "RAHF-Dual": "dual"}


class Chosen:
    """What was chosen for a setup, each part once and kept."""

    def __init__(self, setup: Setup) -> None:
        """Take what is kept; the rest is chosen when it is asked for."""
        self.setup = setup
        self.trainer = Trainer(setup, SEED, setup.training_pairs(SEED), setup.folder / f"seed{SEED}")

    def all(self) -> Numbers:
        """Everything, for a unit of its own."""
        found: Numbers = {name: asdict(self.method(name)) for name in ("preferred-SFT", "DPO", *RAHF)}
        found |= {f"transfer from {source}": asdict(self.transfer(source)) for source in SOURCES}
        return found | {"vectors": {kind: vars(place) for kind, place in self.places().items()}}

    def method(self, name: str) -> Choice:
        """The settings of a trained method."""
        return Choice(**self._table(name)["chosen"])

    def transfer(self, source: str) -> Choice:
        """The settings of a fit to what a source's maps carried."""
        return Choice(**self._table(f"transfer from {source}")["chosen"])

    def places(self) -> dict[str, Place]:
        """Where each kind of vector is read and written."""
        return {kind: Place(row["source"], row["target"]) for kind, row in self.vectors().items()}

    def vectors(self) -> Numbers:
        """The choice of hook points, with what it took."""
        vectors = Vectors(self.setup, SEED, self.trainer)
        path = self.setup.folder / "chosen-vectors.json"
        return once(path, lambda: {kind: vectors.choose(kind) for kind in vectors.kinds})

    def best_source(self) -> str:
        """The source whose carried mean difference does more on validation pairs."""
        rows = self.vectors()
        return max(SOURCES, key=lambda source: rows[f"ConTrans from {source}"]["probability"])

    def _table(self, name: str) -> Numbers:
        path = self.setup.folder / f"chosen-{name.replace(' ', '-')}.json"
        return once(path, lambda: self._choose(self._candidates(name)))

    def _candidates(self, name: str) -> Iterator[tuple[Choice, Callable[[], Made]]]:
        sizes, trainer = self.setup.sizes, self.trainer
        if name in ("preferred-SFT", "DPO"):
            make = trainer.preferred if name == "preferred-SFT" else trainer.dpo
            for rate in sizes.rates:
                yield Choice(rate=rate), partial(make, rate)
            return
        if name.startswith("transfer from "):
            transfer = Transfer(self.setup, SEED, name.removeprefix("transfer from "), trainer)
            for alpha in sizes.alphas:
                yield Choice(alpha=alpha), partial(transfer.fit, "carried", alpha)
            return
        kind = RAHF[name]
        # Dual's two models are preferred-SFT and its mirror image.
        first = replace(Choice(), rate=self.method("preferred-SFT").rate) if kind == "dual" else Choice()
        for where in sizes.wheres:
            for alpha in sizes.alphas:
                choice = replace(first, where=where, alpha=alpha)
                yield choice, partial(trainer.rahf, kind, choice)

    def _choose(self, candidates: Iterator[tuple[Choice, Callable[[], Made]]]) -> Numbers:
        tried: list[dict[str, Any]] = []
        for choice, make in candidates:
            made = make()
            tried.append({"choice": asdict(choice), **validated(self.setup, made), **made.notes})
        best = max(tried, key=lambda row: float(row["probability"]))
        return {"chosen": best["choice"], "budget": MAIN, "tried": tried}


def validated(setup: Setup, made: Made) -> Numbers:
    """An adapter on validation pairs within the main budget: scaled down where it costs more on validation text."""
    texts = setup.validation_neutral
    state, scale = State(open_scaled(setup, made.folder, 1.0)), 1.0
    full = state.damage(setup.base, texts).kl
    if full > MAIN:
        scale = solved_scale(setup, made.folder, MAIN, texts, full).strength
        state = State(open_scaled(setup, made.folder, scale))
    found = state.ask(setup.validation)
    return {**{name: float(found.means(name)[0]) for name in COLUMNS}, "full_kl": full, "scale": scale}
