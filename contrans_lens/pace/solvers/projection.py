"""Decompositions on the undesirable atoms alone: the edits that PaCE generalises.

With only the undesirable atoms in ``D``, the paper's problem (arXiv 2406.04331) has closed forms: no penalty is
orthogonal projection, a ridge alone shrinks it, and a constant coefficient is the addition of a vector.
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from contrans_lens.pace.codes import SparseCodes, compact_codes
from contrans_lens.pace.solvers.activations import UnitActivations, decompose_batches
from contrans_lens.pace.solvers.options import finite
from contrans_lens.pace.solvers.prepared import PreparedAtoms

_RANK_TOLERANCE = 1e-11
"""Share of the largest eigenvalue of ``D^T D`` under which a direction is rounding: float32 atoms that are
linearly dependent leave about 1e-14, and different ones far more."""


@dataclass(frozen=True)
class OrthogonalProjection:
    """``argmin_c ||z - D_I c||``: removing ``D_I c`` leaves nothing in the span of the undesirable atoms.

    Of all minimisers, where the atoms are linearly dependent, the one of least norm.
    """

    @property
    def scope(self) -> str:
        """It decomposes on the undesirable atoms alone."""
        return "undesirable"

    def to_dict(self) -> dict[str, Any]:
        """The solver as JSON-serialisable values."""
        return {"kind": "orthogonal_projection"}

    @torch.no_grad()
    def decompose(self, atoms: PreparedAtoms, activations: Float[Tensor, "row d_model"]) -> SparseCodes:
        """Least-squares codes.

        Raises:
            PaceError: the activations have another width than the atoms, or hold NaN or infinity.
        """
        return decompose_batches(atoms, activations, lambda units: ridge_codes(atoms, units, 0.0))


@dataclass(frozen=True)
class RidgeProjection:
    """``argmin_c 1/2 ||z - D_I c||^2 + weight/2 ||c||^2``: projection that is shrunk.

    A single atom has ``1 / (1 + weight)`` of its projection removed; ``weight=0`` is orthogonal projection.
    """

    weight: float | int
    """Ridge weight, 0 or more; atoms have unit length, so 1 halves a single atom's projection."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight", finite("weight", self.weight, low=0.0))

    @property
    def scope(self) -> str:
        """It decomposes on the undesirable atoms alone."""
        return "undesirable"

    def to_dict(self) -> dict[str, Any]:
        """The solver as JSON-serialisable values."""
        return {"kind": "ridge_projection", **asdict(self)}

    @torch.no_grad()
    def decompose(self, atoms: PreparedAtoms, activations: Float[Tensor, "row d_model"]) -> SparseCodes:
        """Ridge codes.

        Raises:
            PaceError: the activations have another width than the atoms, or hold NaN or infinity.
        """
        return decompose_batches(atoms, activations, lambda units: ridge_codes(atoms, units, self.weight))


@dataclass(frozen=True)
class VectorAddition:
    """``c_i = coefficient ||z||`` for each undesirable atom, whatever ``z`` holds of it.

    What is subtracted is fixed but for the activation's norm: steering by a vector. It can push an activation
    that has nothing of the concept past zero.
    """

    coefficient: float | int
    """In units of the activation's norm; a negative one adds the concepts."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "coefficient", finite("coefficient", self.coefficient))

    @property
    def scope(self) -> str:
        """It decomposes on the undesirable atoms alone."""
        return "undesirable"

    def to_dict(self) -> dict[str, Any]:
        """The solver as JSON-serialisable values."""
        return {"kind": "vector_addition", **asdict(self)}

    @torch.no_grad()
    def decompose(self, atoms: PreparedAtoms, activations: Float[Tensor, "row d_model"]) -> SparseCodes:
        """The same coefficient for every atom that is no copy of another.

        Raises:
            PaceError: the activations have another width than the atoms, or hold NaN or infinity.
        """

        def solve(units: UnitActivations) -> SparseCodes:
            ones = (units.norms > 0).double()[:, None].expand(-1, len(atoms.distinct))
            return _on_distinct(atoms, self.coefficient * ones)

        return decompose_batches(atoms, activations, solve)


def ridge_codes(atoms: PreparedAtoms, units: UnitActivations, weight: float | int) -> SparseCodes:
    """``argmin_c 1/2||z - D c||^2 + weight/2 ||c||^2`` at unit length by an eigendecomposition, in float64.

    With ``weight=0`` the least-squares solution of least norm. All distinct atoms have a coefficient.
    """
    eigenvalues, vectors = atoms.spectrum
    kept = eigenvalues > _RANK_TOLERANCE * eigenvalues[-1]
    inverse = torch.where(kept, 1 / torch.where(kept, eigenvalues + weight, 1), 0)
    held = atoms.atoms[atoms.distinct].double()
    if len(held) <= atoms.d_model:
        return _on_distinct(atoms, units.exact @ held.T @ vectors * inverse @ vectors.T)
    return _on_distinct(atoms, units.exact @ vectors * inverse @ vectors.T @ held.T)


def _on_distinct(atoms: PreparedAtoms, values: Float[Tensor, "row distinct"]) -> SparseCodes:
    return compact_codes(atoms.distinct.expand(len(values), -1), values, atoms.n_atoms)
