"""The result: one similarity for all pairs of layers, with what chance gives."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from contrans_lens.errors import LayerError
from contrans_lens.layers.similarity.metric import METRICS, Metric

_TABLES = (
    "values",
    "low",
    "high",
    "null_mean",
    "null_critical",
    "p_values",
    "p_corrected",
    "calibrated",
    "excess",
)


@dataclass(frozen=True)
class BestPair:
    """The closest pair of layers of a grid."""

    source: str
    """Hook point of the source."""
    target: str
    """Hook point of the target."""
    value: float
    p_corrected: float | None
    """Its p-value, corrected for the search over all pairs; None without a null."""


@dataclass(frozen=True, eq=False)
class SimilarityGrid:
    """One metric over all pairs of layers, ``[source_layer, target_layer]``, float64 on the CPU.

    Tables that were not asked for (no shuffles, no subsamples) or do not exist for a metric are None.
    """

    metric: str
    """Name in ``METRICS``."""
    source_hook_points: tuple[str, ...]
    target_hook_points: tuple[str, ...]
    values: Float[Tensor, "source_layer target_layer"]
    low: Float[Tensor, "source_layer target_layer"] | None = None
    """Lower end of the interval of the value at this number of texts."""
    high: Float[Tensor, "source_layer target_layer"] | None = None
    """Upper end."""
    null_mean: Float[Tensor, "source_layer target_layer"] | None = None
    """Mean value under shuffled pairings: what the metric gives for nothing."""
    null_critical: Float[Tensor, "source_layer target_layer"] | None = None
    """``tau``: the value that shuffled pairings pass, in the closer direction, with probability ``1 - level``. The
    order statistic ``ceil(level (B + 1))`` of the shuffles and the observed value, per cell."""
    p_values: Float[Tensor, "source_layer target_layer"] | None = None
    """Of each cell alone: ``(1 + #{null >= observed}) / (1 + B)``, in the closer direction."""
    p_corrected: Float[Tensor, "source_layer target_layer"] | None = None
    """Corrected for the search over all cells by the largest standardised value of each shuffle."""
    calibrated: Float[Tensor, "source_layer target_layer"] | None = None
    """``max(0, (value - tau) / (perfect - tau))`` (Groeger et al. 2026, arXiv 2602.14486): 0 is no more than chance, 1
    is identical."""
    excess: Float[Tensor, "source_layer target_layer"] | None = None
    """``(value - null_mean) / (perfect - null_mean)``: chance-corrected as Cohen's kappa, 0 on average for nothing."""
    level: int | float = 0.95
    n_texts: int = 0
    n_units: int = 0
    """Independent units: groups, or texts where no groups were given."""
    n_permutations: int = 0
    n_subsamples: int = 0
    seed: int = 0
    warnings: tuple[str, ...] = ()
    """What a reader of these numbers must know."""

    @property
    def definition(self) -> Metric:
        """What the metric means."""
        return METRICS[self.metric]

    def best(self) -> BestPair:
        """The pair with the closest value, first in order among equals."""
        oriented = self.values if self.definition.higher_is_closer else -self.values
        s, t = divmod(int(oriented.argmax()), len(self.target_hook_points))
        corrected = None if self.p_corrected is None else float(self.p_corrected[s, t])
        return BestPair(self.source_hook_points[s], self.target_hook_points[t], float(self.values[s, t]), corrected)

    def significant(self, alpha: int | float = 0.05) -> Bool[Tensor, "source_layer target_layer"]:
        """Cells whose corrected p-value is at most ``alpha``.

        Raises:
            LayerError: no null was computed.
        """
        if self.p_corrected is None:
            raise LayerError("no shuffles were made, so nothing is known of significance; give n_permutations.")
        return self.p_corrected <= alpha

    def at(self, source: str, target: str) -> dict[str, float]:
        """Every table's number of one pair.

        Raises:
            LayerError: a hook point is not in the grid.
        """
        for name, names in ((source, self.source_hook_points), (target, self.target_hook_points)):
            if name not in names:
                raise LayerError(f"{name!r} is not in this grid; it has {', '.join(names)}.")
        s, t = self.source_hook_points.index(source), self.target_hook_points.index(target)
        tables = ((name, getattr(self, name)) for name in _TABLES)
        return {name: float(table[s, t]) for name, table in tables if table is not None}

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values; tables as nested lists."""
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        for name in _TABLES:
            plain[name] = None if plain[name] is None else plain[name].tolist()
        for name in ("source_hook_points", "target_hook_points", "warnings"):
            plain[name] = list(plain[name])
        return plain

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> "SimilarityGrid":
        """Rebuild from :meth:`to_dict`, ignoring fields of later versions.

        Raises:
            LayerError: the metric is unknown or a table does not fit the hook points.
        """
        known = {field.name for field in fields(cls)}
        kept = {name: item for name, item in value.items() if name in known}
        if kept.get("metric") not in METRICS:
            raise LayerError(f"unknown metric {kept.get('metric')!r}; known are {', '.join(METRICS)}.")
        for name in ("source_hook_points", "target_hook_points", "warnings"):
            kept[name] = tuple(kept.get(name, ()))
        shape = (len(kept["source_hook_points"]), len(kept["target_hook_points"]))
        for name in _TABLES:
            if kept.get(name) is not None:
                kept[name] = torch.tensor(kept[name], dtype=torch.float64)
                if kept[name].shape != shape:
                    raise LayerError(f"{name} is {tuple(kept[name].shape)} for {shape[0]} x {shape[1]} hook points.")
        return cls(**kept)
