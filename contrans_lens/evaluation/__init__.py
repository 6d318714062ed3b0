"""Evidence from behaviour: scores, damage, strength for a damage budget, controls and intervals."""

from contrans_lens.evaluation.budget_search import SolvedStrength
from contrans_lens.evaluation.cells import UNSTEERED, Cell, Cells, scaled
from contrans_lens.evaluation.controls import (
    covariance_directions,
    mapped_directions,
    random_directions,
    scale_to_norm,
)
from contrans_lens.evaluation.damage import Damage, damage, damage_cells, damage_vectors, report_damage
from contrans_lens.evaluation.intervals import (
    Interval,
    RatioInterval,
    bootstrap_draws_ci,
    bootstrap_mean_ci,
    bootstrap_mean_cis,
    paired_difference_ci,
    ratio_ci,
    weighted_mean_cis,
    wilson_ci,
)
from contrans_lens.evaluation.meter import DamageMeter, DamageTotals
from contrans_lens.evaluation.prompting import PromptDamage, prompt_damage
from contrans_lens.evaluation.scores import score_cells, score_items, score_steered, score_vectors
from contrans_lens.evaluation.strength import solve_cell_strengths, solve_directions, solve_strength, solve_strengths

__all__ = [
    "UNSTEERED",
    "Cell",
    "Cells",
    "Damage",
    "DamageMeter",
    "DamageTotals",
    "Interval",
    "PromptDamage",
    "RatioInterval",
    "SolvedStrength",
    "bootstrap_draws_ci",
    "bootstrap_mean_ci",
    "bootstrap_mean_cis",
    "covariance_directions",
    "damage",
    "damage_cells",
    "damage_vectors",
    "mapped_directions",
    "paired_difference_ci",
    "prompt_damage",
    "random_directions",
    "ratio_ci",
    "report_damage",
    "scale_to_norm",
    "scaled",
    "score_cells",
    "score_items",
    "score_steered",
    "score_vectors",
    "solve_cell_strengths",
    "solve_directions",
    "solve_strength",
    "solve_strengths",
    "weighted_mean_cis",
    "wilson_ci",
]
