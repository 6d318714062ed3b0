"""The ridge of every pair of layers, chosen by leave-one-out when it is asked for, and the target states it needs."""

from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from contrans_lens.maps.factor import SourceFactor
from contrans_lens.maps.fit import ridge_strengths
from contrans_lens.maps.leave_one_out import RidgePath, leave_one_out_path

_DOUBLE_LIMIT = 2**22
"""Up to so many target numbers the products over pairs run in float64 too; the factorisation always does."""

_CHUNK_ELEMENTS = 2**26
"""Numbers that one batched product over target layers or shuffles may hold at once."""


@dataclass(frozen=True, eq=False)
class PairRidges:
    """The ridges of all pairs of a :class:`contrans_lens.maps.MapGrid`."""

    x: Float[Tensor, "n source_layer d_source"]
    """Source states as given."""
    y: Float[Tensor, "n target_layer d_target"]
    """Target states as given."""
    factor: SourceFactor
    method: str
    ridge: int | float | str
    ridges: tuple[int | float, ...] | None
    _paths: dict[tuple[int, int], RidgePath] = field(default_factory=dict, repr=False)

    @property
    def dtype(self) -> torch.dtype:
        """Of the products over pairs: float64 for small problems or float64 states, else float32."""
        double = torch.float64 in (self.x.dtype, self.y.dtype) or self.y.numel() <= _DOUBLE_LIMIT
        return torch.float64 if double else torch.float32

    @cached_property
    def y_mean(self) -> Float[Tensor, "target_layer d_target"]:
        """Mean target states, float64."""
        return self.y.mean(0, dtype=torch.float64)

    @cached_property
    def centred(self) -> Float[Tensor, "target_layer n d_target"]:
        """All target states about their mean in the dtype of the products; kept once something needs all pairs.

        The mean is taken off in two parts, so that float32 states need no float64 copy.
        """
        high = self.y_mean.to(self.dtype)
        low = (self.y_mean - high).to(self.dtype)
        return (self.y.to(self.dtype) - high).sub_(low).transpose(0, 1).contiguous()

    def target_states(self, t: int) -> Float[Tensor, "n d_target"]:
        """One target layer about its mean, float64."""
        return self.y[:, t].to(torch.float64) - self.y_mean[t]

    def strengths(self, s: int) -> Float[Tensor, " strength"]:
        """The ridge strengths that are tried for one source layer."""
        return ridge_strengths(self.method, self.ridge, self.ridges, self.factor, s)

    def of_all_pairs(self) -> Float[Tensor, "source_layer target_layer"]:
        """The ridge of every pair; a given strength needs no leave-one-out."""
        if self.method == "ridge" and isinstance(self.ridge, str):
            return self.choose_all().to(self.factor.mean)
        value = 0.0 if self.method == "ols" else float(self.ridge)
        return torch.full(
            (self.x.shape[1], self.y.shape[1]), value, dtype=torch.float64, device=self.factor.mean.device
        )

    def choose_all(self) -> Float[Tensor, "source_layer target_layer"]:
        """The leave-one-out ridge of every pair, choosing all that were not chosen yet."""
        for s in range(self.x.shape[1]):  # one source at a time: the products hold [target, n, rank] numbers
            self._choose(s)
        rows = [[self.path(s, t).chosen() for t in range(self.y.shape[1])] for s in range(self.x.shape[1])]
        return torch.tensor(rows, dtype=torch.float64)

    def chosen(self, s: int, t: int) -> float:
        """The ridge of one pair; a given strength needs no leave-one-out."""
        if self.method == "ols":
            return 0.0
        return self.path(s, t).chosen() if isinstance(self.ridge, str) else float(self.ridge)

    def path(self, s: int, t: int) -> RidgePath:
        """Leave-one-out error of every ridge strength for one pair, kept once it is known."""
        if (s, t) not in self._paths:
            left = self.factor.left(self.x[:, s], s)
            self._store_paths(s, [t], left, self.target_states(t).to(self.dtype)[None])
        return self._paths[s, t]

    def _choose(self, s: int) -> None:
        """Leave-one-out of one source layer against every target layer that has none yet."""
        missing = [t for t in range(self.y.shape[1]) if (s, t) not in self._paths]
        if not missing:
            return
        left = self.factor.left(self.x[:, s], s)
        step = max(1, _CHUNK_ELEMENTS // (self.y[:, 0].numel() + left.numel()))
        for start in range(0, len(missing), step):
            part = missing[start : start + step]
            whole = len(part) == self.y.shape[1]
            self._store_paths(s, part, left, self.centred if whole else self.centred[part])

    def _store_paths(
        self, s: int, targets: list[int], left: Float[Tensor, "n rank"], y: Float[Tensor, "target n d_target"]
    ) -> None:
        path = leave_one_out_path(left, self.factor.singular[s], y, self.strengths(s))
        for row, t in enumerate(targets):
            self._paths[s, t] = RidgePath(path.ridges, path.press[row : row + 1], path.baseline[row : row + 1])
