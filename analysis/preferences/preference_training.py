"""The trained methods: RAHF from SCIT, from the base's own cues and from two models (Dual), preferred-SFT and DPO."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from preference_costs import Spent, metered, once, trained
from preference_dpo import train_dpo
from preference_setups import LAYERS, LORA, Setup

from contrans_lens.models import HookedModel, open_model, residual_hook_points
from contrans_lens.rahf.contrasts import Contrast, DualContrast, ScitContrast
from contrans_lens.rahf.differences import ActivityDifferences, capture_differences
from contrans_lens.rahf.finetuning import fine_tune
from contrans_lens.rahf.fit import fit_adapter
from contrans_lens.rahf.signs import SignedDifferences
from contrans_lens.rahf.summaries import SummarisedDifferences
from contrans_lens.rahf.tokens import Where
from contrans_lens.testbed import SCIT_INSTRUCTIONS
from contrans_lens.texts import PreferenceSet

Kind = Literal["scit", "cues", "dual"]
RATE = 1e-3
"""Learning rate of SCIT's step 1 and of every fit."""


@dataclass(frozen=True)
class Choice:
    """What was chosen for a method on validation pairs."""

    rate: float = RATE
    """Of preferred-SFT (and Dual's two models) and DPO."""
    alpha: float = 1.0
    """Of a fit."""
    where: Where = "predicting"
    """Of a fit."""


@dataclass(frozen=True)
class Made:
    """A trained adapter."""

    folder: Path
    """Where it is."""
    spent: Spent
    """What it took, all steps together."""
    notes: dict[str, Any]
    """What is worth telling of its training."""


class Trainer:
    """Trains the methods on some pairs with one seed; what is finished is taken from its folder."""

    def __init__(self, setup: Setup, seed: int, pairs: PreferenceSet, folder: Path) -> None:
        """Name the pairs and the folder; nothing is trained yet."""
        self.setup, self.seed, self.pairs, self.folder = setup, seed, pairs, folder
        self._captured: dict[tuple[Any, ...], tuple[ActivityDifferences, Spent]] = {}

    def scit(self) -> Made:
        """SCIT's step 1."""
        return self._tuned("scit", RATE)

    def preferred(self, rate: float) -> Made:
        """Tuned to chosen answers: preferred-SFT, and Dual's good model."""
        return self._tuned("preferred", rate)

    def dispreferred(self, rate: float) -> Made:
        """Tuned to rejected answers: Dual's bad model."""
        return self._tuned("dispreferred", rate)

    def dpo(self, rate: float) -> Made:
        """DPO by trl."""
        training = self.setup.training(self.seed, rate)
        folder, spent = train_dpo(self.setup.place, self.pairs, self.folder / f"dpo-{rate:g}", training, LORA)
        return Made(folder, spent, {})

    def rahf(self, kind: Kind, choice: Choice) -> Made:
        """All steps of RAHF."""
        before = self.before(kind, choice.rate)
        differences, read = self.differences(kind, choice)
        name = f"fit-{kind}-{choice.where}-{choice.alpha:g}" + (f"-{choice.rate:g}" if kind == "dual" else "")
        return self.fitted(differences, choice.alpha, name, before + read)

    def before(self, kind: Kind, rate: float) -> Spent:
        """What step 1 took."""
        if kind == "cues":
            return Spent()
        if kind == "scit":
            return self.scit().spent
        return self.preferred(rate).spent + self.dispreferred(rate).spent

    def differences(self, kind: Kind, choice: Choice) -> tuple[ActivityDifferences, Spent]:
        """Step 2 at the layers that are fitted, and what it took."""
        return self._capture(kind, choice.where, choice.rate, LAYERS)

    def everywhere(self, kind: Kind) -> tuple[ActivityDifferences, Spent]:
        """Step 2 after every block, where answers are decided on: for means as concept vectors."""
        return self._capture(kind, "predicting", RATE, tuple(residual_hook_points(self.setup.base)))

    def fitted(self, differences: SummarisedDifferences, alpha: float, name: str, before: Spent) -> Made:
        """Step 3 on any differences, as an adapter of the base."""
        found = fit_adapter(
            self.setup.place,
            differences,
            self.folder / name,
            alpha=alpha,
            lora=LORA,
            training=self.setup.training(self.seed, RATE),
            check_model=False,
            device="cpu",
        )
        return Made(found.folder, before + trained("step 3", found.cost), {"relative_error": found.relative_error})

    def _tuned(self, method: Literal["scit", "preferred", "dispreferred"], rate: float) -> Made:
        found = fine_tune(
            self.setup.place,
            self.pairs,
            self.folder / f"{method}-{rate:g}",
            method=method,
            instructions=SCIT_INSTRUCTIONS if method == "scit" else None,
            lora=LORA,
            training=self.setup.training(self.seed, rate),
            device="cpu",
        )
        return Made(found.folder, trained(f"step 1, {method}", found.cost), {"last_loss": found.curve.losses[-1]})

    def _capture(
        self, kind: Kind, where: Where, rate: float, hook_points: tuple[str, ...]
    ) -> tuple[ActivityDifferences, Spent]:
        key = (kind, where, rate if kind == "dual" else None, hook_points)
        if key not in self._captured:
            contrast, base = self._contrast(kind, rate), self.setup.base
            with metered("step 2", *contrast.models, base) as spent:
                found = capture_differences(contrast, self.pairs, hook_points, base=base, where=where)
            name = "-".join(map(str, (kind, where, *([f"{rate:g}"] if kind == "dual" else []), len(hook_points))))
            self._captured[key] = found, Spent(**once(self.folder / f"capture-{name}.json", spent.to_dict))
        return self._captured[key]

    def _contrast(self, kind: Kind, rate: float) -> Contrast:
        if kind == "dual":
            return DualContrast(self._open(self.preferred(rate)), self._open(self.dispreferred(rate)))
        return ScitContrast(self.setup.base if kind == "cues" else self._open(self.scit()), SCIT_INSTRUCTIONS)

    def _open(self, made: Made) -> HookedModel:
        return open_model(self.setup.place, adapter=made.folder)


def half_swapped(source: SummarisedDifferences, seed: int) -> SignedDifferences:
    """v with its sign exchanged for one half of the rows, drawn at random: a control without a direction."""
    order = torch.randperm(len(source.rows), generator=torch.Generator().manual_seed(seed))
    return SignedDifferences(source, frozenset(order[: len(order) // 2].tolist()))
