"""Figures, tables and the stand-alone HTML report. Results only: nothing here needs a model."""

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

__all__ = [
    "damage_figure",
    "effect_figure",
    "layer_figure",
    "layer_report_html",
    "layers_overview_figure",
    "overview_figure",
    "predictor_figure",
    "probe_figure",
    "result_html",
    "rows_figure",
    "runs_report",
    "similarity_figure",
    "strength_figure",
    "write_layer_report",
    "write_report",
]
