"""The vectors that are compared: unrefined, refined before the map in several ways, after it, and controls."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from refinement_pairs import Pair, Place
from refinement_texts import CONFOUNDS, FAMILY, MAIN, OWN_TOPICS, few_pairs, mixture, with_second_cue

from contrans_lens.concepts import ConceptVectors, remove_component
from contrans_lens.pace.dictionary import ConceptDictionary
from contrans_lens.pace.refinement import drop_concepts, keep_concepts
from contrans_lens.pace.solvers import OMP, ElasticNet, Solver
from contrans_lens.testbed.world import EMOTIONS

SOLVERS: dict[str, Solver] = {
    "elastic net .02": ElasticNet(0.02),
    "elastic net .05": ElasticNet(0.05),
    "elastic net .1": ElasticNet(0.1),
    "OMP 8": OMP(8),
    "OMP 16": OMP(16),
}
"""What is chosen from, on validation items."""
UNREFINED, KEEP, REST, OTHERS = "transplanted", "keep", "drop the rest", "drop others"
MANNERS = (KEEP, REST, OTHERS)
ORTHOGONAL, ATOMS, SIDE = "orthogonal", "all atoms", "one side"
RANDOM_ATOMS = "random atoms"
AFTER = "after the map: orthogonal"
ALONE = "dictionary alone"
DRAWS, FEW, FEW_DRAWS = 20, (4, 8), 4

Vectors = dict[str, list[ConceptVectors]]
"""By method, in the target: one vector, or the draws of a family."""
Choice = Mapping[str, Mapping[str, str]]
"""Name of the solver, by group of settings ("full" or "mixed") and manner."""


@dataclass(frozen=True, eq=False)
class Refiner:
    """Refinements of one concept's vectors on one dictionary."""

    dictionary: ConceptDictionary
    family: str

    @property
    def own(self) -> list[str]:
        """Atoms of the family's topics."""
        return self._of_topics(OWN_TOPICS[self.family])

    @property
    def others(self) -> list[str]:
        """Atoms of the other families' topics."""
        return self._of_topics([each for name, topics in OWN_TOPICS.items() if name != self.family for each in topics])

    def _of_topics(self, topics: Sequence[str]) -> list[str]:
        pairs = zip(self.dictionary.names, self.dictionary.topics, strict=True)
        return [name for name, topic in pairs if topic in topics]

    def refined(self, vector: ConceptVectors, manner: str, solver: str) -> ConceptVectors:
        """The vector refined in one of the manners."""
        chosen = SOLVERS[solver]
        if manner == KEEP:
            return keep_concepts(vector, self.dictionary, self.own, solver=chosen).concept
        unwanted = self.others
        if manner == REST:
            unwanted = [name for name in self.dictionary.names if name not in set(self.own)]
        return drop_concepts(vector, self.dictionary, unwanted, solver=chosen).concept

    def found(self, vector: ConceptVectors, solver: str) -> list[str]:
        """Atoms that have a coefficient."""
        kept = keep_concepts(vector, self.dictionary, self.dictionary.names, solver=SOLVERS[solver])
        return [name for name, _ in kept.decompositions[0].row(0)]

    def random_atoms(self, vector: ConceptVectors, solver: str, draws: int) -> list[ConceptVectors]:
        """Kept to as many atoms as ``keep`` keeps, drawn among those with a coefficient; none where it keeps all."""
        found, own = self.found(vector, solver), set(self.own)
        n = sum(name in own for name in found)
        if n == len(found):
            return []
        rng = random.Random(1)
        return [
            keep_concepts(vector, self.dictionary, rng.sample(found, n), solver=SOLVERS[solver]).concept
            for _ in range(draws)
        ]


def full_vectors(pair: Pair, name: str, place: Place, choice: Choice, draws: int) -> Vectors:
    """All contrasts of the concept: the transplanted vector, refined and not, and the target's own."""
    family = FAMILY[name]
    here = Refiner(pair.dictionary("source", place.source), family)
    there = Refiner(pair.dictionary("target", place.target), family)
    vector = pair.source.vector(name, place.source)
    native = pair.target.vector(name, place.target)
    moved = pair.moved(vector, place)
    keep = choice["full"][KEEP]
    side = [atom for atom in here.own if here.dictionary.topics[here.dictionary.index(atom)] == name]
    made = _refined(pair, here, vector, place, choice["full"], other_vectors(pair, "source", name, place), draws)
    kept_all = keep_concepts(vector, here.dictionary, here.dictionary.names, solver=SOLVERS[keep]).concept
    made[ATOMS] = [pair.moved(kept_all, place)]
    made[SIDE] = [pair.moved(keep_concepts(vector, here.dictionary, side, solver=SOLVERS[keep]).concept, place)]
    own = other_vectors(pair, "target", name, place)
    made |= {
        "after the map: keep": [there.refined(moved, KEEP, keep)],
        AFTER: [remove_component(moved, own)],
        "native": [native],
        "native: keep": [there.refined(native, KEEP, keep)],
        "native: orthogonal": [remove_component(native, own)],
    }
    return {f"full/{method}": vectors for method, vectors in made.items()}


def alone_vectors(pair: Pair, name: str, place: Place) -> Vectors:
    """No contrasts at all: mean of the atoms of the concept's topic less the mean of the family's other atoms."""
    here = Refiner(pair.dictionary("source", place.source), FAMILY[name])
    atoms, topics = here.dictionary.at(place.source), here.dictionary.topics
    positive = torch.tensor([topic == name for topic in topics])
    negative = torch.tensor([topic in OWN_TOPICS[here.family] and topic != name for topic in topics])
    made = replace(
        pair.source.vector(name, place.source), vectors=(atoms[positive].mean(0) - atoms[negative].mean(0))[None]
    )
    return {f"full/{ALONE}": [pair.moved(made, place)]}


def cosines_with_native(pair: Pair, name: str, place: Place, made: Vectors) -> dict[str, list[float]]:
    """Cosine of every vector with the target's own."""
    native = pair.target.vector(name, place.target).vectors
    return {
        method: [float(torch.cosine_similarity(each.vectors, native)) for each in vectors]
        for method, vectors in made.items()
    }


def mixed_vectors(pair: Pair, name: str, place: Place, choice: Choice, draws: int) -> Vectors:
    """Half of the contrasts are about another concept; and the same by a second cue in every text."""
    here = Refiner(pair.dictionary("source", place.source), FAMILY[name])
    made: Vectors = {}
    for number, other in enumerate(CONFOUNDS[name]):
        parts = mixture(pair.source.n_pairs(name), pair.source.n_pairs(other))
        vector = pair.source.mixed([(name, parts.own), (other, parts.other)], place.source)
        others = other_vectors(pair, "source", name, place, {other: parts.left})
        few = draws if number == 0 else 0
        found = _refined(pair, here, vector, place, choice["mixed"], others, few)
        made |= {f"mixed with {other}/{method}": vectors for method, vectors in found.items()}
    other = CONFOUNDS[name][0]
    texts = with_second_cue(pair.splits[name].train, other)
    cued = pair.source.of_texts(*texts, place.source, name)
    made[f"second cue of {other}/{UNREFINED}"] = [pair.moved(cued, place)]
    return made


def few_vectors(pair: Pair, name: str, place: Place, choice: Choice, draws: int = FEW_DRAWS) -> Vectors:
    """Few contrasts: families over draws of the pairs, the same draws for every method."""
    here = Refiner(pair.dictionary("source", place.source), FAMILY[name])
    others = other_vectors(pair, "source", name, place)
    made: Vectors = {}
    for n in FEW:
        drawn = [
            pair.source.vector(name, place.source, pairs) for pairs in few_pairs(pair.source.n_pairs(name), n, draws)
        ]
        found = [_refined(pair, here, vector, place, choice["full"], others, 0) for vector in drawn]
        made |= {f"{n} pairs/{method}": [each[method][0] for each in found] for method in found[0]}
    return made


def validation_vectors(pair: Pair, name: str, place: Place) -> Vectors:
    """Every solver in every manner, on all contrasts and on those mixed with the first other concept."""
    here = Refiner(pair.dictionary("source", place.source), FAMILY[name])
    other = CONFOUNDS[name][0]
    parts = mixture(pair.source.n_pairs(name), pair.source.n_pairs(other))
    vectors = {
        "full": pair.source.vector(name, place.source),
        "mixed": pair.source.mixed([(name, parts.own), (other, parts.other)], place.source),
    }
    made: Vectors = {}
    for group, vector in vectors.items():
        made[f"{group}/{UNREFINED}"] = [pair.moved(vector, place)]
        for manner in MANNERS:
            for solver in SOLVERS:
                made[f"{group}/{manner}/{solver}"] = [pair.moved(here.refined(vector, manner, solver), place)]
    return made


def other_vectors(
    pair: Pair, side: str, name: str, place: Place, left: Mapping[str, Sequence[int]] | None = None
) -> list[ConceptVectors]:
    """Vectors of the concepts of the other families, by all their contrasts or by those that are left."""
    reading, at = (pair.source, place.source) if side == "source" else (pair.target, place.target)
    names = [other for other in (*MAIN, *EMOTIONS) if FAMILY[other] != FAMILY[name]]
    return [reading.vector(other, at, (left or {}).get(other)) for other in dict.fromkeys(names)]


def facts(pair: Pair, name: str, place: Place, made: Vectors, choice: Choice) -> dict[str, Any]:
    """Cosines with the target's own vector, and what was found in the source's vector of all contrasts."""
    here = Refiner(pair.dictionary("source", place.source), FAMILY[name])
    vector = pair.source.vector(name, place.source)
    kept = keep_concepts(vector, here.dictionary, here.own, solver=SOLVERS[choice["full"][KEEP]])
    found, own = kept.decompositions[0], set(here.own)
    return {
        "cosine_with_native": cosines_with_native(pair, name, place, made),
        "n_atoms": here.dictionary.n_atoms,
        "n_found": len(found.row(0)),
        "n_found_own": sum(atom in own for atom, _ in found.row(0)),
        "explained": float(found.explained[0]),
        "largest": [[atom, round(value / float(found.norms[0]), 3)] for atom, value in found.row(0, 6)],
        "kept_cosine": kept.cosines[0],
        "kept_length": kept.shares[0],
    }


def _refined(
    pair: Pair,
    here: Refiner,
    vector: ConceptVectors,
    place: Place,
    solvers: Mapping[str, str],
    others: Sequence[ConceptVectors],
    draws: int,
) -> Vectors:
    """A source vector as it is and refined in every manner, carried to the target."""
    made = {UNREFINED: vector} | {manner: here.refined(vector, manner, solvers[manner]) for manner in MANNERS}
    made[ORTHOGONAL] = remove_component(vector, others)
    found = {method: [pair.moved(each, place)] for method, each in made.items()}
    drawn = here.random_atoms(vector, solvers[KEEP], draws) if draws else []
    return found | ({RANDOM_ATOMS: [pair.moved(each, place) for each in drawn]} if drawn else {})
