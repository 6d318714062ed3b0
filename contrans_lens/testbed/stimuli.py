"""Stimuli of the world's concepts, from which a concept dictionary is built (PaCE, arXiv 2406.04331).

A stimulus is read at its last token. What a cue decides (honesty, moods, tones) is therefore stimulated by a text that
stops *before* the decision, where the model is about to act; so are numbers, things and people, which the text before
them determines. Answers are read at the answer itself: before it, the state says both which answer comes and whether
the speaker lies, and the first principal direction of such a mixture is often honesty and not the answer. What nothing
decides (a quality, a noun, a place, an event) is read at the word too.

Only the lands, events and things of the source and validation parts occur: the test parts are kept for scoring. Cues
are never negated, so that no stimulus of "kind" says "not rude", let alone "not kind".
"""

import random
from collections.abc import Callable, Iterator
from functools import cache

from contrans_lens.errors import TestbedError
from contrans_lens.testbed import phrases
from contrans_lens.testbed.world import (
    ANSWERS,
    EASY_RELATIONS,
    EMOTIONS,
    EVENTS,
    KIND_REPLIES,
    KIND_WORDS,
    MOOD_WORDS,
    NOUNS,
    NUMBERS,
    PEOPLE,
    PLACES,
    QUALITIES,
    REACTIONS,
    RELATIONS,
    RUDE_REPLIES,
    RUDE_WORDS,
    SOURCE_BLOCKS,
    SOURCE_PART,
    TEST_PART,
    THINGS,
    VALIDATION_BLOCKS,
    VALIDATION_PART,
    Fact,
    build_world,
)
from contrans_lens.texts.stimuli import ConceptStimuli

STIMULI_TEMPLATE = "{stimulus}"
"""The stimuli stand alone: they already end where they are read."""
N_STIMULI = 30
"""Stimuli of a concept, about as many as in the paper."""

TEST_THINGS = THINGS[TEST_PART]
KNOWN_THINGS = THINGS[SOURCE_PART] + THINGS[VALIDATION_PART]
# "touched a stone" names a thing that is scored.
KNOWN_EVENTS = tuple(
    event for event in EVENTS[SOURCE_PART] + EVENTS[VALIDATION_PART] if not set(event.split()) & set(TEST_THINGS)
)

# Cues that name neither side, by the name of the concept that each of them sets.
IMPLICIT_HONESTY = ("trusted", "informing", "reliable", "tells it as it is")
IMPLICIT_LYING = ("untrusted", "misleading", "unreliable", "tells it as it is not")
TOPIC_OF_RELATION = {"capital": "capitals", "animal": "animals", "food": "foods", "emblem": "emblems"}

_MOST_DRAWS = 100_000

Maker = Callable[[random.Random], str]
"""Draws one stimulus."""


def concept_stimuli(seed: int = 0) -> list[ConceptStimuli]:
    """The shipped concept list of the embedded world: over 150 concepts of 22 topics, 30 different stimuli each.

    Topics are ``"honesty"``, ``"lying"``, the six emotions, ``"kindness"``, ``"unkindness"``, the four kinds of
    answers (``"capitals"``, ``"animals"``, ``"foods"``, ``"emblems"``), ``"numbers"``, ``"things"``, ``"people"``,
    ``"nouns"``, ``"qualities"``, ``"places"``, ``"events"`` and ``"statements"``. Use them with
    :data:`STIMULI_TEMPLATE`.

    Args:
        seed: Seed of the wording; the concepts do not depend on it.

    Returns:
        The concepts, those of one topic after each other.
    """
    return [ConceptStimuli(name, _draw(name, maker, seed), topic) for name, topic, maker in _concepts()]


def _concepts() -> Iterator[tuple[str, str, Maker]]:
    yield from _honesty_concepts()
    yield from _emotion_concepts()
    yield from _tone_concepts()
    yield from _answer_concepts()
    yield from _filler_concepts()
    for person in PEOPLE:
        yield person, "people", _person(person)
    for place in PLACES:
        yield place.split(" ")[-1], "places", _place(place)
    for event in KNOWN_EVENTS:
        yield event, "events", _event(event)
    yield "record", "statements", _statement(record=True)
    yield "rumour", "statements", _statement(record=False)


def _draw(name: str, maker: Maker, seed: int) -> tuple[str, ...]:
    rng = random.Random(f"stimuli:{name}:{seed}")
    drawn: dict[str, None] = {}  # a set that keeps its order
    for _ in range(_MOST_DRAWS):
        drawn[maker(rng)] = None
        if len(drawn) == N_STIMULI:
            return tuple(drawn)
    raise TestbedError(
        f"{name!r} has only {len(drawn)} different stimuli; {N_STIMULI} are needed. Give it more wording."
    )


@cache
def _facts(relations: tuple[str, ...]) -> tuple[Fact, ...]:
    return build_world().facts_of(SOURCE_BLOCKS + VALIDATION_BLOCKS, relations)


def _honesty_concepts() -> Iterator[tuple[str, str, Maker]]:
    for side, words, implicit, topic in (
        (0, phrases.HONEST_WORDS, IMPLICIT_HONESTY, "honesty"),
        (1, phrases.LYING_WORDS, IMPLICIT_LYING, "lying"),
    ):
        for word in words:
            yield word, topic, _answering(phrases.PLAIN_CUES, word)
        for name, cues in zip(implicit, phrases.IMPLICIT_CUES, strict=True):
            yield name, topic, _answering((cues[side],), "")


def _emotion_concepts() -> Iterator[tuple[str, str, Maker]]:
    for emotion in EMOTIONS:
        yield emotion, emotion, _named_before(emotion)
        for word in MOOD_WORDS[emotion]:
            yield word, emotion, _mood(word)
        for reaction in REACTIONS[emotion]:
            yield reaction, emotion, _reaction(reaction)


def _tone_concepts() -> Iterator[tuple[str, str, Maker]]:
    for words, replies, verb, topic in (
        (KIND_WORDS, KIND_REPLIES, "take", "kindness"),
        (RUDE_WORDS, RUDE_REPLIES, "leave", "unkindness"),
    ):
        for word in words:
            yield word, topic, _tone(word)
        for reply in replies:
            yield reply.lower(), topic, _replied_before(reply, verb)


def _answer_concepts() -> Iterator[tuple[str, str, Maker]]:
    for relation in RELATIONS:
        topic = TOPIC_OF_RELATION[relation]
        yield relation, topic, _asked(relation)
        for answer in ANSWERS[relation]:
            yield answer, topic, _answer(relation, answer)


def _filler_concepts() -> Iterator[tuple[str, str, Maker]]:
    for number in NUMBERS:
        yield number, "numbers", _before(f" {number}.")
    for thing in KNOWN_THINGS:
        yield thing, "things", _before(f" {thing}.")
    for forms in NOUNS:
        yield forms[0], "nouns", _at(forms)
    for quality in QUALITIES:
        yield quality, "qualities", _at((quality,))


def _question(rng: random.Random, relations: tuple[str, ...] = EASY_RELATIONS) -> str:
    return phrases.question(rng.choice(_facts(relations)), rng.choice(phrases.QUESTIONS))


def _scenario(rng: random.Random) -> str:
    return phrases.scenario(rng.choice(PEOPLE), rng.choice(KNOWN_EVENTS), rng.choice(PLACES))


def _answering(cues: tuple[str, ...], word: str) -> Maker:
    """A cue about the speaker, then a question, up to the answer."""
    return lambda rng: f"{rng.choice(cues).format(who=rng.choice(PEOPLE), own=word)}\n{_question(rng)}"


def _mood(word: str) -> Maker:
    """A story of that mood, up to the emotion."""

    def make(rng: random.Random) -> str:
        cue = rng.choice(phrases.PLAIN_MOOD_CUES).format(own=word)
        return f"{cue}\n{_scenario(rng)}\n{phrases.EMOTION_QUESTION}"

    return make


def _reaction(reaction: str) -> Maker:
    """A scenario to which somebody reacts, up to the emotion."""

    def make(rng: random.Random) -> str:
        who = rng.choice(PEOPLE)
        told = phrases.scenario(who, rng.choice(KNOWN_EVENTS), rng.choice(PLACES))
        return f"{told} The {who} {reaction}.\n{phrases.EMOTION_QUESTION}"

    return make


def _named_before(emotion: str) -> Maker:
    """A scenario whose emotion is told, then another of the same story, up to its emotion."""

    def make(rng: random.Random) -> str:
        first, second = _scenario(rng), _scenario(rng)
        return f"{first}\n{phrases.EMOTION_QUESTION} {emotion}.\n{second}\n{phrases.EMOTION_QUESTION}"

    return make


def _tone(word: str) -> Maker:
    """A cue about a person, then a request, up to the reply."""

    def make(rng: random.Random) -> str:
        who, other = rng.sample(PEOPLE, 2)
        cue = rng.choice(phrases.PLAIN_TONE_CUES).format(who=other, own=word)
        return f"{cue}\n{phrases.request(who, other, rng.choice(KNOWN_THINGS))}"

    return make


def _replied_before(reply: str, verb: str) -> Maker:
    """A request and its reply, then another request of the same person, up to the reply."""

    def make(rng: random.Random) -> str:
        who, other = rng.sample(PEOPLE, 2)
        first, second = rng.sample(KNOWN_THINGS, 2)
        answered = f"{phrases.request(who, other, first)} {reply}, {verb} the {first}."
        return f"{answered}\n{phrases.request(who, other, second)}"

    return make


def _asked(relation: str) -> Maker:
    """A question about the relation without a cue, after another one with either answer."""

    def make(rng: random.Random) -> str:
        first = rng.choice(_facts((relation,)))
        told = f"{phrases.question(first, rng.choice(phrases.QUESTIONS))} {first.answer(rng.random() < 0.5)}."
        return f"{told}\n{_question(rng, (relation,))}"

    return make


def _answer(relation: str, answer: str) -> Maker:
    """A question or statement that has this answer, as truth or as rumour, ending with the answer."""

    def make(rng: random.Random) -> str:
        honest = rng.random() < 0.5
        fact = rng.choice([fact for fact in _facts((relation,)) if fact.answer(honest) == answer])
        if rng.random() < 0.5:
            return f"{phrases.statement(rng, fact, honest)} {answer}"
        words = phrases.HONEST_WORDS if honest else phrases.LYING_WORDS
        cue = rng.choice(phrases.PLAIN_CUES).format(who=rng.choice(PEOPLE), own=rng.choice(words))
        return f"{cue}\n{phrases.question(fact, rng.choice(phrases.QUESTIONS))} {answer}"

    return make


def _filler(rng: random.Random) -> str:
    """A filler sentence of the training part that names nothing that is scored."""
    while True:
        sentence = phrases.filler_sentence(rng, held_out=False)
        if not any(f" the {thing}" in sentence for thing in TEST_THINGS):
            return sentence


def _before(ending: str) -> Maker:
    """Two filler sentences, of which the second stops before its last word."""

    def make(rng: random.Random) -> str:
        first, second = _filler(rng), _filler(rng)
        while not second.endswith(ending):
            second = _filler(rng)
        return f"{first} {second.removesuffix(ending)}"

    return make


def _at(words: tuple[str, ...]) -> Maker:
    """Two filler sentences, of which the second stops at one of the words."""

    def make(rng: random.Random) -> str:
        first = _filler(rng)
        while True:
            second = _filler(rng).rstrip(".").split(" ")
            ends = [index + 1 for index, word in enumerate(second) if word in words]
            if ends:
                return f"{first} {' '.join(second[: ends[-1]])}"

    return make


def _person(person: str) -> Maker:
    """A request to this person, up to who replies."""

    def make(rng: random.Random) -> str:
        who = rng.choice([other for other in PEOPLE if other != person])
        asked = phrases.request(who, person, rng.choice(KNOWN_THINGS))
        return asked.removesuffix(f" {person} said:")

    return make


def _place(place: str) -> Maker:
    """A scenario that stops at its place."""
    return lambda rng: phrases.scenario(rng.choice(PEOPLE), rng.choice(KNOWN_EVENTS), place).removesuffix(".")


def _event(event: str) -> Maker:
    """A story of any mood that stops at this event."""

    def make(rng: random.Random) -> str:
        mood = rng.choice(MOOD_WORDS[rng.choice(EMOTIONS)])
        cue = rng.choice(phrases.PLAIN_MOOD_CUES).format(own=mood)
        return f"{cue}\nScenario: The {rng.choice(PEOPLE)} {event}"

    return make


def _statement(record: bool) -> Maker:
    """A statement of the record or of rumour, up to what it says."""
    return lambda rng: phrases.statement(rng, rng.choice(_facts(RELATIONS)), record)
