"""Concept vectors beside the trained methods: carried from a small aligned source, the target's own, and means of v."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from preference_costs import Spent, metered
from preference_measure import COLUMNS, Numbers, measure_cells, solved_strengths
from preference_setups import MAIN, SOURCES, Setup, Topic, opened
from preference_training import RATE, Trainer
from preference_training import Kind as KindOfRun

from contrans_lens.concepts.vectors import ConceptVectors
from contrans_lens.evaluation import Cell, random_directions, rank_p_value, scaled
from contrans_lens.evaluation.behaviours import NeutralText
from contrans_lens.models import residual_hook_points
from contrans_lens.pipeline import Settings, StateReading, fit_pair, read_states, split_concept
from contrans_lens.pipeline.reading import PairReading, estimate_from, read_contrasts
from contrans_lens.rahf.contrasts import ScitContrast
from contrans_lens.rahf.differences import ActivityDifferences, capture_differences
from contrans_lens.testbed import SCIT_INSTRUCTIONS, concept, map_texts, preference_set
from contrans_lens.texts import ContrastSet
from contrans_lens.tradeoff import direction

SETTINGS = Settings()
MEANS: tuple[tuple[KindOfRun, str], ...] = (("scit", "native SCIT mean"), ("cues", "native cue mean"))
"""Means of v of the target itself: after step 1, and without it."""
ROUGH_TEXTS, ROUGH = 4, 0.1
"""Neutral texts and tolerance where a hook point is chosen."""


@dataclass(frozen=True)
class Place:
    """Where a vector is read and written."""

    source: str
    target: str

    @property
    def key(self) -> str:
        """A name for tables."""
        return f"{self.source} -> {self.target}"


@dataclass(frozen=True, eq=False)
class Kind:
    """A kind of concept vector: one at every place that may be chosen."""

    name: str
    at: Callable[[Place], torch.Tensor]
    places: tuple[Place, ...]
    spent: Spent
    """What reading it took, choice of the place left out."""


class Vectors:
    """The kinds of concept vectors of a setup and a seed."""

    def __init__(self, setup: Setup, seed: int, trainer: Trainer) -> None:
        """Nothing is read yet."""
        self.setup, self.seed, self.trainer = setup, seed, trainer

    @cached_property
    def kinds(self) -> dict[str, Kind]:
        """All kinds by name."""
        setup, n_texts = self.setup, self.setup.sizes.map_texts
        own, read = concept_vectors(setup.target, setup.topic, self.seed, n_texts)
        found = [Kind("native mean difference", _own(own), self._here(own), read)]
        for kind, name in MEANS:
            differences, spent = self.trainer.everywhere(kind)
            mean = differences.mean_vectors(setup.topic)
            found.append(Kind(name, _own(mean), self._here(mean), self.trainer.before(kind, RATE) + spent))
        for source in SOURCES:
            pair, fitting = read_pair(source, setup.target, n_texts, self.seed)
            vectors, reading = concept_vectors(source, setup.topic, self.seed, n_texts)
            found.append(self._carried(f"ConTrans from {source}", vectors, pair, reading + fitting))
            differences, spent = source_differences(source, setup, self.seed)
            mean = differences.mean_vectors(setup.topic)
            found.append(self._carried(f"cue mean from {source}", mean, pair, spent + fitting))
        return {kind.name: kind for kind in found}

    @cached_property
    def norms(self) -> dict[str, float]:
        """Mean residual norm by hook point of the target, the unit of strength."""
        states, _ = read_model_states(self.setup.target, self.setup.sizes.map_texts, self.seed)
        return dict(zip(states.hook_points, states.residual_norms.tolist(), strict=True))

    def cell(self, kind: str, place: Place) -> Cell:
        """A kind of vector at a place, one residual norm long."""
        return direction(place.target, self.kinds[kind].at(place), residual_norm=self.norms[place.target])

    def choose(self, kind: str) -> Numbers:
        """The place that does most on validation pairs at the main budget, and what the choice took."""
        setup, found = self.setup, self.kinds[kind]
        texts = NeutralText(setup.validation_neutral.texts[:ROUGH_TEXTS])
        with metered("choice of the hook point", setup.base) as spent:
            cells = [self.cell(kind, place) for place in found.places]
            solved = solved_strengths(setup, cells, MAIN, texts, ROUGH)
            written = [scaled(cell, each.strength) for cell, each in zip(cells, solved, strict=True)]
            pairs = setup.validation.measure(setup.base, written)
        columns = {name: pairs.means(name).tolist() for name in COLUMNS}
        tried = [
            {"source": place.source, "target": place.target, **{name: columns[name][at] for name in COLUMNS}}
            for at, place in enumerate(found.places)
        ]
        best = max(tried, key=lambda row: float(row["probability"]))
        return {**best, "tried": len(tried), "spent": spent.to_dict()}

    def random(self, places: dict[str, Place], strongest: dict[str, float]) -> Numbers:
        """Random directions at the places of some kinds at the main budget, with the ranks of the kinds among them.

        Args:
            places: by kind.
            strongest: P(chosen) of each kind at that budget.
        """
        setup, found = self.setup, {}
        texts = NeutralText(setup.neutral.texts[: -(-len(setup.neutral.texts) // 2)])
        for target in dict.fromkeys(place.target for place in places.values()):
            drawn = random_directions(int(setup.base.cfg.d_model), setup.sizes.draws, 1.0, seed=17)
            cells = [direction(target, each, residual_norm=self.norms[target]) for each in drawn]
            solved = solved_strengths(setup, cells, MAIN, texts, ROUGH)
            written = [scaled(cell, each.strength) for cell, each in zip(cells, solved, strict=True)]
            found[target] = setup.test.measure(setup.base, written).means("probability").tolist()
        ranked = {
            kind: {"draws": target, "p_value": rank_p_value(found[target], strongest[kind])}
            for kind, target in ((kind, place.target) for kind, place in places.items())
        }
        return {"draws": found, "ranked": ranked}

    def measured(self, places: dict[str, Place]) -> dict[str, Numbers]:
        """All kinds at both budgets; of the main ones everything is told."""
        whole = [kind for kind in places if "mean from" not in kind and not kind.endswith("cue mean")]
        found = measure_cells(self.setup, {kind: self.cell(kind, place) for kind, place in places.items()}, whole)
        for kind, numbers in found.items():
            numbers["spent"] = self.kinds[kind].spent.to_dict()
        return found

    def cosines(self, places: dict[str, Place]) -> Numbers:
        """Cosine of each kind with the target's own mean difference, where it is written."""
        own = self.kinds["native mean difference"]
        return {
            kind: float(torch.cosine_similarity(own.at(Place(p.target, p.target)), self.kinds[kind].at(p), dim=0))
            for kind, p in places.items()
        }

    def _here(self, vectors: ConceptVectors) -> tuple[Place, ...]:
        return tuple(Place(point, point) for point in vectors.hook_points[:-1])

    def _carried(self, name: str, vectors: ConceptVectors, pair: PairReading, spent: Spent) -> Kind:
        def at(place: Place) -> torch.Tensor:
            return pair.maps.concept(vectors.at(place.source), place.source, place.target).float()

        # After the last block a vector can only push the logits.
        places = tuple(Place(s, t) for s in pair.source.hook_points for t in pair.target.hook_points[:-1])
        return Kind(name, at, places, spent)


def _own(vectors: ConceptVectors) -> Callable[[Place], torch.Tensor]:
    return lambda place: vectors.at(place.target).float()


@lru_cache(maxsize=16)
def read_model_states(name: str, n_texts: int, seed: int) -> tuple[StateReading, Spent]:
    """A model's states on the map texts of a seed, and what reading them took."""
    model = opened(name)
    with metered(f"map texts, {name}", model) as spent:
        states = read_states(model, map_texts(n_texts, seed))
    return states, spent


@lru_cache(maxsize=8)
def read_pair(source: str, target: str, n_texts: int, seed: int) -> tuple[PairReading, Spent]:
    """The maps between two models, and what reading and fitting took."""
    (first, one), (second, two) = (read_model_states(name, n_texts, seed) for name in (source, target))
    with metered("map fit") as spent:
        pair = fit_pair(first, second, map_texts(n_texts, seed), SETTINGS)
    return pair, one + two + spent


@lru_cache(maxsize=16)
def concept_vectors(name: str, topic: Topic, seed: int, n_texts: int) -> tuple[ConceptVectors, Spent]:
    """The mean difference of a concept's contrasts in a model, and what reading it took."""
    model, splits = opened(name), split_concept(ContrastSet.from_dict(concept(topic, seed)), SETTINGS)
    states, _ = read_model_states(name, n_texts, seed)
    with metered("contrasts", model) as spent:
        vectors = estimate_from(read_contrasts(model, splits, states.hook_points), SETTINGS, states)
    return vectors, spent


def source_differences(source: str, setup: Setup, seed: int) -> tuple[ActivityDifferences, Spent]:
    """A source's activity differences under its cues on the training pairs: it obeys them, so without step 1."""
    return _source_differences(source, setup.topic, seed, setup.sizes.pairs)


@lru_cache(maxsize=8)
def _source_differences(source: str, topic: Topic, seed: int, n: int) -> tuple[ActivityDifferences, Spent]:
    model = opened(source)
    pairs = preference_set(topic, seed=seed, n=n).part("train")
    contrast = ScitContrast(model, SCIT_INSTRUCTIONS)
    with metered("source's differences", model) as spent:
        points = residual_hook_points(model)
        found = capture_differences(contrast, pairs, points, base=model, where="predicting")
    return found, spent
