"""Paired answers: how far a model leans towards one of two continuations, as an expectation in [-1, 1]."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from contrans_lens.errors import EvaluationError
from contrans_lens.evaluation.behaviours.behaviour import Measurement
from contrans_lens.evaluation.cells import Cell
from contrans_lens.evaluation.scores import score_steered
from contrans_lens.models import HookedModel
from contrans_lens.texts import EvaluationItem


@dataclass(frozen=True)
class PairedAnswers:
    """Behaviour expectation of paired answers (Wolf et al. 2024, arXiv 2401.16332, definition 1).

    With the probabilities of the two whole continuations renormalised to one, and +1 and -1 for their scores::

        B = E[score] = (P(pos) - P(neg)) / (P(pos) + P(neg)) = tanh((log P(pos) - log P(neg)) / 2)

    Columns: ``expectation`` (B), ``probability`` (P(pos) renormalised, ``(1 + B) / 2``), ``log_odds`` (nats, does not
    saturate), ``accuracy`` (1 where the positive continuation is the more probable, one half where they tie).
    """

    items: tuple[EvaluationItem, ...]
    name: str = "answers"
    primary: str = "expectation"

    def __post_init__(self) -> None:
        object.__setattr__(self, "items", tuple(self.items))
        if not self.items:
            raise EvaluationError("there are no items: give at least one prompt with two answers.")

    @property
    def groups(self) -> tuple[str, ...]:
        """Group of each item."""
        return tuple(item.group for item in self.items)

    def measure(self, model: HookedModel, cells: Sequence[Cell], *, token_budget: int | None = None) -> Measurement:
        """Measure every item under every cell.

        Raises:
            EvaluationError: an item that cannot be scored, or a log-probability that is not finite.
        """
        odds = score_steered(model, self.items, cells, measure="log_odds", token_budget=token_budget)
        columns = {
            "expectation": (odds / 2).tanh(),
            "probability": odds.sigmoid(),
            "log_odds": odds,
            "accuracy": (odds.sign() + 1) / 2,
        }
        return Measurement(self.name, columns, self.primary, self.groups)

    def with_prefix(self, prefix: str) -> "PairedAnswers":
        """The same items asked after a piece of text."""
        return replace(self, items=tuple(replace(item, prompt=prefix + item.prompt) for item in self.items))

    def to_dict(self) -> dict[str, Any]:
        """What decides the numbers, as JSON values."""
        return {"kind": "answers", "name": self.name, "items": [item.to_dict() for item in self.items]}
