r"""Atoms: the first principal direction of how a concept's residuals differ from those of other concepts.

PaCE (arXiv 2406.04331, after the representation reading of RepE): with last-token residuals ``a_s`` of
the concept's own stimuli and ``b_o`` of a random sample of other concepts' stimuli,

    X = { (a_s - b_o) / ||a_s - b_o|| },    v = argmax_{||v|| = 1} sum_x (x . v)^2.

The differences are **not** centred: their mean is what sets the concept apart, and centring would remove it.

All pairs of one own and one other stimulus are used, though no row of ``X`` is ever formed. With the residuals of both
kinds stacked as ``R``, ``X = M R`` for a matrix ``M`` that holds ``1/||a_s - b_o||`` and its negative in each row, so
``X^T X = R^T L R`` where ``L = M^T M`` is the Laplacian of the graph that joins every own with every other stimulus,
weighted by ``1/||a_s - b_o||^2``. Then ``L^{1/2} R``, with as many rows as there are stimuli, has the same principal
direction as ``X``, with as many rows as there are pairs.
"""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from contrans_lens.concepts.estimators.principal_component import leading_direction, orient
from contrans_lens.errors import PaceError

_SAME = 1e-6
"""Residuals closer than this share of their norm are the same up to float32 rounding."""


@dataclass(frozen=True, eq=False)
class Atoms:
    """Atoms of some concepts at one hook point, and how they came out."""

    directions: Float[Tensor, "concept d_model"]
    """Unit vectors, float64; zero where ``flat``."""
    quality: Float[Tensor, " concept"]
    """Share of (own, other) pairs in which the own stimulus projects higher; ties count half."""
    turned: Bool[Tensor, " concept"]
    """Whether the principal direction that the eigensolver gave pointed away from the concept and was turned."""
    flat: Bool[Tensor, " concept"]
    """Whether no own stimulus differs from any other one, so that there is no direction."""


def draw_others(names: Sequence[str], counts: Sequence[int], n_others: int, seed: int) -> list[list[int]]:
    """For each concept, a random sample of the stimuli of the other concepts.

    A sample depends on the seed, the concept's name and the set of concepts, not on the order they are given in.

    Args:
        names: of the concepts, all different.
        counts: stimuli of each; all stimuli are numbered one concept after the other.
        n_others: how many to draw for each concept; all where there are no more.
        seed: of the sample.

    Returns:
        Numbers of the stimuli drawn for each concept.

    Raises:
        PaceError: there is only one concept, or ``n_others`` is below one.
    """
    if len(names) < 2:
        raise PaceError(f"{len(names)} concept cannot be told from others; give at least two.")
    if n_others < 1:
        raise PaceError(f"{n_others} stimuli of other concepts cannot be drawn; give one or more (30 to 100 is usual).")
    starts = [0, *accumulate(counts)]
    by_name = sorted(range(len(names)), key=lambda index: names[index])
    ordered = [stimulus for index in by_name for stimulus in range(starts[index], starts[index + 1])]
    place = dict(zip(by_name, accumulate([0] + [counts[index] for index in by_name[:-1]]), strict=True))
    drawn = []
    for index, name in enumerate(names):
        n_rest = len(ordered) - counts[index]
        generator = random.Random(hashlib.sha256(f"{seed}:{name}".encode()).digest())
        picks = sorted(generator.sample(range(n_rest), min(n_others, n_rest)))
        own = place[index]
        drawn.append([ordered[pick if pick < own else pick + counts[index]] for pick in picks])
    return drawn


def principal_atoms(
    own: Float[Tensor, "concept stimulus d_model"],
    others: Float[Tensor, "concept other d_model"],
    own_real: Bool[Tensor, "concept stimulus"] | None = None,
    others_real: Bool[Tensor, "concept other"] | None = None,
) -> Atoms:
    """The atoms of several concepts at once, in float64.

    Args:
        own: last-token residuals of each concept's own stimuli.
        others: those of the stimuli of other concepts that were drawn for it.
        own_real: which rows are stimuli, where concepts have different numbers of them; the rest is padding.
        others_real: the same for the other ones.

    Raises:
        PaceError: a concept has no stimulus of its own or none of others.
    """
    own_real = own.new_ones(own.shape[:2], dtype=torch.bool) if own_real is None else own_real
    others_real = others.new_ones(others.shape[:2], dtype=torch.bool) if others_real is None else others_real
    if not bool(own_real.any(1).all() and others_real.any(1).all()):
        raise PaceError("every concept needs at least one stimulus of its own and one of another concept.")
    n_own = own.shape[1]
    real = torch.cat([own_real, others_real], dim=1)
    rows = torch.cat([own, others], dim=1).to(torch.float64)
    largest = rows.norm(dim=2).masked_fill(~real, 0).amax(1)
    # Differences stay the same when all rows are moved together, and inner products lose less to rounding near zero.
    rows = rows - _mean(rows, real)[:, None]
    rows = rows.masked_fill(~real[:, :, None], 0)
    weights = _pair_weights(rows[:, :n_own], rows[:, n_own:], _SAME * largest)
    weights = weights.masked_fill(~(own_real[:, :, None] & others_real[:, None, :]), 0)
    principal = leading_direction(_square_root(_laplacian(weights)) @ rows)
    directions = orient(principal, _mean(rows[:, :n_own], own_real) - _mean(rows[:, n_own:], others_real))
    projected = (rows @ directions[:, :, None])[:, :, 0]
    return Atoms(
        directions=directions,
        quality=_share_higher(projected[:, :n_own], projected[:, n_own:], own_real, others_real),
        turned=(directions != principal).any(1),
        flat=(weights == 0).all(2).all(1),
    )


def _mean(
    rows: Float[Tensor, "concept row d_model"], real: Bool[Tensor, "concept row"]
) -> Float[Tensor, "concept d_model"]:
    """Mean of each concept's real rows."""
    return rows.masked_fill(~real[:, :, None], 0).sum(1) / real.sum(1, keepdim=True)


def _pair_weights(
    own: Float[Tensor, "concept stimulus d_model"],
    others: Float[Tensor, "concept other d_model"],
    least: Float[Tensor, " concept"],
) -> Float[Tensor, "concept stimulus other"]:
    """``1/||a_s - b_o||^2``; zero for pairs that are closer than ``least``."""
    distance = torch.cdist(own, others, compute_mode="donot_use_mm_for_euclid_dist")
    apart = distance > least[:, None, None]
    return torch.where(apart, distance, 1.0).square().reciprocal().masked_fill(~apart, 0)


def _laplacian(weights: Float[Tensor, "concept stimulus other"]) -> Float[Tensor, "concept row row"]:
    """Laplacian of the weighted graph between own and other stimuli, scaled to order one."""
    scaled = weights / weights.amax((1, 2), keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)
    upper = torch.cat([torch.diag_embed(scaled.sum(2)), -scaled], dim=2)
    lower = torch.cat([-scaled.mT, torch.diag_embed(scaled.sum(1))], dim=2)
    return torch.cat([upper, lower], dim=1)


def _square_root(matrix: Float[Tensor, "concept row row"]) -> Float[Tensor, "concept row row"]:
    """Symmetric square root of positive semidefinite matrices."""
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp_min(0).sqrt()[:, None, :]) @ vectors.mT


def _share_higher(
    own: Float[Tensor, "concept stimulus"],
    others: Float[Tensor, "concept other"],
    own_real: Bool[Tensor, "concept stimulus"],
    others_real: Bool[Tensor, "concept other"],
) -> Float[Tensor, " concept"]:
    """Area under the ROC curve of own against others."""
    pairs = own_real[:, :, None] & others_real[:, None, :]
    difference = own[:, :, None] - others[:, None, :]
    wins = (difference > 0).to(own.dtype) + 0.5 * (difference == 0).to(own.dtype)
    return (wins * pairs).sum((1, 2)) / pairs.sum((1, 2))
