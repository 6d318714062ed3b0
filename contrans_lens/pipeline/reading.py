"""What is read from the two models before anything is written: maps from generic text, concept vectors from contrasts.

Models are needed one at a time here, so a small source and a large target need not be in memory together. What is
kept afterwards is linear algebra.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from contrans_lens.concepts import ConceptVectors, estimate_concept
from contrans_lens.errors import TextError
from contrans_lens.ledger import Ledger
from contrans_lens.maps import MapGrid, fit_map_grid
from contrans_lens.models import Fingerprint, HookedModel, fingerprint, residual_hook_points
from contrans_lens.pipeline.settings import Settings
from contrans_lens.residuals import ResidualStore, capture
from contrans_lens.texts import ContrastSet, ContrastSplits

MIN_MAP_TEXTS = 10
CONTRAST_FRACTIONS = (0.75, 0.2, 0.05)  # no score is taken on test contrasts, so they are few


@dataclass(frozen=True, eq=False)
class StateReading:
    """One model's last-token residuals on the generic texts, every layer."""

    fingerprint: Fingerprint
    hook_points: tuple[str, ...]
    states: Float[Tensor, "text layer d_model"]
    truncated: int
    """Texts that did not fit the context and lost their beginning."""

    @property
    def residual_norms(self) -> Float[Tensor, "layer"]:
        """Mean norm of the residual per layer: the unit of strength."""
        return self.states.float().norm(dim=-1).mean(0)

    def covariance(self, hook_point: str) -> Float[Tensor, "d_model d_model"]:
        """Covariance of the states at one hook point, float64."""
        states = self.states[:, self.hook_points.index(hook_point)].double()
        return torch.cov(states.T)


@dataclass(frozen=True, eq=False)
class PairReading:
    """What two models said about the same generic texts, and the maps between them. Serves any number of concepts."""

    source: StateReading
    target: StateReading
    maps: MapGrid
    held_out: Int[Tensor, "text"]
    """Indices of the texts that fitted no map."""
    text_hash: str
    n_texts: int

    def held_out_states(self, source: str, target: str) -> tuple[Tensor, Tensor]:
        """States of both models on held-out texts at a pair of hook points, ``[text, d]`` each."""
        x = self.source.states[self.held_out, self.source.hook_points.index(source)]
        y = self.target.states[self.held_out, self.target.hook_points.index(target)]
        return x, y


@dataclass(frozen=True, eq=False)
class ContrastReading:
    """One model's residuals on the contrast texts: positives and negatives, ``[text, layer, d_model]`` each."""

    concept: str
    train: tuple[Tensor, Tensor]
    """What vectors are estimated from and probes are fitted on."""
    validation: tuple[Tensor, Tensor]
    """What the quality of the vectors is measured on."""

    @property
    def states(self) -> Float[Tensor, "text layer d_model"]:
        """Training positives, then training negatives."""
        return torch.cat(self.train)


@dataclass(frozen=True, eq=False)
class ConceptReading:
    """A concept read in both models from the training part of its contrast set."""

    splits: ContrastSplits
    source: ConceptVectors
    target: ConceptVectors


def read_states(model: HookedModel, texts: Sequence[str]) -> StateReading:
    """Capture the last real token of every text at every block's ``hook_resid_post``.

    Texts longer than the context keep their end, which is what is read.
    """
    hook_points = residual_hook_points(model)
    store: ResidualStore = capture(model, texts, hook_points, truncate="left")
    return StateReading(fingerprint(model), tuple(hook_points), store.tensor(), store.truncated)


def generic_part(texts: Sequence[str], settings: Settings) -> list[str]:
    """The texts that the map is fitted on: without repeats, at most ``max_map_texts``.

    Raises:
        TextError: fewer than ten different texts.
    """
    unique = list(dict.fromkeys(texts))[: settings.max_map_texts]
    if len(unique) < MIN_MAP_TEXTS:
        raise TextError(
            f"{len(unique)} different generic texts were given; a map needs at least {MIN_MAP_TEXTS}, and some "
            "hundreds to be worth anything. Give more texts."
        )
    return unique


def fit_pair(source: StateReading, target: StateReading, texts: Sequence[str], settings: Settings) -> PairReading:
    """Fit the maps between all layers of two models on the same texts, a share of them held out.

    Raises:
        MapError: the states do not belong to the same texts, or cannot be mapped.
    """
    n = len(texts)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(settings.seed))
    n_held_out = max(2, round(settings.held_out_texts * n))
    held_out, fitted = order[:n_held_out].sort().values, order[n_held_out:].sort().values
    maps = fit_map_grid(
        source.states[fitted],
        target.states[fitted],
        source.hook_points,
        target.hook_points,
        method=settings.map_method,
        source_fingerprint=source.fingerprint,
        target_fingerprint=target.fingerprint,
    )
    return PairReading(source, target, maps, held_out, texts_hash(texts), n)


def split_concept(concept: ContrastSet, settings: Settings) -> ContrastSplits:
    """Split a contrast set: vectors from train, layers and strength on validation, scores on test.

    Evaluation items that share no group with contrast texts go one third to validation and two thirds to test.

    Raises:
        TextError: a part would be one-sided, or there are no items to choose or to score on.
    """
    splits = concept.split(CONTRAST_FRACTIONS, seed=settings.seed, item_fractions=(0.0, 1 / 3, 2 / 3))
    for name, part in (("validation", splits.validation), ("test", splits.test)):
        if len(part.evaluation) < 2:
            raise TextError(
                f"concept {concept.name!r} leaves {len(part.evaluation)} evaluation items for {name}; give at least "
                "6 items {'prompt', 'positive', 'negative'} in different groups."
            )
    return splits


def read_concept(
    model: HookedModel, splits: ContrastSplits, settings: Settings, states: StateReading
) -> ConceptVectors:
    """Estimate the concept at every layer from training contrasts; its quality is measured on validation contrasts."""
    return estimate_from(read_contrasts(model, splits, states.hook_points), settings, states)


def read_contrasts(model: HookedModel, splits: ContrastSplits, hook_points: Sequence[str]) -> ContrastReading:
    """Capture the last token of the training and validation contrasts at every hook point."""
    parts = []
    for part in (splits.train, splits.validation):
        texts = [*part.positives, *part.negatives]
        captured = capture(model, texts, hook_points, truncate="left").tensor()
        parts.append((captured[: len(part.positives)], captured[len(part.positives) :]))
    return ContrastReading(splits.train.name, *parts)


def estimate_from(contrasts: ContrastReading, settings: Settings, states: StateReading) -> ConceptVectors:
    """The concept at every layer from contrasts that were read before; see :func:`read_concept`."""
    return estimate_concept(
        *contrasts.train,
        states.hook_points,
        method=settings.estimator,
        name=contrasts.concept,
        held_out=contrasts.validation,
        fingerprint=states.fingerprint,
        residual_norms=states.residual_norms,
        seed=settings.seed,
    )


@dataclass(frozen=True, eq=False)
class ModelReading:
    """One model's states on generic texts and on the contrast texts, and the concept's vectors."""

    states: StateReading
    contrasts: ContrastReading
    vectors: ConceptVectors


def read_model(
    model: HookedModel,
    splits: ContrastSplits,
    texts: Sequence[str],
    settings: Settings,
    ledger: Ledger | None = None,
    states: StateReading | None = None,
) -> ModelReading:
    """Capture everything that is needed of a model; captures that were finished before are taken from the ledger.

    Args:
        model: an opened model.
        splits: the parts of the contrast set.
        texts: generic texts.
        settings: how concepts are estimated.
        ledger: finished stages; None keeps none.
        states: the model's states on the generic texts, where they were read before.
    """
    identity = fingerprint(model)
    ledger = (ledger or Ledger(None, {})).with_key(model=identity.identity())
    hook_points = residual_hook_points(model)
    if states is None:
        found = ledger.recall("generic-states", lambda: _state_tensors(read_states(model, texts)))
        states = StateReading(identity, tuple(hook_points), found["states"], int(found["truncated"]))

    def read() -> dict[str, Tensor]:
        contrasts = read_contrasts(model, splits, hook_points)
        parts = (*contrasts.train, *contrasts.validation)
        return dict(zip(_PARTS, parts, strict=True))

    parts = [ledger.recall("contrast-states", read)[name] for name in _PARTS]
    contrasts = ContrastReading(splits.train.name, (parts[0], parts[1]), (parts[2], parts[3]))
    return ModelReading(states, contrasts, estimate_from(contrasts, settings, states))


_PARTS = ("train_positive", "train_negative", "validation_positive", "validation_negative")


def _state_tensors(states: StateReading) -> dict[str, Tensor]:
    return {"states": states.states, "truncated": torch.tensor(states.truncated)}


def texts_hash(texts: Sequence[str]) -> str:
    """SHA-256 over the texts and their order."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()


def reading_diagnostics(pair: PairReading, reading: ConceptReading, source: str, target: str) -> dict[str, Any]:
    """Held-out numbers of the map and of the reading at the chosen hook points, JSON-serialisable."""
    own = reading.target.at(target)
    vector = reading.source.at(source)
    chosen = pair.maps.map(source, target, held_out=pair.held_out_states(source, target), concept=(vector, own))
    found = chosen.diagnostics
    values: dict[str, Any] = (
        {}
        if found is None
        else {
            "map_r2": found.r2,
            "map_cosine": found.cosine,
            "concept_r2": found.concept_r2,
            "concept_cosine": found.concept_cosine,
            "concept_shrinkage": found.shrinkage,
            "map_warnings": list(found.warnings),
        }
    )
    values |= {
        "map_texts": pair.n_texts,
        "map_texts_held_out": len(pair.held_out),
        "map_ridge": chosen.ridge,
        "texts_truncated_source": pair.source.truncated,
        "texts_truncated_target": pair.target.truncated,
    }
    return values
