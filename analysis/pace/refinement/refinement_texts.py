"""What is read and what is asked: contrasts of a concept, whole, few, mixed with another concept; test items."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from contrans_lens.evaluation.behaviours import Behaviour, Choices, PairedAnswers
from contrans_lens.pipeline import Settings, split_concept
from contrans_lens.testbed import capability_items, concept, phrases
from contrans_lens.testbed.world import EMOTIONS, PEOPLE
from contrans_lens.texts import ContrastSet, ContrastSplits, EvaluationItem

MAIN = ("honesty", "kindness", "sadness")
"""Concepts of every setting."""
CONCEPTS = ("honesty", "kindness", *EMOTIONS)
"""Concepts that are asked about; those beside the main ones are transplanted in the plain setting alone."""
FAMILY = {"honesty": "honesty", "kindness": "kindness"} | dict.fromkeys(EMOTIONS, "emotions")
"""Concepts of one family share their items' groups, and are no leak of each other."""
OWN_TOPICS = {"honesty": ("honesty", "lying"), "kindness": ("kindness", "unkindness"), "emotions": EMOTIONS}
"""Topics of the dictionary that a family's contrasts are about, both sides of them."""
CONFOUNDS = {
    "honesty": ("kindness", "sadness"),
    "kindness": ("honesty", "sadness"),
    "sadness": ("honesty", "kindness"),
}
"""What else a mixed contrast set is about."""
N_CAPABILITY = 40


@dataclass(frozen=True)
class Mixture:
    """Which pairs of two contrast sets make a mixed one, and which of the second are left to know it by."""

    own: tuple[int, ...]
    other: tuple[int, ...]
    left: tuple[int, ...]
    """Pairs of the other concept that are not in the mixture."""


def splits_of(name: str, n_items: int) -> ContrastSplits:
    """A concept of the world with at most so many items to choose on and to score on."""
    whole = ContrastSet.from_dict(concept(name))
    kept: list[EvaluationItem] = []
    for part in ("validation", "test"):
        items = [item for item in whole.evaluation if item.split == part]
        places = {int(i * len(items) / n_items) for i in range(n_items)} if len(items) > n_items else range(len(items))
        kept += [items[i] for i in sorted(places)]
    return split_concept(replace(whole, evaluation=tuple(kept)), Settings())


def mixture(n_own: int, n_other: int) -> Mixture:
    """As many pairs of the one as of the other; half of the other's are left over."""
    rng = random.Random(0)
    others = rng.sample(range(n_other), n_other)
    n = min(n_own, n_other // 2)
    return Mixture(tuple(sorted(rng.sample(range(n_own), n))), tuple(sorted(others[:n])), tuple(sorted(others[n:])))


def few_pairs(n_own: int, n: int, draws: int) -> list[list[int]]:
    """Random subsets of the pairs."""
    rng = random.Random(n)
    return [sorted(rng.sample(range(n_own), n)) for _ in range(draws)]


def with_second_cue(train: ContrastSet, other: str) -> tuple[list[str], list[str]]:
    """Both sides of a contrast set with a cue of another concept after the first line: positive with positive."""
    rng = random.Random(0)
    sides: tuple[list[str], list[str]] = ([], [])
    for pair in zip(train.positives, train.negatives, strict=True):
        who, state = rng.choice(PEOPLE), rng.random()
        for side, text in enumerate(pair):
            drawn = random.Random(state)
            positive = side == 0
            if other == "honesty":
                cue = phrases.honesty_cue(drawn, positive, who, "explicit")
            else:
                cue = phrases.tone_cue(drawn, positive, who)
            first, rest = text.split("\n", 1)
            sides[side].append(f"{first}\n{cue}\n{rest}")
    return sides


def behaviours(splits: Mapping[str, ContrastSplits], part: str) -> list[Behaviour]:
    """The answers that each concept decides; for test items what the model can do beside them too."""
    made: list[Behaviour] = [
        PairedAnswers(tuple(getattr(each, part).evaluation), name, "log_odds") for name, each in splits.items()
    ]
    if part == "test":
        made.append(Choices(tuple(capability_items(N_CAPABILITY)), name="capability"))
    return made


def unrelated(items: Sequence[EvaluationItem], name: str) -> list[bool]:
    """Which items offer an answer that is not the concept's own word on either side."""
    return [name not in (item.positive.strip(), item.negative.strip()) for item in items]
