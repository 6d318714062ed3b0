"""Orthogonal matching pursuit, batched: the greedy decomposition."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from contrans_lens.errors import PaceError
from contrans_lens.pace.codes import SparseCodes, compact_codes
from contrans_lens.pace.solvers.activations import UnitActivations, decompose_batches
from contrans_lens.pace.solvers.options import finite
from contrans_lens.pace.solvers.prepared import PreparedAtoms
from contrans_lens.pace.solvers.refinement import refine

_NOTHING = 1e-6
"""Correlation with a unit activation's residual that is rounding."""
_TIE = 1e-6
"""Difference between two such correlations that float32 may turn round."""
_CANDIDATES = 8
"""Atoms that are looked at again where the best are so close."""


@dataclass(frozen=True)
class OMP:
    """At most ``k`` atoms, chosen one by one (the greedy solver of PaCE, arXiv 2406.04331).

    Each step takes the atom with the largest ``|d^T r|``, ``r = z - D c``, and sets the coefficients to least
    squares on all atoms taken. It ends early where no atom adds anything: ``z`` is met, or what is left of it
    is orthogonal to all atoms.

    ``B = D^T Z`` is one product for the batch. The Cholesky factor of ``G[S, S]`` grows by a row a step in
    float64, and ``D^T r = B - G c`` is a weighted sum of Gram rows: no residual of width ``d_model`` is kept.
    """

    k: int = 50
    """Atoms at most."""
    tolerance: float | int = 0.0
    """Stop where ``||z - D c|| <= tolerance ||z||``; in [0, 1]. Least squares always go by all ``k``."""

    def __post_init__(self) -> None:
        if isinstance(self.k, bool) or not isinstance(self.k, int) or self.k < 1:
            raise PaceError(f"k is {self.k!r}; the number of atoms to take, 1 or more, is expected.")
        object.__setattr__(self, "tolerance", finite("tolerance", self.tolerance, 0.0, 1.0))

    @property
    def scope(self) -> str:
        """It decomposes on all atoms of the dictionary."""
        return "dictionary"

    def to_dict(self) -> dict[str, Any]:
        """The solver as JSON-serialisable values."""
        return {"kind": "omp", **asdict(self)}

    @torch.no_grad()
    def decompose(self, atoms: PreparedAtoms, activations: Float[Tensor, "row d_model"]) -> SparseCodes:
        """Codes of activations, the atoms of each row in the order in which they were chosen.

        Raises:
            PaceError: the activations have another width than the atoms, or hold NaN or infinity.
        """
        return decompose_batches(atoms, activations, lambda units: self._solve(atoms, units))

    def _solve(self, atoms: PreparedAtoms, units: UnitActivations) -> SparseCodes:
        pursuit = _Pursuit(atoms, units, min(self.k, atoms.n_atoms, atoms.d_model))
        while pursuit.step(self.tolerance):
            pass
        return compact_codes(*pursuit.coefficients(), atoms.n_atoms)


class _Pursuit:
    """A batch on its way: atoms chosen, the Cholesky factor of their Gram matrix, ``L^-1 D_S^T z``."""

    def __init__(self, atoms: PreparedAtoms, units: UnitActivations, k: int) -> None:
        rows = len(units.exact)
        self.atoms, self.units, self.k = atoms, units, k
        self.correlations = units.correlations(atoms)
        self.left = self.correlations.clone()
        self.chosen = torch.full((rows, k), -1, device=atoms.device)
        self.factor = torch.eye(k, dtype=torch.float64, device=atoms.device).repeat(rows, 1, 1)
        self.whitened = torch.zeros(rows, k, dtype=torch.float64, device=atoms.device)
        self.values = torch.zeros(rows, 0, dtype=torch.float64, device=atoms.device)
        self.going = torch.ones(rows, dtype=torch.bool, device=atoms.device)
        # Without the Gram matrix the chosen atoms are kept side by side: gathering them anew would be slower.
        self.held = atoms.atoms.new_empty(rows, k, atoms.d_model) if atoms.gram is None else None

    @property
    def size(self) -> int:
        """Steps taken."""
        return self.values.shape[1]

    def step(self, tolerance: float | int) -> bool:
        """Take one more atom in every row that still gains; whether any row did."""
        if self.size == self.k:
            return False
        if tolerance > 0:
            self.going &= self._residual_norms() > tolerance
        gain, best = self._best()
        self.going &= gain > _NOTHING
        if not bool(self.going.any()):
            return False
        self._append(best)
        return True

    def _residual_norms(self) -> Float[Tensor, " row"]:
        """``||z - D c||``. What the factor says of it, ``||z||^2 - ||y||^2``, cancels where little is left."""
        if self.size == 0:
            return torch.ones_like(self.units.norms)
        return (self.units.exact - self.atoms.combine(self.chosen[:, : self.size], self.values)).norm(dim=1)

    def _best(self) -> tuple[Float[Tensor, " row"], Int[Tensor, " row"]]:
        """The largest ``|D^T r|`` of each row and its atom, chosen atoms and copies left out."""
        size = self.left.abs()
        size[:, self.atoms.copies] = 0
        if self.size:
            # A row that has stopped has no atom at later steps; its largest is not used.
            taken = self.chosen[:, : self.size]
            size.scatter_(1, torch.where(taken < 0, taken[:, :1].clamp(min=0), taken), 0)
        gain, best = size.topk(min(_CANDIDATES, self.atoms.n_atoms), dim=1)
        if gain.shape[1] > 1:
            tied = (gain[:, 0] - gain[:, 1] < _TIE) & (gain[:, 0] > _NOTHING) & self.going
            rows = tied.nonzero()[:, 0]
            if len(rows):
                best[rows, 0] = self._exactly_best(rows, best[rows], gain[rows])
        return gain[:, 0], best[:, 0]

    def _exactly_best(
        self, rows: Int[Tensor, " tied"], best: Int[Tensor, "tied candidate"], gain: Float[Tensor, "tied candidate"]
    ) -> Int[Tensor, " tied"]:
        """The best of candidates that float32 cannot tell apart, by products in float64; the first if equal."""
        t, residual = self.size, self.units.exact[rows]
        if t:
            chosen, values = self.chosen[rows, :t], self.values[rows]
            factor, zero = self.factor[rows, :t, :t], torch.zeros_like(values)
            values = refine(self.atoms, residual, chosen, values, factor, 0.0, zero)
            held = self.atoms.atoms[chosen.clamp(min=0)].double()
            residual = residual - (values[:, None] @ held)[:, 0]
        best, order = best.sort(dim=1)
        close = gain.gather(1, order) >= gain[:, :1] - 2 * _TIE
        exact = (self.atoms.atoms[best].double() @ residual[:, :, None])[:, :, 0].abs()
        return best.gather(1, torch.where(close, exact, -1).argmax(1, keepdim=True))[:, 0]

    def _append(self, best: Int[Tensor, " row"]) -> None:
        t = self.size
        cross = torch.linalg.solve_triangular(
            self.factor[:, :t, :t], self._inner(best).double()[:, :, None], upper=False
        )[:, :, 0]
        # An atom in the span of those taken has nothing new; its correlation is rounding over rounding.
        fresh = 1 - cross.square().sum(1)
        self.going &= fresh > _NOTHING
        going = self.going
        self.chosen[:, t] = torch.where(going, best, -1)
        self.factor[:, t, :t] = torch.where(going[:, None], cross, 0)
        self.factor[:, t, t] = torch.where(going, fresh, 1).sqrt()
        target = self.correlations.gather(1, best[:, None])[:, 0].double()
        new = (target - (cross * self.whitened[:, :t]).sum(1)) / self.factor[:, t, t]
        self.whitened[:, t] = torch.where(going, new, 0)
        filled = slice(None, t + 1)
        self.values = torch.linalg.solve_triangular(
            self.factor[:, filled, filled].mT, self.whitened[:, filled, None], upper=True
        )[:, :, 0]
        if t + 1 < self.k:
            self.left = self.correlations - self.atoms.explained(self.chosen[:, filled], self.values)

    def _inner(self, best: Int[Tensor, " row"]) -> Float[Tensor, "row t"]:
        """Inner products of a new atom with those taken; 0 with an atom that a row does not have."""
        t = self.size
        if self.held is None:
            found = self.atoms.inner(self.chosen[:, :t], best[:, None])[:, :, 0]
        else:
            atom = self.atoms.atoms[best]
            self.held[:, t] = atom
            found = (self.held[:, :t] @ atom[:, :, None])[:, :, 0]
        return torch.where(self.chosen[:, :t] < 0, 0, found)

    def coefficients(self) -> tuple[Int[Tensor, "row k"], Float[Tensor, "row k"]]:
        """Atoms chosen and their least-squares coefficients, exact for these atoms."""
        t = self.size
        chosen, factor = self.chosen[:, :t], self.factor[:, :t, :t]
        if t == 0:
            return chosen, self.values
        zero = torch.zeros_like(self.values)
        return chosen, refine(self.atoms, self.units.exact, chosen, self.values, factor, 0.0, zero)
