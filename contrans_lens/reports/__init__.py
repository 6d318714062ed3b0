"""Figures, tables and the stand-alone HTML report. Results only: nothing here needs a model."""

from contrans_lens.reports.figures import (
    damage_figure,
    layer_figure,
    overview_figure,
    rows_figure,
    strength_figure,
)
from contrans_lens.reports.html import result_html, runs_report, write_report

__all__ = [
    "damage_figure",
    "layer_figure",
    "overview_figure",
    "result_html",
    "rows_figure",
    "runs_report",
    "strength_figure",
    "write_report",
]
