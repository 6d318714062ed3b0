"""How large activity differences are, by layer and by token of the answer, with intervals over groups of pairs."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from contrans_lens.errors import RahfError
from contrans_lens.evaluation.intervals import Interval, bootstrap_mean_cis
from contrans_lens.rahf.protocol import Differences, row_chunks
from contrans_lens.rahf.tokens import Where

MOST_OFFSETS = 64
"""Tokens of an answer that are told apart, from its first."""


@dataclass(frozen=True)
class DifferenceNorms:
    """Mean ``||v_l(t)||_2`` over answers, by layer and by offset of the token in the answer."""

    hook_points: tuple[str, ...]
    """Names of the layers."""
    where: Where
    """Which tokens are read: offset 0 is the answer's first token, or the one that predicts it."""
    layers: tuple[float, ...]
    """Mean over all tokens of all answers, by layer."""
    layer_intervals: tuple[Interval | None, ...]
    """95 % bootstrap intervals over groups; None with one group."""
    offsets: tuple[tuple[float, ...], ...]
    """``[layer][offset]``: mean over the answers that have a token there."""
    offset_intervals: tuple[tuple[Interval | None, ...], ...]
    """The same as ``offsets``; None where only one group has a token there."""
    counts: tuple[int, ...]
    """Answers that have a token at each offset."""
    residual_norms: tuple[float, ...] | None
    """Mean norm of the base model's residual stream at the same tokens, by layer, where it was measured."""
    unit: str = "absolute"
    """``"absolute"``, or ``"residual norm"`` after :meth:`relative`."""

    def relative(self) -> "DifferenceNorms":
        """The same in units of the base model's mean residual norm at each layer.

        Raises:
            RahfError: that was not measured, or they are relative already.
        """
        if self.unit != "absolute" or self.residual_norms is None:
            raise RahfError(
                "the residual norms of the base model are not known; capture with base=..."
                if self.residual_norms is None
                else "these norms are relative already."
            )
        units = self.residual_norms
        return replace(
            self,
            layers=tuple(value / unit for value, unit in zip(self.layers, units, strict=True)),
            layer_intervals=tuple(_scaled(each, unit) for each, unit in zip(self.layer_intervals, units, strict=True)),
            offsets=tuple(tuple(value / unit for value in row) for row, unit in zip(self.offsets, units, strict=True)),
            offset_intervals=tuple(
                tuple(_scaled(each, unit) for each in row)
                for row, unit in zip(self.offset_intervals, units, strict=True)
            ),
            unit="residual norm",
        )

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return asdict(self)


def difference_norms(
    differences: Differences,
    groups: Sequence[str] | None = None,
    residual_norms: Float[Tensor, " layer"] | None = None,
    *,
    n_offsets: int = MOST_OFFSETS,
    n_resamples: int = 2000,
    seed: int = 0,
) -> DifferenceNorms:
    """Mean norm of activity differences by layer and by token of the answer.

    The differences are gone through once; only their norms are kept.

    Args:
        differences: of at least one answer.
        groups: the group of each row: the unit that is resampled; None: each row for itself.
        residual_norms: mean norms of the base model's residual stream.
        n_offsets: tokens of an answer that are told apart, from its first; all count in the means by layer.
        n_resamples: bootstrap resamples.
        seed: of the resampling.

    Raises:
        RahfError: there are no offsets to tell apart, or group names do not fit.
    """
    rows = differences.rows
    groups = [str(number) for number in range(len(rows))] if groups is None else list(groups)
    if n_offsets < 1 or len(groups) != len(rows):
        raise RahfError(
            f"{n_offsets} offsets and {len(groups)} group names were given for {len(rows)} rows; one or more offsets "
            "and a name for each row were expected."
        )
    chunks = [differences.of(chunk).norm(dim=2) for chunk in row_chunks(rows)]
    norms = torch.cat(chunks)
    row, offset = _places([len(each.answer) for each in rows])
    token_groups = [groups[number] or f"row {number}" for number in row.tolist()]
    layers, layer_intervals = _means(norms, token_groups, n_resamples, seed)
    columns, intervals, counts = [], [], []
    for place in range(min(n_offsets, int(offset.max()) + 1)):
        here = torch.nonzero(offset == place)[:, 0]
        values, found = _means(norms[here], [token_groups[index] for index in here.tolist()], n_resamples, seed)
        columns.append(values)
        intervals.append(found)
        counts.append(len(here))
    return DifferenceNorms(
        hook_points=differences.hook_points,
        where=differences.where,
        layers=layers,
        layer_intervals=layer_intervals,
        offsets=tuple(zip(*columns, strict=True)),
        offset_intervals=tuple(zip(*intervals, strict=True)),
        counts=tuple(counts),
        residual_norms=None if residual_norms is None else tuple(residual_norms.tolist()),
    )


def _places(lengths: Sequence[int]) -> tuple[Int[Tensor, " token"], Int[Tensor, " token"]]:
    """Row and offset in its answer of every token."""
    count = torch.tensor(lengths)
    row = torch.repeat_interleave(torch.arange(len(count)), count)
    return row, torch.arange(len(row)) - (count.cumsum(0) - count)[row]


def _means(
    norms: Float[Tensor, "token layer"], groups: Sequence[str], n_resamples: int, seed: int
) -> tuple[tuple[float, ...], tuple[Interval | None, ...]]:
    """Mean of each column with its interval; without one where all tokens are of one group."""
    if len(set(groups)) < 2:
        return tuple(norms.mean(0).tolist()), (None,) * norms.shape[1]
    found = bootstrap_mean_cis(norms, groups, n_resamples=n_resamples, seed=seed)
    return tuple(each.value for each in found), tuple(found)


def _scaled(interval: Interval | None, unit: float) -> Interval | None:
    if interval is None:
        return None
    return replace(interval, value=interval.value / unit, low=interval.low / unit, high=interval.high / unit)
