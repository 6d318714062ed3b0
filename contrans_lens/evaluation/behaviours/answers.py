"""Paired answers: how far a model leans towards one of two continuations, as an expectation in [-1, 1]."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from contrans_lens.evaluation.behaviours.behaviour import ItemBehaviour, Measurement
from contrans_lens.evaluation.cells import Cell
from contrans_lens.evaluation.scores import score_steered
from contrans_lens.models import HookedModel
from contrans_lens.texts import EvaluationItem


@dataclass(frozen=True)
class PairedAnswers(ItemBehaviour[EvaluationItem]):
    """Behaviour expectation of paired answers (Wolf et al. 2024, arXiv 2401.16332, definition 1).

    With the probabilities of the two whole continuations renormalised to one, and +1 and -1 for their scores::

        B = E[score] = (P(pos) - P(neg)) / (P(pos) + P(neg)) = tanh((log P(pos) - log P(neg)) / 2)

    Columns: ``expectation`` (B), ``probability`` (P(pos) renormalised, ``(1 + B) / 2``), ``log_odds`` (nats, does not
    saturate), ``accuracy`` (1 where the positive continuation is the more probable, one half where they tie).
    """

    name: str = "answers"
    primary: str = "expectation"

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
        return replace(self, items=self._after(prefix))

    def to_dict(self) -> dict[str, Any]:
        """What decides the numbers, as JSON values."""
        return self._described("answers", name=self.name)
