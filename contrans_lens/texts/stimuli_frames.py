"""Sentences for a user's own list of concepts, made from frames: no corpus and no language model is needed.

They stand in for the scenarios that PaCE had a language model write (arXiv 2406.04331). Every sentence
names its concept; scenarios that evoke a concept without naming it, written by hand, make better atoms.
"""

import random
from typing import Literal, get_args

from contrans_lens.errors import TextError
from contrans_lens.texts.items import checked_text
from contrans_lens.texts.stimuli import ConceptStimuli

FrameKind = Literal["quality", "thing", "emotion", "act", "topic"]
"""What a concept is, and so which sentences suit it.

``"quality"``: a noun such as "honesty"; ``"thing"``: a noun without an article, such as "bridge"; ``"emotion"``: a noun
such as "anger"; ``"act"``: a verb in -ing such as "stealing"; ``"topic"``: a field such as "astronomy".
"""

_FRAMES: dict[str, tuple[str, ...]] = {
    "quality": (
        "Everyone {place} noticed the {concept} of {person} {time}.",
        "What {person} showed {time} was pure {concept}, and nobody {place} forgot it.",
        "{Person} and {friend} argued {place} about whether {concept} can be learned.",
        "{Time}, a small act of {person} told {friend} all about {concept}.",
        "The letter that {person} sent {time} was full of {concept}.",
        "People {place} still speak of {person} when they speak of {concept}.",
        "It took {concept} to do what {person} did {place} {time}.",
        "{Friend} had never met such {concept} as {person} showed {place}.",
        "The judge {place} praised {person} for {concept}.",
        "{Concept} is the first thing that {friend} saw in {person} {time}.",
        "When things went wrong {place}, {person} answered with {concept}.",
        "The whole story of {person} and {friend} turns on {concept}.",
        "{Time} the teacher {place} asked {person} to give an example of {concept}.",
        "Without {concept}, {person} would have left {friend} alone {place}.",
    ),
    "thing": (
        "{Person} found the {concept} {place} {time}.",
        "The {concept} {place} was older than {person} had thought.",
        "{Time}, {person} drew the {concept} for {friend}.",
        "{Friend} asked {person} how the {concept} works.",
        "A photograph of the {concept} hangs {place}.",
        "{Person} could not imagine a day {place} without the {concept}.",
        "Nobody {place} knew who had brought the {concept}.",
        "The children {place} gathered around the {concept} {time}.",
        "{Person} told {friend} to be careful with the {concept}.",
        "{Time} the {concept} was gone, and {person} searched everywhere {place}.",
        "The book that {person} read {time} explains the {concept} in detail.",
        "{Friend} pointed at the {concept} and smiled at {person}.",
        "It was the {concept} that made {person} stop {place}.",
        "{Person} has written a song about the {concept}.",
    ),
    "emotion": (
        "{Person} felt {concept} {place} {time}.",
        "A wave of {concept} came over {person} when {friend} spoke.",
        "{Time}, {concept} kept {person} awake.",
        "There was {concept} in the voice of {person}, and {friend} heard it.",
        "{Friend} saw the {concept} on the face of {person} {place}.",
        "The news filled everyone {place} with {concept}.",
        "{Person} tried to hide the {concept}, but {friend} knew.",
        "{Time} the {concept} of {person} was stronger than ever.",
        "All the {concept} of that year came back to {person} {place}.",
        "{Person} wrote to {friend} about the {concept} of the last few days.",
        "Trembling with {concept}, {person} walked out {time}.",
        "The song that was played {place} gave {person} a feeling of {concept}.",
        "Nothing {place} could take the {concept} from {person}.",
        "{Concept} was all that {person} could feel {time}.",
    ),
    "act": (
        "{Person} was seen {concept} {place} {time}.",
        "{Time}, {person} admitted to {concept} in front of {friend}.",
        "{Concept} came easily to {person}.",
        "{Friend} asked {person} to stop {concept}.",
        "The sign {place} says a few words about {concept}.",
        "Years of {concept} had changed {person}, as {friend} could tell.",
        "{Person} thought of {concept} again {time}.",
        "People {place} have rules about {concept}.",
        "{Person} taught {friend} all there is to know about {concept}.",
        "There was talk of {concept} {place} {time}.",
        "{Friend} could not understand why {person} kept {concept}.",
        "For {person}, {concept} was a way to get through the day.",
        "The report that {friend} wrote {time} begins with {concept}.",
        "{Person} was proud of {concept} and said so {place}.",
    ),
    "topic": (
        "{Person} gave a talk on {concept} {place} {time}.",
        "The longest shelf {place} is full of books on {concept}.",
        "{Friend} and {person} could speak about {concept} for hours.",
        "{Time}, the newspaper had a page on {concept}.",
        "{Person} has studied {concept} for many years.",
        "The question that {friend} asked {place} was about {concept}.",
        "A course on {concept} is held {place}.",
        "{Person} changed the subject to {concept} {time}.",
        "{Friend} knows more about {concept} than anyone {place}.",
        "The prize {person} won {time} was for work on {concept}.",
        "{Concept} was what brought {person} and {friend} together {place}.",
        "{Person} explained the basics of {concept} to {friend}.",
        "The film shown {place} {time} deals with {concept}.",
        "There is a museum of {concept} where {person} works.",
    ),
}

_PEOPLE = (
    *("Amara", "the old carpenter", "Bruno", "my neighbour", "Chidi", "the young nurse", "Dagny", "the bus driver"),
    *("Emeka", "the new student", "Farida", "the captain", "Goran", "our grandmother", "Hana", "the shopkeeper"),
)
_PLACES = (
    *("at the market", "on the night train", "in a quiet village", "at the harbour", "in the hospital", "at school"),
    *("in the mountains", "at the office", "in the town hall", "by the river", "at a wedding", "in the city library"),
)
_TIMES = (
    *("last winter", "on Monday morning", "late at night", "after the storm", "during the holidays", "before dinner"),
    *("on the first day of spring", "a week ago", "at the end of the year", "just before the exam"),
)


def frame_stimuli(concept: str, kind: FrameKind, n: int = 30, seed: int = 0, *, topic: str = "") -> ConceptStimuli:
    """Different sentences about a concept, every frame of its kind used about equally often.

    The same arguments give the same sentences.

    Args:
        concept: its name, in the form that :data:`FrameKind` says.
        kind: what it is.
        n: how many sentences; two at least.
        seed: of the choice of people, places and times.
        topic: passed on.

    Raises:
        TextError: the kind is unknown, the name is empty, or so many different sentences cannot be made.
    """
    if kind not in _FRAMES:
        raise TextError(f"there are no frames for concepts of kind {kind!r}; choose one of {get_args(FrameKind)}.")
    if n < 2:
        raise TextError(f"{n} sentences are too few to read a concept from; ask for two or more.")
    checked_text(concept, "the name of a concept")
    generator = random.Random(f"{seed}:{kind}:{concept}")
    frames = list(_FRAMES[kind])
    sentences: dict[str, None] = {}
    tries = 0
    while len(sentences) < n:
        if tries % len(frames) == 0:
            generator.shuffle(frames)
        sentences.setdefault(_sentence(generator, frames[tries % len(frames)], concept))
        tries += 1
        if tries > 50 * n:
            raise TextError(f"the frames do not give {n} different sentences about {concept!r}; ask for fewer.")
    return ConceptStimuli(concept, tuple(sentences), topic)


def _sentence(generator: random.Random, frame: str, concept: str) -> str:
    person, friend = generator.sample(_PEOPLE, 2)
    words = {
        "concept": concept,
        "person": person,
        "friend": friend,
        "place": generator.choice(_PLACES),
        "time": generator.choice(_TIMES),
    }
    words |= {key.capitalize(): word[:1].upper() + word[1:] for key, word in words.items()}
    return frame.format(**words)
