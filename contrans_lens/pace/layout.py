"""A map of the concepts in the plane: coordinates only, and how much of the picture they show."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from contrans_lens.errors import PaceError
from contrans_lens.pace.dictionary import ConceptDictionary
from contrans_lens.pace.retrieval import blocks, mean_atom, pairwise_cosines

METHODS = ("pca", "mds")


@dataclass(frozen=True, eq=False)
class Layout:
    """Places of the concepts in the plane; made by :func:`layout`."""

    names: tuple[str, ...]
    """Concepts, in the dictionary's order."""
    coordinates: Float[Tensor, "atom 2"]
    """Places; distances between unit atoms (``"pca"``) or between their lines (``"mds"``), as well as two axes can."""
    shares: tuple[float, float]
    """Share of the variance that each axis shows, in [0, 1]."""
    method: str
    """``"pca"`` or ``"mds"``."""
    hook_point: str
    """Where the atoms were read."""

    @property
    def share(self) -> float:
        """Share of the variance that the map shows; a low one says that near places mean little."""
        return sum(self.shares)


def layout(dictionary: ConceptDictionary, hook_point: str, method: str = "pca") -> Layout:
    """Place the concepts in the plane.

    Args:
        dictionary: the concepts; two or more.
        hook_point: where the atoms were read.
        method: ``"pca"``: the two directions in which the atoms vary most; opposites lie apart; any size. ``"mds"``:
            classical scaling of the distances between the *lines* of the atoms, ``sqrt(2 - 2 cos^2)``; a concept and
            its opposite fall on one place; needs all pairs in memory.

    Returns:
        The places. An axis points to where its largest coordinate is positive, so that maps do not flip.

    Raises:
        HookPointError: the dictionary has no atoms there.
        PaceError: no such method, fewer than two concepts, or too many for all pairs.
    """
    if method not in METHODS:
        raise PaceError(f"concepts are laid out by 'pca' or 'mds', not by {method!r}.")
    if dictionary.n_atoms < 2:
        raise PaceError("a map needs at least two concepts.")
    atoms = dictionary.at(hook_point)
    coordinates, variances, total = _principal(atoms) if method == "pca" else _scaled(atoms)
    largest = coordinates.gather(0, coordinates.abs().argmax(0, keepdim=True))
    coordinates = coordinates * torch.where(largest < 0, -1.0, 1.0)
    shares = (variances / total).tolist() if total > 0 else [0.0, 0.0]
    return Layout(dictionary.names, coordinates.float(), (shares[0], shares[1]), method, hook_point)


def _principal(atoms: Float[Tensor, "atom d_model"]) -> tuple[Tensor, Tensor, float]:
    """Scores on the first two principal axes, their variances and the variance of all axes (times n)."""
    centre = mean_atom(atoms)
    scatter = torch.zeros(atoms.shape[1], atoms.shape[1], dtype=torch.float64)
    for _, block in blocks(atoms):
        moved = (block - centre).double()
        scatter += moved.T @ moved
    values, vectors = torch.linalg.eigh(scatter)
    axes = torch.zeros(atoms.shape[1], 2, dtype=torch.float64)
    axes[:, : len(values)] = vectors[:, -2:].flip(1)
    coordinates = torch.cat([(block - centre).double() @ axes for _, block in blocks(atoms)])
    return coordinates, _top(values), float(values.clamp_min(0).sum())


def _scaled(atoms: Float[Tensor, "atom d_model"]) -> tuple[Tensor, Tensor, float]:
    """Classical scaling; ``cos^2`` is the inner product of the projectors ``v v^T``, so no distance is negative."""
    products = pairwise_cosines(atoms).double().square()
    means = products.mean(0)
    centred = products - means - means[:, None] + means.mean()
    values, vectors = torch.linalg.eigh(centred)
    top = _top(values)
    return vectors[:, -2:].flip(1) * top.sqrt(), top, float(values.clamp_min(0).sum())


def _top(values: Float[Tensor, " axis"]) -> Float[Tensor, "2"]:
    """The two largest eigenvalues, the largest first; 0 where there is only one axis."""
    top = torch.zeros(2, dtype=torch.float64)
    top[: len(values)] = values[-2:].flip(0).clamp_min(0)
    return top
