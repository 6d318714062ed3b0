"""Evidence from behaviour: scores, damage, strength for a damage budget, controls and intervals."""

from contrans_lens.evaluation.controls import (
    covariance_directions,
    mapped_directions,
    random_directions,
    scale_to_norm,
)
from contrans_lens.evaluation.damage import Damage, DamageMeter, DamageTotals, damage, damage_cells, damage_vectors
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
from contrans_lens.evaluation.prompting import PromptDamage, prompt_damage
from contrans_lens.evaluation.scores import score_cells, score_items, score_vectors
from contrans_lens.evaluation.strength import SolvedStrength, solve_cell_strengths, solve_strength, solve_strengths

__all__ = [
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
    "scale_to_norm",
    "score_cells",
    "score_items",
    "score_vectors",
    "solve_cell_strengths",
    "solve_strength",
    "solve_strengths",
    "weighted_mean_cis",
    "wilson_ci",
]
