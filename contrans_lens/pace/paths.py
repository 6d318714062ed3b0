"""Sparsity against error: how many concepts explain how much of an activation, as the solver's one number varies."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from contrans_lens.errors import PaceError
from contrans_lens.evaluation import Interval, bootstrap_mean_cis
from contrans_lens.pace.decomposition import decompose
from contrans_lens.pace.dictionary import ConceptDictionary
from contrans_lens.pace.solvers.elastic_net import ElasticNet
from contrans_lens.pace.solvers.omp import OMP
from contrans_lens.pace.solvers.prepared import PreparedAtoms
from contrans_lens.pace.solvers.solver import Solver

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

ALPHAS = (0.3, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005)
COUNTS = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True)
class PathPoint:
    """One value of the solver's number."""

    solver: str
    """``"elastic net"`` or ``"OMP"``."""
    parameter: float
    """``alpha`` of the elastic net, ``k`` of OMP."""
    count: Interval
    """Concepts with a coefficient, mean over activations."""
    error: Interval
    """Relative error ``||z - D c|| / ||z||``, mean over activations."""


@dataclass(frozen=True)
class SparsityPath:
    """How many concepts explain how much at one hook point."""

    hook_point: str
    n_rows: int
    points: tuple[PathPoint, ...]

    def table(self) -> "pandas.DataFrame":
        """One line a point, with intervals over activations."""
        import pandas

        return pandas.DataFrame(
            [
                {
                    "solver": each.solver,
                    "parameter": each.parameter,
                    **{
                        f"{name}{end}": getattr(value, key)
                        for name, value in (("count", each.count), ("error", each.error))
                        for end, key in (("", "value"), ("_low", "low"), ("_high", "high"))
                    },
                }
                for each in self.points
            ]
        )

    def plot(self) -> "Figure":
        """Error against the number of concepts, a line a solver."""
        from contrans_lens.reports import sparsity_path_figure

        return sparsity_path_figure(self)


def sparsity_path(
    dictionary: ConceptDictionary,
    activations: Float[Tensor, "row d_model"],
    hook_point: str,
    *,
    alphas: Sequence[float] = ALPHAS,
    counts: Sequence[int] = COUNTS,
    tau: float = 0.95,
    level: float = 0.95,
    seed: int = 0,
) -> SparsityPath:
    """Number of concepts and relative error of the elastic net over ``alphas`` and of OMP over ``counts``.

    Args:
        dictionary: the atoms.
        activations: residuals at the hook point, ``[row, d_model]``; two at least, for the intervals.
        hook_point: whose atoms to use.
        alphas: penalties of the elastic net, solved on unit activations.
        counts: numbers of atoms of OMP; those above the number of atoms are left out.
        tau: share of the l1 penalty.
        level: coverage of the intervals over activations.
        seed: of their bootstrap.

    Raises:
        PaceError: fewer than two activations, or nothing to vary.
        HookPointError: the dictionary has no atoms at the hook point.
    """
    if len(activations) < 2:
        raise PaceError(f"{len(activations)} activations give no interval; two or more are expected.")
    prepared = PreparedAtoms.of(dictionary.at(hook_point))
    solvers: list[tuple[str, float, Solver]] = [
        ("elastic net", alpha, ElasticNet(alpha, tau)) for alpha in sorted(alphas, reverse=True)
    ]
    solvers += [("OMP", float(k), OMP(k)) for k in sorted(counts) if k <= dictionary.n_atoms]
    if not solvers:
        raise PaceError("there is nothing to vary: give alphas, or counts up to the number of atoms.")
    points = []
    for name, parameter, solver in solvers:
        found = decompose(dictionary, activations, hook_point, solver=solver, prepared=prepared)
        errors = (found.residuals / found.norms.clamp_min(torch.finfo(torch.float32).tiny)).double().cpu()
        columns = torch.stack([found.codes.counts().double().cpu(), errors], dim=1)
        count, error = bootstrap_mean_cis(columns, ("",) * len(columns), level=level, seed=seed)
        points.append(PathPoint(name, parameter, count, error))
    return SparsityPath(hook_point, len(activations), tuple(points))
