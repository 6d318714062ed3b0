"""The rules that choose layers and strength, from the evidence of states and of behaviour."""

from contrans_lens.selection.causal import CausalCell, corrected_p_values, max_statistic_p
from contrans_lens.selection.evidence import Evidence, average_ranks, shortlist
from contrans_lens.selection.gates import Gate, works
from contrans_lens.selection.predictors import Predictor, rank_predictors, spearman
from contrans_lens.selection.prior import three_quarters
from contrans_lens.selection.report import LayerReport
from contrans_lens.selection.sweep import Candidate, SweepCell, best_cell, sweep

__all__ = [
    "Candidate",
    "CausalCell",
    "Evidence",
    "Gate",
    "LayerReport",
    "Predictor",
    "SweepCell",
    "average_ranks",
    "best_cell",
    "corrected_p_values",
    "max_statistic_p",
    "rank_predictors",
    "shortlist",
    "spearman",
    "sweep",
    "three_quarters",
    "works",
]
