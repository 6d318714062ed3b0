"""Multiple choice: TruthfulQA's MC0, MC1 and MC2, lettered answers, and the word choice of the ConTrans paper."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from contrans_lens.errors import EvaluationError
from contrans_lens.evaluation.behaviours.behaviour import ItemBehaviour, Measurement
from contrans_lens.evaluation.behaviours.choice_reading import ChoiceReading, read_choices, right_choices
from contrans_lens.evaluation.cells import Cell
from contrans_lens.models import HookedModel
from contrans_lens.texts import ChoiceItem

Normalisation = Literal["none", "tokens", "characters"]


@dataclass(frozen=True)
class Choices(ItemBehaviour[ChoiceItem]):
    """Multiple choice by the log-probability of whole choices.

    With ``s_j = log P(choice_j)``, divided by its tokens or characters where ``normalise`` says so, C the right choices
    and W the wrong ones:

    - ``p_mean``: ``sum_{j in C} P(choice_j)``, of the full vocabulary, never normalised by length: a model that answers
      in another format loses it;
    - ``p_restricted``: ``sum_{j in C} exp s_j / sum_j exp s_j``, over the offered choices (TruthfulQA's **MC2**, given
      as ``mc2`` too);
    - ``mc1``: 1 where the best right choice has the largest ``s`` among itself and W;
    - ``mc0``: 1 where it has a larger ``s`` than the one wrong choice that counts (TruthfulQA's two-way setting of
      2025, best answer against best incorrect answer); only where every item names that choice;
    - ``accuracy``: 1 where the choice of the largest ``s`` of all is right;
    - ``format_failure``: 1 where the most probable next token begins none of the choices.

    ``mc1``, ``mc0`` and ``accuracy`` count a tie of n as 1 / n.
    """

    normalise: Normalisation = "none"
    name: str = "choices"
    primary: str = "p_restricted"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_normalisation(self.normalise)

    @property
    def chance(self) -> float:
        """What guessing among the offered choices earns, mean over items; 0 for ``p_mean``."""
        return 0.0 if self.primary == "p_mean" else _chance(self.items)

    def measure(self, model: HookedModel, cells: Sequence[Cell], *, token_budget: int | None = None) -> Measurement:
        """Measure every item under every cell.

        Raises:
            EvaluationError: an item that cannot be scored, or a log-probability that is not finite.
        """
        reading = read_choices(model, self.items, cells, token_budget=token_budget)
        columns = choice_columns(reading, self.items, self.normalise)
        return Measurement(self.name, columns, self.primary, self.groups)

    def with_prefix(self, prefix: str) -> "Choices":
        """The same items asked after a piece of text."""
        return replace(self, items=self._after(prefix))

    def to_dict(self) -> dict[str, Any]:
        """What decides the numbers, as JSON values."""
        return self._described("choices", name=self.name, normalise=self.normalise)


@dataclass(frozen=True)
class Words(ItemBehaviour[ChoiceItem]):
    """Word choice as ConTrans scores emotions (Dong et al., arXiv 2405.13578): prompts such as ``Scenario: ...``.

    - ``token_accuracy``: 1 where greedy decoding writes the right word, every one of its tokens;
    - ``logit_accuracy``: 1 where the right word has the largest log-probability among the offered words. With
      ``reading="first"`` the words are compared by their first tokens, as the paper compares logits; ``"whole"``
      compares whole words, so that a word of several tokens pays for all of them. For one-token words both are the
      same;
    - ``p_mean``, ``p_restricted``: the right word's probability in the full vocabulary and among the words, read as
      ``reading`` says;
    - ``format_failure``: 1 where the most probable next token begins none of the words.
    """

    reading: Literal["whole", "first"] = "whole"
    name: str = "words"
    primary: str = "logit_accuracy"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reading not in ("whole", "first"):
            raise EvaluationError(f"reading is {self.reading!r}; 'whole' or 'first' is expected.")

    @property
    def chance(self) -> float:
        """What guessing among the offered choices earns, mean over items; 0 for ``p_mean``."""
        return 0.0 if self.primary == "p_mean" else _chance(self.items)

    def measure(self, model: HookedModel, cells: Sequence[Cell], *, token_budget: int | None = None) -> Measurement:
        """Measure every item under every cell.

        Raises:
            EvaluationError: an item that cannot be scored, two words that begin alike read by their first tokens, or a
                log-probability that is not finite.
        """
        found = read_choices(model, self.items, cells, token_budget=token_budget)
        if self.reading == "first":
            self._check_first_tokens(found)
        scores = found.log_p if self.reading == "whole" else found.first_log_p
        right = right_choices(self.items, found)
        columns = {
            "token_accuracy": (found.greedy & right).any(2).double(),
            "logit_accuracy": _wins(scores, right, found.mask),
            "p_mean": _share(scores, right).exp(),
            "p_restricted": (_share(scores, right) - scores.logsumexp(2)).exp(),
            "format_failure": (~found.on_format).double(),
        }
        return Measurement(self.name, columns, self.primary, self.groups)

    def with_prefix(self, prefix: str) -> "Words":
        """The same items asked after a piece of text."""
        return replace(self, items=self._after(prefix))

    def to_dict(self) -> dict[str, Any]:
        """What decides the numbers, as JSON values."""
        return self._described("words", name=self.name, reading=self.reading)

    def _check_first_tokens(self, found: ChoiceReading) -> None:
        for number, item in enumerate(self.items):
            tokens = found.first_tokens[number, : len(item.choices)].tolist()
            if len(set(tokens)) < len(tokens):
                raise EvaluationError(
                    f"two words of item {number} ({', '.join(item.choices)}) begin with the same token, so their first "
                    "tokens do not tell them apart; use reading='whole'."
                )


def choice_columns(
    reading: ChoiceReading, items: Sequence[ChoiceItem], normalise: Normalisation = "none"
) -> dict[str, Float[Tensor, "cell item"]]:
    """The columns of :class:`Choices` from what was read.

    Args:
        reading: log-probabilities of every choice.
        items: the items they belong to.
        normalise: what log-probabilities are divided by before choices are compared.
    """
    scores = choice_scores(reading, normalise)
    right = right_choices(items, reading)
    best = torch.zeros_like(right)
    best[torch.arange(len(items)), torch.tensor([item.best_index for item in items])] = True
    wrong = reading.mask & ~right
    columns = {
        "p_mean": _share(reading.log_p, right).exp(),
        "p_restricted": (_share(scores, right) - scores.logsumexp(2)).exp(),
        "accuracy": _wins(scores, right, reading.mask),
        "mc1": _wins(scores, best, best | wrong),
        "format_failure": (~reading.on_format).double(),
    }
    columns["mc2"] = columns["p_restricted"].clone()
    rivals = [item.rival for item in items]
    if all(rival is not None for rival in rivals):
        rival = torch.zeros_like(right)
        rival[torch.arange(len(items)), torch.tensor([each for each in rivals if each is not None])] = True
        columns["mc0"] = _wins(scores, best, best | rival)
    return columns


def choice_scores(reading: ChoiceReading, normalise: Normalisation = "none") -> Float[Tensor, "cell item choice"]:
    """Log-probabilities divided by length as ``normalise`` says, nats; minus infinity where there is no choice."""
    lengths = {"none": reading.mask.long(), "tokens": reading.n_tokens, "characters": reading.n_characters}[normalise]
    return torch.where(reading.mask, reading.log_p / lengths.clamp_min(1), -torch.inf)


def check_normalisation(normalise: str) -> None:
    """Check what log-probabilities are divided by.

    Raises:
        EvaluationError: it is none of the known ones.
    """
    if normalise not in ("none", "tokens", "characters"):
        raise EvaluationError(f"normalise is {normalise!r}; 'none', 'tokens' or 'characters' is expected.")


def _chance(items: Sequence[ChoiceItem]) -> float:
    return sum(len(item.correct) / len(item.choices) for item in items) / len(items)


def _share(
    scores: Float[Tensor, "cell item choice"], chosen: Bool[Tensor, "item choice"]
) -> Float[Tensor, "cell item"]:
    """Logarithm of the summed exponentials of the chosen scores."""
    return scores.masked_fill(~chosen, -torch.inf).logsumexp(2)


def _wins(
    scores: Float[Tensor, "cell item choice"],
    right: Bool[Tensor, "item choice"],
    offered: Bool[Tensor, "item choice"],
) -> Float[Tensor, "cell item"]:
    """Share of the right ones among the offered choices with the largest score (1 or 0 where nothing ties)."""
    among = scores.masked_fill(~offered, -torch.inf)
    top = (among == among.amax(2, keepdim=True)) & offered
    return (top & right).sum(2).double() / top.sum(2)
