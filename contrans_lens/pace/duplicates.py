"""Atoms that stand for the same thing: equal names, or almost the same direction at some hook point.

The public index of PaCE's 40,000 concepts names 1,376 of them twice. A decomposition cannot tell two equal atoms
apart, and an undesirable one could hide behind its benign twin.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from contrans_lens.errors import PaceError
from contrans_lens.texts.stimuli import folded_name

_BLOCK = 512
"""Atoms compared with all kept ones before any of them is kept itself."""
_TILE = 2048
"""Kept atoms that a block is compared with at a time."""
_SCREEN = 128
"""Dimensions of the projection that rules most pairs out."""
_DENSE = 0.02
"""Share of pairs left by the screen beyond which the cosines of the whole block are cheaper than gathering them."""
_MARGIN = 1e-5
"""Rounding of the float32 screen."""
_GATHERED_BYTES = 1 << 26
"""Memory for the rows of pairs whose cosine is computed exactly."""


@dataclass(frozen=True)
class Dropped:
    """An atom that was left out because another one, which is kept, stands for the same."""

    name: str
    """The one left out."""
    of: str
    """The one kept."""
    cosine: float | None
    """Their cosine at ``hook_point``; None where the names are equal, which needs no measuring."""
    hook_point: str = ""
    """Where the cosine passed the limit; empty where the names are equal."""

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Duplicates:
    """Which atoms stay and which go."""

    kept: Int[Tensor, "kept"]
    """Rows of the atoms that stay, in their order."""
    dropped: tuple[Dropped, ...]
    """The others, in their order."""


def find_duplicates(
    names: Sequence[str],
    atoms: Mapping[str, Float[Tensor, "atom d_model"]],
    cosine_limit: float | int = 0.999,
) -> Duplicates:
    """Go through the atoms in order; leave out each that duplicates one that was kept before it.

    Two atoms are duplicates when their names are equal (case and white space do not matter) or ``|cos|`` is greater
    than the limit at any hook point. Of a chain of near ones (a near b, b near c, c not near a) only b goes: what was
    left out is not compared with. Of several kept ones that an atom duplicates the first is named.

    The result is that of all cosines in float64, but most pairs are ruled out cheaply: with ``P`` the projection on a
    few orthonormal directions and ``q`` the norm of what it leaves, ``|a.b| <= |Pa.Pb| + q_a q_b``. Memory beside the
    atoms: the projections (128 numbers for each atom and hook point).

    Args:
        names: one per atom.
        atoms: unit rows by hook point; may be memory-mapped.
        cosine_limit: from 0 to 1; at 1 only equal names count.

    Raises:
        PaceError: the limit is outside its range, or names and atoms do not fit.
    """
    if not 0 < cosine_limit <= 1:
        raise PaceError(f"the cosine limit is {cosine_limit}; a number above 0 and up to 1 was expected, e.g. 0.999.")
    for hook_point, rows in atoms.items():
        if len(rows) != len(names):
            raise PaceError(f"{len(rows)} atoms at {hook_point} for {len(names)} names; give one each.")
    layers = [_Layer(hook_point, rows, float(cosine_limit)) for hook_point, rows in atoms.items()]
    folded = [folded_name(name) for name in names]
    kept: list[int] = []
    kept_names: dict[str, int] = {}
    matches: dict[int, _Match] = {}
    for begin in range(0, len(names), _BLOCK):
        block = list(range(begin, min(begin + _BLOCK, len(names))))
        matches.update(_matches_with_kept(layers, block, kept, kept_names, folded))
        block = [row for row in block if row not in matches]
        matches.update(_matches_within(layers, block, folded))
        survivors = [row for row in block if row not in matches]
        kept_names.update({folded[row]: row for row in survivors})
        for layer in layers:
            layer.keep(survivors, len(kept))
        kept.extend(survivors)
    dropped = tuple(_dropped(names, row, matches[row]) for row in sorted(matches))
    return Duplicates(torch.tensor(kept, dtype=torch.int64), dropped)


@dataclass(frozen=True, order=True)
class _Match:
    """A kept atom that another one duplicates. The least of several is named: the first atom, equal names first."""

    row: int
    layer: int
    """-1 for an equal name."""
    hook_point: str = ""
    cosine: float | None = None


def _dropped(names: Sequence[str], row: int, match: _Match) -> Dropped:
    return Dropped(names[row], names[match.row], match.cosine, match.hook_point)


def _matches_with_kept(
    layers: Sequence["_Layer"],
    block: Sequence[int],
    kept: Sequence[int],
    kept_names: Mapping[str, int],
    folded: Sequence[str],
) -> dict[int, _Match]:
    """For each atom of the block that duplicates a kept one, the first such."""
    found = {row: _Match(kept_names[folded[row]], -1) for row in block if folded[row] in kept_names}
    for number, layer in enumerate(layers):
        for row, other, cosine in layer.pairs(block, kept, kept_at=len(kept)):
            match = _Match(other, number, layer.hook_point, cosine)
            found[row] = min(found.get(row, match), match, key=_order)
    return found


def _matches_within(layers: Sequence["_Layer"], block: Sequence[int], folded: Sequence[str]) -> dict[int, _Match]:
    """The atoms of a block that duplicate one of the block that stays, one after the other."""
    near: dict[int, list[_Match]] = {row: [] for row in block}
    for number, layer in enumerate(layers):
        for row, other, cosine in layer.pairs(block, block, kept_at=None):
            near[row].append(_Match(other, number, layer.hook_point, cosine))
    found: dict[int, _Match] = {}
    first: dict[str, int] = {}
    for row in block:
        same_name = [_Match(first[folded[row]], -1)] if folded[row] in first else []
        matches = [match for match in same_name + near[row] if match.row not in found]
        if matches:
            found[row] = min(matches, key=_order)
        else:
            first[folded[row]] = row
    return found


def _order(match: _Match) -> tuple[int, int]:
    return match.row, match.layer


class _Layer:
    """The atoms of one hook point with their projections; those of kept atoms are moved to the front."""

    def __init__(self, hook_point: str, rows: Float[Tensor, "atom d_model"], limit: float) -> None:
        self.hook_point = hook_point
        self.rows = rows
        self.limit = limit
        n, width = rows.shape
        size = min(width, _SCREEN)
        generator = torch.Generator().manual_seed(0)  # the result does not depend on the directions, the time does
        basis = torch.linalg.qr(torch.randn(width, size, generator=generator)).Q
        self.projected = torch.empty(n, size)
        self.rest = torch.empty(n)
        for begin in range(0, n, 4096):
            block = self._unit(slice(begin, begin + 4096), torch.float32)
            projected = block @ basis
            self.projected[begin : begin + 4096] = projected
            # The small number covers the rounding of a difference that should be zero.
            self.rest[begin : begin + 4096] = ((1 - projected.square().sum(1)).clamp_min(0) + 1e-6).sqrt()

    def keep(self, rows: Sequence[int], begin: int) -> None:
        """Move the projections of kept atoms to the places from ``begin`` on; they lie before those still to come."""
        chosen = torch.tensor(rows, dtype=torch.int64)
        self.projected[begin : begin + len(rows)] = self.projected[chosen]
        self.rest[begin : begin + len(rows)] = self.rest[chosen]

    def pairs(self, block: Sequence[int], others: Sequence[int], kept_at: int | None) -> list[tuple[int, int, float]]:
        """``(row, other, cosine)`` of every pair beyond the limit, each atom with others that stand before it.

        Args:
            block: rows of atoms.
            others: rows of the atoms to compare with.
            kept_at: how many projections at the front are the others'; None if they are in their own places.
        """
        if not block or not others:
            return []
        own = torch.tensor(block)
        found: list[tuple[int, int, float]] = []
        # Tiles that stay in the processor's cache: the arithmetic is cheap and moving its results is not.
        for begin in range(0, len(others), _TILE):
            other = torch.tensor(others[begin : begin + _TILE])
            place = slice(begin, min(begin + _TILE, kept_at)) if kept_at is not None else other
            bound = (self.projected[own] @ self.projected[place].T).abs_().addr_(self.rest[own], self.rest[place])
            if float(bound.amax()) > self.limit - _MARGIN:
                likely = bound > self.limit - _MARGIN
                if kept_at is None:
                    likely &= other[None, :] < own[:, None]
                if int(likely.sum()) > _DENSE * likely.numel():
                    cosine = self._unit(own, torch.float32) @ self._unit(other, torch.float32).T
                    likely &= cosine.abs_() > self.limit - _MARGIN
                at = likely.nonzero()
                found += self._exact(own[at[:, 0]], other[at[:, 1]])
        return found

    def _exact(self, own: Int[Tensor, "pair"], other: Int[Tensor, "pair"]) -> list[tuple[int, int, float]]:
        found: list[tuple[int, int, float]] = []
        at_once = max(1, _GATHERED_BYTES // (16 * self.rows.shape[1]))
        for mine, theirs in zip(own.split(at_once), other.split(at_once), strict=True):
            cosine = (self._unit(mine, torch.float64) * self._unit(theirs, torch.float64)).sum(1)
            beyond = cosine.abs().clamp_max(1) > self.limit
            found += zip(mine[beyond].tolist(), theirs[beyond].tolist(), cosine[beyond].tolist(), strict=True)
        return found

    def _unit(self, rows: slice | Int[Tensor, "chosen"], dtype: torch.dtype) -> Float[Tensor, "chosen d_model"]:
        """Some atoms on the CPU, of unit length to the rounding of ``dtype``."""
        chosen = self.rows[rows].detach().to("cpu", dtype)
        return chosen / chosen.norm(dim=1, keepdim=True).clamp_min(torch.finfo(dtype).tiny)
