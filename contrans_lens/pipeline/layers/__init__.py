"""Layers by evidence: read both models, compare all pairs of layers, write a shortlist, choose one pair or none."""

from contrans_lens.pipeline.layers.select import select_layers
from contrans_lens.pipeline.layers.settings import LayerSettings

__all__ = ["LayerSettings", "select_layers"]
