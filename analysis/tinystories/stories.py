"""Happiness against sadness in real stories: contrast texts, evaluation items, map texts and neutral texts.

Everything is cut out of stories, and a story is used in one role only: its part (train, validation, test) is decided
by a hash of its text, so no sentence of a test story has been seen by a vector, a map or a choice.
"""

import hashlib
import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from contrans_lens.texts import ContrastSet, EvaluationItem, PromptCue, cut_texts

MAX_CHARACTERS = 150
"""Length of a prompt: the target reads characters and has a context of 256."""

ADJECTIVES = (
    "happy", "sad", "excited", "scared", "proud", "sorry", "glad", "angry", "surprised", "upset", "afraid", "tired",
    "bored", "lonely", "worried", "mad", "nervous", "confused", "grateful",
)  # fmt: skip
FELT = re.compile(rf"\b(?:felt|feels?|was|were|is|became|looked)(?: very| so| really)? (?=({'|'.join(ADJECTIVES)})\b)")
POSITIVE, NEGATIVE = " happy", " sad"
READ_AT = ("decision", "word", "template")

# What the paper would do: a scenario, a question, and the last token of the question (here in words a story knows).
_HAPPY_EVENTS = (
    "got a new toy", "won the race", "ate a big cake", "found a lost puppy", "got a warm hug", "went to the fair",
    "played with a friend", "saw a rainbow", "got a gift from mom", "danced in the sun",
)  # fmt: skip
_SAD_EVENTS = (
    "lost a toy", "fell off the bike", "dropped the cake", "could not find the puppy", "was all alone",
    "had to stay home", "broke the cup", "saw the rain come", "got no gift at all", "hurt a knee",
)  # fmt: skip
_NAMES = ("Tom", "Lily", "Ben", "Mia", "Sam", "Anna", "Max", "Sue")


@dataclass(frozen=True)
class Moment:
    """A place in a story where somebody is about to be said to feel something."""

    prompt: str
    """The story up to the adjective, without the space before it."""
    adjective: str
    story: str
    """Name of the story, the group of a split."""


def load_stories(path: Path) -> list[str]:
    """The stories of a jsonl file with a ``text`` column."""
    return [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()]


def part_of(story: str) -> str:
    """``train`` (half), ``validation`` (a fifth) or ``test`` (three tenths), by hash."""
    draw = int(hashlib.sha256(story.encode()).hexdigest()[:8], 16) / 16**8
    return "train" if draw < 0.5 else "validation" if draw < 0.7 else "test"


def moments(stories: list[str]) -> Iterator[Moment]:
    """Every place where a feeling is about to be named."""
    for number, story in enumerate(stories):
        for match in FELT.finditer(story):
            prompt = _tail(story[: match.end() - 1])
            if len(prompt) >= 30:
                yield Moment(prompt, match.group(1), f"story {number}")


def concept(stories: list[str], *, read_at: str = "decision", n_test: int = 240, n_validation: int = 80) -> ContrastSet:
    """The contrast set.

    Args:
        stories: all stories.
        read_at: ``decision``: contrast texts stop right before " happy" or " sad"; ``word``: they stop after the word;
            ``template``: invented events with the question that the paper's template asks, in words of the stories.
        n_test: evaluation items from test stories.
        n_validation: evaluation items from validation stories.
    """
    texts: dict[str, list[tuple[str, str]]] = {"happy": [], "sad": []}
    for moment in moments([s for s in stories if part_of(s) == "train"]):
        if moment.adjective in texts:
            ending = f" {moment.adjective}" if read_at == "word" else ""
            texts[moment.adjective].append((moment.prompt + ending, moment.story))
    if read_at == "template":
        texts = {"happy": list(_templates(_HAPPY_EVENTS)), "sad": list(_templates(_SAD_EVENTS))}
    sides = {name: _balanced(found, texts, name) for name, found in texts.items()}
    items = []
    for part, count in (("validation", n_validation), ("test", n_test)):
        found = list(moments([s for s in stories if part_of(s) == part]))
        random.Random(part).shuffle(found)
        prompts = {m.prompt: m for m in found}
        items += [
            EvaluationItem(m.prompt, POSITIVE, NEGATIVE, f"{part} {m.story}", part)
            for m in list(prompts.values())[:count]
        ]
    return ContrastSet(
        name="happiness against sadness",
        positives=tuple(text for text, _ in sides["happy"]),
        negatives=tuple(text for text, _ in sides["sad"]),
        positive_groups=tuple(group for _, group in sides["happy"]),
        negative_groups=tuple(group for _, group in sides["sad"]),
        evaluation=tuple(items),
        prompt=PromptCue("Everyone was very happy. ", "Everyone was very sad. "),
    )


def map_texts(stories: list[str], kind: str, n: int = 2000, seed: int = 0) -> list[str]:
    """Texts that fit the map, from training stories.

    Args:
        stories: all stories.
        kind: ``random``: cut anywhere in mid-sentence; ``feeling``: cut before any feeling is named; ``both``.
        n: how many at most.
        seed: of the cuts.
    """
    train = [s for s in stories if part_of(s) == "train"]
    feeling = list(dict.fromkeys(m.prompt for m in moments(train)))
    if kind == "feeling":
        return feeling[:n]
    wanted = n - len(feeling) if kind == "both" else n
    cuts = [text for text in cut_texts(train, wanted, seed=seed, max_words=28) if len(text) <= 200]
    return feeling + cuts if kind == "both" else cuts


def neutral_texts(stories: list[str], n: int = 48) -> list[str]:
    """Beginnings of test stories that name no feeling in their first 160 characters."""
    beginnings = [s[:160].rsplit(" ", 1)[0] for s in stories if part_of(s) == "test"]
    return [text for text in beginnings if not FELT.search(text)][:n]


def _tail(text: str) -> str:
    """The end of a text, from the beginning of a sentence if one begins within reach."""
    tail = text[-MAX_CHARACTERS:].replace("\n", " ").strip()
    if len(text) <= MAX_CHARACTERS:
        return tail
    sentence = re.search(r"[.!?]\"? ", tail)
    return tail[sentence.end() :].strip() if sentence and len(tail) - sentence.end() >= 30 else tail.split(" ", 1)[1]


def _templates(events: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    for event in events:
        for name in _NAMES[:4]:
            yield f"One day, {name} {event}. {name} felt very", f"event {event}"


def _balanced(
    found: list[tuple[str, str]], texts: dict[str, list[tuple[str, str]]], name: str
) -> list[tuple[str, str]]:
    """As many of each side, so that neither is read from more stories."""
    unique = list(dict(found).items())
    random.Random(name).shuffle(unique)
    return unique[: min(len(dict(side)) for side in texts.values())]
