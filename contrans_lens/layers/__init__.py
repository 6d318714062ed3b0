"""Evidence from states about layers: probes, similarities between all pairs of layers, and their nulls."""

from contrans_lens.layers.probes import (
    PROBE_METHODS,
    DescriptionLength,
    LayerProbe,
    ProbeCurve,
    control_labels,
    grouped_folds,
    permuted_labels,
    probe_concepts,
    probe_layers,
)
from contrans_lens.layers.similarity import (
    METRICS,
    STATE_METRICS,
    BestPair,
    ConceptCarriage,
    Metric,
    SimilarityGrid,
    SimilarityOptions,
    affine_r2_grid,
    concept_carriage,
    similarity_grid,
)

__all__ = [
    "METRICS",
    "PROBE_METHODS",
    "STATE_METRICS",
    "BestPair",
    "ConceptCarriage",
    "DescriptionLength",
    "LayerProbe",
    "Metric",
    "ProbeCurve",
    "SimilarityGrid",
    "SimilarityOptions",
    "affine_r2_grid",
    "concept_carriage",
    "control_labels",
    "grouped_folds",
    "permuted_labels",
    "probe_concepts",
    "probe_layers",
    "similarity_grid",
]
