"""Nearest concepts: of an activation, of a concept, and of all concepts to each other.

Atoms are unit vectors, so one matrix product gives all cosines. Atoms may be memory-mapped and many: they are read in
blocks, and only the best of every block are kept.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from contrans_lens.errors import PaceError
from contrans_lens.pace.dictionary import ConceptDictionary

BLOCK = 4096
"""Atoms that are read at a time."""
MOST_PAIRWISE = 10_000
"""Most atoms whose cosines are held all at once (400 MB)."""


@dataclass(frozen=True)
class Neighbours:
    """The concepts nearest to one query, the nearest first."""

    names: tuple[str, ...]
    """Concepts."""
    cosines: tuple[float, ...]
    """Cosine of the query with each atom, signed."""
    hook_point: str
    """Where both were read."""

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[tuple[str, float]]:
        return iter(zip(self.names, self.cosines, strict=True))

    def __str__(self) -> str:
        return ", ".join(f"{name} ({cosine:+.2f})" for name, cosine in self)


def nearest(
    dictionary: ConceptDictionary,
    query: Float[Tensor, "row d_model"] | str,
    hook_point: str,
    k: int = 10,
    *,
    signed: bool = True,
) -> list[Neighbours]:
    """The ``k`` concepts nearest to each activation, or to a concept.

    Args:
        dictionary: the concepts.
        query: activations ``[row, d_model]`` on any device and of any dtype, in the units of the residual stream; or
            the name of a concept, which is then left out of its own neighbours.
        hook_point: where the activations were read.
        k: number of neighbours; fewer where the dictionary has fewer.
        signed: take the most positive cosines; otherwise the largest ``|cos|``, so that opposites are near too.

    Returns:
        The neighbours of each row, one row for a concept. Equal cosines are ordered as in the dictionary.

    Raises:
        PaceError: no such concept, another width, a row that is zero or not finite (it has no direction), or k < 1.
        HookPointError: the dictionary has no atoms there.
    """
    if k < 1:
        raise PaceError(f"at least one neighbour must be asked for; k={k} was given.")
    atoms = dictionary.at(hook_point)
    left_out = None
    if isinstance(query, str):
        left_out = dictionary.index(query)
        query = torch.as_tensor(atoms[left_out : left_out + 1])
    cosines, found = _best(atoms, _directions(query, dictionary.d_model), k + (left_out is not None), signed)
    neighbours = []
    for values, rows in zip(cosines.tolist(), found.tolist(), strict=True):
        kept = [(value, row) for value, row in zip(values, rows, strict=True) if row != left_out][:k]
        names = tuple(dictionary.names[row] for _, row in kept)
        neighbours.append(Neighbours(names, tuple(value for value, _ in kept), hook_point))
    return neighbours


def similarity(dictionary: ConceptDictionary, hook_point: str) -> Float[Tensor, "atom atom"]:
    """Cosines of all pairs of atoms, float32 on the CPU.

    Raises:
        HookPointError: the dictionary has no atoms there.
        PaceError: there are too many atoms for a table of all pairs; ask :func:`nearest`, or take a subset.
    """
    return pairwise_cosines(dictionary.at(hook_point))


def pairwise_cosines(atoms: Float[Tensor, "atom d_model"]) -> Float[Tensor, "atom atom"]:
    """Cosines of all pairs of unit atoms, clamped to [-1, 1], exactly symmetric.

    Raises:
        PaceError: there are more than ``MOST_PAIRWISE`` atoms.
    """
    if len(atoms) > MOST_PAIRWISE:
        raise PaceError(
            f"all pairs of {len(atoms):,} atoms do not fit in memory; {MOST_PAIRWISE:,} atoms are the most. Take a "
            "subset of the dictionary."
        )
    rows = atoms.to("cpu", torch.float32)
    cosines = (rows @ rows.T).clamp(-1, 1)
    return ((cosines + cosines.T) / 2).fill_diagonal_(1.0)


def blocks(
    atoms: Float[Tensor, "atom d_model"],
) -> Iterator[tuple[int, Float[Tensor, "block d_model"]]]:
    """First row and float32 rows of each block of atoms; only one block at a time is in memory."""
    for begin in range(0, len(atoms), BLOCK):
        yield begin, atoms[begin : begin + BLOCK].float()


def mean_atom(atoms: Float[Tensor, "atom d_model"]) -> Float[Tensor, " d_model"]:
    """Mean of the atoms: the direction that all concepts share, float32."""
    total = torch.zeros(atoms.shape[1], dtype=torch.float64)
    for _, block in blocks(atoms):
        total += block.sum(0, dtype=torch.float64).cpu()
    return (total / len(atoms)).float()


def nearness(
    atoms: Float[Tensor, "atom d_model"],
    queries: Float[Tensor, "row d_model"],
    centre: Float[Tensor, " d_model"] | None = None,
) -> Float[Tensor, "atom row"]:
    """Cosines of atoms with queries, after taking ``centre`` away from both; 0 where nothing is left of either."""
    moved = queries if centre is None else queries - centre
    directions = torch.nn.functional.normalize(moved, dim=1)
    cosines = torch.empty(len(atoms), len(queries))
    for begin, block in blocks(atoms):
        shifted = block if centre is None else block - centre
        cosines[begin : begin + len(block)] = torch.nn.functional.normalize(shifted, dim=1) @ directions.T
    return cosines.clamp(-1, 1)


def _directions(query: Float[Tensor, "row width"], d_model: int) -> Float[Tensor, "row d_model"]:
    if query.shape[1] != d_model:
        raise PaceError(f"the activations are {query.shape[1]} wide and the atoms {d_model}; read them at this model.")
    wide = query.detach().to("cpu", torch.float32)
    finite = torch.isfinite(wide).all(1)
    # The largest entry first, so that the norm of a huge or tiny activation neither overflows nor vanishes.
    largest = wide.abs().amax(1, keepdim=True)
    bad = (~finite | (largest[:, 0] == 0)).nonzero().flatten().tolist()
    if bad:
        raise PaceError(f"activations {bad[:5]} are zero or not finite, so they have no direction; leave them out.")
    return torch.nn.functional.normalize(wide / largest, dim=1)


def _best(
    atoms: Float[Tensor, "atom d_model"], directions: Float[Tensor, "row d_model"], k: int, signed: bool
) -> tuple[Float[Tensor, "row k"], Int[Tensor, "row k"]]:
    cosines = torch.empty(len(directions), 0)
    found = torch.empty(len(directions), 0, dtype=torch.int64)
    for begin, block in blocks(atoms):
        new = (directions @ block.cpu().T).clamp(-1, 1)
        rows = torch.arange(begin, begin + len(block)).expand(len(directions), -1)
        cosines, found = torch.cat((cosines, new), 1), torch.cat((found, rows), 1)
        # Stable, so that equal cosines stay in the dictionary's order whatever the blocks are.
        order = (cosines if signed else cosines.abs()).argsort(dim=1, descending=True, stable=True)[:, :k]
        cosines, found = cosines.gather(1, order), found.gather(1, order)
    return cosines, found
