"""Logistic regression with an L2 penalty: every layer in one batched Newton iteration (IRLS)."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from contrans_lens.errors import ConceptError

_MAX_STEPS = 100
_HALVINGS = 30


def logistic(
    positives: Float[Tensor, "positive layer d_model"],
    negatives: Float[Tensor, "negative layer d_model"],
    l2: int | float = 1.0,
) -> tuple[Float[Tensor, "layer d_model"], Float[Tensor, " layer"]]:
    """Weights and intercept of the logistic model, float64: ``P(positive | h) = sigmoid(w.h + b)``.

    Minimises ``sum_i log(1 + exp(-y_i (w.h_i + b))) + l2 / 2 |c w|^2`` per layer, where ``c`` is the root
    mean square of that layer's centred states, so that ``l2`` means the same at every layer (scikit-learn on
    ``h / c`` with ``C = 1 / l2``). The weights lie in the span of the states, so Newton's method runs in
    ``min(n, d_model)`` dimensions.

    Raises:
        ConceptError: the penalty is not positive, or Newton's method did not converge.
    """
    if l2 <= 0:
        raise ConceptError(f"the L2 penalty must be above 0, without it separable classes have no optimum; got {l2}.")
    states = torch.cat([positives, negatives]).transpose(0, 1).to(torch.float64)
    labels = torch.zeros(states.shape[1], dtype=torch.bool, device=states.device)
    labels[: positives.shape[0]] = True
    mean = states.mean(1, keepdim=True)
    centred = states - mean
    scale = centred.square().mean((1, 2)).sqrt().clamp_min(torch.finfo(torch.float64).tiny)
    rows = centred / scale[:, None, None]
    basis = None
    if rows.shape[2] > rows.shape[1]:  # more dimensions than states: work in coordinates of their span
        left, singular, basis = torch.linalg.svd(rows, full_matrices=False)
        rows = left * singular[:, None]
    weights, intercept = _newton(rows, labels, l2)
    if basis is not None:
        weights = (weights[:, None] @ basis)[:, 0]
    weights = weights / scale[:, None]
    return weights, intercept - (weights * mean[:, 0]).sum(1)


def _newton(
    rows: Float[Tensor, "layer example width"], labels: Bool[Tensor, " example"], l2: float
) -> tuple[Float[Tensor, "layer width"], Float[Tensor, " layer"]]:
    """Damped Newton steps on weights and unpenalised intercept, stacked as one vector per layer."""
    layers, examples, width = rows.shape
    design = torch.cat([rows, rows.new_ones(layers, examples, 1)], 2)
    penalty = torch.full((width + 1,), l2, dtype=rows.dtype, device=rows.device)
    penalty[-1] = 0
    theta = rows.new_zeros(layers, width + 1)
    target = labels.to(rows.dtype)
    for _ in range(_MAX_STEPS):
        probability = torch.sigmoid((design @ theta[..., None])[..., 0])
        gradient = ((probability - target)[:, None] @ design)[:, 0] + penalty * theta
        spread = (probability * (1 - probability))[..., None].clamp_min(1e-12)
        hessian = design.mT @ (design * spread) + torch.diag(penalty)
        step = torch.linalg.solve(hessian, gradient)
        decrement = (step * gradient).sum(1)
        if bool((decrement <= 1e-16 * examples).all()):
            return theta[:, :-1], theta[:, -1]
        theta = _line_search(design, target, penalty, theta, step, decrement)
    raise ConceptError(
        f"the logistic direction did not converge in {_MAX_STEPS} Newton steps; use a larger l2 or another method."
    )


def _loss(design: Tensor, target: Tensor, penalty: Tensor, theta: Tensor) -> Float[Tensor, " layer"]:
    score = (design @ theta[..., None])[..., 0]
    return (torch.nn.functional.softplus(score) - target * score).sum(1) + 0.5 * (penalty * theta.square()).sum(1)


def _line_search(
    design: Tensor, target: Tensor, penalty: Tensor, theta: Tensor, step: Tensor, decrement: Tensor
) -> Float[Tensor, "layer parameter"]:
    """Halve each layer's own step until its loss falls enough (Armijo)."""
    before = _loss(design, target, penalty, theta)
    length = torch.ones_like(before)
    slack = 1e-12 * before.abs()  # near the optimum the loss only changes by rounding
    for _ in range(_HALVINGS):
        after = _loss(design, target, penalty, theta - length[:, None] * step)
        short = after > before - 1e-4 * length * decrement + slack
        if not bool(short.any()):
            break
        length = torch.where(short, length / 2, length)
    return theta - length[:, None] * step
