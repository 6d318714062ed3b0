"""Linear probes at every layer at once, with controls, permutation tests and description length."""

from contrans_lens.layers.probes.curve import LayerProbe, ProbeCurve
from contrans_lens.layers.probes.description_length import DescriptionLength
from contrans_lens.layers.probes.folds import grouped_folds
from contrans_lens.layers.probes.probe import PROBE_METHODS, probe_concepts, probe_layers
from contrans_lens.layers.probes.relabelling import control_labels, permuted_labels

__all__ = [
    "PROBE_METHODS",
    "DescriptionLength",
    "LayerProbe",
    "ProbeCurve",
    "control_labels",
    "grouped_folds",
    "permuted_labels",
    "probe_concepts",
    "probe_layers",
]
