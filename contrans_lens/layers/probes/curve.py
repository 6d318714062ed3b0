"""What probing found: one row per layer, and the curve of all layers with its corrected test."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from contrans_lens.errors import LayerError
from contrans_lens.evaluation.intervals import Interval
from contrans_lens.layers.probes.description_length import DescriptionLength


@dataclass(frozen=True)
class LayerProbe:
    """How well a concept is read at one site. All scores are out of fold."""

    hook_point: str
    """Where the states were captured."""
    method: str
    """Kind of probe."""
    accuracy: Interval
    """Share of examples on the right side, groups resampled."""
    auroc: Interval
    """Area under the ROC curve over pairs within a test fold, groups resampled."""
    brier: float
    """Mean squared error of the probability of the positive class; .25 is no knowledge."""
    calibration_error: float
    """Expected calibration error of the same probability, ten equal bins."""
    strengths: tuple[float, ...]
    """Penalty chosen for each test fold on the other folds; empty for methods without one."""
    control_accuracy: Interval | None = None
    """Accuracy of the same probe on random labels per group, members of a group on both sides; None without
    controls."""
    selectivity: Interval | None = None
    """``accuracy - control_accuracy``."""
    straddling_accuracy: float | None = None
    """Accuracy on the true labels under the control's split, where groups straddle. Above ``accuracy`` where a group
    mate helps (one label a group), below it where a mate misleads (contrast pairs)."""
    p_value: float | None = None
    """Permutation p of the AUROC at this layer alone; None without permutations."""
    p_corrected: float | None = None
    """The same against the largest AUROC over all layers of each permutation: corrected for the search."""
    description_length: DescriptionLength | None = None
    """Online code of the labels; None where it was not asked for."""

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> "LayerProbe":
        """Rebuild from plain values."""
        fields = dict(value)
        for name in ("accuracy", "auroc", "control_accuracy", "selectivity"):
            fields[name] = None if fields[name] is None else Interval(**fields[name])
        if fields["description_length"] is not None:
            fields["description_length"] = DescriptionLength.from_dict(fields["description_length"])
        return cls(**{**fields, "strengths": tuple(fields["strengths"])})


@dataclass(frozen=True)
class ProbeCurve:
    """Probes of one concept at every site."""

    layers: tuple[LayerProbe, ...]
    """One row per site, in the order of the states."""
    scores: Float[Tensor, "example layer"]
    """Out-of-fold decision values, float64 on the CPU; above 0 is positive. Folds are not on one scale."""
    folds: Int[Tensor, " example"]
    """Test fold of every example."""
    n_examples: int
    """Examples."""
    n_groups: int
    """Groups that never straddle a fold: the independent units."""
    majority_accuracy: float
    """Accuracy of always naming the larger class."""
    n_permutations: int = 0
    """Permuted labelings behind the p-values."""
    best_p: float | None = None
    """Max-statistic p: is the concept readable at any of these layers? None without permutations."""
    warnings: tuple[str, ...] = ()
    """What to keep in mind with these data."""

    def __repr__(self) -> str:
        """One line: how many layers, and the best of them."""
        best = self.best()
        return (
            f"ProbeCurve({len(self.layers)} layers, {self.n_examples} examples in {self.n_groups} groups, best "
            f"{best.hook_point}: AUROC {best.auroc.value:.3f}, best_p {self.best_p})"
        )

    @property
    def hook_points(self) -> tuple[str, ...]:
        """The sites, in order."""
        return tuple(layer.hook_point for layer in self.layers)

    def best(self) -> LayerProbe:
        """The layer of largest AUROC, the first of equals. Being chosen, it is biased upwards: read ``best_p``."""
        return max(self.layers, key=lambda layer: layer.auroc.value)

    def at(self, hook_point: str) -> LayerProbe:
        """The row of a site.

        Raises:
            LayerError: no such site.
        """
        for layer in self.layers:
            if layer.hook_point == hook_point:
                return layer
        raise LayerError(f"{hook_point!r} was not probed; the curve has {', '.join(self.hook_points)}.")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        value = {name: getattr(self, name) for name in self.__dataclass_fields__}
        value.update(
            layers=[asdict(layer) for layer in self.layers],
            scores=self.scores.tolist(),
            folds=self.folds.tolist(),
            warnings=list(self.warnings),
        )
        return value

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> "ProbeCurve":
        """Rebuild from :meth:`to_dict`."""
        fields = dict(value)
        fields.update(
            layers=tuple(LayerProbe.from_dict(layer) for layer in value["layers"]),
            scores=torch.tensor(value["scores"], dtype=torch.float64).view(value["n_examples"], len(value["layers"])),
            folds=torch.tensor(value["folds"], dtype=torch.int64),
            warnings=tuple(value["warnings"]),
        )
        return cls(**fields)
