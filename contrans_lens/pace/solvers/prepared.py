"""``PreparedAtoms``: a dictionary's atoms, checked and made ready for many decompositions."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

from contrans_lens.errors import PaceError
from contrans_lens.pace.solvers.duplicates import find_representatives

GRAM_BYTES = 2**30
"""The Gram matrix is made by default up to this size: 16,384 atoms."""

_UNIT_TOLERANCE = 2.5e-3
"""Length that a unit vector may lose or gain in bfloat16."""


@dataclass(frozen=True, eq=False)
class PreparedAtoms:
    """Atoms made ready for many decompositions: float32 on a device, the Gram matrix where it fits.

    Make it once per dictionary and hook point with :meth:`of`, and use it for every activation.
    """

    atoms: Float[Tensor, "atom d_model"]
    """Unit rows ``v_i``: the columns of the paper's ``D``."""
    gram: Float[Tensor, "atom atom"] | None
    """``D^T D``, or ``None``: then the solvers take inner products as they need them."""
    representative: Int[Tensor, " atom"]
    """The atom that stands for each. Copies (|cos| = 1 up to rounding) are never used themselves."""

    @classmethod
    @torch.no_grad()
    def of(
        cls,
        atoms: Float[Tensor, "atom d_model"],
        *,
        device: torch.device | str | None = None,
        gram: bool | None = None,
    ) -> "PreparedAtoms":
        """Check atoms, find copies among them and compute the Gram matrix.

        Args:
            atoms: unit vectors, one a row. What rounding took from their length is given back.
            device: where to decompose; the atoms' own device by default.
            gram: whether to hold the Gram matrix (``4 n_atoms^2`` bytes); by default where it takes no more
                than :data:`GRAM_BYTES`. It pays most for small batches; results are the same without.

        Raises:
            PaceError: no atoms, NaN or infinity, or an atom that is zero or not of unit length.
        """
        rows = atoms.detach().to(device=device, dtype=torch.float32)
        if rows.ndim != 2 or 0 in rows.shape:
            raise PaceError(f"the atoms have shape {tuple(rows.shape)}; [atom, d_model] with at least one is expected.")
        rows = _unit(rows)
        if gram is None:
            gram = 4 * rows.shape[0] ** 2 <= GRAM_BYTES
        return cls(rows, rows @ rows.T if gram else None, find_representatives(rows))

    @property
    def n_atoms(self) -> int:
        """Number of atoms, copies included."""
        return self.atoms.shape[0]

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.atoms.shape[1]

    @property
    def device(self) -> torch.device:
        """Where the decompositions run."""
        return self.atoms.device

    def to(self, device: torch.device | str) -> "PreparedAtoms":
        """The same on another device."""
        gram = None if self.gram is None else self.gram.to(device)
        return PreparedAtoms(self.atoms.to(device), gram, self.representative.to(device))

    def with_copies(self, flags: Bool[Tensor, " atom"]) -> Bool[Tensor, " atom"]:
        """Flags with those of copies passed on to the atoms that stand for them, which alone have coefficients."""
        passed = flags.to(self.device, copy=True)
        passed[self.representative[passed]] = True
        return passed

    def exact(self) -> "PreparedAtoms":
        """The distinct atoms in float64, without the Gram matrix: for what float32 leaves open."""
        own = torch.arange(len(self.distinct), device=self.device)
        return PreparedAtoms(self.atoms[self.distinct].double(), None, own)

    @cached_property
    def copies(self) -> Int[Tensor, " copy"]:
        """Atoms that another one stands for."""
        own = torch.arange(self.n_atoms, device=self.device)
        return (self.representative != own).nonzero()[:, 0]

    @cached_property
    def distinct(self) -> Int[Tensor, " distinct"]:
        """Atoms that stand for themselves."""
        own = torch.arange(self.n_atoms, device=self.device)
        return (self.representative == own).nonzero()[:, 0]

    @cached_property
    def spectrum(self) -> tuple[Float[Tensor, " rank"], Float[Tensor, "rank rank"]]:
        """Eigenvalues (ascending) and eigenvectors (columns) in float64 of the smaller of two matrices.

        Of the distinct atoms' ``D^T D`` where they are no more than ``d_model``, of ``D D^T`` where they are.
        """
        exact = self.atoms[self.distinct].double()
        values, vectors = torch.linalg.eigh(exact @ exact.T if len(exact) <= self.d_model else exact.T @ exact)
        return values, vectors

    def combine(self, index: Int[Tensor, "row k"], values: Float[Tensor, "row k"]) -> Float[Tensor, "row d_model"]:
        """``D c`` row by row in the atoms' dtype; an index of -1 must have the value 0."""
        return embedding_bag(index.clamp(min=0), self.atoms, per_sample_weights=values.to(self.atoms.dtype), mode="sum")

    def explained(self, index: Int[Tensor, "row k"], values: Float[Tensor, "row k"]) -> Float[Tensor, "row atom"]:
        """``D^T D c`` row by row: a weighted sum of Gram rows, or two products without the Gram."""
        if self.gram is None:
            return self.combine(index, values) @ self.atoms.T
        return embedding_bag(index.clamp(min=0), self.gram, per_sample_weights=values.to(self.atoms.dtype), mode="sum")

    def inner(self, left: Int[Tensor, "row j"], right: Int[Tensor, "row k"]) -> Float[Tensor, "row j k"]:
        """Inner products of atoms, ``G[left, right]`` of each row; an index of -1 is read as 0."""
        left, right = left.clamp(min=0), right.clamp(min=0)
        if self.gram is not None:
            return self.gram[left[:, :, None], right[:, None, :]]
        return self.atoms[left] @ self.atoms[right].mT


def _unit(rows: Tensor) -> Tensor:
    """The rows at unit length in float32; those that are already, unchanged to the bit."""
    norms = rows.norm(dim=1, dtype=torch.float64)
    if not torch.isfinite(norms).all():
        raise PaceError("the atoms hold NaN or infinity; look at the activations they were estimated from.")
    away = (norms - 1).abs()
    if bool((away > _UNIT_TOLERANCE).any()):
        worst = int(away.argmax())
        raise PaceError(
            f"atom {worst} has norm {float(norms[worst]):.4g}; unit atoms are expected. "
            "Divide atoms by their norms, and leave zero ones out."
        )
    return torch.where(away[:, None] > 1e-6, (rows.double() / norms[:, None]).float(), rows).contiguous()
