"""Logistic probes: every training part, strength and label column of a site in one batch of Newton steps.

Minimises ``sum_i log(1 + exp(-y_i f_i)) + alpha / 2 |w|^2`` over the training part, ``f = X w + b`` with the
intercept unpenalised: scikit-learn's ``LogisticRegression`` with ``C = 1 / alpha`` on states of unit variance.

Fits on different parts of the same examples are columns of the same matrices, with weight 0 on what is left
out, so a Hessian-vector product of all of them is two matrix products with the states. Newton steps are
therefore solved by conjugate gradients (truncated Newton, Dembo and Steihaug 1983) and no Hessian is formed. In
coordinates of the states' principal components the Hessian ``Z^T W Z + alpha I`` is near its diagonal, which
preconditions them: some ten steps of ten iterations reach the optimum to rounding.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from contrans_lens.errors import LayerError
from contrans_lens.layers.probes.nested import log_loss
from contrans_lens.layers.probes.states import SiteStates

_MAX_STEPS = 60
_MAX_ITERATIONS = 400
_HALVINGS = 30
_TOLERANCE = 1e-14
"""Squared gradient per example, in the preconditioner's norm, at which a problem is solved."""
_ROUGH = 1e-10
"""The same for fits that only serve to choose a strength: their losses are right to nine digits."""
_CACHED = 1 << 19
"""Decision values of the sites that step together: few enough (4 MiB) to stay near the processor."""
_COLUMNS = 1 << 22
"""Decision values of the problems that are solved at once at one site (32 MiB)."""


class LogisticProbes:
    """Logistic probes of many sites on any training parts."""

    def __init__(self, states: SiteStates, strengths: Float[Tensor, " strength"]) -> None:
        self.strengths = strengths.to(states.device)
        self.components = principal_components(states)
        self.n_sites = states.shape[0]

    def left_out(
        self, parts: Sequence[Int[Tensor, "_"]], labels: Bool[Tensor, "example column"]
    ) -> list[Float[Tensor, "site strength _ column"]]:
        """Log odds of the removed examples of each part by probes fitted on all others, at every strength.

        Good enough to compare strengths; :meth:`left_out_at` goes to the optimum.
        """
        odds = self.log_odds(_complements(parts, len(labels)), labels, tolerance=_ROUGH)
        return [odds[:, part][:, :, removed.to(odds.device)] for part, removed in enumerate(parts)]

    def left_out_at(
        self,
        parts: Sequence[Int[Tensor, "_"]],
        labels: Bool[Tensor, "example column"],
        chosen: Int[Tensor, "site part column"],
    ) -> list[Float[Tensor, "site _ column"]]:
        """The same at the chosen strengths."""
        odds = self.log_odds(_complements(parts, len(labels)), labels, chosen)[:, :, 0]
        return [odds[:, part][:, removed.to(odds.device)] for part, removed in enumerate(parts)]

    def loss(
        self, decisions: Float[Tensor, "*batch example column"], labels: Bool[Tensor, "example column"]
    ) -> Float[Tensor, "*batch column"]:
        """Summed log loss in nats."""
        return log_loss(decisions, labels)

    def log_odds(
        self,
        trained: Bool[Tensor, "example part"],
        labels: Bool[Tensor, "example column"],
        chosen: Int[Tensor, "site part column"] | None = None,
        tolerance: float = _TOLERANCE,
    ) -> Float[Tensor, "site part strength example column"]:
        """Log odds of all examples by probes fitted on each part, at every strength or the chosen one.

        Where a part has one class only, no weights can be told, and the log odds are those of the counts, ``log((n_1
        + 1/2) / (n_0 + 1/2))`` (Krichevsky and Trofimov).

        Raises:
            LayerError: Newton's method does not converge.
        """
        device = self.strengths.device
        trained, target = trained.to(device, torch.float64), labels.to(device, torch.float64)
        sites, n = self.components.shape[:2]
        n_parts, n_columns = trained.shape[1], labels.shape[1]
        if chosen is None:
            penalty = self.strengths[:, None].expand(sites, n_parts, -1, n_columns)
        else:
            penalty = self.strengths[chosen][:, :, None]
        n_strengths = penalty.shape[2]
        odds = torch.empty(sites, n_parts, n_strengths, n, n_columns, dtype=torch.float64, device=device)
        # Problems are ordered part, strength, column, one a row.
        weight = trained.T.repeat_interleave(n_strengths, 0)
        columns = max(1, _COLUMNS // (n * len(weight)))
        together = max(1, _CACHED // (n * (self.components.shape[2] + min(columns, n_columns) * len(weight))))
        for first in range(0, n_columns, columns):
            some = target[:, first : first + columns].T
            which, own = weight.repeat_interleave(len(some), 0), some.repeat(len(weight), 1)
            for site in range(0, sites, together):
                at = slice(site, site + together)
                strength = penalty[at, ..., first : first + columns].reshape(-1, len(own))
                solved = _solve(self.components[at], which, own, strength, tolerance)
                solved = solved.unflatten(1, (n_parts, n_strengths, -1)).transpose(3, 4)
                odds[at, ..., first : first + columns] = solved
        return odds


def _complements(parts: Sequence[Int[Tensor, "_"]], n_examples: int) -> Bool[Tensor, "example part"]:
    """What each part leaves to train on."""
    trained = torch.ones(n_examples, len(parts), dtype=torch.bool)
    for part, removed in enumerate(parts):
        trained[removed.cpu(), part] = False
    return trained


def principal_components(states: SiteStates) -> Float[Tensor, "site example component"]:
    """The states turned to their principal axes: an orthogonal change of coordinates, cut to their span."""
    if states.rows is not None:
        _, axes = torch.linalg.eigh(states.rows.mT @ states.rows)
        return states.rows @ axes
    assert states.gram is not None
    values, vectors = torch.linalg.eigh(states.gram)
    return vectors * values.clamp_min(0).sqrt()[:, None]


@dataclass
class _Problems:
    """Problems that are not solved yet, and where each stands. One row a problem, the same for all sites."""

    number: Int[Tensor, " problem"]
    """Its place among all problems."""
    weight: Float[Tensor, "problem example"]
    """1 on the training part, else 0."""
    target: Float[Tensor, "problem example"]
    """1 for positives."""
    size: Float[Tensor, " problem"]
    """Examples in the training part."""
    penalty: Float[Tensor, "site problem"]
    beta: Float[Tensor, "site problem component"]
    odds: Float[Tensor, "site problem example"]

    def keep(self, kept: Int[Tensor, " kept"]) -> None:
        """Drop the others."""
        self.number, self.size = self.number[kept], self.size[kept]
        self.weight, self.target = self.weight[kept], self.target[kept]
        self.penalty, self.beta, self.odds = (
            value.index_select(1, kept) for value in (self.penalty, self.beta, self.odds)
        )


def _solve(
    z: Float[Tensor, "site example component"],
    weight: Float[Tensor, "problem example"],
    target: Float[Tensor, "problem example"],
    penalty: Float[Tensor, "site problem"],
    tolerance: float,
) -> Float[Tensor, "site problem example"]:
    """Log odds of all examples at the optimum of every problem."""
    sites, n, width = z.shape
    positives, size = (weight * target).sum(1), weight.sum(1)
    counts = ((positives + 0.5) / (size - positives + 0.5)).log()
    solved = counts[:, None].expand(sites, -1, n).clone()
    both = torch.nonzero((positives > 0) & (positives < size)).flatten()
    if not len(both):
        return solved
    beta = z.new_zeros(sites, len(both), width)
    open_ = _Problems(both, weight[both], target[both], size[both], penalty[:, both], beta, solved[:, both])
    coarse = z.to(torch.float32)
    squares = coarse.square()
    for _ in range(_MAX_STEPS):
        system = _newton_system(z, squares, open_)
        done = (system.norm <= tolerance * open_.size).all(0)
        if bool(done.any()):
            solved[:, open_.number[done]] = open_.odds[:, done]
            kept = torch.nonzero(~done).flatten()
            if not len(kept):
                return solved
            open_.keep(kept)
            system.keep(kept)
        _advance(open_, system, *_conjugate_gradients(coarse, system, open_.size))
    raise LayerError(
        f"a logistic probe did not converge in {_MAX_STEPS} Newton steps; use larger strengths or method='ridge'."
    )


@dataclass
class _System:
    """Gradient, Hessian weights and diagonal of every open problem; intercepts apart, as they are unpenalised."""

    gradient: Float[Tensor, "site problem component"]
    gradient_0: Float[Tensor, "site problem"]
    curvature: Float[Tensor, "site problem example"]
    diagonal: Float[Tensor, "site problem component"]
    diagonal_0: Float[Tensor, "site problem"]
    penalty: Float[Tensor, "site problem"]
    norm: Float[Tensor, "site problem"]
    """``g^T D^-1 g``."""

    def keep(self, kept: Int[Tensor, " kept"]) -> None:
        """Drop the other problems."""
        for name in self.__dataclass_fields__:
            setattr(self, name, getattr(self, name).index_select(1, kept))


def _newton_system(
    z: Float[Tensor, "site example component"], squares: Float[Tensor, "site example component"], at: _Problems
) -> _System:
    probability = torch.sigmoid(at.odds)
    residual = (probability - at.target).mul_(at.weight)
    curvature = (probability * (1 - probability)).clamp_min_(1e-12).mul_(at.weight)
    gradient = (residual @ z).addcmul_(at.penalty[..., None], at.beta)
    gradient_0 = residual.sum(2)
    diagonal = (curvature.to(squares.dtype) @ squares).double().add_(at.penalty[..., None])
    diagonal_0 = curvature.sum(2)
    norm = (gradient.square() / diagonal).sum(2) + gradient_0.square() / diagonal_0
    return _System(gradient, gradient_0, curvature, diagonal, diagonal_0, at.penalty, norm)


class _Directions:
    """Where the conjugate gradients of every problem stand, in the precision of the products."""

    def __init__(self, z: Tensor, system: _System, size: Tensor) -> None:
        self.curvature, self.diagonal, self.diagonal_0, self.penalty, self.rho = (
            value.to(z.dtype)
            for value in (system.curvature, system.diagonal, system.diagonal_0, system.penalty, system.norm)
        )
        self.left, self.left_0 = -system.gradient.to(z.dtype), -system.gradient_0.to(z.dtype)
        self.direction, self.direction_0 = self.left / self.diagonal, self.left_0 / self.diagonal_0
        wanted = system.norm * (system.norm / size).clamp(1e-3, 2e-2)
        self.wanted = wanted.clamp_min(1e-3 * _TOLERANCE).to(z.dtype)  # not into the range where floats underflow
        self.step, self.move = torch.zeros_like(self.left), torch.zeros_like(self.curvature)
        self.step_0 = torch.zeros_like(self.left_0)

    def keep(self, kept: Int[Tensor, " kept"]) -> None:
        """Drop the other problems."""
        for name, value in vars(self).items():
            setattr(self, name, value.index_select(1, kept))


def _conjugate_gradients(
    z: Float[Tensor, "site example component"], system: _System, size: Float[Tensor, " problem"]
) -> tuple[
    Float[Tensor, "site problem component"], Float[Tensor, "site problem"], Float[Tensor, "site problem example"]
]:
    """The Newton step of coefficients and intercept, and what it adds to the log odds.

    Solved to a tenth at first and ever closer near the optimum. Single precision is enough for a direction: the
    gradient that it must bring to zero is in double. Problems that are solved leave once they are the half.
    """
    at = _Directions(z, system, size)
    number = torch.arange(len(size), device=z.device)
    steps = torch.zeros_like(at.step), torch.zeros_like(at.step_0), torch.zeros_like(at.move)
    for _ in range(_MAX_ITERATIONS):
        along = (at.direction @ z.mT).add_(at.direction_0[..., None])
        weighted = along * at.curvature
        image = (weighted @ z).addcmul_(at.penalty[..., None], at.direction)
        image_0 = weighted.sum(2)
        bend = (at.direction * image).sum(2).addcmul_(at.direction_0, image_0)
        # What is solved stands still until it leaves.
        length = torch.where(at.rho > at.wanted, at.rho / bend.clamp_min(1e-38), 0.0)
        at.step.addcmul_(length[..., None], at.direction)
        at.step_0.addcmul_(length, at.direction_0)
        at.move.addcmul_(length[..., None], along)
        at.left.addcmul_(length[..., None], image, value=-1)
        at.left_0.addcmul_(length, image_0, value=-1)
        scaled, scaled_0 = at.left / at.diagonal, at.left_0 / at.diagonal_0
        rho = (at.left * scaled).sum(2).addcmul_(at.left_0, scaled_0)
        ratio = rho / at.rho.clamp_min(1e-38)
        at.direction = scaled.addcmul_(ratio[..., None], at.direction)
        at.direction_0 = scaled_0.addcmul_(ratio, at.direction_0)
        at.rho = rho
        solved = (rho <= at.wanted).all(0)
        if 2 * int(solved.sum()) >= len(solved):
            for whole, own in zip(steps, (at.step, at.step_0, at.move), strict=True):
                whole[:, number[solved]] = own[:, solved]
            kept = torch.nonzero(~solved).flatten()
            number = number[kept]
            at.keep(kept)
            if not len(number):
                break
    for whole, own in zip(steps, (at.step, at.step_0, at.move), strict=True):
        whole[:, number] = own
    return steps[0].double(), steps[1].double(), steps[2].double()


def _advance(
    at: _Problems,
    system: _System,
    step: Float[Tensor, "site problem component"],
    step_0: Float[Tensor, "site problem"],
    move: Float[Tensor, "site problem example"],
) -> None:
    """Take the step, halved for each problem until its objective falls enough (Armijo)."""
    slope = (system.gradient * step).sum(2) + system.gradient_0 * step_0
    cross, square = (at.beta * step).sum(2), step.square().sum(2)

    def objective(length: Tensor) -> Tensor:
        """Up to a constant."""
        odds = torch.addcmul(at.odds, length[..., None], move)
        loss = (torch.nn.functional.softplus(odds) - at.target * odds).mul_(at.weight).sum(2)
        return loss + at.penalty * (length * cross + length.square() * square / 2)

    length = torch.ones_like(slope)
    before = objective(torch.zeros_like(slope))
    slack = 1e-12 * before.abs()  # near the optimum the objective only changes by rounding
    for _ in range(_HALVINGS):
        short = objective(length) > before + 1e-4 * length * slope + slack
        if not bool(short.any()):
            break
        length = torch.where(short, length / 2, length)
    at.beta.addcmul_(length[..., None], step)
    at.odds.addcmul_(length[..., None], move)
