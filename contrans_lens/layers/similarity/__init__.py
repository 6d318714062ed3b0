"""Similarity of all pairs of layers of two models, or of one with itself, with its null and its intervals."""

from contrans_lens.layers.similarity.carriage import ConceptCarriage, affine_r2_grid, concept_carriage
from contrans_lens.layers.similarity.compare import STATE_METRICS, similarity_grid
from contrans_lens.layers.similarity.grid import BestPair, SimilarityGrid
from contrans_lens.layers.similarity.metric import METRICS, Metric
from contrans_lens.layers.similarity.options import SimilarityOptions

__all__ = [
    "METRICS",
    "STATE_METRICS",
    "BestPair",
    "ConceptCarriage",
    "Metric",
    "SimilarityGrid",
    "SimilarityOptions",
    "affine_r2_grid",
    "concept_carriage",
    "similarity_grid",
]
