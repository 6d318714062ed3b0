"""The laws of alignment and helpfulness under steering, as closed forms.

Wolf et al. 2024, "Tradeoffs Between Alignment and Helpfulness in Language Models with Steering Methods", arXiv
2401.16332. A unit direction is added ``r`` times to the residual stream. The change of the last residual grows in
proportion, ``||delta|| = lambda r``, and moves the logits::

    alignment     B(r) >= tanh(a r + artanh B0),  a = Delta lambda       Delta: gap that delta opens between the logits
                                                                         of aligned and of other answers, per unit
    helpfulness   H(r) <= P0 / (P0 + (1 - P0) (1 + b^2 r^2 / 2))         b: spread of the changes of the wrong answers'
                                                                         logits against the right one's, per unit r

The helpfulness bound is the second order of what follows for wrong logits that change by independent Gaussians::

    H(r) = P0 / (P0 + (1 - P0) E exp(x)),   x ~ N(mu r, b^2 r^2),   E exp(x) = exp(mu r + b^2 r^2 / 2)

Near zero every one of them is a parabola ``H0 + l r - k r^2``.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def tanh_law(r: Float[Tensor, "strength"], a: float, b0: float) -> Float[Tensor, "strength"]:
    """Behaviour expectation ``B(r) = tanh(a r + b0)``, ``b0 = artanh B(0)``; crosses zero at ``r = -b0 / a``.

    Args:
        r: strengths.
        a: gain, per unit of strength.
        b0: where it starts, in units of ``artanh B``.
    """
    return torch.tanh(a * r.double() + b0)


def slope_at_zero(a: float, b_zero: float) -> float:
    """Slope of the tanh law at the unsteered model: ``a (1 - B0^2)``, per unit of strength.

    Args:
        a: gain.
        b_zero: the unsteered behaviour ``B0`` in [-1, 1], not its artanh.
    """
    return a * (1 - b_zero * b_zero)


def bell(r: Float[Tensor, "strength"], p0: float, b: float) -> Float[Tensor, "strength"]:
    """Helpfulness bound ``H(r) = p0 / (p0 + (1 - p0)(1 + b^2 r^2 / 2))``.

    Args:
        r: strengths.
        p0: unsteered probability of the right answer.
        b: spread of wrong logits against the right one, per unit of strength.
    """
    return p0 / (p0 + (1 - p0) * (1 + (b * r.double()).square() / 2))


def gaussian_bell(r: Float[Tensor, "strength"], p0: float, mu: float, b: float) -> Float[Tensor, "strength"]:
    """Helpfulness ``H(r) = p0 / (p0 + (1 - p0) exp(mu r + b^2 r^2 / 2))`` under Gaussian changes of wrong logits.

    Exact in the limit of many wrong answers. ``mu = 0`` to second order in ``r`` is :func:`bell`.

    Args:
        r: strengths.
        p0: unsteered probability of the right answer.
        mu: mean change of wrong logits against the right one, per unit of strength.
        b: their spread, per unit of strength.
    """
    r = r.double()
    odds = torch.tensor(p0, dtype=torch.float64).logit()
    return torch.sigmoid(odds - mu * r - (b * r).square() / 2)


def parabola(r: Float[Tensor, "strength"], top: float, linear: float, k: float) -> Float[Tensor, "strength"]:
    """``H(r) = H0 + l r - k r^2``: any of the bells near its top.

    Args:
        r: strengths.
        top: ``H0``.
        linear: ``l``, per unit of strength.
        k: curvature, per squared unit of strength; positive where steering costs helpfulness both ways.
    """
    r = r.double()
    return top + linear * r - k * r.square()


def parabola_terms(p0: float, mu: float, b: float) -> tuple[float, float]:
    """``(l, k)`` of the parabola that touches :func:`gaussian_bell` at zero.

    With ``x = mu r + b^2 r^2 / 2`` and ``H = sigmoid(logit p0 - x)``::

        l = -mu p0 (1 - p0)
        k = p0 (1 - p0) (b^2 - (1 - 2 p0) mu^2) / 2

    With ``mu = 0`` this is :func:`bell`'s curvature ``p0 (1 - p0) b^2 / 2`` too.
    """
    variance = p0 * (1 - p0)
    return -mu * variance, variance * (b * b - (1 - 2 * p0) * mu * mu) / 2
