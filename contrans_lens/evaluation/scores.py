"""The score of an evaluation item: ``P(positive) / (P(positive) + P(negative))``.

The probabilities are those of the whole continuation strings. With log-probabilities summed over tokens the
score is ``sigmoid(log P(positive) - log P(negative))``. Log-probabilities are taken in float32 (float64 where
the model is) and summed in float64.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from contrans_lens.errors import EvaluationError
from contrans_lens.evaluation.cells import Cell, Cells, stack_logits, steering
from contrans_lens.evaluation.continuations import plan_items
from contrans_lens.evaluation.stacked import StackedRuns
from contrans_lens.interventions import Edit
from contrans_lens.models import HookedModel
from contrans_lens.texts import EvaluationItem

Measure = Literal["probability", "log_odds"]


def score_items(
    model: HookedModel,
    items: Sequence[EvaluationItem],
    interventions: Edit | Sequence[Edit] = (),
    *,
    measure: Measure = "probability",
    batch_size: int | None = None,
    token_budget: int | None = None,
) -> Float[Tensor, " item"]:
    """Score items under interventions (none: the unsteered model).

    The score is that of the whole continuation strings, for any tokenizer: prompt and continuation are
    tokenised together, so tokens that merge across the prompt's end are right, and what both continuations
    begin with cancels. Of two continuations the shorter may be the beginning of the longer; its probability
    then includes the longer one's, so the score favours it by definition.

    Args:
        model: the model that answers.
        items: prompts with two continuations each.
        interventions: what is done to its residual stream; positions of kind "prompt" end where the
            continuation begins.
        measure: ``"probability"`` in [0, 1], or its ``"log_odds"``, which do not saturate.
        batch_size: most rows in one forward pass.
        token_budget: most tokens in one forward pass; chosen by device if None.

    Returns:
        One value per item, ``[item]``, float64.

    Raises:
        EvaluationError: no items, a continuation without tokens, equal continuations, an item longer than the
            context, or a log-probability that is not finite; the item is named.
        InterventionError: an intervention does not fit the model or the items' texts.
        FingerprintMismatchError: an intervention was made for another model.
    """
    runs = StackedRuns(model, plan_items(model, items), token_budget=token_budget, batch_size=batch_size)
    odds = torch.zeros(1, len(items), dtype=torch.float64)
    within = steering(model, interventions)
    for group in runs.groups():
        for part, logits in runs.logits(group, within=within):
            _add_reads(odds, part, logits, runs, group)
    return _scores(odds, items, measure)[0]


def score_vectors(
    model: HookedModel,
    items: Sequence[EvaluationItem],
    hook_point: str,
    additions: Float[Tensor, "vector d_model"],
    *,
    measure: Measure = "probability",
    token_budget: int | None = None,
    fan_out: bool | None = None,
) -> Float[Tensor, "vector item"]:
    """Score items under many vectors, each added alone at every position of one hook point.

    The same numbers as :func:`score_items` with one absolute addition at a time, from far less work: vectors are
    stacked as batch rows, what lies before the hook point is computed once per item, and only the positions
    that are read are unembedded.

    Args:
        model: the model that answers.
        items: prompts with two continuations each.
        hook_point: where the vectors are added, e.g. ``"blocks.3.hook_resid_post"``.
        additions: the vectors in the residual's own units, strength included, ``[vector, d_model]``.
        measure: ``"probability"`` or ``"log_odds"``.
        token_budget: most tokens in one forward pass; chosen by device if None.
        fan_out: share the part before the hook point between vectors; None finds out whether the model stands
            it.

    Returns:
        ``[vector, item]``, float64.

    Raises:
        HookPointError: the model has no such hook point.
        EvaluationError: as :func:`score_items`; or additions that are not finite or of another width.
    """
    cells = {hook_point: additions}
    return score_cells(model, items, cells, measure=measure, token_budget=token_budget, fan_out=fan_out)[hook_point]


def score_cells(
    model: HookedModel,
    items: Sequence[EvaluationItem],
    additions: Mapping[str, Float[Tensor, "_ d_model"]],
    *,
    measure: Measure = "probability",
    token_budget: int | None = None,
    fan_out: bool | None = None,
) -> dict[str, Float[Tensor, "_ item"]]:
    """Score items under the cells of a sweep: vectors at several hook points, each added alone.

    The same numbers as :func:`score_vectors` at one hook point after the other, but items are tokenised once and the
    unsteered model is run on each of them once, for all hook points. Several strengths of a vector, or both of its
    signs, are simply more vectors.

    Args:
        model: the model that answers.
        items: prompts with two continuations each.
        additions: by hook point, vectors in the residual's own units, strength included, ``[vector, d_model]``; their
            number may differ between hook points.
        measure: ``"probability"`` or ``"log_odds"``.
        token_budget: most tokens in one forward pass; chosen by device if None.
        fan_out: share the part before a hook point between vectors; None finds out whether the model stands it.

    Returns:
        By hook point, ``[vector, item]``, float64.

    Raises:
        HookPointError: the model has no such hook point.
        EvaluationError: no cells; or as :func:`score_vectors`.
    """
    check_cells(model, additions)
    rows = plan_items(model, items)
    runs = StackedRuns(model, rows, list(additions), token_budget=token_budget, fan_out=fan_out)
    odds = {name: torch.zeros(len(cells), len(items), dtype=torch.float64) for name, cells in additions.items()}
    for group in runs.groups(max(len(cells) for cells in additions.values())):
        for name, cells in additions.items():
            for part, logits in runs.logits(group, cells, name):
                _add_reads(odds[name], part, logits, runs, group)
    return {name: _scores(found, items, measure) for name, found in odds.items()}


def score_steered(
    model: HookedModel,
    items: Sequence[EvaluationItem],
    cells: Sequence[Cell],
    *,
    measure: Measure = "probability",
    token_budget: int | None = None,
) -> Float[Tensor, "cell item"]:
    """:func:`score_items` under many cells, each a tuple of interventions at one or several hook points.

    Args:
        model: the model that answers.
        items: prompts with two continuations each.
        cells: what is done to the model; the empty tuple is the unsteered model.
        measure: ``"probability"`` or ``"log_odds"``.
        token_budget: most tokens in one forward pass; chosen by device if None.

    Raises:
        EvaluationError: no cells; or as :func:`score_items`.
        FingerprintMismatchError: an intervention was made for another model.
        HookPointError: the model has no such hook point.
    """
    checked = Cells(model, cells)
    runs = checked.runs(model, plan_items(model, items), token_budget=token_budget)
    odds = torch.zeros(len(checked), len(items), dtype=torch.float64)
    for group in runs.groups(checked.widest):
        for numbers, logits in stack_logits(runs, group, checked.stacks):
            _add_reads(odds, numbers, logits, runs, group)
    return _scores(odds, items, measure)


def check_cells(model: HookedModel, additions: Mapping[str, Float[Tensor, "_ d_model"]]) -> None:
    """Check that there are cells, and the additions of each hook point.

    Raises:
        EvaluationError: they cannot be used.
    """
    if not additions:
        raise EvaluationError("there are no cells: give additions for at least one hook point.")
    for name, cells in additions.items():
        check_additions(model, cells, f" at {name}" if len(additions) > 1 else "")


def check_additions(model: HookedModel, additions: Float[Tensor, "vector d_model"], where: str = "") -> None:
    """Check that additions are there, finite, and as wide as the residual stream; ``where`` is named in errors.

    Raises:
        EvaluationError: they are not.
    """
    if len(additions) == 0 or additions.shape[1] != model.cfg.d_model:
        raise EvaluationError(
            f"additions{where} have shape {list(additions.shape)}; [vector, {model.cfg.d_model}] with at least one "
            "vector was expected."
        )
    if not bool(torch.isfinite(additions).all()):
        bad = int((~torch.isfinite(additions)).any(1).nonzero()[0])
        raise EvaluationError(f"addition {bad}{where} holds NaN or infinity; look at what produced it.")


def log_probabilities(logits: Float[Tensor, "*batch vocab"]) -> Float[Tensor, "*batch vocab"]:
    """Log-softmax over the vocabulary in float32, or float64 where the logits are."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return wide.log_softmax(-1)


def _add_reads(
    odds: Float[Tensor, "vector item"],
    part: slice | list[int],
    logits: Float[Tensor, "part row read vocab"],
    runs: StackedRuns,
    group: Sequence[int],
) -> None:
    """Add the signed log-probabilities that one group of rows contributes to the log-odds of its items."""
    log_p = log_probabilities(logits)
    places = []
    for row, index in enumerate(group):
        column = {position: place for place, position in enumerate(runs.positions(index))}
        places += [(row, column[read.position], read.token, read.item, read.sign) for read in runs.rows[index].reads]
    row_at, column_at, token_at, item_at, sign = torch.tensor(places).T
    device = log_p.device
    values = log_p[:, row_at.to(device), column_at.to(device), token_at.to(device)].to("cpu", torch.float64)
    odds[part] = odds[part].index_add(1, item_at, values * sign)


def _scores(
    odds: Float[Tensor, "vector item"], items: Sequence[EvaluationItem], measure: Measure
) -> Float[Tensor, "vector item"]:
    if not bool(torch.isfinite(odds).all()):
        vector, item = (~torch.isfinite(odds)).nonzero()[0].tolist()
        raise EvaluationError(
            f"a log-probability of item {item} ({items[item].prompt[-40:]!r}) is not finite under vector "
            f"{vector}: the model's logits hold NaN or infinity. Lower the strength or use a wider dtype."
        )
    return odds.sigmoid() if measure == "probability" else odds
