"""The tradeoff between a steered behaviour and what it costs: sweep, laws, fits, regime, guards, comparison."""

from contrans_lens.tradeoff.analysis import (
    AnalysisSettings,
    DirectionAnalysis,
    FamilyAnalysis,
    TradeoffResult,
    analyse,
)
from contrans_lens.tradeoff.comparison import compare
from contrans_lens.tradeoff.comparison_result import Comparison, ComparisonRow, DamageRow
from contrans_lens.tradeoff.curve import Curve
from contrans_lens.tradeoff.executors import Executor, LocalExecutor, RayExecutor
from contrans_lens.tradeoff.fits import AlignmentFit, HelpfulnessFit, fit_alignment, fit_helpfulness
from contrans_lens.tradeoff.flags import Flag
from contrans_lens.tradeoff.guards import guard_alignment, guard_degeneration, guard_helpfulness
from contrans_lens.tradeoff.mechanism import Mechanism, alignment_mechanism, helpfulness_mechanism
from contrans_lens.tradeoff.methods import Method
from contrans_lens.tradeoff.plan import SweepPlan, direction, family, strength_grid
from contrans_lens.tradeoff.planning import tradeoff_plan
from contrans_lens.tradeoff.regime import UsefulRegime, useful_regime
from contrans_lens.tradeoff.result import SweepResult
from contrans_lens.tradeoff.sweep import sweep

__all__ = [
    "AlignmentFit",
    "AnalysisSettings",
    "Comparison",
    "ComparisonRow",
    "Curve",
    "DamageRow",
    "DirectionAnalysis",
    "Executor",
    "FamilyAnalysis",
    "Flag",
    "HelpfulnessFit",
    "LocalExecutor",
    "Mechanism",
    "Method",
    "RayExecutor",
    "SweepPlan",
    "SweepResult",
    "TradeoffResult",
    "UsefulRegime",
    "alignment_mechanism",
    "analyse",
    "compare",
    "direction",
    "family",
    "fit_alignment",
    "fit_helpfulness",
    "guard_alignment",
    "guard_degeneration",
    "guard_helpfulness",
    "helpfulness_mechanism",
    "strength_grid",
    "sweep",
    "tradeoff_plan",
    "useful_regime",
]
