"""The course of a run in its folder: the steps, the choice of alpha, the controls, the scores, the result."""

import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from contrans_lens.artifacts import read_json, write_json
from contrans_lens.evaluation import solve_adapter_scale
from contrans_lens.models import HookedModel, open_model
from contrans_lens.rahf.alphas import chosen_alpha
from contrans_lens.rahf.controls import random_directions
from contrans_lens.rahf.difference_store import ActivityDifferences
from contrans_lens.rahf.differences import StreamedDifferences
from contrans_lens.rahf.finetuning import FineTuned
from contrans_lens.rahf.fitted import FittedAdapter
from contrans_lens.rahf.memory import free_models
from contrans_lens.rahf.result import FIT, RESULT, AlphaTrial, RahfResult
from contrans_lens.rahf.scoring import (
    Kind,
    Reading,
    Scored,
    ScoredPairs,
    measured_damage,
    neutral_tokens,
    scored_rows,
    words_damage,
)
from contrans_lens.rahf.settings import ALPHAS, AlignSettings, spelled_instructions
from contrans_lens.rahf.signs import signs_exchanged
from contrans_lens.rahf.steps import Steps
from contrans_lens.rahf.summaries import SummarisedDifferences
from contrans_lens.rahf.training import Cost, LossCurve
from contrans_lens.texts import PreferenceSet
from contrans_lens.texts.preference_sets import PreferenceSplits

_MOST_VALIDATION = 512  # pairs: validation is for curves and for the choice of alpha
_SOME_KL = 1e-5  # nats per token; what is less is rounding
_DRAWS = 1000  # so that the draws of one seed are none of the next


@dataclass(frozen=True)
class Way:
    """What one way through the steps has made."""

    tuned: Mapping[str, FineTuned]
    """The models of step 1, by name."""
    fitted: FittedAdapter
    """The adapter."""
    reading: Cost | None
    """What reading differences took; None where none were read for this way, or fits have read them."""

    @property
    def seconds(self) -> float:
        """Wall time of all steps."""
        costs = [*(tuned.cost for tuned in self.tuned.values()), self.fitted.cost]
        return sum(cost.seconds for cost in costs) + (0.0 if self.reading is None else self.reading.seconds)


@dataclass(frozen=True, eq=False)
class Course:
    """One run on its way; every part is taken up where it was broken off."""

    folder: Path
    """Where the run lies."""
    steps: Steps
    preferences: PreferenceSet
    """All pairs."""
    parts: PreferenceSplits
    """Them in three parts."""
    neutral: tuple[str, ...]
    """Texts on which damage is measured; none: it is not."""
    model: dict[str, Any]
    """The base, as results name it."""

    @property
    def settings(self) -> AlignSettings:
        """Those of the run."""
        return self.steps.settings

    @property
    def validation(self) -> PreferenceSet:
        """Validation pairs: all, or a sample where they are many."""
        return self.parts.validation.sample(_MOST_VALIDATION, self.settings.seed)

    def finish(self) -> None:
        """All steps, controls and scores, and the result."""
        tuned, parts = self._read(self.folder, self.parts.train, self.validation)
        differences, held_out = parts["train"], parts["validation"]
        trials = self._tried(differences, held_out)
        if trials:
            [alpha] = [trial.alpha for trial in trials if trial.chosen]
            self.steps.processes.once(lambda: self._take(alpha))
            fitted = FittedAdapter.load(self.folder / "adapter")
        else:
            fitted = self.steps.fitted(self.folder / "adapter", differences, float(self.settings.alpha), held_out)
        main = Way(tuned, fitted, self.steps.reading_cost(self.folder))
        controls: dict[str, Way] = {}
        for draw in range(self.settings.controls):
            controls[f"shuffled {draw}"] = self._shuffled(differences, fitted.alpha, draw)
            controls[f"random {draw}"] = self._random(differences, fitted.alpha, draw)
        self.steps.processes.once(lambda: self._conclude(main, differences, trials, controls))

    def _read(
        self, folder: Path, train: PreferenceSet, validation: PreferenceSet | None
    ) -> tuple[dict[str, FineTuned], dict[str, SummarisedDifferences]]:
        """Steps 1 and 2; a control has no validation pairs, and nobody asks for its norms."""
        steps = self.steps
        tuned = steps.tuned(folder, steps.learnt(train, self.settings.tuning), validation)
        parts = {"train": steps.learnt(train, self.settings.fitting)}
        parts |= {} if validation is None else {"validation": validation}
        return tuned, steps.differences(folder, parts, norms=validation is not None)

    def _tried(self, differences: SummarisedDifferences, held_out: SummarisedDifferences) -> tuple[AlphaTrial, ...]:
        """Fits with several alphas, scored on the validation pairs; none where alpha was given."""
        if self.settings.alpha != "auto":
            return ()
        names = {alpha: f"{alpha:g}" for alpha in ALPHAS}
        for alpha, name in names.items():
            self.steps.fitted(self.folder / "alphas" / name, differences, alpha, held_out)
        self.steps.processes.once(lambda: self._measure_tried(names.values()))
        readings = {alpha: self._reading(f"validation/{name}") for alpha, name in names.items()}
        units = read_json(self.folder / "scores" / "validation" / "units.json")["units"]
        return chosen_alpha(readings, units, self.settings.seed)

    def _take(self, alpha: float) -> None:
        """Make a fit that was tried the run's own."""
        target, partial = self.folder / "adapter", self.folder / "alphas" / "chosen"
        if not target.exists():
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(self.folder / "alphas" / f"{alpha:g}", partial)
            partial.replace(target)

    def _shuffled(self, differences: SummarisedDifferences, alpha: float, draw: int) -> Way:
        """The whole path on labels that say nothing."""
        folder, seed = self.folder / "control" / f"shuffled-{draw}", self._seed(draw)
        if self.settings.method == "cues":
            signed = signs_exchanged(differences, 2 if self.settings.answers == "both" else 1, seed)
            return Way({}, self.steps.fitted(folder / "adapter", signed, alpha), None)
        tuned, parts = self._read(folder, self.parts.train.shuffled(seed), None)
        fitted = self.steps.fitted(folder / "adapter", parts["train"], alpha)
        return Way(tuned, fitted, self.steps.reading_cost(folder))

    def _random(self, differences: SummarisedDifferences, alpha: float, draw: int) -> Way:
        """A fit to one random direction in each layer, with the norms of v. An adapter can learn it as well as v."""
        random = random_directions(differences, self._seed(draw), one=True)
        folder = self.folder / "control" / f"random-{draw}" / "adapter"
        return Way({}, self.steps.fitted(folder, random, alpha), None)

    def _seed(self, draw: int) -> int:
        return _DRAWS * self.settings.seed + draw

    def _measure_tried(self, names: Iterable[str]) -> None:
        """Score the fits that were tried on validation pairs, and their damage."""
        base = self.steps.opened(self.steps.base)
        pairs = ScoredPairs.of(base, self.validation, self.steps.instructions)
        write_json(self.folder / "scores" / "validation" / "units.json", {"units": list(pairs.units)})
        for name in names:
            self._kept(f"validation/{name}", partial(self._model_reading, base, pairs, self.folder / "alphas" / name))

    def _model_reading(self, base: HookedModel, pairs: ScoredPairs, place: Path) -> Reading:
        changed = self.steps.opened(place)
        return Reading(pairs.log_odds(changed), measured_damage(base, changed, self.neutral))

    def _equal_reading(self, base: HookedModel, pairs: ScoredPairs, place: Path, kl: float) -> Reading:
        """An adapter, scaled so that its damage is a given one."""

        def scaled(factor: float) -> HookedModel:
            free_models()
            return open_model(place, dtype=self.settings.dtype, device=self.steps.device, adapter_scale=factor)

        limit = neutral_tokens(base)
        scale = solve_adapter_scale(scaled, base, self.neutral, kl, max_tokens=limit).strength
        changed = scaled(scale)
        return Reading(pairs.log_odds(changed), measured_damage(base, changed, self.neutral), scale)

    def _kept(self, name: str, measure: Callable[[], Reading]) -> Reading:
        """What was measured before, or is measured now."""
        path = self.folder / "scores" / f"{name.replace(' ', '-')}.json"
        if not path.exists():
            self.steps.say(f"scoring {name}")
            write_json(path, measure().to_dict())
        return self._reading(name)

    def _reading(self, name: str) -> Reading:
        return Reading.from_dict(read_json(self.folder / "scores" / f"{name.replace(' ', '-')}.json"))

    def _conclude(
        self,
        main: Way,
        differences: SummarisedDifferences,
        trials: tuple[AlphaTrial, ...],
        controls: Mapping[str, Way],
    ) -> None:
        """Score everything and write the result."""
        pairs, rows = self._scored(main, list(controls))
        result = RahfResult(
            model=self.model,
            preferences=self._described(pairs) | {"cut": self._cut(main, differences)},
            instructions=spelled_instructions(self.steps.instructions),
            settings=self.settings.to_dict(),
            hook_points=main.fitted.hook_points,
            alpha=main.fitted.alpha,
            trials=trials,
            rows=rows,
            relative_error=main.fitted.relative_error,
            validation_relative_error=main.fitted.validation_relative_error,
            norms=differences.norms(seed=self.settings.seed),
            curves={name: tuned.curve for name, tuned in main.tuned.items()} | {FIT: main.fitted.curve},
            validation_curves=self._validation_curves(main),
            costs=self._costs(main, trials),
            control_seconds=sum((way.seconds for way in controls.values()), 0.0),
            folder=self.folder,
        )
        write_json(self.folder / RESULT, result.summary())

    def _scored(self, main: Way, controls: list[str]) -> tuple[ScoredPairs, tuple[Scored, ...]]:
        """The base, the prompt alone, the models of step 1, the result and the controls on the test pairs."""
        base, words = self.steps.opened(self.steps.base), self.steps.instructions
        pairs = ScoredPairs.of(base, self.parts.test, words)
        models: dict[str, tuple[Kind, str | None]] = {"base": ("base", None), "prompt": ("prompt", None)}
        models |= {name: ("step 1", f"step1/{name}") for name in main.tuned}
        models["aligned"] = ("aligned", "adapter")
        for name in controls:
            kind: Kind = "shuffled" if name.startswith("shuffled") else "random"
            models[name] = (kind, f"control/{name.replace(' ', '-')}/adapter")
        makers: dict[str, Callable[[], Reading]] = {
            name: partial(self._model_reading, base, pairs, self.folder / place)
            for name, (_, place) in models.items()
            if place is not None
        }
        makers["base"] = lambda: Reading(pairs.log_odds(base), measured_damage(base, base, self.neutral))
        makers["prompt"] = lambda: Reading(pairs.log_odds(base, words), words_damage(base, words, self.neutral))
        readings = {name: self._kept(name, makers[name]) for name in models}
        damage = readings["aligned"].damage
        for name in [each for each in controls if each.startswith("random")]:
            if damage is not None and damage["kl"] > _SOME_KL:
                place, equal = models[name][1], f"{name} at equal KL"
                maker = partial(self._equal_reading, base, pairs, self.folder / str(place), damage["kl"])
                models[equal], readings[equal] = ("random at equal KL", place), self._kept(equal, maker)
        return pairs, scored_rows(models, readings, pairs, self.settings.seed)

    def _described(self, pairs: ScoredPairs) -> dict[str, Any]:
        """The preferences as results name them."""
        given, report = self.preferences, self.preferences.report
        parts = zip(("train", "validation", "test"), self.parts, strict=True)
        return {
            "name": given.name,
            "hash": given.content_hash,
            "topics": list(given.topics()),
            "parts": {name: {"pairs": len(part), "groups": len(part.groups())} for name, part in parts},
            "scored": len(pairs.pairs),
            "left_out": pairs.left_out,
            "too_long": pairs.too_long,
            "longest_answer": pairs.longest,
            "report": None if report is None else report.to_dict(),
        }

    def _cut(self, main: Way, differences: SummarisedDifferences) -> dict[str, dict[str, int]]:
        """What was cut off the rows of each step, by the names of costs."""
        n_pairs = len(self.steps.learnt(self.parts.train, self.settings.tuning))
        found = {
            f"step 1: {name}": (tuned.cut_prompts, tuned.cut_answers, n_pairs * (2 if name == "scit" else 1))
            for name, tuned in main.tuned.items()
        }
        if isinstance(differences, ActivityDifferences | StreamedDifferences):
            found["step 2"] = *differences.cuts, len(differences.rows)
        return {step: dict(zip(("prompts", "answers", "rows"), cuts, strict=True)) for step, cuts in found.items()}

    def _validation_curves(self, main: Way) -> dict[str, LossCurve]:
        curves = {name: tuned.validation_curve for name, tuned in main.tuned.items()}
        curves[FIT] = main.fitted.record.validation_curve
        return {name: curve for name, curve in curves.items() if curve is not None}

    def _costs(self, main: Way, trials: tuple[AlphaTrial, ...]) -> dict[str, Cost]:
        """What each step took, fits that were tried and not taken included."""
        costs = {f"step 1: {name}": tuned.cost for name, tuned in main.tuned.items()}
        costs |= {} if main.reading is None else {"step 2": main.reading}
        for trial in trials:
            costs[f"step 3: alpha {trial.alpha:g}"] = FittedAdapter.load(
                self.folder / "alphas" / f"{trial.alpha:g}"
            ).cost
        return costs if trials else {**costs, "step 3": main.fitted.cost}
