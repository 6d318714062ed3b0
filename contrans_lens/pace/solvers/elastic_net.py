"""The elastic net: PaCE's decomposition."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from contrans_lens.errors import PaceError
from contrans_lens.pace.codes import SparseCodes, compact_codes, join_codes
from contrans_lens.pace.solvers.activations import UnitActivations, decompose_batches
from contrans_lens.pace.solvers.active_set import solve_active_set
from contrans_lens.pace.solvers.certificate import kkt_certificate
from contrans_lens.pace.solvers.options import finite
from contrans_lens.pace.solvers.prepared import PreparedAtoms
from contrans_lens.pace.solvers.projection import ridge_codes

CERTIFIED = 2e-6
"""Breach of the optimality conditions that is accepted, in units of the activation's norm."""


@dataclass(frozen=True)
class ElasticNet:
    """``c* = argmin_c 1/2||z - D c||^2 + alpha (tau ||c||_1 + (1 - tau)/2 ||c||^2)``.

    The decomposition of PaCE (arXiv 2406.04331, its elastic net), solved exactly on ``z / ||z||`` and rescaled by
    ``||z||``. Solving so with ``(l1, l2)`` is the same as solving on ``z`` with ``(l1 ||z||, l2)``.

    Every solution is checked by its optimality conditions
    (:func:`~contrans_lens.pace.solvers.certificate.kkt_certificate`). A row that fails is solved again
    with all products in float64, and an error is raised rather than a wrong answer given.
    """

    alpha: float | int = 0.05
    """Weight of both penalties, 0 or more; the paper's value by default."""
    tau: float | int = 0.95
    """Share of the l1 penalty, in [0, 1]; the paper's value by default. At 0 every atom has a coefficient."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "alpha", finite("alpha", self.alpha, low=0.0))
        object.__setattr__(self, "tau", finite("tau", self.tau, 0.0, 1.0))

    @property
    def scope(self) -> str:
        """It decomposes on all atoms of the dictionary."""
        return "dictionary"

    @property
    def l1(self) -> float:
        """Weight of ``||c||_1``: ``alpha tau``."""
        return self.alpha * self.tau

    @property
    def l2(self) -> float:
        """Weight of ``||c||^2 / 2``: ``alpha (1 - tau)``."""
        return self.alpha * (1 - self.tau)

    def to_dict(self) -> dict[str, Any]:
        """The solver as JSON-serialisable values."""
        return {"kind": "elastic_net", **asdict(self)}

    @torch.no_grad()
    def decompose(self, atoms: PreparedAtoms, activations: Float[Tensor, "row d_model"]) -> SparseCodes:
        """Codes of activations, certified.

        Raises:
            PaceError: the activations have another width than the atoms, or hold NaN or infinity; or no
                solution passed the check, which very small penalties on dependent atoms can bring about.
        """
        return decompose_batches(atoms, activations, lambda units: self._solve(atoms, units))

    def _solve(self, atoms: PreparedAtoms, units: UnitActivations) -> SparseCodes:
        codes = ridge_codes(atoms, units, self.l2) if self.l1 == 0 else self._active_set(atoms, units)
        failed = ~self._certified(atoms, units.exact, codes)
        if bool(failed.any()) and self.l1 > 0:
            codes = self._solved_again(atoms, units, codes, failed)
            failed = ~self._certified(atoms, units.exact, codes)
        if bool(failed.any()):
            raise PaceError(
                f"{int(failed.sum())} of {len(failed)} activations have no certified solution at alpha={self.alpha}, "
                f"tau={self.tau}. The atoms are too dependent for so small a penalty: raise alpha or lower tau, "
                "or use OMP."
            )
        return codes

    def _solved_again(
        self, atoms: PreparedAtoms, units: UnitActivations, codes: SparseCodes, failed: Bool[Tensor, " row"]
    ) -> SparseCodes:
        """The codes, those of the rows that failed from atoms in float64."""
        rows = failed.nonzero()[:, 0]
        again = self._active_set(atoms.exact(), units.take(rows))
        # The exact problem has the distinct atoms alone: their indices are put back.
        index = torch.where(again.atoms < 0, -1, atoms.distinct[again.atoms.clamp(min=0)])
        kept = SparseCodes(codes.atoms[~failed], codes.values[~failed], atoms.n_atoms)
        joined = join_codes([kept, SparseCodes(index, again.values, atoms.n_atoms)])
        order = torch.cat([(~failed).nonzero()[:, 0], rows]).argsort()
        return SparseCodes(joined.atoms[order], joined.values[order], atoms.n_atoms)

    def _active_set(self, atoms: PreparedAtoms, units: UnitActivations) -> SparseCodes:
        index, values = solve_active_set(atoms, units.exact, units.correlations(atoms), self.l1, self.l2)
        return compact_codes(index, values, atoms.n_atoms)

    def _certified(
        self, atoms: PreparedAtoms, targets: Float[Tensor, "row d_model"], codes: SparseCodes
    ) -> Bool[Tensor, " row"]:
        return kkt_certificate(atoms, targets, codes, self.l1, self.l2).holds(CERTIFIED)
