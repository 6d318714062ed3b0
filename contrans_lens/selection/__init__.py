"""The rules that choose layers and strength."""

from contrans_lens.selection.prior import three_quarters
from contrans_lens.selection.sweep import Candidate, SweepCell, best_cell, sweep

__all__ = ["Candidate", "SweepCell", "best_cell", "sweep", "three_quarters"]
