"""Residuals: what a model's residual stream holds on a set of texts, captured once and kept small.

:func:`capture` gives a :class:`ResidualStore` ``[example, layer, d_model]``, in memory or memory-mapped on
disk; :func:`capture_moments` gives only streaming :class:`Moments`; :func:`capture_pair` reads two models on
the same texts.
"""

from contrans_lens.residuals.capture import LAST_TOKEN, capture, capture_moments
from contrans_lens.residuals.moments import Moments, MomentsFitter
from contrans_lens.residuals.pairs import PairedResiduals, capture_pair
from contrans_lens.residuals.positions import (
    CharSpan,
    EachToken,
    LastToken,
    MeanOver,
    ReadPositions,
    RelativeTo,
    TokenEnds,
    TokenSpans,
    positions_from_dict,
)
from contrans_lens.residuals.store import ResidualStore

__all__ = [
    "LAST_TOKEN",
    "CharSpan",
    "EachToken",
    "LastToken",
    "MeanOver",
    "Moments",
    "MomentsFitter",
    "PairedResiduals",
    "ReadPositions",
    "RelativeTo",
    "ResidualStore",
    "TokenEnds",
    "TokenSpans",
    "capture",
    "capture_moments",
    "capture_pair",
    "positions_from_dict",
]
