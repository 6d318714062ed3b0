"""States of some sites, centred and scaled once, as rows or as a Gram matrix.

Every probe here has an unpenalised intercept, so it does not change when all states are shifted, and its
weights lie in the span of the training states, so inner products of states are all it needs. With more
dimensions than examples the Gram matrix ``K = X X^T`` is the smaller of the two and is all that is kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from contrans_lens.errors import LayerError

CONSTANT = 1e-6
"""Sites whose states differ by less than this share of their length are constant: float32 rounding does as much."""


@dataclass(frozen=True)
class SiteStates:
    """States of a few sites, float64, in units of their root mean square: all that a probe may look at."""

    rows: Float[Tensor, "site example d_model"] | None
    """The states themselves; None where the Gram matrix is kept."""
    gram: Float[Tensor, "site example example"] | None
    """Their inner products; None where the rows are kept."""
    width: int
    """``d_model``."""

    @property
    def shape(self) -> tuple[int, int]:
        """Sites and examples."""
        kept = self.gram if self.rows is None else self.rows
        assert kept is not None
        return kept.shape[0], kept.shape[1]

    @property
    def device(self) -> torch.device:
        """Where the states are."""
        kept = self.gram if self.rows is None else self.rows
        assert kept is not None
        return kept.device

    def products(
        self,
        tested: Int[Tensor, " tested"],
        trained: Int[Tensor, " trained"],
        coefficients: Float[Tensor, "*site trained column"],
    ) -> Float[Tensor, "site tested column"]:
        """``X_tested X_trained^T a``: what weights ``X_trained^T a`` give on the tested examples."""
        if self.gram is not None:
            return self.gram[:, tested[:, None], trained] @ coefficients
        assert self.rows is not None
        return self.rows[:, tested] @ (self.rows[:, trained].mT @ coefficients)


def site_states(states: Float[Tensor, "example site d_model"], dual: bool) -> tuple[SiteStates, list[int]]:
    """Centre and scale every site, and multiply out the Gram matrix where ``dual``.

    The mean is a convenience (the intercept makes it irrelevant). The scale is one number per site, the root
    mean square of the centred entries over all examples: angles and relative lengths stay as they are, and a
    strength means the same at every site, namely scikit-learn's on states of unit variance. It is fixed before
    any label is seen and only sets the unit of the strengths.

    Returns:
        The states, and the indices of sites whose states do not vary, which are set to zero.
    """
    rows = torch.empty(
        states.shape[1], states.shape[0], states.shape[2], dtype=torch.float64, device=states.device
    ).copy_(states.transpose(0, 1))
    length = rows.square().mean((1, 2)).sqrt()
    rows.sub_(rows.mean(1, keepdim=True))
    scale = rows.square().mean((1, 2)).sqrt()
    constant = scale <= CONSTANT * length
    rows.mul_(torch.where(constant, 0.0, 1 / scale.clamp_min(1e-300))[:, None, None])
    flat = torch.nonzero(constant).flatten().tolist()
    if not dual:
        return SiteStates(rows, None, states.shape[2]), flat
    return SiteStates(None, _gram(rows), states.shape[2]), flat


def _gram(rows: Float[Tensor, "site example d_model"]) -> Float[Tensor, "site example example"]:
    """``X X^T`` in blocks on and below the diagonal: nearly half of the products are spared."""
    n = rows.shape[1]
    gram = rows.new_empty(rows.shape[0], n, n)
    step = max(64, -(-n // 4))
    for start in range(0, n, step):
        stop = min(n, start + step)
        block = rows[:, start:] @ rows[:, start:stop].mT
        gram[:, start:, start:stop] = block
        gram[:, start:stop, start:] = block.mT
    return gram


def check_states(states: Float[Tensor, "example site d_model"], hook_points: Sequence[str]) -> None:
    """Raise where the states are not finite or not named.

    Raises:
        LayerError: NaN or infinite states, or hook points that do not name the sites one to one.
    """
    if len(hook_points) != states.shape[1] or len(set(hook_points)) != len(hook_points) or not len(hook_points):
        raise LayerError(
            f"states of {states.shape[1]} layers need as many different hook points; got {list(hook_points)}."
        )
    if not bool(torch.isfinite(states.sum(dtype=torch.float64))) and not bool(torch.isfinite(states).all()):
        bad = ~torch.isfinite(states).flatten(2).all(2)
        where = [hook_points[site] for site in torch.nonzero(bad.any(0)).flatten().tolist()]
        raise LayerError(
            f"{int(bad.any(1).sum())} of {len(states)} examples have NaN or infinite states, at {', '.join(where)}; "
            "look at their capture."
        )
