"""What every solver does first: check the activations and bring them to unit length, a batch at a time."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from contrans_lens.errors import PaceError
from contrans_lens.pace.codes import SparseCodes, join_codes
from contrans_lens.pace.solvers.prepared import PreparedAtoms

BATCH = 128
"""Rows that are decomposed together: enough to fill a matrix product, few enough to stay in memory."""


@dataclass(frozen=True, eq=False)
class UnitActivations:
    """Activations at unit length on the atoms' device."""

    exact: Float[Tensor, "row d_model"]
    """``z / ||z||`` in float64; zero where the activation is."""
    norms: Float[Tensor, " row"]
    """``||z||`` in float64."""

    def take(self, rows: Tensor) -> "UnitActivations":
        """Some of the rows."""
        return UnitActivations(self.exact[rows], self.norms[rows])

    def correlations(self, atoms: PreparedAtoms) -> Float[Tensor, "row atom"]:
        """``B = D^T z / ||z||`` of all rows in one product, in the atoms' dtype."""
        return self.exact.to(atoms.atoms.dtype) @ atoms.atoms.T


def unit_activations(atoms: PreparedAtoms, activations: Float[Tensor, "row d_model"]) -> UnitActivations:
    """Check activations and divide them by their norms.

    Raises:
        PaceError: another width than the atoms', or NaN or infinity.
    """
    if activations.ndim != 2 or activations.shape[1] != atoms.d_model:
        raise PaceError(
            f"the activations have shape {tuple(activations.shape)}; [row, {atoms.d_model}] is expected, as the "
            "atoms have. Use the dictionary of this model and hook point."
        )
    exact = activations.detach().to(atoms.device).double()
    # Scaled first: squares of very large or small float64 entries would over- or underflow.
    scale = exact.abs().amax(1, keepdim=True)
    if not torch.isfinite(scale).all():
        raise PaceError("the activations hold NaN or infinity; look at what the model was run on.")
    exact = exact / torch.where(scale > 0, scale, 1)
    norms = exact.norm(dim=1, keepdim=True)
    return UnitActivations(exact / torch.where(norms > 0, norms, 1), (norms * scale)[:, 0])


def decompose_batches(
    atoms: PreparedAtoms,
    activations: Float[Tensor, "row d_model"],
    solve: Callable[[UnitActivations], SparseCodes],
) -> SparseCodes:
    """Solve at unit length batch by batch and rescale: float32 values on the activations' device.

    Args:
        atoms: what to decompose on.
        activations: any float dtype and device.
        solve: from a batch of unit activations to codes in float64 on the atoms' device. A zero activation
            must give no atoms.

    Raises:
        PaceError: as :func:`unit_activations`.
    """
    parts = [solve(batch).rescaled(batch.norms) for batch in _batches(atoms, activations)]
    joined = join_codes(parts)
    device = activations.device
    return SparseCodes(joined.atoms.to(device), joined.values.float().to(device), atoms.n_atoms)


def _batches(atoms: PreparedAtoms, activations: Tensor) -> Iterator[UnitActivations]:
    # No rows make one empty batch, so the width is checked and the answer has a shape.
    for start in range(0, max(len(activations), 1), BATCH):
        yield unit_activations(atoms, activations[start : start + BATCH])
