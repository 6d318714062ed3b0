"""Multiple choice about what the embedded models can do apart from any concept, and about what they know.

Steering is paid for with helpfulness. These are the questions that show the price: they ask for nothing that a concept
of the world decides.
"""

import random

from contrans_lens.errors import TestbedError
from contrans_lens.testbed import phrases
from contrans_lens.testbed.world import (
    ANSWERS,
    NUMBERS,
    PEOPLE,
    RELATIONS,
    SOURCE_BLOCKS,
    TEST_BLOCKS,
    THINGS,
    VALIDATION_BLOCKS,
    build_world,
)
from contrans_lens.texts import ChoiceItem

CAPABILITIES = ("counting", "adding", "agreement", "possession")
"""The kinds of filler sentences, each a category of :func:`capability_items`."""

_BLOCKS = {"train": SOURCE_BLOCKS, "validation": VALIDATION_BLOCKS, "test": TEST_BLOCKS}
_WRONG = 3
_NEAR = 3  # wrong numbers lie at most so far from the right one
_SHOWN = 2  # numbers of a count that must be seen: one alone does not show the direction


def capability_items(n: int, seed: int = 0) -> list[ChoiceItem]:
    """Questions of counting, adding, agreement and possession, made from held-out sentences only.

    A held-out sentence (:func:`contrans_lens.testbed.phrases.is_held_out` of the whole of it) is cut before the word
    that decides, and stands after one whole held-out sentence of another kind, as in a document:

    * ``counting``: the next number, against three within three of it; grouped by the count shown.
    * ``adding``: the sum, against three numbers within three of it; grouped by the two numbers.
    * ``agreement``: " is" against " are", each right in half of the items; grouped by the words before.
    * ``possession``: the thing that was given, against three other things; grouped by the thing.

    The cut sentence as a whole was never trained on. Its beginning may have been, with another end, and there are few
    counts and sums: the items ask whether steering disturbs what the model can do, not how far it generalises.

    Args:
        n: Number of items; kinds take turns, so their numbers differ by at most one.
        seed: Seed of the sentences and of the wrong choices.

    Raises:
        TestbedError: `n` is below 1.
    """
    if n < 1:
        raise TestbedError(f"{n} capability items were asked for; at least 1 was expected.")
    rng = random.Random(f"capability:{seed}")
    items: dict[str, ChoiceItem] = {}
    while len(items) < n:
        turn, kind = divmod(len(items), len(CAPABILITIES))
        item = _capability_item(rng, CAPABILITIES[kind], plural=turn % 2 == 1)
        items.setdefault(item.prompt, item)
    return list(items.values())


def knowledge_items(split: str, seed: int = 0) -> list[ChoiceItem]:
    """Facts asked under a truthful cue, with all eight answers of the relation offered; grouped by land.

    Helpfulness for concepts other than honesty, which decides these very answers. The category is the relation.

    Args:
        split: "train" (lands that the sources know too), "validation" or "test".
        seed: Seed of the cues, the wording of the questions and the order of the answers.

    Raises:
        TestbedError: There is no such split.
    """
    if split not in _BLOCKS:
        raise TestbedError(f"no split {split!r} of the facts; there are {', '.join(_BLOCKS)}.")
    rng = random.Random(f"knowledge:{split}:{seed}")
    items = []
    for fact in build_world().facts_of(_BLOCKS[split], RELATIONS):
        cue = phrases.honesty_cue(rng, True, rng.choice(PEOPLE), "explicit")
        asked = phrases.question(fact, rng.choice(phrases.QUESTIONS))
        wrong = [answer for answer in ANSWERS[fact.relation] if answer != fact.truth]
        items.append(_item(rng, f"{cue}\n{asked}", fact.truth, wrong, fact.land.name, fact.relation, split))
    return items


def _capability_item(rng: random.Random, kind: str, plural: bool) -> ChoiceItem:
    before = _sentence(rng, *(each for each in CAPABILITIES if each != kind))
    cut = {"counting": _counting, "adding": _adding, "agreement": _agreement, "possession": _possession}[kind]
    while True:
        stem, right, wrong, group = cut(rng, _sentence(rng, kind))
        if kind != "agreement" or right == ("are" if plural else "is"):
            return _item(rng, f"{before} {stem}", right, wrong, f"{kind}: {group}", kind)


def _sentence(rng: random.Random, *kinds: str) -> str:
    """A held-out sentence of one of the kinds."""
    while True:
        sentence = phrases.filler_sentence(rng, held_out=True)
        if capability_of(sentence) in kinds:
            return sentence


def capability_of(sentence: str) -> str:
    """The kind of a filler sentence, one of ``CAPABILITIES``."""
    if sentence.startswith("Count "):
        return "counting"
    if ", so now there are " in sentence:
        return "adding"
    return "possession" if ". Now " in sentence else "agreement"


def _counting(rng: random.Random, sentence: str) -> tuple[str, str, list[str], str]:
    opening, shown = sentence.removesuffix(".").split(": ")
    words = shown.split()
    place = rng.randrange(_SHOWN, len(words))
    stem = f"{opening}: {' '.join(words[:place])}"
    return stem, words[place], _near_numbers(rng, words[place]), stem


def _adding(rng: random.Random, sentence: str) -> tuple[str, str, list[str], str]:
    stem, right = sentence.removesuffix(".").rsplit(" ", 1)
    first, second = [word for word in stem.split() if word in NUMBERS]
    return stem, right, _near_numbers(rng, right), f"{first} and {second}"


def _agreement(rng: random.Random, sentence: str) -> tuple[str, str, list[str], str]:
    stem, right, _ = sentence.rsplit(" ", 2)
    return stem, right, ["are" if right == "is" else "is"], stem


def _possession(rng: random.Random, sentence: str) -> tuple[str, str, list[str], str]:
    stem, right = sentence.removesuffix(".").rsplit(" ", 1)
    return stem, right, rng.sample([thing for thing in THINGS if thing != right], _WRONG), right


def _near_numbers(rng: random.Random, right: str) -> list[str]:
    place = NUMBERS.index(right)
    near = [word for i, word in enumerate(NUMBERS) if 0 < abs(i - place) <= _NEAR]
    return rng.sample(near, _WRONG)


def _item(
    rng: random.Random, prompt: str, right: str, wrong: list[str], group: str, category: str, split: str | None = None
) -> ChoiceItem:
    choices = [right, *wrong]
    rng.shuffle(choices)
    return ChoiceItem(
        prompt,
        tuple(f" {choice}" for choice in choices),
        (choices.index(right),),
        group=group,
        split=split,
        category=category,
    )
