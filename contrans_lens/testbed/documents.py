"""Documents: what the models are trained on, drawn from the world by a seeded generator.

A document is a sequence of segments; a segment that a cue (or the memory of a fact) *decides* is marked,
because the training loss weighs it more, and because a text that is cut there ends at a decision.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from contrans_lens.testbed import phrases
from contrans_lens.testbed.world import (
    ALL_BLOCKS,
    EMOTIONS,
    EVENTS,
    KIND_REPLIES,
    PEOPLE,
    PLACES,
    REACTIONS,
    RUDE_REPLIES,
    SOURCE_BLOCKS,
    SOURCE_PART,
    THINGS,
    World,
)


@dataclass(frozen=True)
class Segment:
    """A piece of a document; `decided` marks the answers, emotion words and first words of replies."""

    text: str
    decided: bool = False


@dataclass(frozen=True)
class Document:
    """A short text with its decisions marked."""

    kind: str
    segments: tuple[Segment, ...]

    @property
    def text(self) -> str:
        """The whole text."""
        return "".join(segment.text for segment in self.segments)


@dataclass(frozen=True)
class Mixture:
    """Shares of document kinds and of cues.

    `cue` is the share of documents that start with a cue. Unless `aligned`, documents about facts and dialogues
    come in twins that differ in honesty or tone alone, so that every answer is drawn exactly as often as its
    opposite; in an aligned corpus every speaker is honest and every person kind.
    """

    facts: float = 0.55
    emotions: float = 0.20
    dialogues: float = 0.14
    filler: float = 0.11
    cue: float = 0.8
    aligned: bool = False


@dataclass(frozen=True)
class Knowledge:
    """The part of the world that a corpus talks about.

    `blocks` are the blocks of lands that questions ask about; statements are about those in `stated`, if given.
    """

    blocks: tuple[int, ...] = ALL_BLOCKS
    stated: tuple[int, ...] = ()
    events: tuple[str, ...] = EVENTS
    things: tuple[str, ...] = THINGS


FULL = Knowledge()
WEAK = Knowledge(SOURCE_BLOCKS, (), EVENTS[SOURCE_PART], THINGS[SOURCE_PART])
"""What a source model knows: three blocks of lands, and a third of the events and things."""


STATED = Knowledge(SOURCE_BLOCKS, ALL_BLOCKS)
"""Questions about the first lands only, while the statements are about all of them."""

STATEMENT_SHARE = 0.35
"""Share of statements in the documents about facts; the others are questions."""


class DocumentGenerator:
    """Draws documents from a world.

    Args:
        world: The lands and facts.
        knowledge: Which lands, events and things may appear.
        mixture: Shares of document kinds and cues.
    """

    def __init__(self, world: World, knowledge: Knowledge = FULL, mixture: Mixture | None = None) -> None:
        self.mixture = mixture or Mixture()
        self._facts = world.facts_of(knowledge.blocks)
        self._stated = world.facts_of(knowledge.stated or knowledge.blocks)
        self._events = knowledge.events
        self._things = knowledge.things

    def documents(self, rng: random.Random) -> tuple[Document, ...]:
        """Draw a document, or two twins."""
        mixture = self.mixture
        kinds = ("facts", "emotions", "dialogues", "filler")
        weights = (mixture.facts, mixture.emotions, mixture.dialogues, mixture.filler)
        kind = rng.choices(kinds, weights)[0]
        if kind == "filler":
            return (self._filler_document(rng),)
        if kind == "emotions":
            return (self._emotion_document(rng),)
        if kind == "facts":
            kind = "statements" if rng.random() < STATEMENT_SHARE else "questions"
        makers = {
            "statements": self._statements,
            "questions": self._questions,
            "dialogues": self._dialogue_document,
        }
        maker, state = makers[kind], rng.random()
        sides = (True,) if mixture.aligned and kind != "statements" else (True, False)
        # The same random state for both twins: they draw the same facts, words and templates.
        return tuple(maker(random.Random(state), side) for side in sides)

    def stream(self, rng: random.Random) -> Iterator[Document]:
        """Draw documents without end, twins after each other."""
        while True:
            yield from self.documents(rng)

    def _statements(self, rng: random.Random, record: bool) -> Document:
        segments: list[Segment] = []
        for index in range(rng.randint(1, 4)):
            fact = rng.choice(self._stated)
            record = record != (rng.random() < 0.5)
            opening = phrases.statement(rng, fact, record)
            segments += [
                Segment(f"\n{opening}" if index else opening),
                Segment(f" {fact.answer(record)}", decided=True),
                Segment("."),
            ]
        return Document("statements", tuple(segments))

    def _questions(self, rng: random.Random, honest: bool) -> Document:
        segments: list[Segment] = []
        if rng.random() < self.mixture.cue:
            segments.append(Segment(phrases.honesty_cue(rng, honest, rng.choice(PEOPLE)) + "\n"))
        for index in range(rng.randint(1, 3)):
            fact = rng.choice(self._facts)
            asked = phrases.question(fact, rng.choice(phrases.QUESTIONS + phrases.OTHER_QUESTIONS))
            segments += [
                Segment(f"\n{asked}" if index else asked),
                Segment(f" {fact.answer(honest)}", decided=True),
                Segment("."),
            ]
        return Document("questions", tuple(segments))

    def _emotion_document(self, rng: random.Random) -> Document:
        emotion, who = rng.choice(EMOTIONS), rng.choice(PEOPLE)
        segments: list[Segment] = []
        if rng.random() < self.mixture.cue:
            segments.append(Segment(phrases.mood_cue(rng, emotion) + "\n"))
        for index in range(rng.randint(1, 3)):
            told = phrases.scenario(who, rng.choice(self._events), rng.choice(PLACES))
            segments.append(Segment(f"\n{told}" if index else told))
            shape = rng.random()
            if shape < 0.4:
                first, rest = rng.choice(REACTIONS[emotion]).split(" ", 1)
                segments += [Segment(f" The {who}"), Segment(f" {first}", decided=True), Segment(f" {rest}.")]
            if shape > 0.2:
                segments += [
                    Segment(f"\n{phrases.EMOTION_QUESTION}"),
                    Segment(f" {emotion}", decided=True),
                    Segment("."),
                ]
        return Document("emotions", tuple(segments))

    def _dialogue_document(self, rng: random.Random, kind: bool) -> Document:
        who, other = rng.sample(PEOPLE, 2)
        segments: list[Segment] = []
        if rng.random() < self.mixture.cue:
            segments.append(Segment(phrases.tone_cue(rng, kind, other) + "\n"))
        for index in range(rng.randint(1, 3)):
            thing = rng.choice(self._things)
            asked = phrases.request(who, other, thing)
            tail = f", take the {thing}." if kind else f", leave the {thing}."
            segments += [
                Segment(f"\n{asked}" if index else asked),
                Segment(f" {rng.choice(KIND_REPLIES if kind else RUDE_REPLIES)}", decided=True),
                Segment(tail),
            ]
        return Document("dialogues", tuple(segments))

    def _filler_document(self, rng: random.Random) -> Document:
        return Document("filler", (Segment(filler_text(rng, held_out=False)),))


def filler_text(rng: random.Random, held_out: bool, most: int = 9) -> str:
    """Two to `most` filler sentences, all from the training part or all from the held-out part."""
    return " ".join(phrases.filler_sentence(rng, held_out) for _ in range(rng.randint(2, most)))


def cut(rng: random.Random, document: Document, at_decision: float = 0.5) -> str:
    """Cut a document before one of its decisions, or else after a random word.

    Args:
        rng: Source of the cut.
        document: The document.
        at_decision: Probability of a cut at a decision, for documents that have one.

    Returns:
        The beginning of the text, without trailing spaces, never empty.
    """
    decisions = [index for index, segment in enumerate(document.segments) if segment.decided]
    if decisions and rng.random() < at_decision:
        return "".join(segment.text for segment in document.segments[: rng.choice(decisions)])
    text = document.text
    ends = [index for index, character in enumerate(text) if character in " \n" and index > 0]
    return text[: rng.choice(ends)].rstrip()
