"""Neutral text as a behaviour: what every cell does to text that has nothing to do with the concept."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from contrans_lens.errors import EvaluationError
from contrans_lens.evaluation.behaviours.behaviour import Measurement
from contrans_lens.evaluation.cells import Cell, Cells
from contrans_lens.evaluation.meter import DamageMeter, warn_of_unseen_damage
from contrans_lens.models import HookedModel


@dataclass(frozen=True)
class NeutralText:
    """Fluency on neutral text and distance from the unsteered model, text by text.

    Columns, means over the tokens of a text (:mod:`contrans_lens.evaluation.damage` has the equations): ``nll`` (nats
    per token; perplexity is its exponential), ``kl`` (KL(unsteered || steered), nats per token), ``tv`` (total
    variation, [0, 1]), ``top_changed`` (share of tokens with another most probable token). Texts count by their tokens.
    Whole numbers of a cell: ``kl_p95`` and ``tv_p95``, percentiles over all tokens.
    """

    texts: tuple[str, ...]
    max_tokens: int | None = None
    """Use at most this many tokens of each text; the model's context if None."""
    prompt_tokens: int | None = None
    """First tokens of each text (BOS included) that are its prompt: only what follows is measured. Needed where
    interventions begin at the end of the prompt; None measures everything."""
    name: str = "neutral"
    primary: str = "kl"

    def __post_init__(self) -> None:
        object.__setattr__(self, "texts", tuple(self.texts))
        if not self.texts:
            raise EvaluationError("there are no neutral texts: give at least two, so that there is an interval.")

    @property
    def groups(self) -> tuple[str, ...]:
        """Every text is its own group."""
        return ("",) * len(self.texts)

    def measure(self, model: HookedModel, cells: Sequence[Cell], *, token_budget: int | None = None) -> Measurement:
        """Measure every text under every cell.

        Raises:
            EvaluationError: a text with nothing to predict, or logits that are not finite.
        """
        warn_of_unseen_damage([edit for cell in cells for edit in cell], self.prompt_tokens)
        checked = Cells(model, cells)
        points = checked.first_hook_points
        meter = DamageMeter(
            model,
            self.texts,
            points,
            max_tokens=self.max_tokens,
            prompt_tokens=self.prompt_tokens,
            token_budget=token_budget,
        )
        totals = meter.totals_of(checked)
        finite = totals.kl.isfinite() & totals.nll.isfinite()
        if totals.tv is None or totals.token_tv is None or totals.changed is None or not bool(finite.all()):
            cell, text = (~finite).nonzero()[0].tolist()
            raise EvaluationError(
                f"the logits of neutral text {text} under cell {cell} hold NaN or infinity. Lower the strength or use "
                "a wider dtype."
            )
        counts = meter.counts.double()
        columns = {"kl": totals.kl, "nll": totals.nll, "tv": totals.tv, "top_changed": totals.changed}
        percentiles = {"kl_p95": totals.token_kl, "tv_p95": totals.token_tv}
        return Measurement(
            self.name,
            {name: values / counts for name, values in columns.items()},
            self.primary,
            self.groups,
            counts,
            {name: values.quantile(0.95, dim=1) for name, values in percentiles.items()},
        )

    def with_prefix(self, prefix: str) -> "NeutralText":
        """The same texts after a piece of text. Its damage is :func:`contrans_lens.evaluation.prompt_damage`."""
        return replace(self, texts=tuple(prefix + text for text in self.texts))

    def to_dict(self) -> dict[str, Any]:
        """What decides the numbers, as JSON values."""
        described = {"kind": "neutral", "name": self.name, "texts": list(self.texts), "max_tokens": self.max_tokens}
        return described if self.prompt_tokens is None else {**described, "prompt_tokens": self.prompt_tokens}
