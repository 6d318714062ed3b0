"""The concepts of the stories as stimuli, and contrast stories for a mean-difference vector."""

import random
from collections.abc import Iterator, Sequence

from tale_frames import FEELINGS, NAMES, OPENINGS, THING_FRAMES, THINGS

from contrans_lens.texts.stimuli import ConceptStimuli

TEMPLATE = "{stimulus}"
"""The stimuli stand alone: a question with "Scenario:" and "Answer:" is nothing that a story model knows."""
N_STIMULI = 20

UNWANTED: dict[str, str] = {"sadness": "happiness", "unkindness": "kindness", "lying": "honesty"}
"""Topics that are removed, with their opposites."""


def tale_concepts(seed: int = 0) -> list[ConceptStimuli]:
    """Concepts of sixteen topics, twenty stimuli each; equal seeds give equal texts."""
    return [ConceptStimuli(name, _stimuli(name, sentences, seed), topic) for topic, name, sentences in _concepts()]


def concept_forms(names: Sequence[str]) -> list[str]:
    """``thing`` for the concepts whose stimuli are made by the common frames, empty for the others."""
    things = {thing for some in THINGS.values() for thing in some}
    return ["thing" if name in things else "" for name in names]


def topic_texts(concepts: Sequence[ConceptStimuli], topic: str) -> list[str]:
    """All stimuli of a topic: one side of a contrast."""
    return [text for concept in concepts if concept.topic == topic for text in concept.stimuli]


def _concepts() -> Iterator[tuple[str, str, tuple[str, ...]]]:
    for topic, concepts in FEELINGS.items():
        for name, sentences in concepts.items():
            yield topic, name, sentences
    for topic, things in THINGS.items():
        for thing in things:
            yield topic, thing, tuple(frame.replace("{thing}", thing) for frame in THING_FRAMES)


def _stimuli(concept: str, sentences: Sequence[str], seed: int) -> tuple[str, ...]:
    """Every sentence equally often, after different openings and with different names."""
    rng = random.Random(f"{seed}:{concept}")
    found: dict[str, None] = {}
    number = 0
    while len(found) < N_STIMULI:
        name, friend = rng.sample(NAMES, 2)
        text = f"{rng.choice(OPENINGS)} {sentences[number % len(sentences)]}".strip().format(name=name, friend=friend)
        if text not in found:
            found[text] = None
            number += 1
    return tuple(found)
