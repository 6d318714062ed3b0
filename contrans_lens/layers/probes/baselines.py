"""Probes without a strength: the mean difference and the shrunk linear discriminant."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from contrans_lens.concepts.estimators.covariance import shrinkage_share
from contrans_lens.layers.probes.folds import others
from contrans_lens.layers.probes.nested import at_strength, log_loss, signs
from contrans_lens.layers.probes.states import SiteStates


class MeanDifference:
    """Nearest class mean: ``f = (x - (m_1 + m_0) / 2) . (m_1 - m_0)``, the threshold half way between the means."""

    def __init__(self, states: SiteStates) -> None:
        self.states = states
        self.n_sites = states.shape[0]
        self.strengths = torch.zeros(1, dtype=torch.float64, device=states.device)

    def left_out(
        self, parts: Sequence[Int[Tensor, "_"]], labels: Bool[Tensor, "example column"]
    ) -> list[Float[Tensor, "site strength _ column"]]:
        """Decision values of the removed examples; the strength axis has length 1."""
        device = self.states.device
        decided = []
        for removed in parts:
            train = others(removed, len(labels))
            difference, middle = mean_coefficients(labels[train].to(device))
            moved = self.states.products(torch.cat([removed, train]).to(device), train.to(device), difference)
            test, own = moved[:, : len(removed)], moved[:, len(removed) :]
            decided.append((test - (middle * own).sum(1, keepdim=True))[:, None])
        return decided

    def left_out_at(
        self,
        parts: Sequence[Int[Tensor, "_"]],
        labels: Bool[Tensor, "example column"],
        chosen: Int[Tensor, "site part column"],
    ) -> list[Float[Tensor, "site _ column"]]:
        """The same at the chosen strengths."""
        return [at_strength(path, chosen[:, part]) for part, path in enumerate(self.left_out(parts, labels))]

    def loss(
        self, decisions: Float[Tensor, "*batch example column"], labels: Bool[Tensor, "example column"]
    ) -> Float[Tensor, "*batch column"]:
        """Share of errors, for completeness: there is nothing to choose."""
        return (signs(labels).to(decisions.device) * decisions <= 0).double().sum(-2)


class Discriminant:
    """Linear discriminant with Ledoit-Wolf shrinkage: log odds under a Gaussian of common covariance per class.

    ``f = (x - (m_1 + m_0) / 2) . Sigma^-1 d + log(n_1 / n_0)`` with ``d = m_1 - m_0`` and ``Sigma = (1 - a) S + a
    tr(S)/d_model I``, ``S`` the covariance about the class means and ``a`` its Ledoit-Wolf share. As ``S_total = S +
    pi_1 pi_0 d d^T``, ``Sigma`` is a rank-one change of a function of the total covariance, which does not depend on
    the labels: one eigendecomposition per site and training part serves every labeling (Sherman-Morrison).
    """

    def __init__(self, states: SiteStates) -> None:
        self.states = states
        self.n_sites = states.shape[0]
        self.strengths = torch.zeros(1, dtype=torch.float64, device=states.device)

    def left_out(
        self, parts: Sequence[Int[Tensor, "_"]], labels: Bool[Tensor, "example column"]
    ) -> list[Float[Tensor, "site strength _ column"]]:
        """Log odds of the removed examples; the strength axis has length 1."""
        return [self._without(removed, labels)[:, None] for removed in parts]

    def _without(
        self, removed: Int[Tensor, " removed"], labels: Bool[Tensor, "example column"]
    ) -> Float[Tensor, "site removed column"]:
        device = self.states.device
        train, removed = others(removed, len(labels)).to(device), removed.to(device)
        own, test = _principal(self.states, train, removed)
        held = labels.to(device)[train]
        difference, middle = mean_coefficients(held)
        d, centre = own.mT @ difference, own.mT @ middle
        variances = own.square().mean(1)
        share, mean_variance = self._shrinkage(own, held, d, variances)
        floor = (share * mean_variance).clamp_min(1e-12)
        scaled = d / ((1 - share)[:, None] * variances[..., None] + floor[:, None])
        positive = held.double().mean(0)
        within = positive * (1 - positive) * (1 - share) * (d * scaled).sum(1)
        weights = scaled / (1 - within).clamp_min(1e-12)[:, None]
        prior = torch.log(positive / (1 - positive))
        return test @ weights - (centre * weights).sum(1, keepdim=True) + prior

    def left_out_at(
        self,
        parts: Sequence[Int[Tensor, "_"]],
        labels: Bool[Tensor, "example column"],
        chosen: Int[Tensor, "site part column"],
    ) -> list[Float[Tensor, "site _ column"]]:
        """The same at the chosen strengths."""
        return [at_strength(path, chosen[:, part]) for part, path in enumerate(self.left_out(parts, labels))]

    def loss(
        self, decisions: Float[Tensor, "*batch example column"], labels: Bool[Tensor, "example column"]
    ) -> Float[Tensor, "*batch column"]:
        """Log loss, for completeness: there is nothing to choose."""
        return log_loss(decisions, labels)

    def _shrinkage(
        self,
        own: Float[Tensor, "site train component"],
        held: Bool[Tensor, "train column"],
        d: Float[Tensor, "site component column"],
        variances: Float[Tensor, "site component"],
    ) -> tuple[Float[Tensor, "site column"], Float[Tensor, "site column"]]:
        """Ledoit-Wolf share of the within-class covariance of every labeling, and its mean variance."""
        positive = held.double().mean(0)
        between = positive * (1 - positive)
        length = d.square().sum(1)
        trace = (variances.sum(1)[:, None] - between * length).clamp_min(0)
        square = variances.square().sum(1)[:, None] - 2 * between * (variances[..., None] * d.square()).sum(1)
        square = square + (between * length).square()
        # Centred on all examples the class means are (1 - pi) d and -pi d.
        along = own @ d
        offset = torch.where(held, 1 - positive, -positive)
        distance = own.square().sum(2)[..., None] - 2 * offset * along + offset.square() * length[:, None]
        fourth = distance.square().sum(1)
        share = shrinkage_share(
            "ledoit_wolf", len(held), trace.flatten(), square.flatten(), self.states.width, fourth.flatten()
        )
        return share.view_as(trace), trace / self.states.width


def _principal(
    states: SiteStates, train: Int[Tensor, " train"], test: Int[Tensor, " test"]
) -> tuple[Float[Tensor, "site train component"], Float[Tensor, "site test component"]]:
    """Training and test states in principal components of the training part, centred on it."""
    if states.gram is not None:
        own = states.gram[:, train[:, None], train]
        cross = states.gram[:, test[:, None], train]
        row = own.mean(1, keepdim=True)
        values, vectors = torch.linalg.eigh(own - row - row.mT + row.mean(2, keepdim=True))
        cross = cross - cross.mean(2, keepdim=True) - row + row.mean(2, keepdim=True)
        keep = values > 1e-12 * values[:, -1:]
        root = torch.where(keep, values.clamp_min(1e-300).sqrt(), 0.0)
        inverse = torch.where(keep, values.clamp_min(1e-300).rsqrt(), 0.0)
        return vectors * root[:, None], cross @ (vectors * inverse[:, None])
    assert states.rows is not None
    rows = states.rows[:, train]
    mean = rows.mean(1, keepdim=True)
    rows = rows - mean
    _, vectors = torch.linalg.eigh(rows.mT @ rows)
    return rows @ vectors, (states.rows[:, test] - mean) @ vectors


def mean_coefficients(
    labels: Bool[Tensor, "example column"],
) -> tuple[Float[Tensor, "example column"], Float[Tensor, "example column"]]:
    """Weights of the examples that make the difference of the class means, and the point half way between."""
    shows = labels.to(torch.float64)
    positive = shows / shows.sum(0).clamp_min(1)
    negative = (1 - shows) / (1 - shows).sum(0).clamp_min(1)
    return positive - negative, (positive + negative) / 2
