"""Evidence from behaviour: scores, damage, drift, strength for a damage budget, controls and intervals.

Whole behaviours (choices, words, answers, generations, neutral text) are in :mod:`contrans_lens.evaluation.behaviours`.
"""

from contrans_lens.evaluation.adapter_scale import solve_adapter_scale
from contrans_lens.evaluation.budget_search import SolvedStrength
from contrans_lens.evaluation.cells import UNSTEERED, Cell, Cells, scaled, written_vectors
from contrans_lens.evaluation.controls import (
    covariance_directions,
    mapped_directions,
    random_directions,
    rank_p_value,
    scale_to_norm,
)
from contrans_lens.evaluation.damage import Damage, damage, damage_cells, damage_vectors, report_damage
from contrans_lens.evaluation.drift import Drift, drift
from contrans_lens.evaluation.fluency import Fluency, fluency, fluency_columns
from contrans_lens.evaluation.generating import Written, generate_cells
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
from contrans_lens.evaluation.lexicon import Lexicon, builtin_lexicons, load_lexicon, refusal_judge
from contrans_lens.evaluation.meter import DamageMeter, DamageTotals
from contrans_lens.evaluation.model_change import model_damage
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
    "Drift",
    "Fluency",
    "Interval",
    "Lexicon",
    "PromptDamage",
    "RatioInterval",
    "SolvedStrength",
    "Written",
    "bootstrap_draws_ci",
    "bootstrap_mean_ci",
    "bootstrap_mean_cis",
    "builtin_lexicons",
    "covariance_directions",
    "damage",
    "damage_cells",
    "damage_vectors",
    "drift",
    "fluency",
    "fluency_columns",
    "generate_cells",
    "load_lexicon",
    "mapped_directions",
    "model_damage",
    "paired_difference_ci",
    "prompt_damage",
    "random_directions",
    "rank_p_value",
    "ratio_ci",
    "refusal_judge",
    "report_damage",
    "scale_to_norm",
    "scaled",
    "score_cells",
    "score_items",
    "score_steered",
    "score_vectors",
    "solve_adapter_scale",
    "solve_cell_strengths",
    "solve_directions",
    "solve_strength",
    "solve_strengths",
    "weighted_mean_cis",
    "wilson_ci",
    "written_vectors",
]
