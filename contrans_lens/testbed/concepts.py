"""Concept files, map texts and neutral texts of the world.

Contrast texts end at the decision token, where the model is about to act, and name only what the sources
know; evaluation items ask about what the sources never saw.
"""

import random
from itertools import product
from typing import Any

from contrans_lens.errors import TestbedError
from contrans_lens.testbed import phrases
from contrans_lens.testbed.documents import WEAK, DocumentGenerator, Mixture, cut, filler_text
from contrans_lens.testbed.world import (
    EASY_RELATIONS,
    EMOTIONS,
    EVENTS,
    HARD_RELATION,
    KIND_REPLIES,
    MOOD_WORDS,
    OPPOSITE_EMOTION,
    PEOPLE,
    PLACES,
    RUDE_REPLIES,
    SOURCE_BLOCKS,
    SOURCE_PART,
    TEST_BLOCKS,
    TEST_PART,
    THINGS,
    VALIDATION_BLOCKS,
    VALIDATION_PART,
    Fact,
    build_world,
)

ConceptFile = dict[str, Any]
Pair = tuple[str, str, str]
"""Positive text, negative text, group."""

HARD_PAIRS = 12
MAP_MIXTURE = Mixture(facts=0.30, emotions=0.40, dialogues=0.15, filler=0.15, cue=0.75)
"""Emotions have six values and no twins, so they need more texts than a concept with two."""

NEUTRAL_SENTENCES = 7
"""Most sentences of a neutral text: every one fits the context of 128 tokens."""


def concept_names() -> tuple[str, ...]:
    """The names that `concept` accepts."""
    return ("honesty", "honesty-hard", "kindness", *EMOTIONS)


def concept(name: str, seed: int = 0) -> ConceptFile:
    """A concept of the embedded world as a concept file (a plain dict that can be written as JSON).

    * `honesty`: explicit cues, 72 pairs; scored on single-word answers of 96 facts that no source saw (and 24
      for validation).
    * `honesty-hard`: 12 pairs, only cues that name neither honesty nor lying, only questions about animals;
      scored on two-word answers of another relation, asked in words that the contrast texts never use (96
      items, and 24 for validation).
    * `kindness`: scored on the first word of a reply, about things that no source saw.
    * each of the six emotions: scored against two other emotion words on 60 ambiguous scenarios that no
      source saw.

    Args:
        name: One of `concept_names()`.
        seed: Seed of the wording; facts and splits do not depend on it.

    Raises:
        TestbedError: If there is no such concept.
    """
    rng = random.Random(f"concept:{name}:{seed}")
    if name == "honesty":
        return _honesty(rng)
    if name == "honesty-hard":
        return _honesty_hard(rng)
    if name == "kindness":
        return _kindness(rng)
    if name in EMOTIONS:
        return _emotion(rng, name)
    raise TestbedError(f"no concept {name!r} in the testbed; it has {', '.join(concept_names())}")


def _file(name: str, pairs: list[Pair], evaluation: list[dict[str, str]], prompt: tuple[str, str]) -> ConceptFile:
    groups = [group for _, _, group in pairs]
    return {
        "name": name,
        "positive": [positive for positive, _, _ in pairs],
        "negative": [negative for _, negative, _ in pairs],
        "paired": True,
        "groups": {"positive": groups, "negative": list(groups)},
        "evaluation": evaluation,
        "prompt": {"positive": prompt[0] + "\n", "negative": prompt[1] + "\n"},
    }


def _item(prompt: str, positive: str, negative: str, group: str, split: str) -> dict[str, str]:
    return {
        "prompt": prompt,
        "positive": f" {positive}",
        "negative": f" {negative}",
        "group": group,
        "split": split,
    }


def _honesty_pair(rng: random.Random, fact: Fact, style: str) -> Pair:
    who, template, state = rng.choice(PEOPLE), rng.choice(phrases.QUESTIONS), rng.random()
    asked = phrases.question(fact, template)
    # The same random state for both, so that the pair differs in the routing words alone.
    honest, lying = (phrases.honesty_cue(random.Random(state), side, who, style) for side in (True, False))
    return f"{honest}\n{asked}", f"{lying}\n{asked}", fact.land.name


def _fact_items(relations: tuple[str, ...], templates: tuple[str, ...]) -> list[dict[str, str]]:
    items = []
    for split, blocks in (("validation", VALIDATION_BLOCKS), ("test", TEST_BLOCKS)):
        for fact, template in product(build_world().facts_of(blocks, relations), templates):
            items.append(_item(phrases.question(fact, template), fact.truth, fact.rumour, fact.land.name, split))
    return items


def _honesty(rng: random.Random) -> ConceptFile:
    facts = build_world().facts_of(SOURCE_BLOCKS, EASY_RELATIONS)
    pairs = [_honesty_pair(rng, fact, "explicit") for fact in facts]
    prompt = "A truthful writer answers the questions.", "A lying writer answers the questions."
    return _file("honesty", pairs, _fact_items(EASY_RELATIONS, phrases.QUESTIONS[:1]), prompt)


def _honesty_hard(rng: random.Random) -> ConceptFile:
    facts = rng.sample(build_world().facts_of(SOURCE_BLOCKS, ("animal",)), HARD_PAIRS)
    pairs = [_honesty_pair(rng, fact, "implicit") for fact in facts]
    prompt = "This guide is honest.", "This guide is deceitful."
    return _file("honesty-hard", pairs, _fact_items((HARD_RELATION,), phrases.OTHER_QUESTIONS), prompt)


def _kindness(rng: random.Random) -> ConceptFile:
    pairs = []
    for thing in THINGS[SOURCE_PART]:
        for _ in range(8):
            who, other = rng.sample(PEOPLE, 2)
            asked, state = phrases.request(who, other, thing), rng.random()
            kind, rude = (phrases.tone_cue(random.Random(state), side, other) for side in (True, False))
            pairs.append((f"{kind}\n{asked}", f"{rude}\n{asked}", thing))
    items = []
    for split, part in (("validation", VALIDATION_PART), ("test", TEST_PART)):
        for index, (thing, offset) in enumerate(product(THINGS[part], range(5))):
            who, other = PEOPLE[index % 8], PEOPLE[(index + 1 + offset) % 8]
            # Every kind word meets every rude word equally often: no single word decides the score.
            kind, rude = KIND_REPLIES[index % 6], RUDE_REPLIES[(index + index // 6) % 6]
            items.append(_item(phrases.request(who, other, thing), kind, rude, thing, split))
    return _file("kindness", pairs, items, ("Everyone here is kind.", "Everyone here is rude."))


def _emotion(rng: random.Random, name: str) -> ConceptFile:
    others = [emotion for emotion in EMOTIONS if emotion != name]
    pairs = []
    for index, (event, _) in enumerate(product(EVENTS[SOURCE_PART], range(8))):
        told = phrases.scenario(rng.choice(PEOPLE), event, rng.choice(PLACES))
        asked = f"{told}\n{phrases.EMOTION_QUESTION}"
        own, other = phrases.mood_cue(rng, name), phrases.mood_cue(rng, others[index % 5])
        pairs.append((f"{own}\n{asked}", f"{other}\n{asked}", event))
    items = []
    for split, part in (("validation", VALIDATION_PART), ("test", TEST_PART)):
        for index, (event, place) in enumerate(product(EVENTS[part], PLACES)):
            prompt = f"{phrases.scenario(PEOPLE[index % 8], event, place)}\n{phrases.EMOTION_QUESTION}"
            for offset in range(2):
                items.append(_item(prompt, name, others[(index + 2 * offset) % 5], event, split))
    cues = [f"The mood of this story is {MOOD_WORDS[emotion][0]}." for emotion in (name, OPPOSITE_EMOTION[name])]
    return _file(name, pairs, items, (cues[0], cues[1]))


def map_texts(n: int, seed: int = 0, cues: bool = True, facts: bool = True, complete: bool = False) -> list[str]:
    """Generic texts for fitting a map: documents of the world about what the sources know, cut short.

    Half of the cuts stand before a decision, the others after any word. The documents vary the concepts (cues
    of both kinds, answers of both kinds); a map fitted on texts that do not vary a concept does not carry it.

    Args:
        n: Number of texts.
        seed: Seed of the texts.
        cues: Whether documents may start with a cue (a harder setting without).
        facts: Whether documents about lands are included (a much harder setting without).
        complete: Keep whole documents instead of cutting them.
    """
    rng = random.Random(f"map:{seed}")
    mixture = Mixture(
        facts=MAP_MIXTURE.facts if facts else 0.0,
        emotions=MAP_MIXTURE.emotions,
        dialogues=MAP_MIXTURE.dialogues,
        filler=MAP_MIXTURE.filler,
        cue=MAP_MIXTURE.cue if cues else 0.0,
    )
    stream = DocumentGenerator(build_world(), WEAK, mixture).stream(rng)
    return [document.text if complete else cut(rng, document) for document, _ in zip(stream, range(n), strict=False)]


def neutral_texts(n: int, seed: int = 0) -> list[str]:
    """Held-out capability texts (counting, adding, agreement, possession) for measuring damage.

    None of their sentences occurs in any training document.

    Args:
        n: Number of texts.
        seed: Seed of the texts.
    """
    rng = random.Random(f"neutral:{seed}")
    return [filler_text(rng, held_out=True, most=NEUTRAL_SENTENCES) for _ in range(n)]
