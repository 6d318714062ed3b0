"""Does happiness against sadness cross between two TinyStories models trained by others?

Two stages. ``search`` tries texts, reading positions, estimators and maps; each condition chooses its layers at a fixed
KL budget and is scored on validation items only. ``score`` takes the condition that won and scores it once on test
items, with fifty draws of each control. Run from the checkout:

    python analysis/tinystories/tinystories_study.py search --out out/tinystories
    python analysis/tinystories/tinystories_study.py score --out out/tinystories
"""

import argparse
import itertools
import logging
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from stories import concept, load_stories, map_texts, neutral_texts

from contrans_lens.artifacts import read_json, write_json
from contrans_lens.models import open_model
from contrans_lens.pipeline import (
    Bench,
    ConceptReading,
    Settings,
    StateReading,
    choose,
    fit_pair,
    read_concept,
    read_states,
    split_concept,
    transplant,
)

SHARED = Path(__file__).resolve().parents[3] / "shared"
BUDGET = 0.1
DRAWS = 50

log = logging.getLogger("tinystories")


@dataclass(frozen=True)
class Condition:
    """What is varied."""

    read_at: str = "decision"
    texts: str = "both"
    estimator: str = "mean_difference"
    map_method: str = "ridge"

    def __str__(self) -> str:
        return f"{self.read_at}, {self.texts}, {self.estimator}, {self.map_method}"


def conditions() -> list[Condition]:
    """Reading position x texts with the default estimator and map; then estimators and maps beside the default."""
    crossed = [
        Condition(read_at, texts)
        for read_at, texts in itertools.product(("decision", "word", "template"), ("random", "feeling", "both"))
    ]
    estimators = [Condition(estimator=name) for name in ("lda", "logistic", "principal_component")]
    maps = [Condition(map_method=name) for name in ("ols", "reduced_rank", "procrustes")]
    return crossed + estimators + maps


class Study:
    """Models and stories, opened once; states of each kind of map text, captured once."""

    def __init__(self, seed: int) -> None:
        self.stories = load_stories(SHARED / "data/tinystories/stories.jsonl")
        self.source = open_model(SHARED / "models/stories-260k")
        self.target = open_model(SHARED / "models/storychars-1m")
        self.neutral = neutral_texts(self.stories)
        self.seed = seed
        self._states: dict[str, tuple[list[str], StateReading, StateReading]] = {}

    def states(self, kind: str) -> tuple[list[str], StateReading, StateReading]:
        """Map texts of a kind, and both models' states on them."""
        if kind not in self._states:
            texts = map_texts(self.stories, kind, seed=self.seed)
            self._states[kind] = texts, read_states(self.source, texts), read_states(self.target, texts)
        return self._states[kind]

    def validate(self, condition: Condition) -> dict[str, Any]:
        """Choose layers for a condition and score it on validation items."""
        settings = self.settings(condition)
        texts, source_states, target_states = self.states(condition.texts)
        splits = split_concept(concept(self.stories, read_at=condition.read_at), settings)
        reading = ConceptReading(
            splits,
            read_concept(self.source, splits, settings, source_states),
            read_concept(self.target, splits, settings, target_states),
        )
        pair = fit_pair(source_states, target_states, texts, settings)
        norms = dict(zip(target_states.hook_points, target_states.residual_norms.tolist(), strict=True))
        bench = Bench(self.target, splits.validation.evaluation, self.neutral, norms, settings)
        choice = choose(bench, pair, reading, settings)
        moved = pair.maps.concept(reading.source.at(choice.source), choice.source, choice.target)
        own = reading.target.at(choice.native)
        best = max(choice.table, key=lambda cell: cell.effect)
        return {
            **asdict(condition),
            "source": choice.source,
            "target": choice.target,
            "native": choice.native,
            "effect": best.effect,
            "strength": best.strength,
            "native_effect": _effect_at_budget(bench, choice.native, own),
            "cosine": _cosine(moved, reading.target.at(choice.target)),
            "table": [cell.to_dict() for cell in choice.table],
        }

    def settings(self, condition: Condition, **changes: Any) -> Settings:
        """The settings of a condition."""
        base = Settings(
            estimator=condition.estimator,
            map_method=condition.map_method,
            kl_budget=BUDGET,
            controls_at="budget",
            draws=DRAWS,
            seed=self.seed,
        )
        return replace(base, **changes)


def _effect_at_budget(bench: Bench, hook_point: str, vector: torch.Tensor) -> float:
    unit = (vector / vector.norm())[None]
    [strength] = bench.solve_rough(hook_point, unit)
    scores = bench.score(hook_point, unit * strength * bench.residual_norms[hook_point])
    return float(scores.effect.mean())


def _cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.cosine_similarity(a, b, dim=0))


def search(out: Path, seed: int) -> None:
    """Score every condition on validation items; finished conditions are not run again."""
    study = Study(seed)
    path = out / "search.json"
    done: list[dict[str, Any]] = read_json(path)["conditions"] if path.exists() else []
    for condition in conditions():
        if any(all(row[key] == value for key, value in asdict(condition).items()) for row in done):
            continue
        started = time.perf_counter()
        row = study.validate(condition)
        done.append({**row, "seconds": time.perf_counter() - started})
        write_json(path, {"budget": BUDGET, "seed": seed, "conditions": done})
        log.info(
            "%s: effect %+.3f, native %+.3f, cosine %.2f, %s -> %s",
            condition,
            row["effect"],
            row["native_effect"],
            row["cosine"],
            row["source"],
            row["target"],
        )


def score(out: Path, seed: int) -> None:
    """Score the condition with the largest validation effect on test items, with controls at the same budget."""
    study = Study(seed)
    rows = read_json(out / "search.json")["conditions"]
    best = max(rows, key=lambda row: row["effect"])
    condition = Condition(*(best[key] for key in ("read_at", "texts", "estimator", "map_method")))
    log.info("scoring %s", condition)
    texts, _, _ = study.states(condition.texts)
    result = transplant(
        study.source,
        study.target,
        concept(study.stories, read_at=condition.read_at),
        texts,
        neutral=study.neutral,
        settings=study.settings(condition, max_map_texts=len(texts)),
        names=("stories-260k", "storychars-1m"),
        say=log.info,
    )
    result.save(out / "scored")
    log.info("%s", result)


def main() -> None:
    """Run one stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=("search", "score"))
    parser.add_argument("--out", type=Path, default=Path("out/tinystories"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    {"search": search, "score": score}[options.stage](options.out, options.seed)


if __name__ == "__main__":
    main()
