"""Ridge probes: every site, strength, fold and label column from one factorisation per site and strength.

Labels are -1 and +1, the intercept is unpenalised: minimise ``sum_i (y_i - w.x_i - b)^2 + alpha |w|^2``
(scikit-learn's ``RidgeClassifier``). A block of examples need not be refitted to be left out:

*Dual* (many dimensions). With ``G`` the upper left block of ``[[K + alpha I, 1], [1^T, 0]]^-1`` and ``a = G y`` the
dual coefficients of the fit on everything, the residual of the examples ``R`` under the fit without them is
``y_R - f_R = (G_RR)^-1 a_R`` (An, Liu and Venkatesh 2007). It is the block form of Allen's PRESS, ``e_R = (I -
H_RR)^-1 (y - H y)_R`` with ``G = (I - H) / alpha``, written so that nothing cancels when ``alpha`` is small.

*Primal* (few dimensions). Sums of squares are taken per fold and subtracted, and each training part is solved
in ``d_model`` dimensions.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from contrans_lens.layers.probes.folds import others
from contrans_lens.layers.probes.nested import at_strength, signs, squared_loss
from contrans_lens.layers.probes.states import SiteStates

_CACHED = 1 << 18
"""Float64 numbers (2 MiB) that a step works on: sites beyond wait, so that what is written is read from cache."""


class DualRidge:
    """Ridge probes through the Gram matrix: ``G`` once per site and strength, folds as blocks of it."""

    def __init__(self, states: SiteStates, strengths: Float[Tensor, " strength"]) -> None:
        assert states.gram is not None
        self.strengths = strengths.to(states.device)
        self.n_sites = states.shape[0]
        self.inverse = bordered_inverse(states.gram, self.strengths, float(states.width))

    def left_out(
        self, parts: Sequence[Int[Tensor, "_"]], labels: Bool[Tensor, "example column"]
    ) -> list[Float[Tensor, "site strength _ column"]]:
        """Decision values of the removed examples: ``y_R - (G_RR)^-1 a_R``."""
        y = signs(labels).to(self.inverse.device)
        sites, n_strengths = self.inverse.shape[:2]
        found = [y.new_empty(sites, n_strengths, len(removed), y.shape[1]) for removed in parts]
        for site in _blocks(sites, n_strengths * max(map(len, parts)) ** 2):
            inverse = self.inverse[site]
            coefficients = inverse @ y
            for decided, removed in zip(found, parts, strict=True):
                decided[site] = self._without(removed.to(y.device), y, inverse, coefficients)
        return found

    def left_out_at(
        self,
        parts: Sequence[Int[Tensor, "_"]],
        labels: Bool[Tensor, "example column"],
        chosen: Int[Tensor, "site part column"],
    ) -> list[Float[Tensor, "site _ column"]]:
        """The same at the chosen strengths: only those that some column chose are solved."""
        y = signs(labels).to(self.inverse.device)
        found = [y.new_empty(self.n_sites, len(removed), y.shape[1]) for removed in parts]
        for site in range(self.n_sites):
            used, place = torch.unique(chosen[site], return_inverse=True)
            inverse = self.inverse[site, used][None]
            coefficients = inverse @ y
            for part, removed in enumerate(parts):
                path = self._without(removed.to(y.device), y, inverse, coefficients)
                found[part][site] = at_strength(path, place[None, part])[0]
        return found

    @staticmethod
    def _without(
        removed: Int[Tensor, " removed"],
        y: Float[Tensor, "example column"],
        inverse: Float[Tensor, "site strength example example"],
        coefficients: Float[Tensor, "site strength example column"],
    ) -> Float[Tensor, "site strength removed column"]:
        n, m = len(y), len(removed)
        # Gathered from the flattened matrix: twice as fast as indexing rows and columns.
        cells = (removed[:, None] * n + removed).flatten().expand(*inverse.shape[:2], -1)
        block = inverse.flatten(2).gather(2, cells).unflatten(2, (m, m))
        return y[removed] - torch.cholesky_solve(coefficients[:, :, removed], torch.linalg.cholesky(block))

    def loss(
        self, decisions: Float[Tensor, "*batch example column"], labels: Bool[Tensor, "example column"]
    ) -> Float[Tensor, "*batch column"]:
        """Summed squared residuals."""
        return squared_loss(decisions, labels)


def bordered_inverse(
    gram: Float[Tensor, "site example example"], strengths: Float[Tensor, " strength"], lift: float
) -> Float[Tensor, "site strength example example"]:
    """``G``: the upper left block of the inverse of ``[[K + alpha I, 1], [1^T, 0]]``.

    Coefficients sum to zero, so adding a constant ``lift`` to every entry of ``K`` changes nothing in exact
    arithmetic. It keeps the direction of ones, where centred states have no variance, from dominating the
    inverse and cancelling.
    """
    sites, n, _ = gram.shape
    inverse = gram.new_empty(sites, len(strengths), n, n)
    for site in _blocks(sites, n * n):
        lifted = gram[site] + lift
        # One strength after the other: a matrix that is factored and inverted while it is in the cache.
        for strength, alpha in enumerate(strengths.tolist()):
            own = lifted.clone()
            own.diagonal(dim1=-2, dim2=-1).add_(alpha)
            own = torch.cholesky_inverse(torch.linalg.cholesky(own))
            ones = own.sum(-1)
            shares = ones / ones.sum(-1, keepdim=True)
            torch.baddbmm(own, ones[..., None], shares[:, None], alpha=-1, out=inverse[site, strength])
    return inverse


def _blocks(sites: int, elements: int) -> list[slice]:
    """Sites in blocks of few enough elements to stay near the processor."""
    step = max(1, _CACHED // elements)
    return [slice(start, start + step) for start in range(0, sites, step)]


class PrimalRidge:
    """Ridge probes through sums of squares per training part, for fewer dimensions than examples."""

    def __init__(self, states: SiteStates, strengths: Float[Tensor, " strength"]) -> None:
        assert states.rows is not None
        self.rows = states.rows
        self.strengths = strengths.to(states.device)
        self.n_sites = states.shape[0]
        self._squares = self.rows.mT @ self.rows

    def left_out(
        self, parts: Sequence[Int[Tensor, "_"]], labels: Bool[Tensor, "example column"]
    ) -> list[Float[Tensor, "site strength _ column"]]:
        """Decision values of the removed examples."""
        y = signs(labels).to(self.rows.device)
        return [self._without(removed.to(self.rows.device), y) for removed in parts]

    def left_out_at(
        self,
        parts: Sequence[Int[Tensor, "_"]],
        labels: Bool[Tensor, "example column"],
        chosen: Int[Tensor, "site part column"],
    ) -> list[Float[Tensor, "site _ column"]]:
        """The same at the chosen strengths."""
        return [at_strength(path, chosen[:, part]) for part, path in enumerate(self.left_out(parts, labels))]

    def _without(
        self,
        removed: Int[Tensor, " removed"],
        y: Float[Tensor, "example column"],
    ) -> Float[Tensor, "site strength removed column"]:
        kept = others(removed, self.rows.shape[1])
        train, test, y = self.rows[:, kept], self.rows[:, removed], y[kept]
        mean, y_mean = train.mean(1, keepdim=True), y.mean(0)
        scatter = self._squares - test.mT @ test - mean.mT @ mean * len(y)
        products = train.mT @ (y - y_mean)
        decided = []
        for site in _blocks(len(train), len(self.strengths) * train.shape[2] ** 2):
            system = scatter[site, None].repeat(1, len(self.strengths), 1, 1)
            system.diagonal(dim1=-2, dim2=-1).add_(self.strengths[:, None])
            right = products[site, None].expand(-1, len(self.strengths), -1, -1)
            weights = torch.cholesky_solve(right, torch.linalg.cholesky(system))
            decided.append((test - mean)[site, None] @ weights + y_mean)
        return torch.cat(decided)

    def loss(
        self, decisions: Float[Tensor, "*batch example column"], labels: Bool[Tensor, "example column"]
    ) -> Float[Tensor, "*batch column"]:
        """Summed squared residuals."""
        return squared_loss(decisions, labels)
