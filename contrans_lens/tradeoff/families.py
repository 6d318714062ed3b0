"""The rival laws that are fitted to a curve: values, analytic Jacobians, starting points, quantities that follow.

A family fits a whole batch of curves at once. Parameters inside a family are those in which the search is well behaved
(``c = b^2 / 2`` for the bells); :attr:`Family.report` turns them into those that are printed.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from contrans_lens.tradeoff.least_squares import Evaluate, Solutions, levenberg_marquardt, solve_linear

_INF = float("inf")
_LEAST = 1e-6  # probabilities of the bells stay this far from 0 and 1
_TRIED = 4  # best points of a grid from which the search starts for a curve itself


@dataclass(frozen=True, eq=False)
class Family:
    """One law with free parameters."""

    name: str
    equation: str
    parameters: tuple[str, ...]
    """Names of what is reported, in order."""
    evaluate: Evaluate
    """Values and Jacobian at inner parameters."""
    report: Callable[[Tensor], Tensor]
    """Inner parameters ``[target, parameter]`` to reported ones."""
    derive: Callable[[Tensor], dict[str, Tensor]]
    """Inner parameters to further quantities, ``[target]`` each."""
    starts: Callable[[Tensor, Tensor], Tensor] | None = None
    """``(strengths, targets) -> [start, target, parameter]``, best guess first; None where the law is linear."""
    lower: tuple[float, ...] = ()
    upper: tuple[float, ...] = ()

    def values(
        self, strengths: Float[Tensor, "strength"], inner: Float[Tensor, "target parameter"]
    ) -> Float[Tensor, "target strength"]:
        """The law at inner parameters."""
        return self.evaluate(strengths, inner)[0]

    def fit(
        self,
        strengths: Float[Tensor, "strength"],
        targets: Float[Tensor, "target strength"],
        near: Float[Tensor, "parameter"] | None = None,
    ) -> Solutions:
        """Least-squares fit of every target.

        Args:
            strengths: ``[strength]``.
            targets: curves, ``[target, strength]``.
            near: inner parameters near which the targets' own are expected, e.g. those of the curve that the targets
                are resamples of. The search then starts once, from there or from the best guess, whichever fits
                better; else it starts from several guesses and the best end is kept.
        """
        if self.starts is None:
            return solve_linear(self.evaluate(strengths, targets.new_zeros(1, len(self.parameters)))[1][0], targets)
        lower, upper = (torch.tensor(ends, dtype=torch.float64) for ends in (self.lower, self.upper))
        starts = torch.minimum(torch.maximum(self.starts(strengths, targets), lower), upper)
        tolerance, steps = (1e-12, 200) if near is None else (1e-9, 100)  # of resamples only percentiles are taken
        if near is not None:
            starts = torch.stack([starts[0], near.expand(len(targets), -1)])
            misfit = torch.stack([(self.values(strengths, each) - targets).square().sum(1) for each in starts])
            starts = _pick(starts, misfit)[None]
        flat = starts.flatten(0, 1)
        many = targets.repeat(len(starts), 1)
        found = levenberg_marquardt(
            self.evaluate, strengths, many, flat, lower, upper, tolerance=tolerance, max_steps=steps
        )
        rss = found.rss.reshape(len(starts), -1)
        return Solutions(
            _pick(found.parameters.reshape(starts.shape), rss),
            rss.min(0).values,
            found.converged.reshape(rss.shape).gather(0, rss.argmin(0)[None])[0],
        )


def _pick(
    starts: Float[Tensor, "start target parameter"], misfit: Float[Tensor, "start target"]
) -> Float[Tensor, "target parameter"]:
    """For every target the start with the least misfit."""
    best = misfit.argmin(0)[None, :, None].expand(1, -1, starts.shape[2])
    return starts.gather(0, best)[0]


def _polynomial(
    name: str, equation: str, powers: dict[str, int], derive: Callable[[Tensor], dict[str, Tensor]]
) -> Family:
    """A law that is linear in its parameters: signed powers of the strength (curvature enters with a minus)."""

    def evaluate(strengths: Tensor, inner: Tensor) -> tuple[Tensor, Tensor]:
        columns = [-strengths.square() if power == 2 else strengths**power for power in powers.values()]
        design = torch.stack(columns, dim=1)
        return inner @ design.T, design.expand(len(inner), -1, -1)

    return Family(name, equation, tuple(powers), evaluate, lambda inner: inner, derive)


def _scales(strengths: Tensor) -> tuple[Tensor, Tensor]:
    """Gains and centres of sigmoids over the grid and a little beyond, all pairs: ``a [candidate]``, ``b0``."""
    low, high = float(strengths[0]), float(strengths[-1])
    span = high - low
    ends = math.log10(0.25 / span), math.log10(4 / float(strengths.diff().min()))  # all but straight, all but a step
    gains = torch.logspace(*ends, 12, dtype=torch.float64)
    centres = torch.linspace(low - span / 2, high + span / 2, 41, dtype=torch.float64)
    a, centre = (each.flatten() for each in torch.meshgrid(torch.cat([gains, -gains]), centres, indexing="ij"))
    return a, -a * centre


def _tanh(strengths: Tensor, inner: Tensor) -> tuple[Tensor, Tensor]:
    """``B = tanh(a r + b0)``; inner ``(a, b0)``."""
    values = torch.tanh(inner[:, :1] * strengths + inner[:, 1:])
    slope = 1 - values.square()
    return values, torch.stack([slope * strengths, slope], dim=2)


def _tanh_starts(strengths: Tensor, targets: Tensor) -> Tensor:
    a, b0 = _scales(strengths)
    shapes = torch.tanh(a[:, None] * strengths + b0[:, None])
    misfit = shapes.square().sum(1) - 2 * targets @ shapes.T
    best = misfit.topk(_TRIED, largest=False).indices.T
    return torch.stack([a[best], b0[best]], dim=2)


def _tanh_quantities(inner: Tensor) -> dict[str, Tensor]:
    a, b0 = inner.unbind(1)
    start = torch.tanh(b0)
    return {"B0": start, "slope0": a * (1 - start.square()), "r_half": _zero_of(a, b0)}


def _plateaus(strengths: Tensor, inner: Tensor) -> tuple[Tensor, Tensor]:
    """``B = low + (high - low)(1 + tanh(a (r - m))) / 2``; inner ``(low, high, a, m)``, ``b0 = -a m``.

    The centre ``m`` stays where it is while a steep sigmoid gets steeper; ``b0`` would run along with ``a``.
    """
    low, high, a, centre = (column[:, None] for column in inner.unbind(1))
    wave = torch.tanh(a * (strengths - centre))
    share = (1 + wave) / 2
    slope = (high - low) / 2 * (1 - wave.square())
    return low + (high - low) * share, torch.stack([1 - share, share, slope * (strengths - centre), -slope * a], dim=2)


def _plateau_starts(strengths: Tensor, targets: Tensor) -> Tensor:
    """Sigmoids that go best with the targets; their plateaus follow by linear least squares, cut to [-1, 1]."""
    a, b0 = _scales(strengths)
    a, b0 = a[a > 0], b0[a > 0]  # a falling sigmoid is a rising one with its plateaus exchanged
    shares = (1 + torch.tanh(a[:, None] * strengths + b0[:, None])) / 2
    centred = shares - shares.mean(1, keepdim=True)
    spread = centred.square().sum(1)
    gain = (targets @ centred.T) / spread.clamp_min(1e-12)
    best = (gain.square() * spread).topk(_TRIED).indices
    height = gain.gather(1, best)
    low = targets.mean(1, keepdim=True) - height * shares.mean(1)[best]
    return torch.stack([low, low + height, a[best], (-b0 / a)[best]], dim=2).transpose(0, 1)


def _plateau_report(inner: Tensor) -> Tensor:
    """The lower plateau first; the gain turns its sign where they are exchanged."""
    low, high, a, centre = inner.unbind(1)
    gain = torch.where(low > high, -a, a)
    return torch.stack([torch.minimum(low, high), torch.maximum(low, high), gain, -gain * centre], dim=1)


def _plateau_quantities(inner: Tensor) -> dict[str, Tensor]:
    low, high, a, centre = inner.unbind(1)
    wave = torch.tanh(-a * centre)
    start = low + (high - low) * (1 + wave) / 2
    return {"B0": start, "slope0": a * (high - low) / 2 * (1 - wave.square()), "centre": centre}


def _bell(strengths: Tensor, inner: Tensor) -> tuple[Tensor, Tensor]:
    """``H = p0 / (p0 + (1 - p0)(1 + c r^2))``; inner ``(p0, c)``, ``c = b^2 / 2``."""
    p0, c = (column[:, None] for column in inner.unbind(1))
    square = strengths.square()
    loss = 1 + c * square
    bottom = (p0 + (1 - p0) * loss).square()
    return p0 / bottom.sqrt(), torch.stack([loss / bottom, -p0 * (1 - p0) * square / bottom], dim=2)


def _bell_starts(strengths: Tensor, targets: Tensor) -> Tensor:
    """``1 / H = 1 / p0 + ((1 - p0) / p0) c r^2`` is a line in ``r^2``; weights ``H^4`` undo the reciprocal's noise."""
    heights = targets.clamp(1e-3, 1 - 1e-3)
    design = torch.stack([torch.ones_like(strengths), strengths.square()], dim=1)
    line = _weighted_line(design, 1 / heights, heights**4)
    p0 = (1 / line[:, 0].clamp_min(1 + 1e-3)).clamp(1e-3, 1 - 1e-3)
    return torch.stack([p0, line[:, 1].clamp_min(0) * p0 / (1 - p0)], dim=1)[None]


def _bell_report(inner: Tensor) -> Tensor:
    return torch.stack([inner[:, 0], (2 * inner[:, 1]).sqrt()], dim=1)


def _bell_quantities(inner: Tensor) -> dict[str, Tensor]:
    p0, c = inner.unbind(1)
    return {"H0": p0, "l": torch.zeros_like(p0), "k": p0 * (1 - p0) * c}


def _gaussian_bell(strengths: Tensor, inner: Tensor) -> tuple[Tensor, Tensor]:
    """``H = sigmoid(logit p0 - mu r - c r^2)``; inner ``(p0, mu, c)``, ``c = b^2 / 2``."""
    p0, mu, c = (column[:, None] for column in inner.unbind(1))
    square = strengths.square()
    values = torch.sigmoid(p0.logit() - mu * strengths - c * square)
    slope = values * (1 - values)
    return values, torch.stack([slope / (p0 * (1 - p0)), -slope * strengths, -slope * square], dim=2)


def _gaussian_starts(strengths: Tensor, targets: Tensor) -> Tensor:
    """``logit H`` is a parabola; weights ``(H (1 - H))^2`` undo the logit's noise."""
    heights = targets.clamp(1e-3, 1 - 1e-3)
    design = torch.stack([torch.ones_like(strengths), -strengths, -strengths.square()], dim=1)
    terms = _weighted_line(design, heights.logit(), (heights * (1 - heights)).square())
    return torch.stack([terms[:, 0].sigmoid(), terms[:, 1], terms[:, 2].clamp_min(0)], dim=1)[None]


def _gaussian_report(inner: Tensor) -> Tensor:
    return torch.stack([inner[:, 0], inner[:, 1], (2 * inner[:, 2]).sqrt()], dim=1)


def _gaussian_quantities(inner: Tensor) -> dict[str, Tensor]:
    p0, mu, c = inner.unbind(1)
    variance = p0 * (1 - p0)
    return {"H0": p0, "l": -mu * variance, "k": variance * (c - (1 - 2 * p0) * mu.square() / 2)}


def _weighted_line(design: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Weighted least squares with weights of their own for every target: ``[target, parameter]``."""
    normal = torch.einsum("sp,ts,sq->tpq", design, weights, design)
    normal = normal + 1e-12 * torch.diag_embed(normal.diagonal(dim1=1, dim2=2) + 1e-30)
    return torch.linalg.solve(normal, torch.einsum("sp,ts->tp", design, weights * targets))


def _line_quantities(inner: Tensor) -> dict[str, Tensor]:
    start, slope = inner.unbind(1)
    return {"B0": start, "slope0": slope, "r_half": _zero_of(slope, start)}


def _zero_of(gain: Tensor, offset: Tensor) -> Tensor:
    """``-offset / gain``; resamples without a gain, which have no zero, stand beyond all others."""
    zero = -offset / gain
    real = zero[zero.isfinite()]
    return zero.nan_to_num(torch.inf, torch.inf, -torch.inf).clamp(real.min(), real.max()) if len(real) else zero


ALIGNMENT_FAMILIES = (
    _polynomial("constant", "B0", {"B0": 0}, lambda inner: {}),
    _polynomial("line", "B0 + s r", {"B0": 0, "s": 1}, _line_quantities),
    Family(
        "tanh",
        "tanh(a r + b0)",
        ("a", "b0"),
        _tanh,
        lambda inner: inner,
        _tanh_quantities,
        _tanh_starts,
        (-_INF, -_INF),
        (_INF, _INF),
    ),
    Family(
        "plateaus",
        "low + (high - low) (1 + tanh(a r + b0)) / 2",
        ("low", "high", "a", "b0"),
        _plateaus,
        _plateau_report,
        _plateau_quantities,
        _plateau_starts,
        (-1.0, -1.0, 0.0, -_INF),
        (1.0, 1.0, _INF, _INF),
    ),
)
"""Rival laws of behaviour over strength, in [-1, 1]."""

HELPFULNESS_FAMILIES = (
    _polynomial("symmetric_parabola", "H0 - k r^2", {"H0": 0, "k": 2}, lambda inner: {}),
    _polynomial("parabola", "H0 + l r - k r^2", {"H0": 0, "l": 1, "k": 2}, lambda inner: {}),
    Family(
        "bell",
        "p0 / (p0 + (1 - p0) (1 + b^2 r^2 / 2))",
        ("p0", "b"),
        _bell,
        _bell_report,
        _bell_quantities,
        _bell_starts,
        (_LEAST, 0.0),
        (1 - _LEAST, _INF),
    ),
    Family(
        "gaussian_bell",
        "p0 / (p0 + (1 - p0) exp(mu r + b^2 r^2 / 2))",
        ("p0", "mu", "b"),
        _gaussian_bell,
        _gaussian_report,
        _gaussian_quantities,
        _gaussian_starts,
        (_LEAST, -_INF, 0.0),
        (1 - _LEAST, _INF, _INF),
    ),
)
"""Rival laws of helpfulness over strength, in [0, 1]."""
