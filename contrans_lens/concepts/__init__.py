"""Concept vectors: estimated at every layer at once, oriented by labels, measured, refined and saved."""

from contrans_lens.concepts.estimate import (
    CONCEPT_METHODS,
    ConceptMethod,
    StateStore,
    concept_from_store,
    estimate_concept,
)
from contrans_lens.concepts.fitter import STREAMED_METHODS, ConceptFitter
from contrans_lens.concepts.quality import LayerQuality, auroc, auroc_interval, measure_quality
from contrans_lens.concepts.refinements import remove_component, remove_variance, scale_to_residual, shrink
from contrans_lens.concepts.vectors import ConceptVectors

__all__ = [
    "CONCEPT_METHODS",
    "STREAMED_METHODS",
    "ConceptFitter",
    "ConceptMethod",
    "ConceptVectors",
    "LayerQuality",
    "StateStore",
    "auroc",
    "auroc_interval",
    "concept_from_store",
    "estimate_concept",
    "measure_quality",
    "remove_component",
    "remove_variance",
    "scale_to_residual",
    "shrink",
]
