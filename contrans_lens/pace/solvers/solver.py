"""What every solver has in common, and solvers from their descriptions."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from contrans_lens.errors import PaceError
from contrans_lens.pace.codes import SparseCodes
from contrans_lens.pace.solvers.elastic_net import ElasticNet
from contrans_lens.pace.solvers.omp import OMP
from contrans_lens.pace.solvers.prepared import PreparedAtoms
from contrans_lens.pace.solvers.projection import OrthogonalProjection, RidgeProjection, VectorAddition


@runtime_checkable
class Solver(Protocol):
    """Writes activations as sparse combinations of atoms, ``z ~ D c``."""

    @property
    def scope(self) -> str:
        """``"dictionary"``: wants all atoms; ``"undesirable"``: the undesirable ones alone."""
        ...

    def decompose(self, atoms: PreparedAtoms, activations: Float[Tensor, "row d_model"]) -> SparseCodes:
        """Codes of each activation, in its units.

        An activation of zero has no coefficients. Scaling an activation scales its coefficients. Rows do not
        depend on each other. Copies of an atom have no coefficients.

        Args:
            atoms: what to decompose on.
            activations: any float dtype and device; the values come back in float32 on that device.

        Raises:
            PaceError: the activations have another width than the atoms, or hold NaN or infinity.
        """
        ...

    def to_dict(self) -> dict[str, Any]:
        """The solver as JSON-serialisable values; :func:`solver_from_dict` reads them."""
        ...


_KINDS: dict[str, type[Solver]] = {
    "omp": OMP,
    "elastic_net": ElasticNet,
    "orthogonal_projection": OrthogonalProjection,
    "ridge_projection": RidgeProjection,
    "vector_addition": VectorAddition,
}


def solver_from_dict(value: Mapping[str, Any]) -> Solver:
    """The solver that ``to_dict`` described.

    Raises:
        PaceError: an unknown kind, or options that this kind does not have.
    """
    options = dict(value)
    kind = options.pop("kind", None)
    if kind not in _KINDS:
        raise PaceError(f"the solver's kind is {kind!r}; one of {', '.join(_KINDS)} is expected.")
    try:
        return _KINDS[kind](**options)
    except TypeError as error:
        raise PaceError(f"the solver {kind} cannot be made from {sorted(options)}: {error}.") from error
