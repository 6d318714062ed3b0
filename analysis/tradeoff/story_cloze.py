"""Which word comes next? Questions cut out of stories: what a story model can do apart from any feeling."""

import math
import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from contrans_lens.texts import ChoiceItem

LONGEST, SHORTEST = 100, 40
"""Characters of a prompt."""
WRONG = 3
_WORD = re.compile(r"[A-Za-z]+")
_AFTER = re.compile(r"(?<=[a-z]) ([a-z]{3,})(?=[ ,.!?])")
_SENTENCE = re.compile(r"[.!?]\"? (?=[A-Z])")


@dataclass(frozen=True)
class _Place:
    story: int
    before: str
    """The word before."""
    word: str
    start: int
    """Where the space before the word stands."""


def cloze_items(stories: Sequence[str], n: int, without: Sequence[str] = (), seed: int = 0) -> list[ChoiceItem]:
    """The right next word against three that follow the same word in other stories.

    Wrong words are as frequent as the right one (within a factor of two over all the stories) and about as long (within
    two letters); none begins with another. Words have three letters or more. One item a story, which is its group.

    Args:
        stories: held-out stories.
        n: items at most.
        without: words that are neither asked for nor offered, such as those of feelings.
        seed: of the choice of places and words.
    """
    rng = random.Random(f"cloze:{seed}")
    frequency = Counter(word for story in stories for word in _WORD.findall(story))
    every = [place for number, story in enumerate(stories) for place in _places(number, story)]
    places = [place for place in every if place.word not in without]
    followers: dict[str, dict[str, set[int]]] = {}
    for place in places:
        followers.setdefault(place.before, {}).setdefault(place.word, set()).add(place.story)
    by_story: dict[int, list[_Place]] = {}
    for place in places:
        by_story.setdefault(place.story, []).append(place)
    items: list[ChoiceItem] = []
    for number in rng.sample(sorted(by_story), len(by_story)):
        for place in rng.sample(by_story[number], len(by_story[number])):
            prompt = _prompt(stories[number][: place.start])
            wrong = _wrong(rng, place, followers[place.before], frequency)
            if prompt and wrong:
                items.append(_item(rng, prompt, place.word, wrong, f"story {number}"))
                break
        if len(items) == n:
            break
    return items


def _places(number: int, story: str) -> list[_Place]:
    found = []
    for match in _AFTER.finditer(story):
        before = _WORD.findall(story[max(0, match.start() - 20) : match.start()])
        if before and match.start() >= SHORTEST:
            found.append(_Place(number, before[-1], match.group(1), match.start()))
    return found


def _prompt(text: str) -> str:
    """The end of a text from the beginning of a sentence, or nothing where none begins within reach."""
    tail = text[-LONGEST:]
    starts = [match.end() for match in _SENTENCE.finditer(tail)] + ([0] if len(text) <= LONGEST else [])
    fitting = [start for start in starts if len(tail) - start >= SHORTEST]
    return tail[min(fitting) :].replace("\n", " ").strip() if fitting else ""


def _wrong(
    rng: random.Random, place: _Place, followers: dict[str, set[int]], frequency: Counter[str]
) -> list[str] | None:
    def fits(word: str) -> bool:
        near = abs(math.log2(frequency[word] / frequency[place.word])) <= 1 and abs(len(word) - len(place.word)) <= 2
        nested = word.startswith(place.word) or place.word.startswith(word)
        return near and not nested and bool(followers[word] - {place.story})

    found = sorted(word for word in followers if fits(word))
    rng.shuffle(found)
    chosen: list[str] = []
    for word in found:
        if not any(word.startswith(other) or other.startswith(word) for other in chosen):
            chosen.append(word)
    return chosen[:WRONG] if len(chosen) >= WRONG else None


def _item(rng: random.Random, prompt: str, right: str, wrong: list[str], group: str) -> ChoiceItem:
    choices = [right, *wrong]
    rng.shuffle(choices)
    return ChoiceItem(prompt, tuple(f" {word}" for word in choices), (choices.index(right),), group=group)
