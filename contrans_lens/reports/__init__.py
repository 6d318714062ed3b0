"""Figures, tables and the stand-alone HTML report. Results only: nothing here needs a model."""

from contrans_lens.reports.comparison_figures import (
    change_figure,
    comparison_figure,
    difference_figure,
    sign_figure,
)
from contrans_lens.reports.dictionary_figures import atom_similarity_figure, dictionary_map_figure
from contrans_lens.reports.figures import (
    damage_figure,
    layer_figure,
    overview_figure,
    rows_figure,
    strength_figure,
)
from contrans_lens.reports.html import (
    layer_report_html,
    result_html,
    runs_report,
    write_layer_report,
    write_report,
)
from contrans_lens.reports.layer_figures import (
    effect_figure,
    layers_overview_figure,
    predictor_figure,
    probe_figure,
    similarity_figure,
)
from contrans_lens.reports.pace_figures import (
    audit_figure,
    decomposition_figure,
    partition_figure,
    sparsity_path_figure,
)
from contrans_lens.reports.pace_html import pace_html, write_pace_report
from contrans_lens.reports.rahf_figures import curves_figure, norms_figure
from contrans_lens.reports.rahf_html import rahf_html, write_rahf_report
from contrans_lens.reports.rahf_scores import scores_figure
from contrans_lens.reports.tradeoff_figures import (
    alignment_figure,
    helpfulness_figure,
    pareto_figure,
    prediction_figure,
    readings_figure,
    tradeoff_figure,
)
from contrans_lens.reports.tradeoff_figures import damage_figure as tradeoff_damage_figure
from contrans_lens.reports.tradeoff_html import (
    comparison_html,
    tradeoff_html,
    write_comparison_report,
    write_tradeoff_report,
)

__all__ = [
    "alignment_figure",
    "atom_similarity_figure",
    "audit_figure",
    "change_figure",
    "comparison_figure",
    "comparison_html",
    "curves_figure",
    "damage_figure",
    "decomposition_figure",
    "dictionary_map_figure",
    "difference_figure",
    "effect_figure",
    "helpfulness_figure",
    "layer_figure",
    "layer_report_html",
    "layers_overview_figure",
    "norms_figure",
    "overview_figure",
    "pace_html",
    "pareto_figure",
    "partition_figure",
    "prediction_figure",
    "predictor_figure",
    "probe_figure",
    "rahf_html",
    "readings_figure",
    "result_html",
    "rows_figure",
    "runs_report",
    "scores_figure",
    "sign_figure",
    "similarity_figure",
    "sparsity_path_figure",
    "strength_figure",
    "tradeoff_damage_figure",
    "tradeoff_figure",
    "tradeoff_html",
    "write_comparison_report",
    "write_layer_report",
    "write_pace_report",
    "write_rahf_report",
    "write_report",
    "write_tradeoff_report",
]
