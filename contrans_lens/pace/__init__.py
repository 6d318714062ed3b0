"""Parsimonious concept engineering: decompose on a concept dictionary, remove what is unwanted.

PaCE (Luo et al. 2024, arXiv 2406.04331): a dictionary with an atom for each concept, a partition of it for a task, the
decomposition of an activation into few concepts, and the removal of the undesirable ones while the model writes.
"""

from contrans_lens.pace.archive import load_edits, load_removals, save_removals
from contrans_lens.pace.build import build_dictionary, middle_hook_points
from contrans_lens.pace.clustering import Clustering, cluster
from contrans_lens.pace.codes import SparseCodes
from contrans_lens.pace.decomposition import Decomposition, decompose, decompose_texts
from contrans_lens.pace.dictionary import ConceptDictionary
from contrans_lens.pace.duplicates import Dropped
from contrans_lens.pace.external import read_external
from contrans_lens.pace.layout import Layout, layout
from contrans_lens.pace.partition import ConceptScore, Partition, Partitioner, named_partition, partition
from contrans_lens.pace.paths import SparsityPath, sparsity_path
from contrans_lens.pace.refinement import Refinement, drop_concepts, keep_concepts
from contrans_lens.pace.removal import ConceptRemoval, prepare, removals, removed_at
from contrans_lens.pace.retrieval import Neighbours, nearest, similarity
from contrans_lens.pace.run import PaceRun, remove_concepts
from contrans_lens.pace.scorers import Judge, ScoreFile, SimilarityScorer
from contrans_lens.pace.solvers import (
    OMP,
    Certificate,
    ElasticNet,
    OrthogonalProjection,
    PreparedAtoms,
    RidgeProjection,
    Solver,
    VectorAddition,
    kkt_certificate,
    solver_from_dict,
)
from contrans_lens.pace.topics import TopicSeparation, topic_separation

__all__ = [
    "OMP",
    "Certificate",
    "Clustering",
    "ConceptDictionary",
    "ConceptRemoval",
    "ConceptScore",
    "Decomposition",
    "Dropped",
    "ElasticNet",
    "Judge",
    "Layout",
    "Neighbours",
    "OrthogonalProjection",
    "PaceRun",
    "Partition",
    "Partitioner",
    "PreparedAtoms",
    "Refinement",
    "RidgeProjection",
    "ScoreFile",
    "SimilarityScorer",
    "Solver",
    "SparseCodes",
    "SparsityPath",
    "TopicSeparation",
    "VectorAddition",
    "build_dictionary",
    "cluster",
    "decompose",
    "decompose_texts",
    "drop_concepts",
    "keep_concepts",
    "kkt_certificate",
    "layout",
    "load_edits",
    "load_removals",
    "middle_hook_points",
    "named_partition",
    "nearest",
    "partition",
    "prepare",
    "read_external",
    "removals",
    "remove_concepts",
    "removed_at",
    "save_removals",
    "similarity",
    "solver_from_dict",
    "sparsity_path",
    "topic_separation",
]
