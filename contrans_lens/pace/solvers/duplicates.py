"""Which atoms are copies of others, found without all pairs."""

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.spatial import cKDTree
from torch import Tensor

TOLERANCE = 1e-5
"""Distance under which two unit atoms are one, up to sign: some hundred float32 roundings of a unit vector."""

_PROJECTIONS = 8


def find_representatives(atoms: Float[Tensor, "atom d_model"]) -> Int[Tensor, " atom"]:
    """For each atom the first one that equals it or its negative up to float32 rounding; itself for most.

    Copies stay within the tolerance of each other under a projection on a few orthonormal directions, where a
    k-d tree finds them; what it finds is checked in float64. Costs ``O(n log n)`` and no Gram matrix.

    Args:
        atoms: unit rows.
    """
    n_atoms, d_model = atoms.shape
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(d_model, min(_PROJECTIONS, d_model), generator=generator, dtype=torch.float64)
    basis = torch.linalg.qr(noise).Q.to(atoms.device, atoms.dtype)
    points = (atoms @ basis).double().cpu().numpy()
    radius = 2 * TOLERANCE  # the products round in float32
    tree = cKDTree(points)
    twins = tree.query(points, k=2, distance_upper_bound=radius)[0][:, 1] <= radius
    twins |= tree.query(-points, k=1, distance_upper_bound=radius)[0] <= radius
    representative = np.arange(n_atoms)
    # Few atoms have a twin; a group of copies is settled by its first, so many copies of one atom stay cheap.
    for first in np.flatnonzero(twins):
        if representative[first] != first:
            continue
        near = {*tree.query_ball_point(points[first], radius), *tree.query_ball_point(-points[first], radius)}
        later = np.array(sorted(index for index in near if index > first and representative[index] == index), int)
        if len(later):
            chosen = torch.from_numpy(later).to(atoms.device)
            representative[later[_equal(atoms[first], atoms[chosen])]] = first
    return torch.from_numpy(representative).to(atoms.device)


def _equal(atom: Tensor, others: Tensor) -> np.ndarray:
    one, many = atom.double(), others.double()
    distance = torch.minimum((many - one).norm(dim=1), (many + one).norm(dim=1))
    return (distance <= TOLERANCE).cpu().numpy()
