"""Least squares for a batch of curves at once: closed form where the law is linear, else Levenberg-Marquardt.

All targets share the strengths, so thousands of bootstrap resamples are one batch. There is no loop over the batch;
targets that have converged leave it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Evaluate = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""``(strengths [strength], parameters [target, parameter]) -> (values [target, strength], Jacobian [target, strength,
parameter])``."""

_FIRST_DAMPING = 1e-3
_LARGEST_DAMPING = 1e16
_ROUNDING = 1e-14
_EXACT = 1e-26  # residual sum, relative to the targets' sum of squares, at which nothing is left to fit


@dataclass(frozen=True, eq=False)
class Solutions:
    """The least-squares parameters of every target."""

    parameters: Float[Tensor, "target parameter"]
    rss: Float[Tensor, "target"]
    """Residual sum of squares."""
    converged: Bool[Tensor, "target"]
    """Whether the search ended by itself rather than at the step limit."""


def solve_linear(design: Float[Tensor, "strength parameter"], targets: Float[Tensor, "target strength"]) -> Solutions:
    """Ordinary least squares ``targets ~ design @ parameters``, by the pseudo-inverse.

    A parameter that moves the curve by rounding only is zero, so that exact data have exact parameters.

    Args:
        design: full column rank, ``[strength, parameter]``.
        targets: curves, ``[target, strength]``.
    """
    parameters = targets @ torch.linalg.pinv(design).T
    moves = parameters.abs() * design.abs().amax(0)
    parameters = torch.where(moves > _ROUNDING * targets.abs().amax(1, keepdim=True), parameters, 0.0)
    rss = (targets - parameters @ design.T).square().sum(1)
    return Solutions(parameters, rss, torch.ones(len(targets), dtype=torch.bool))


def levenberg_marquardt(
    evaluate: Evaluate,
    strengths: Float[Tensor, "strength"],
    targets: Float[Tensor, "target strength"],
    starts: Float[Tensor, "target parameter"],
    lower: Float[Tensor, "parameter"],
    upper: Float[Tensor, "parameter"],
    *,
    tolerance: float = 1e-12,
    max_steps: int = 200,
) -> Solutions:
    """Levenberg-Marquardt with box bounds, every target on its own damping.

    A step solves ``(J^T J + damping D) step = J^T residual`` with ``D`` the largest diagonal of ``J^T J`` seen so far
    (More 1978) and is cut at the bounds; a parameter that stands at a bound and is pushed against it is held. Damping
    follows the ratio of actual to predicted gain (Nielsen 1999). A step that does not lower the residual sum is never
    taken, so the result is no worse than its start even where the search does not converge.

    Args:
        evaluate: the law with its analytic Jacobian.
        strengths: ``[strength]``, float64.
        targets: curves, ``[target, strength]``, float64.
        starts: where the search begins, ``[target, parameter]``, within the bounds.
        lower: least value of every parameter; ``-inf`` for none.
        upper: greatest value of every parameter.
        tolerance: fall of the residual sum, relative to it, that still counts; parameters end within about its square
            root of the optimum, in units of what the residual leaves open.
        max_steps: tried steps, taken or not.
    """
    search = _Search(evaluate, strengths, targets, starts.clone(), (lower, upper), tolerance)
    for _ in range(max_steps):
        if not search.step():
            break
    return Solutions(search.parameters, search.rss, search.converged)


class _Search:
    """State of the search: results for all targets, everything private only for those that still move."""

    def __init__(
        self,
        evaluate: Evaluate,
        strengths: Tensor,
        targets: Tensor,
        starts: Tensor,
        bounds: tuple[Tensor, Tensor],
        tolerance: float,
    ) -> None:
        self._evaluate, self._strengths = evaluate, strengths
        self._lower, self._upper = bounds
        self._tolerance = tolerance
        self.parameters = starts
        values, jacobian = evaluate(strengths, starts)
        self.rss = (targets - values).square().sum(1)
        self.converged = self.rss <= _EXACT * targets.square().sum(1)
        self._live = (~self.converged).nonzero()[:, 0]
        self._targets = targets[self._live]
        self._residual = self._targets - values[self._live]
        self._jacobian = jacobian[self._live]
        self._exact = _EXACT * self._targets.square().sum(1)
        self._scale = torch.zeros_like(starts[self._live])
        self._damping = torch.full((len(self._live),), _FIRST_DAMPING, dtype=torch.float64)
        self._growth = torch.full_like(self._damping, 2.0)

    def step(self) -> bool:
        """Try one step for every live target; whether any is left."""
        if not len(self._live):
            return False
        current, rss = self.parameters[self._live], self.rss[self._live]
        gradient = torch.einsum("tsp,ts->tp", self._jacobian, self._residual)
        held = ((current <= self._lower) & (gradient < 0)) | ((current >= self._upper) & (gradient > 0))
        trial = self._trial(current, gradient, held)
        moved = trial - current
        values, jacobian = self._evaluate(self._strengths, trial)
        residual = self._targets - values
        found = residual.square().sum(1)
        predicted = rss - (self._residual - torch.einsum("tsp,tp->ts", self._jacobian, moved)).square().sum(1)
        actual = rss - found
        taken = actual > 0  # False for NaN too
        self._adapt(taken, actual / predicted.clamp_min(1e-300))
        self._residual = torch.where(taken[:, None], residual, self._residual)
        self._jacobian = torch.where(taken[:, None, None], jacobian, self._jacobian)
        self.parameters[self._live] = torch.where(taken[:, None], trial, current)
        self.rss[self._live] = torch.where(taken, found, rss)
        still = (moved.abs() <= 1e-14 * (current.abs() + 1e-14)).all(1)
        small = (predicted.abs() <= self._tolerance * rss) & (actual.abs() <= self._tolerance * rss)
        settled = still | small | (self.rss[self._live] <= self._exact)
        self.converged[self._live] = settled
        self._keep(~settled & (self._damping < _LARGEST_DAMPING))
        return bool(len(self._live))

    def _trial(self, current: Tensor, gradient: Tensor, held: Tensor) -> Tensor:
        """Where the damped normal equations lead, within the bounds."""
        jacobian = self._jacobian * ~held[:, None, :]
        normal = torch.einsum("tsp,tsq->tpq", jacobian, jacobian)
        diagonal = normal.diagonal(dim1=1, dim2=2)
        self._scale = torch.maximum(self._scale, diagonal)
        damped = self._damping[:, None] * self._scale.clamp_min(1e-30) + held
        step, _ = torch.linalg.solve_ex(normal + torch.diag_embed(damped), gradient * ~held)
        step = torch.where(step.isfinite(), step, 0.0)
        return torch.minimum(torch.maximum(current + step, self._lower), self._upper)

    def _adapt(self, taken: Tensor, ratio: Tensor) -> None:
        """Nielsen's rule: smooth decrease by the gain ratio after a step taken, ever faster growth after refusals."""
        factor = (1 - (2 * ratio.clamp(0, 1.5) - 1) ** 3).clamp(1 / 3, 2)
        self._damping = self._damping * torch.where(taken, factor, self._growth)
        self._damping = self._damping.clamp_min(1e-15)
        self._growth = torch.where(taken, 2.0, 2 * self._growth)

    def _keep(self, alive: Tensor) -> None:
        self._live = self._live[alive]
        for name in ("_targets", "_residual", "_jacobian", "_exact", "_scale", "_damping", "_growth"):
            setattr(self, name, getattr(self, name)[alive])
