"""What is swept: for every target and concept its directions, its control draws, and what is measured.

One place of writing per setup, so that the control draws stand where the concept stands: the block at which the
target's own vector does most on validation items within a budget of KL. The transplanted vector comes from the source
block that does most there, again on validation items. Test items decide nothing.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from contrans_lens.artifacts import read_json, write_json
from contrans_lens.evaluation import Cell, random_directions
from contrans_lens.evaluation.behaviours import Behaviour, Choices, PairedAnswers
from contrans_lens.models import HookedModel, open_model
from contrans_lens.pipeline import Bench, ConceptReading, Settings, StateReading, choose, fit_pair, split_concept
from contrans_lens.pipeline.reading import ContrastReading, estimate_from, read_contrasts, read_states
from contrans_lens.testbed import capability_items, concept, knowledge_items, map_texts, model_path, neutral_texts
from contrans_lens.texts import ContrastSet
from contrans_lens.tradeoff import SweepPlan, direction, family, strength_grid, tradeoff_plan

ANALYSIS = Path(__file__).resolve().parents[1]
SHARED = ANALYSIS.parents[1] / "shared"
SOURCE = "gpt2-source"
TARGETS = ("gpt2-target", "rotary-target")
CONCEPTS = ("honesty", "kindness", "sadness", "fear")
REAL = "stories"
N_CAPABILITY, N_NEUTRAL, N_MAP_TEXTS = 120, 12, 1000
N_STORY_ITEMS, N_CLOZE = 80, 48
LARGEST, PER_SIDE = 2.0, 9
"""The grid reaches far beyond the useful part, so that it can be seen where the laws break."""
DRAWS = {"random": 20, "shuffled": 20, "random-layers": 10}
"""Draws whose behaviour is measured. A rank among 20 is at best p = .048, among 10 p = .091."""
COST_DRAWS = {"random": 20, "shuffled": 3, "random-layers": 3}
"""Draws of which the cost is measured too."""
LARGEST_STORY, STORY_SHUFFLES = 1.5, 10
KNOWN = ("capital", "animal")
"""Relations that knowledge is asked of."""


@dataclass(frozen=True, eq=False)
class Setup:
    """One target and one concept, ready to be swept."""

    name: str
    model: HookedModel
    alignment: PairedAnswers
    helpfulness: Choices
    neutral: tuple[str, ...]
    directions: dict[str, Cell]
    controls: dict[str, Cell]
    others: tuple[Behaviour, ...] = ()
    chosen: dict[str, Any] = field(default_factory=dict)
    """Hook points and what they were chosen by."""
    strengths: tuple[float, ...] = strength_grid(LARGEST, PER_SIDE)
    max_neutral_tokens: int | None = None

    def plans(self) -> tuple[SweepPlan, ...]:
        """The directions with everything; the behaviour of every control draw; what some of the draws cost."""
        cost: dict[str, Any] = {
            "helpfulness": self.helpfulness,
            "neutral": self.neutral,
            "max_neutral_tokens": self.max_neutral_tokens,
        }
        numbered = {name: name.rpartition("/") for name in self.controls}
        costly = {name: self.controls[name] for name, (group, _, i) in numbered.items() if int(i) < COST_DRAWS[group]}
        return (
            tradeoff_plan(self.directions, self.alignment, self.strengths, others=self.others, **cost),
            tradeoff_plan(self.controls, self.alignment, self.strengths, mechanism=False),
            tradeoff_plan(costly, self.alignment, self.strengths, mechanism=False, **cost),
        )


def setup_names() -> list[str]:
    """The setups of the embedded family."""
    return [f"{target} {name}" for name in CONCEPTS for target in TARGETS]


def embedded_setup(name: str, out: Path) -> Setup:
    """A target of the embedded family and a concept of its world; the source is gpt2-source."""
    called, concept_name = name.split(" ")
    settings = Settings(max_neutral_texts=N_NEUTRAL)
    source, target = open_model(model_path(SOURCE)), open_model(model_path(called))
    others: tuple[Behaviour, ...] = ()
    if concept_name != "honesty":
        known = [item for item in knowledge_items("test") if item.category in KNOWN]
        others = (Choices(tuple(known), name="knowledge"),)
    return _setup(
        name,
        (source, target),
        ContrastSet.from_dict(concept(concept_name)),
        map_texts(N_MAP_TEXTS),
        neutral_texts(N_NEUTRAL),
        settings,
        Choices(tuple(capability_items(N_CAPABILITY)), name="capability"),
        others,
        out,
    )


def real_setup(out: Path) -> Setup:
    """Happiness against sadness, stories-260k to storychars-1m; cloze questions are the helpfulness."""
    sys.path.insert(0, str(ANALYSIS / "tinystories"))
    import stories
    from story_cloze import cloze_items

    told = stories.load_stories(SHARED / "data/tinystories/stories.jsonl")
    held_out = [story for story in told if stories.part_of(story) == "test"]
    models = open_model(SHARED / "models/stories-260k"), open_model(SHARED / "models/storychars-1m")
    made = _setup(
        REAL,
        models,
        stories.concept(told, n_test=N_STORY_ITEMS),
        stories.map_texts(told, "both"),
        stories.neutral_texts(told, N_NEUTRAL),
        Settings(max_neutral_texts=N_NEUTRAL, kl_budget=0.1),
        Choices(tuple(cloze_items(held_out, N_CLOZE, stories.ADJECTIVES)), name="cloze"),
        (),
        out,
    )
    # The target reads characters, so everything is five times as long: fewer strengths, items and draws.
    kept = {name: cell for name, cell in made.controls.items() if name.startswith("random/")}
    few = {**kept, **family("shuffled", [made.controls[f"shuffled/{i}"] for i in range(STORY_SHUFFLES)])}
    grid = strength_grid(LARGEST_STORY, 6, power=2)
    return replace(made, controls=few, strengths=grid, max_neutral_tokens=64)


def _setup(
    name: str,
    models: tuple[HookedModel, HookedModel],
    contrasts: ContrastSet,
    texts: Sequence[str],
    neutral: Sequence[str],
    settings: Settings,
    helpfulness: Choices,
    others: tuple[Behaviour, ...],
    out: Path,
) -> Setup:
    splits = split_concept(contrasts, settings)
    states = tuple(read_states(model, texts) for model in models)
    read = tuple(read_contrasts(model, splits, s.hook_points) for model, s in zip(models, states, strict=True))
    vectors = [estimate_from(r, settings, s) for r, s in zip(read, states, strict=True)]
    pair = fit_pair(states[0], states[1], texts, settings)
    reading = ConceptReading(splits, vectors[0], vectors[1])
    norms = dict(zip(states[1].hook_points, states[1].residual_norms.tolist(), strict=True))
    path = out / f"{name.replace(' ', '-')}-chosen.json"
    if not path.exists():
        bench = Bench(models[1], splits.validation.evaluation, neutral, norms, settings)
        choice = choose(bench, pair, reading, settings)
        here = [cell for cell in choice.table if cell.target == choice.native]
        best = max(here, key=lambda cell: cell.effect)
        chosen: dict[str, Any] = {"target": choice.native, "source": best.source, "effect_there": best.effect}
        chosen |= {"best_pair": [choice.source, choice.target]}
        chosen["best_effect"] = max(cell.effect for cell in choice.table)
        chosen |= {"validation_items": len(splits.validation.evaluation), "kl_budget": settings.kl_budget}
        write_json(path, chosen)
    chosen = read_json(path)
    place = chosen["target"]
    moved = pair.maps.concept(vectors[0].at(chosen["source"]), chosen["source"], place)
    own = vectors[1].at(place)
    chosen["cosine"] = float(torch.cosine_similarity(own.float(), moved.float(), dim=0))
    points = states[1].hook_points[::2]
    chosen["layers"] = list(points)
    directions = {
        "native": direction(place, own, residual_norm=norms[place]),
        "transplanted": direction(place, moved, residual_norm=norms[place]),
        "native-layers": _layers({point: vectors[1].at(point) for point in points}, norms),
    }
    return Setup(
        name,
        models[1],
        PairedAnswers(tuple(splits.test.evaluation), "answers"),
        helpfulness,
        tuple(neutral),
        directions,
        _controls(place, points, read[1], states[1], norms, contrasts.paired),
        others,
        chosen,
    )


def _layers(vectors: dict[str, Tensor], norms: dict[str, float]) -> Cell:
    """Unit vectors at several blocks under one strength, each in units of its own block's residual norm."""
    return tuple(
        each for point, vector in vectors.items() for each in direction(point, vector, residual_norm=norms[point])
    )


def _controls(
    place: str,
    points: Sequence[str],
    contrasts: ContrastReading,
    states: StateReading,
    norms: dict[str, float],
    paired: bool,
) -> dict[str, Cell]:
    width = states.states.shape[2]
    isotropic = random_directions(width, DRAWS["random"], 1.0, seed=1)
    at = states.hook_points.index(place)
    shuffled = shuffled_directions(contrasts.train[0][:, at], contrasts.train[1][:, at], DRAWS["shuffled"], paired)
    layered = [random_directions(width, len(points), 1.0, seed=100 + i) for i in range(DRAWS["random-layers"])]
    return {
        **family("random", [direction(place, each, residual_norm=norms[place]) for each in isotropic]),
        **family("shuffled", [direction(place, each, residual_norm=norms[place]) for each in shuffled]),
        **family("random-layers", [_layers(dict(zip(points, each, strict=True)), norms) for each in layered]),
    }


def shuffled_directions(
    positives: Float[Tensor, "text d_model"],
    negatives: Float[Tensor, "text d_model"],
    draws: int,
    paired: bool,
) -> Float[Tensor, "draw d_model"]:
    """Mean differences after the labels were shuffled: within pairs, or over all texts where there are no pairs."""
    generator = torch.Generator().manual_seed(0)
    if paired:
        signs = torch.randint(0, 2, (draws, len(positives)), generator=generator) * 2.0 - 1
        return signs @ (positives - negatives).float() / len(positives)
    both, n = torch.cat([positives, negatives]).float(), len(positives)
    orders = [torch.randperm(len(both), generator=generator) for _ in range(draws)]
    return torch.stack([both[order[:n]].mean(0) - both[order[n:]].mean(0) for order in orders])
