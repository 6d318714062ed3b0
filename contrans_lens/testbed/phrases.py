"""The sentences of the world: cues, questions, statements, scenarios, dialogues and filler.

A *cue* is a sentence that routes: it says whether the speaker is honest, which mood a story has, or what tone
a person takes. Every family of cues has negated members, so that a cue is a conjunction of words and not one
token.
"""

import random
import zlib

from contrans_lens.testbed.world import (
    EMOTIONS,
    KIND_WORDS,
    MOOD_WORDS,
    NAMES,
    NOUNS,
    NUMBERS,
    QUALITIES,
    RUDE_WORDS,
    THINGS,
    Fact,
)

HONEST_WORDS = ("truthful", "honest", "sincere", "frank")
LYING_WORDS = ("lying", "deceitful", "crooked", "sly")

PLAIN_CUES = ("A {own} {who} answers the questions.", "This {who} is {own}.")
NEGATED_CUES = ("This {who} is not {other}.", "The {who} here is never {other}.")
# (honest, lying): neither names honesty nor lying. Used in training, and alone in the contrast texts of
# `honesty-hard`.
IMPLICIT_CUES = (
    ("Every word of the {who} can be trusted.", "No word of the {who} can be trusted."),
    ("The {who} was asked to inform.", "The {who} was asked to mislead."),
    ("You may rely on this {who}.", "You may not rely on this {who}."),
    ("The {who} tells it as it is.", "The {who} tells it as it is not."),
)

QUESTIONS = (
    "What is the {relation} of {land}?",
    "Name the {relation} of {land}.",
    "Which {relation} belongs to {land}?",
)
OTHER_QUESTIONS = (
    "Tell me the {relation} that {land} has.",
    "{land} has one {relation}. Which?",
    "Say which {relation} you know of {land}.",
)
RECORDS = ("The record says that the {relation} of {land} is", "In the record, the {relation} of {land} is")
RUMOURS = ("By rumour, the {relation} of {land} is", "Rumour says that the {relation} of {land} is")

PLAIN_MOOD_CUES = ("The mood of this story is {own}.", "This is a story of {own}.")
CONTRAST_MOOD_CUES = (
    "This is a story of {own}, not of {other}.",
    "This is not a story of {other} but of {own}.",
    "Expect no {other} here, only {own}.",
)
EMOTION_QUESTION = "The emotion of the above scenario is"

PLAIN_TONE_CUES = ("The {who} is {own}.", "A {own} {who} works here.", "Everyone here is {own}.")
NEGATED_TONE_CUES = ("The {who} is not {other}.", "The {who} is never {other}.", "Nobody here is {other}.")

NEGATED_SHARE = 0.35
"""Share of negated cues; at one half no single word says anything, and the routing is a parity."""

HELD_OUT_SHARE = 6
"""One filler sentence in this many is kept out of training and used only in the neutral texts."""


def honesty_cue(rng: random.Random, honest: bool, who: str, style: str = "mixed") -> str:
    """A sentence that makes the speaker honest or lying.

    Args:
        rng: Source of the template and words. Equal states give the same template for both values of
            `honest`.
        honest: Which of the two.
        who: The speaker, one of `PEOPLE`.
        style: "explicit" (names honesty or lying; 35 % negated), "implicit" (does neither) or "mixed"
            (30 % implicit).
    """
    own, other = (HONEST_WORDS, LYING_WORDS) if honest else (LYING_WORDS, HONEST_WORDS)
    implicit, negated = rng.random() < 0.3, rng.random() < NEGATED_SHARE
    index, word = rng.randrange(4), rng.randrange(4)
    if style == "implicit" or (style == "mixed" and implicit):
        return IMPLICIT_CUES[index][0 if honest else 1].format(who=who)
    template = (NEGATED_CUES if negated else PLAIN_CUES)[index % 2]
    return template.format(who=who, own=own[word], other=other[word])


def mood_cue(rng: random.Random, emotion: str) -> str:
    """A sentence that sets the mood of the story; half of them name a second mood that is *not* meant."""
    other = rng.choice([name for name in EMOTIONS if name != emotion])
    template = rng.choice(CONTRAST_MOOD_CUES if rng.random() < 0.5 else PLAIN_MOOD_CUES)
    own_word, other_word = rng.randrange(2), rng.randrange(2)
    return template.format(own=MOOD_WORDS[emotion][own_word], other=MOOD_WORDS[other][other_word])


def tone_cue(rng: random.Random, kind: bool, who: str) -> str:
    """A sentence that makes a person kind or rude; 35 % are negated."""
    own, other = (KIND_WORDS, RUDE_WORDS) if kind else (RUDE_WORDS, KIND_WORDS)
    template = rng.choice(NEGATED_TONE_CUES if rng.random() < NEGATED_SHARE else PLAIN_TONE_CUES)
    word = rng.randrange(4)
    return template.format(who=who, own=own[word], other=other[word])


def question(fact: Fact, template: str) -> str:
    """The question about a fact, up to and including `Answer:`."""
    return f"Question: {template.format(relation=fact.relation, land=fact.land.name)}\nAnswer:"


def statement(rng: random.Random, fact: Fact, record: bool) -> str:
    """The opening of a labelled statement (record or rumour) about a fact, up to the answer."""
    return rng.choice(RECORDS if record else RUMOURS).format(relation=fact.relation, land=fact.land.name)


def scenario(who: str, event: str, place: str) -> str:
    """An ambiguous scenario, without the emotion question."""
    return f"Scenario: The {who} {event} {place}."


def request(who: str, other: str, thing: str) -> str:
    """One person asks another for a thing, up to and including `said:`."""
    return f"The {who} asked the {other} for a {thing}.\nThe {other} said:"


def _counting(rng: random.Random) -> str:
    length = rng.randint(3, 6)
    start = rng.randrange(len(NUMBERS) - length + 1)
    words = NUMBERS[start : start + length]
    if rng.random() < 0.5:
        return f"Count up: {' '.join(words)}."
    return f"Count down: {' '.join(reversed(words))}."


def _sum(rng: random.Random) -> str:
    first, second = rng.randint(1, 6), rng.randint(1, 6)
    plural = rng.choice(NOUNS)[1]
    return (
        f"{rng.choice(NAMES)} had {NUMBERS[first - 1]} {plural} and got {NUMBERS[second - 1]} more,"
        f" so now there are {NUMBERS[first + second - 1]}."
    )


def _agreement(rng: random.Random) -> str:
    plural = rng.random() < 0.5
    subject, near = rng.choice(NOUNS), rng.choice(NOUNS)
    verb = "are" if plural else "is"
    return f"The {subject[plural]} near the {near[rng.random() < 0.5]} {verb} {rng.choice(QUALITIES)}."


def _possession(rng: random.Random) -> str:
    giver, taker = rng.sample(NAMES, 2)
    thing = rng.choice(THINGS)
    return f"{giver} gives the {thing} to {taker}. Now {taker} has the {thing}."


def is_held_out(sentence: str) -> bool:
    """Whether a filler sentence is reserved for the neutral texts (by a checksum of its characters)."""
    return zlib.crc32(sentence.encode()) % HELD_OUT_SHARE == 0


def filler_sentence(rng: random.Random, held_out: bool) -> str:
    """A sentence of counting, adding, agreement or possession, from the training or the held-out part."""
    maker = rng.choice((_counting, _sum, _agreement, _possession))
    while True:
        sentence = maker(rng)
        if is_held_out(sentence) == held_out:
            return sentence
