"""A pair of models, read once: maps between them, concept vectors of any choice of contrasts, dictionaries, places."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from contrans_lens.concepts import ConceptVectors, estimate_concept
from contrans_lens.models import HookedModel, open_model
from contrans_lens.pace.build import build_dictionary
from contrans_lens.pace.dictionary import ConceptDictionary
from contrans_lens.pipeline import Bench, ConceptReading, Settings, choose, read_pair
from contrans_lens.pipeline.reading import ContrastReading, PairReading, StateReading, estimate_from, read_contrasts
from contrans_lens.residuals import capture
from contrans_lens.testbed import map_texts, model_path, neutral_texts
from contrans_lens.testbed.stimuli import STIMULI_TEMPLATE, concept_stimuli
from contrans_lens.texts import ContrastSplits

N_MAP_TEXTS, N_NEUTRAL = 1000, 6
SETTINGS = Settings(max_neutral_texts=N_NEUTRAL)
_DICTIONARIES: dict[tuple[str, str], ConceptDictionary] = {}
"""By model and hook point: two pairs share a model."""


@dataclass(frozen=True)
class Place:
    """Where a concept is read and where it is written."""

    source: str
    target: str


@dataclass(frozen=True, eq=False)
class ModelContrasts:
    """One model's generic states and its states on the contrasts of every concept."""

    model: HookedModel
    states: StateReading
    contrasts: Mapping[str, ContrastReading]

    def n_pairs(self, name: str) -> int:
        """Training pairs of a concept."""
        return len(self.contrasts[name].train[0])

    def vector(self, name: str, place: str, pairs: Sequence[int] | None = None) -> ConceptVectors:
        """Mean difference of all training pairs, or of some."""
        return self.mixed([(name, range(self.n_pairs(name)) if pairs is None else pairs)], place)

    def mixed(self, parts: Sequence[tuple[str, Sequence[int]]], place: str) -> ConceptVectors:
        """Mean difference of pairs of several concepts, named by the first."""
        at = self.states.hook_points.index(place)
        sides = [
            torch.cat([self.contrasts[name].train[side][list(pairs), at : at + 1] for name, pairs in parts])
            for side in (0, 1)
        ]
        return self._estimate(sides[0], sides[1], place, parts[0][0])

    def of_texts(self, positives: Sequence[str], negatives: Sequence[str], place: str, name: str) -> ConceptVectors:
        """Mean difference of two lists of texts."""
        found = capture(self.model, [*positives, *negatives], [place]).tensor()
        return self._estimate(found[: len(positives)], found[len(positives) :], place, name)

    def _estimate(
        self,
        positives: Float[Tensor, "positive 1 d_model"],
        negatives: Float[Tensor, "negative 1 d_model"],
        place: str,
        name: str,
    ) -> ConceptVectors:
        at = self.states.hook_points.index(place)
        return estimate_concept(
            positives,
            negatives,
            (place,),
            name=name,
            fingerprint=self.states.fingerprint,
            residual_norms=self.states.residual_norms[at : at + 1],
        )


class Pair:
    """Source and target, read."""

    def __init__(self, source: str, target: str, splits: Mapping[str, ContrastSplits]) -> None:
        """Read both models on the map texts and the contrasts, and fit the maps."""
        self.names = source, target
        self.splits = splits
        models = tuple(open_model(model_path(name)) for name in (source, target))
        self.reading: PairReading = read_pair(models[0], models[1], map_texts(N_MAP_TEXTS), SETTINGS)
        self.source, self.target = (
            ModelContrasts(
                model, states, {name: read_contrasts(model, each, states.hook_points) for name, each in splits.items()}
            )
            for model, states in zip(models, (self.reading.source, self.reading.target), strict=True)
        )

    @cached_property
    def norms(self) -> dict[str, float]:
        """Mean residual norm of the target by hook point."""
        states = self.reading.target
        return dict(zip(states.hook_points, states.residual_norms.tolist(), strict=True))

    def chosen_place(self, name: str) -> Place:
        """The pair of hook points whose transplanted vector of all contrasts does most on validation items."""
        bench = Bench(
            self.target.model, self.splits[name].validation.evaluation, neutral_texts(N_NEUTRAL), self.norms, SETTINGS
        )
        vectors = [estimate_from(side.contrasts[name], SETTINGS, side.states) for side in (self.source, self.target)]
        choice = choose(bench, self.reading, ConceptReading(self.splits[name], *vectors), SETTINGS)
        return Place(choice.source, choice.target)

    def dictionary(self, side: str, place: str) -> ConceptDictionary:
        """The shipped concept list on the source or the target, at one hook point."""
        name = self.names[0 if side == "source" else 1]
        if (name, place) not in _DICTIONARIES:
            model = (self.source if side == "source" else self.target).model
            made = build_dictionary(model, concept_stimuli(), [place], template=STIMULI_TEMPLATE)
            _DICTIONARIES[name, place] = made
        return _DICTIONARIES[name, place]

    def moved(self, vector: ConceptVectors, place: Place) -> ConceptVectors:
        """A source vector carried to the target by the linear part of the map."""
        carried = self.reading.maps.concept(vector.at(place.source), place.source, place.target)
        return ConceptVectors(
            vector.name, carried[None].float(), (place.target,), "mapped", self.reading.target.fingerprint
        )
