"""The audit: which rows, positions and hook points were really changed, and by how much.

It compares the activation before and after, so it reports what happened and not what was meant to happen.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from contrans_lens.interventions.passes import ForwardPass


@dataclass(frozen=True)
class Change:
    """One token whose residual was changed at one hook point."""

    hook_point: str
    """Name of the hook point."""
    sequence: int
    """Number of the prompt batch within the run, from 0."""
    row: int
    """Row of the batch."""
    position: int
    """Number of the token among the row's real tokens; 0 is the first, BOS included; padding has none."""
    norm: float
    """Euclidean norm of the change, in the residual's own units."""


@dataclass(frozen=True)
class Finding:
    """What a decomposition at one token found, and what was taken out because of it."""

    hook_point: str
    """Name of the hook point."""
    sequence: int
    """Number of the prompt batch within the run, from 0."""
    row: int
    """Row of the batch."""
    position: int
    """Number of the token among the row's real tokens, from 0."""
    found: tuple[tuple[str, float], ...]
    """Concepts with their coefficients, in the residual's own units, the largest first."""
    removed: tuple[tuple[str, float], ...]
    """Those among them that were taken out. A negative coefficient means that the concept was *added*."""
    norm: float
    """Norm of the activation."""
    residual: float
    """Norm of the part of the activation that no concept explains."""
    removed_norm: float
    """Norm of what was taken out, strength included."""


@dataclass(frozen=True)
class Audit:
    """Every change of a run, in the order in which they were made.

    Without a KV cache each step runs the earlier tokens again, and so changes them again; :attr:`changed`
    is the same with and without a cache.
    """

    changes: tuple[Change, ...]
    """One entry for each token, hook point and forward pass."""
    findings: tuple[Finding, ...] = ()
    """What decompositions found, where an edit decomposes."""

    @property
    def changed(self) -> frozenset[tuple[str, int, int, int]]:
        """What was changed at least once: ``(hook point, sequence, row, position)``."""
        return frozenset((each.hook_point, each.sequence, each.row, each.position) for each in self.changes)

    def positions(self, hook_point: str, row: int, sequence: int = 0) -> list[int]:
        """Changed positions of one row at one hook point, ascending."""
        return sorted({place[3] for place in self.changed if place[:3] == (hook_point, sequence, row)})

    def to_rows(self) -> list[dict[str, Any]]:
        """The changes as JSON-serialisable rows."""
        return [dict(vars(each)) for each in self.changes]

    def concepts(self, hook_point: str | None = None, *, removed: bool = True) -> list[tuple[str, str, float, int]]:
        """What decompositions found, summed up: ``(hook point, concept, mean coefficient, tokens)``.

        The mean is over the tokens at which the concept was found; concepts come by the sum of their absolute
        coefficients, largest first, hook point by hook point in the order of the run.

        Args:
            hook_point: one of them only.
            removed: what was taken out; otherwise everything that was found.
        """
        shares: dict[str, dict[str, list[float]]] = {}
        for each in self.findings:
            if hook_point in (None, each.hook_point):
                of_point = shares.setdefault(each.hook_point, {})
                for name, coefficient in each.removed if removed else each.found:
                    of_point.setdefault(name, []).append(coefficient)
        return [
            (point, name, sum(values) / len(values), len(values))
            for point, of_point in shares.items()
            for name, values in sorted(of_point.items(), key=lambda item: -sum(map(abs, item[1])))
        ]

    def __len__(self) -> int:
        return len(self.changes)

    def __str__(self) -> str:
        places: dict[str, set[tuple[int, int, int]]] = {}
        for hook_point, *place in self.changed:
            places.setdefault(hook_point, set()).add((place[0], place[1], place[2]))
        lines = [
            f"{hook_point}: {len(found)} tokens in {len({place[:2] for place in found})} rows, "
            f"norm up to {max(each.norm for each in self.changes if each.hook_point == hook_point):.4g}"
            for hook_point, found in sorted(places.items())
        ]
        return "\n".join(lines) if lines else "nothing was changed"


def changes_of(
    hook_point: str,
    current: ForwardPass,
    before: Float[Tensor, "batch pos d"],
    after: Float[Tensor, "batch pos d"],
) -> Iterator[Change]:
    """The real tokens of one pass that differ after the interventions at one hook point."""
    mask = current.mask()
    differs = (before != after).any(dim=-1).cpu() & mask[:, current.start :]
    norms = (after.double() - before.double()).norm(dim=-1).cpu()
    ranks = mask.long().cumsum(dim=1)[:, current.start :] - 1
    for row, column in differs.nonzero().tolist():
        yield Change(
            hook_point=hook_point,
            sequence=current.sequence,
            row=row,
            position=int(ranks[row, column]),
            norm=float(norms[row, column]),
        )
