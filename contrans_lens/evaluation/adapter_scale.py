"""The multiple of an adapter at which its damage is a given one.

Two adapters, or an adapter and a steering vector, are compared fairly at equal damage. The KL between a base model and
the base with ``s`` times an adapter grows about as ``s^2`` at first and faster later, since adapters of several blocks
act on each other. Every scale that is tried opens a model (one at a time), so few are: the search of
:mod:`contrans_lens.evaluation.budget_search`, with its secant on logarithms, where any power of ``s`` is a line.
"""

import gc
import math
from collections.abc import Callable, Sequence

from contrans_lens.errors import EvaluationError
from contrans_lens.evaluation.budget_search import BudgetSearch, SolvedStrength, search_together
from contrans_lens.evaluation.meter import DamageMeter
from contrans_lens.evaluation.model_change import require_same_tokens
from contrans_lens.models import HookedModel


def solve_adapter_scale(
    open_scaled: Callable[[float], HookedModel],
    base: HookedModel,
    texts: Sequence[str],
    budget: float,
    *,
    tolerance: float = 0.02,
    first_scale: float | int = 1.0,
    max_scale: float | int = 4.0,
    checks: int = 0,
    max_tokens: int | None = None,
    prompt_tokens: int | None = None,
    token_budget: int | None = None,
) -> SolvedStrength:
    """Smallest multiple of an adapter at which :func:`~contrans_lens.evaluation.model_damage`'s KL is a budget.

    Args:
        open_scaled: opens the model with the adapter at a scale above 0, e.g.
            ``lambda scale: open_model(folder, adapter_scale=scale)``.
        base: the model without the adapter.
        texts: neutral texts.
        budget: KL(base || changed), mean over tokens, nats per token, above 0.
        tolerance: relative; the KL ends this close to the budget.
        first_scale: tried first.
        max_scale: the largest multiple tried.
        checks: evenly spaced scales tried between zero and the answer in search of an earlier crossing, each of which
            opens a model; none by default, as damage of an adapter hardly ever falls on the way.
        max_tokens: use at most this many tokens of each text; the base's context if None.
        prompt_tokens: leave the first so many tokens of each text out of the measure.
        token_budget: most tokens in one forward pass; chosen by device if None.

    Returns:
        A :class:`SolvedStrength` whose ``strength`` is the scale. Where the budget is not reached, ``reached`` is False
        and ``strength`` is ``max_scale``.

    Raises:
        EvaluationError: a budget, tolerance or scale out of range; the models' tokens differ; logits that are not
            finite even where the budget should be reached.
        ModelError: ``open_scaled`` cannot open a model.
        TextError: no texts, or an empty one.
    """
    if not (math.isfinite(budget) and budget > 0):
        raise EvaluationError(f"a KL budget of {budget} is no damage; give nats per token above 0.")
    if not 0 < tolerance < 1:
        raise EvaluationError(f"tolerance is {tolerance}; a part of the budget between 0 and 1 was expected.")
    if not (math.isfinite(max_scale) and 0 < first_scale <= max_scale):
        raise EvaluationError(
            f"first_scale={first_scale}, max_scale={max_scale}: 0 < first_scale <= max_scale, both finite, is expected."
        )
    meter = DamageMeter(
        base, texts, max_tokens=max_tokens, prompt_tokens=prompt_tokens, token_budget=token_budget, details=False
    )

    def kl(scale: float) -> float:
        changed = open_scaled(scale)
        require_same_tokens(base, changed, texts, max_tokens)
        found = float(meter.totals_of_model(changed).kl.sum() / meter.counts.sum())
        del changed
        gc.collect()  # a Bridge is part of cycles: it would stay in memory beside the next model
        return found

    search = _PowerSearch(budget, tolerance, float(first_scale), float(max_scale), checks)
    search_together({"": search}, lambda asked: {"": [kl(scale) for scale in asked[""]]})
    return search.result(budget, "kl")


class _PowerSearch(BudgetSearch):
    """The search with its secant through the logarithms of scale and measure."""

    def _between(self, low: float, high: float) -> float:
        below, above = self.tried.get(low, 0.0), self.tried[high]
        # Every fourth step is left to the search itself, which bisects now and then whatever the shape of the curve.
        if not 0 < below < above < math.inf or len(self.tried) % 4 == 0:
            return super()._between(low, high)
        share = math.log(self.target / below) / math.log(above / below)
        return low * (high / low) ** min(max(share, 0.05), 0.95)
