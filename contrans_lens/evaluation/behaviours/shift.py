"""What a direction does to the logits that decide: the quantities behind the laws of alignment and helpfulness.

With ``delta(r)`` the change of the final state (what the unembedding reads) at the decision token, logits change by
``<delta, U^T e_i>``, so every quantity but ``||delta||`` is read off the log-probabilities themselves::

    ||delta||                     norm of the change of the final state
    gap   = z_right - z_wrong     change of log P(right choices) - log P(wrong choices)
    s_i   = z_i - z_right         change of wrong answer i against the right ones
    mu, sigma                     mean and spread of s_i over wrong answers, weighted by their unsteered probability

(Wolf et al. 2024, arXiv 2401.16332, sections 3 and 4, where ``gap / ||delta||`` is Delta twice over, ``||delta|| / r``
lambda, and ``sigma / r`` the coefficient of the bell.)
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from contrans_lens.errors import EvaluationError
from contrans_lens.evaluation.behaviours.behaviour import ItemBehaviour, Measurement
from contrans_lens.evaluation.behaviours.choice_reading import ChoicePlan, read_choices, right_choices
from contrans_lens.evaluation.cells import Cell, Cells, stack_logits
from contrans_lens.evaluation.passes import unembedding
from contrans_lens.evaluation.scores import log_probabilities
from contrans_lens.models import HookedModel
from contrans_lens.texts import ChoiceItem


@dataclass(frozen=True)
class LogitShift(ItemBehaviour[ChoiceItem]):
    """Changes of the final state and of the logits, item by item, against the unsteered model.

    Columns: ``delta`` (``||delta||``, in units of the final state), ``gap`` (nats), ``mu`` and ``sigma`` over the wrong
    choices that are offered (whole choices, nats), ``mu_full`` and ``sigma_full`` over the whole vocabulary but the
    first tokens of the right choices, ``p0`` (the right choices' share of the offered probability, unsteered) and
    ``p0_full`` (the probability of their first tokens in the full vocabulary, unsteered).
    """

    name: str = "shift"
    primary: str = "gap"

    def measure(self, model: HookedModel, cells: Sequence[Cell], *, token_budget: int | None = None) -> Measurement:
        """Measure every item under every cell.

        Raises:
            EvaluationError: the model has no ``unembed`` module whose input could be read, an item that cannot be
                scored, or log-probabilities that are not finite.
        """
        with_base = [(), *cells]
        reading = read_choices(model, self.items, with_base, token_budget=token_budget)
        right = right_choices(self.items, reading)
        change = torch.where(reading.mask, reading.log_p - reading.log_p[:1], 0.0)
        base = reading.log_p[:1]
        right_mass = base.masked_fill(~right, -torch.inf)
        wrong_mass = base.masked_fill(~(reading.mask & ~right), -torch.inf)
        gap_of = _log_mass(reading.log_p, right) - _log_mass(reading.log_p, reading.mask & ~right)
        of_right = (change * right_mass.softmax(2)).sum(2, keepdim=True)
        mu, sigma = _moments(change - of_right, wrong_mass.softmax(2))
        delta, mu_full, sigma_full, p0_full = self._at_decision(model, with_base, token_budget)
        columns = {
            "delta": delta,
            "gap": gap_of - gap_of[:1],
            "mu": mu,
            "sigma": sigma,
            "mu_full": mu_full,
            "sigma_full": sigma_full,
            "p0": gap_of[:1].sigmoid().expand_as(mu),
            "p0_full": p0_full.expand_as(mu),
        }
        return Measurement(
            self.name, {name: each[1:].contiguous() for name, each in columns.items()}, self.primary, self.groups
        )

    def with_prefix(self, prefix: str) -> "LogitShift":
        """The same items asked after a piece of text."""
        return replace(self, items=self._after(prefix))

    def to_dict(self) -> dict[str, Any]:
        """What decides the numbers, as JSON values."""
        return self._described("shift", name=self.name)

    def _at_decision(
        self, model: HookedModel, cells: Sequence[Cell], token_budget: int | None
    ) -> tuple[Float[Tensor, "cell item"], ...]:
        """``||delta||`` and the moments over the vocabulary at the position that decides each item."""
        plan = ChoicePlan(model, self.items)
        rows = plan.decision_rows()
        checked = Cells(model, cells)
        runs = checked.runs(model, rows, token_budget=token_budget)
        delta, mu, sigma = (torch.zeros(len(cells), len(rows), dtype=torch.float64) for _ in range(3))
        p0 = torch.zeros(1, len(rows), dtype=torch.float64)
        with _final_states(model) as latest:
            for group in runs.groups(checked.widest):
                # Shifts are told from here on: the same rows, in a pass of their own.
                [(_, plain)] = runs.logits(group)
                base, origin = log_probabilities(plain)[0, :, 0], latest[0][:, 0]
                right = torch.stack([plan.right_tokens(index, base.shape[-1]) for index in group]).to(base.device)
                p0[0, group] = base.exp().masked_fill(~right, 0).sum(-1).to("cpu", torch.float64)
                for numbers, logits in stack_logits(runs, group, checked.stacks):
                    states = latest[0][:, 0].unflatten(0, (-1, len(group)))
                    moved = (states - origin).double().norm(dim=-1)
                    where = torch.tensor(numbers)[:, None], torch.tensor(group)
                    delta[where] = moved.to("cpu", torch.float64).expand(len(numbers), -1)
                    shift = (log_probabilities(logits)[:, :, 0] - base).double()
                    of_right = (shift * base.masked_fill(~right, -torch.inf).softmax(-1)).sum(-1, keepdim=True)
                    weights = base.masked_fill(right, -torch.inf).softmax(-1)
                    mu[where], sigma[where] = (each.cpu() for each in _moments(shift - of_right, weights))
        return delta, mu, sigma, p0


def _log_mass(log_p: Float[Tensor, "cell item choice"], chosen: Tensor) -> Float[Tensor, "cell item"]:
    return log_p.masked_fill(~chosen, -torch.inf).logsumexp(2)


def _moments(
    values: Float[Tensor, "cell item answer"], weights: Float[Tensor, "*first item answer"]
) -> tuple[Float[Tensor, "cell item"], Float[Tensor, "cell item"]]:
    """Weighted mean and standard deviation over answers."""
    mean = (values * weights).sum(-1)
    variance = ((values - mean[..., None]).square() * weights).sum(-1)
    return mean, variance.clamp_min(0).sqrt()


@contextmanager
def _final_states(model: HookedModel) -> Iterator[list[Tensor]]:
    """What the unembedding read in the latest pass, ``[row, read, d_model]``, as the only entry of a list."""
    module = unembedding(model)
    if module is None:
        raise EvaluationError("the model has no module 'unembed', so its final states cannot be read.")
    latest: list[Tensor] = []

    def keep(_module: nn.Module, args: tuple[Tensor, ...], _output: Tensor) -> None:
        latest[:] = [args[0].detach()]

    handle = module.register_forward_hook(keep)
    try:
        yield latest
    finally:
        handle.remove()
