"""Evidence about pairs of layers: one number for every pair of a source and a target hook point."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from contrans_lens.errors import SelectionError


@dataclass(frozen=True, eq=False)
class Evidence:
    """One number per pair of layers that was had without writing into the target."""

    name: str
    values: Float[Tensor, "source_layer target_layer"]
    """Evidence about one model alone is the same along the other's layers. NaN only where a pair was not measured."""
    higher_is_better: bool
    """Whether larger values speak for a pair."""
    needs_target_labels: bool
    """Whether labelled texts had to be read in the target. Where not, it can be had before anything is known there."""
    p_corrected: Float[Tensor, "source_layer target_layer"] | None = None
    """p-value of each pair, corrected for having searched all of them; None where there is no null."""
    meaning: str = ""
    """One line for tables and figures."""
    measured_only: bool = False
    """Whether it is known only where the concept was written."""

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be ranked."""
        if not bool((self.values.isfinite() | (self.values.isnan() & self.measured_only)).all()):
            raise SelectionError(f"evidence {self.name!r} holds NaN or infinity; leave it out or look at the states.")

    @property
    def oriented(self) -> Float[Tensor, "source_layer target_layer"]:
        """The values, turned so that more is better."""
        return self.values if self.higher_is_better else -self.values

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return {
            "name": self.name,
            "values": [[None if value != value else value for value in row] for row in self.values.tolist()],
            "higher_is_better": self.higher_is_better,
            "needs_target_labels": self.needs_target_labels,
            "p_corrected": None if self.p_corrected is None else self.p_corrected.tolist(),
            "meaning": self.meaning,
            "measured_only": self.measured_only,
        }


def average_ranks(values: Float[Tensor, "*batch item"]) -> Float[Tensor, "*batch item"]:
    """Ranks along the last axis, 1 for the smallest; ties share their mean rank. Float64.

    ``rank_i = #{j : v_j < v_i} + (#{j : v_j = v_i} + 1) / 2``
    """
    values = values.double()
    ordered = values.sort(dim=-1).values.contiguous()
    below = torch.searchsorted(ordered, values.contiguous(), right=False)
    not_above = torch.searchsorted(ordered, values.contiguous(), right=True)
    return (below + not_above + 1).double() / 2


def shortlist(
    evidence: Sequence[Evidence],
    size: int,
    *,
    always: Sequence[tuple[int, int]] = (),
    allowed: Sequence[int] | None = None,
) -> list[tuple[int, int]]:
    """The pairs that are worth writing: spread over the target's depth, and at each depth the best source layer.

    Evidence from states hardly foretells at which target layer a concept acts (``analysis/layers``), and the target
    layer decides nearly all of the effect. So the evidence only ranks source layers, and target layers are spread.
    With more room than target layers, the second best source layers follow, and so on.

    Args:
        evidence: what ranks the source layers, each with the same weight.
        size: how many pairs, those of ``always`` not counted.
        always: (source, target) layers that are on the list whatever the evidence says.
        allowed: target layers that may be written at; None allows all.

    Returns:
        (source layer, target layer), in order of the target; those of ``always`` that were not among them come last.

    Raises:
        SelectionError: no evidence, evidence of unequal shapes or of measured pairs only, or a size below one.
    """
    if not evidence or size < 1:
        raise SelectionError("a shortlist needs some evidence and room for at least one pair.")
    shape = evidence[0].values.shape
    if any(each.values.shape != shape or each.measured_only for each in evidence):
        raise SelectionError("a shortlist needs evidence that is known for all of the same pairs.")
    targets = list(range(shape[1])) if allowed is None else list(allowed)
    ranks = torch.stack([average_ranks(each.oriented.T) for each in evidence]).mean(0)
    order = ranks.argsort(dim=1, descending=True, stable=True)
    chosen: list[tuple[int, int]] = []
    for place in range(shape[0]):
        room = size - len(chosen)
        spread = _spread(targets, room)
        chosen += [(int(order[target, place]), target) for target in spread]
        if len(spread) < len(targets):
            break
    return chosen + [pair for pair in always if pair not in chosen]


def _spread(places: Sequence[int], room: int) -> list[int]:
    """At most ``room`` of the places, evenly spread with both ends among them."""
    if room >= len(places):
        return list(places)
    if room <= 1:
        return [places[len(places) // 2]][:room]
    return [places[round(i * (len(places) - 1) / (room - 1))] for i in range(room)]
