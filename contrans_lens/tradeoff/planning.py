"""A plan from what a user has: a direction, items that show the behaviour, questions, neutral text."""

from collections.abc import Mapping, Sequence

from contrans_lens.evaluation import Cell
from contrans_lens.evaluation.behaviours import Behaviour, Choices, LogitShift, NeutralText, PairedAnswers, Words
from contrans_lens.texts import choice_items_from_pairs
from contrans_lens.tradeoff.plan import SHIFT, SweepPlan


def tradeoff_plan(
    directions: Mapping[str, Cell],
    alignment: Behaviour,
    strengths: Sequence[float],
    *,
    helpfulness: Behaviour | None = None,
    neutral: Sequence[str] = (),
    others: Sequence[Behaviour] = (),
    mechanism: bool = True,
    max_neutral_tokens: int | None = None,
    strengths_per_unit: int | None = None,
    token_budget: int | None = None,
) -> SweepPlan:
    """A plan with its roles, its logit shifts and its neutral text.

    Args:
        directions: by name, what is swept; control draws as :func:`contrans_lens.tradeoff.family` names them.
        alignment: what is steered; values in [-1, 1] for the laws to apply.
        strengths: a symmetric grid (:func:`contrans_lens.tradeoff.strength_grid`).
        helpfulness: what it may cost, values in [0, 1].
        neutral: neutral texts for fluency and damage.
        others: further behaviours, such as judged generations.
        mechanism: measure logit shifts of paired answers and choices too, to predict the laws' constants.
        max_neutral_tokens: use at most this many tokens of each neutral text.
        strengths_per_unit: strengths computed in one go.
        token_budget: most tokens in one forward pass.

    Raises:
        TradeoffError: as :class:`SweepPlan`.
    """
    roles = {"alignment": alignment.name}
    behaviours: list[Behaviour] = [alignment]
    if helpfulness is not None:
        roles["helpfulness"] = helpfulness.name
        behaviours.append(helpfulness)
    if mechanism:
        behaviours += [shift for each in list(behaviours) if (shift := shift_of(each)) is not None]
    if neutral:
        behaviours.append(NeutralText(tuple(neutral), max_neutral_tokens))
    measured = (*behaviours, *others)
    return SweepPlan(dict(directions), measured, tuple(strengths), strengths_per_unit, token_budget, roles)


def shift_of(behaviour: Behaviour) -> LogitShift | None:
    """The logit shifts of a behaviour's items.

    None where it has no items with right and wrong answers, or compares anything but the probabilities of whole answers
    (lengths normalised, first tokens): shifts of whole answers would not be its own.
    """
    if isinstance(behaviour, PairedAnswers):
        return LogitShift(tuple(choice_items_from_pairs(behaviour.items)), behaviour.name + SHIFT)
    whole = (isinstance(behaviour, Choices) and behaviour.normalise == "none") or (
        isinstance(behaviour, Words) and behaviour.reading == "whole"
    )
    if isinstance(behaviour, Choices | Words) and whole:
        return LogitShift(behaviour.items, behaviour.name + SHIFT)
    return None
