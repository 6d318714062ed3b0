"""The certificate of an elastic-net decomposition: how far it is from optimal, from its optimality conditions."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from contrans_lens.errors import PaceError
from contrans_lens.pace.codes import SparseCodes
from contrans_lens.pace.solvers.activations import unit_activations
from contrans_lens.pace.solvers.prepared import PreparedAtoms


@dataclass(frozen=True, eq=False)
class Certificate:
    """How far each row is from fulfilling the KKT conditions; all zero at the solution, which is unique.

    With ``z`` at unit length and ``r = z - D c``::

        D_i^T r = l1 sign(c_i) + l2 c_i     where c_i is not 0
        |D_i^T r| <= l1                     where it is
    """

    on_support: Float[Tensor, " row"]
    """Largest ``|D_i^T r - l2 c_i - l1 sign(c_i)|`` over atoms in use."""
    off_support: Float[Tensor, " row"]
    """Largest excess of ``|D_i^T r|`` over ``l1`` among the others, copies left out; 0 where there is none."""
    gap: Float[Tensor, " row"]
    """Duality gap: the objective is at most this much above its minimum."""

    def holds(self, tolerance: float | int) -> Bool[Tensor, " row"]:
        """Whether both conditions hold within a tolerance, in units of the activation's norm."""
        return (self.on_support <= tolerance) & (self.off_support <= tolerance)


@torch.no_grad()
def kkt_certificate(
    atoms: PreparedAtoms,
    activations: Float[Tensor, "row d_model"],
    codes: SparseCodes,
    l1: float | int,
    l2: float | int,
) -> Certificate:
    """Check codes against ``min_c 1/2||z - D c||^2 + l1 ||c||_1 + l2/2 ||c||^2`` at ``z / ||z||``.

    It knows nothing of how the codes were found. One product with all atoms, in float32: the figures are good
    to about 3e-7.

    Args:
        atoms: what was decomposed on. A copy of an atom is not part of the problem.
        activations: ``z``, in any units.
        codes: coefficients in the same units; both are divided by ``||z||``.
        l1: ``alpha tau``.
        l2: ``alpha (1 - tau)``.

    Raises:
        PaceError: the codes have another number of rows or atoms, or the activations do not fit the atoms.
    """
    if codes.n_rows != len(activations) or codes.n_atoms != atoms.n_atoms:
        raise PaceError(
            f"codes of {codes.n_rows} rows on {codes.n_atoms} atoms do not belong to {len(activations)} activations "
            f"on {atoms.n_atoms}."
        )
    units = unit_activations(atoms, activations)
    index = codes.atoms.to(atoms.device)
    values = codes.values.to(atoms.device).double() / torch.where(units.norms > 0, units.norms, 1)[:, None]
    used = index >= 0
    residual = units.exact - (atoms.combine(index, values) if index.numel() else 0)
    products = residual.float() @ atoms.atoms.T
    products[:, atoms.copies] = 0
    on = torch.where(used, products.gather(1, index.clamp(min=0)).double() - l2 * values, 0)
    rows = used.nonzero()[:, 0]
    products[rows, index[used]] = 0
    off = products.abs().amax(1).double()
    return Certificate(
        on_support=_largest(on - l1 * values.sign()),
        off_support=(off - l1).clamp(min=0),
        gap=_gap(units.exact, residual, values, torch.maximum(off, _largest(on)), l1, l2),
    )


def _largest(values: Float[Tensor, "row k"]) -> Float[Tensor, " row"]:
    """Largest absolute value of each row, 0 where there is none."""
    return torch.cat([values.abs(), values.new_zeros(len(values), 1)], 1).amax(1)


def _gap(
    targets: Float[Tensor, "row d_model"],
    residual: Float[Tensor, "row d_model"],
    values: Float[Tensor, "row k"],
    largest: Float[Tensor, " row"],
    l1: float | int,
    l2: float | int,
) -> Float[Tensor, " row"]:
    """Primal minus dual objective, the problem read as a lasso on ``[D; sqrt(l2) I]``.

    The residual, scaled so that no atom's product with it exceeds ``l1``, is a point of the dual; ``largest`` is
    the largest product.
    """
    scale = torch.where(largest > l1, l1 / largest.clamp(min=1e-300), 1)
    squares = residual.square().sum(1) + l2 * values.square().sum(1)
    primal = squares / 2 + l1 * values.abs().sum(1)
    dual = scale * (targets * residual).sum(1) - scale.square() * squares / 2
    return (primal - dual).clamp(min=0)
