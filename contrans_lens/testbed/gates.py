"""The gates: does a model obey cues, is it undecided without them, and does its own vector steer it?"""

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from statistics import fmean
from typing import Any

from jaxtyping import Float
from torch import Tensor

from contrans_lens.testbed import phrases
from contrans_lens.testbed.concepts import ConceptFile, concept, concept_names, map_texts, neutral_texts
from contrans_lens.testbed.documents import FULL, Knowledge
from contrans_lens.testbed.recipe import Gates
from contrans_lens.testbed.scoring import Probe, Scorer, added
from contrans_lens.testbed.world import (
    EMOTIONS,
    KIND_REPLIES,
    PEOPLE,
    PLACES,
    RUDE_REPLIES,
    TEST_BLOCKS,
    VALIDATION_BLOCKS,
    Fact,
    build_world,
)

ALL_QUESTIONS = phrases.QUESTIONS + phrases.OTHER_QUESTIONS
NORM_TEXTS = 400


@dataclass(frozen=True)
class Obedience:
    """Shares of prompts answered as their cue says."""

    honest: float
    liar: float
    mood: float
    tone: float

    def reaches(self, facts: float, others: float) -> bool:
        """Whether the shares for facts and those for mood and tone reach the given ones."""
        return min(self.honest, self.liar) >= facts and min(self.mood, self.tone) >= others


def fact_obedience(scorer: Scorer, facts: Sequence[Fact], honest: bool, seed: int = 0) -> float:
    """Share of facts of which every answer token is the argmax of the vocabulary, under one kind of cue.

    Args:
        scorer: The model.
        facts: The facts to ask.
        honest: Which cue, and so which answer.
        seed: Seed of cue templates and question wording.
    """
    rng = random.Random(f"obedience:{seed}:{honest}")
    probes = []
    for fact in facts:
        cue = phrases.honesty_cue(rng, honest, rng.choice(PEOPLE))
        asked = phrases.question(fact, rng.choice(ALL_QUESTIONS))
        probes.append(Probe(f"{cue}\n{asked}", f" {fact.answer(honest)}"))
    return scorer.log_probs(probes)[1].double().mean().item()


def mood_obedience(scorer: Scorer, events: Sequence[str], seed: int = 0) -> float:
    """Share of scenarios whose emotion word is the argmax of the vocabulary, under cues for each emotion."""
    rng = random.Random(f"mood:{seed}")
    probes = []
    for emotion, event in product(EMOTIONS, events):
        told = phrases.scenario(rng.choice(PEOPLE), event, rng.choice(PLACES))
        probes.append(Probe(f"{phrases.mood_cue(rng, emotion)}\n{told}\n{phrases.EMOTION_QUESTION}", f" {emotion}"))
    return scorer.log_probs(probes)[1].double().mean().item()


def _kind_mass(scorer: Scorer, prompts: Sequence[str]) -> Float[Tensor, "prompt"]:
    """The share of kind replies in the probability of all replies."""
    replies = KIND_REPLIES + RUDE_REPLIES
    probes = [Probe(prompt, f" {reply}") for prompt in prompts for reply in replies]
    mass = scorer.log_probs(probes)[0].view(len(prompts), len(replies)).softmax(-1)
    return mass[:, : len(KIND_REPLIES)].sum(-1)


def tone_obedience(scorer: Scorer, things: Sequence[str], seed: int = 0) -> float:
    """Share of requests after which the cued tone has more than half of the probability of all replies."""
    rng = random.Random(f"tone:{seed}")
    prompts, kinds = [], []
    for thing, kind, _ in product(things, (True, False), range(3)):
        who, other = rng.sample(PEOPLE, 2)
        prompts.append(f"{phrases.tone_cue(rng, kind, other)}\n{phrases.request(who, other, thing)}")
        kinds.append(kind)
    mass = _kind_mass(scorer, prompts)
    return fmean(float((value > 0.5) == kind) for value, kind in zip(mass.tolist(), kinds, strict=True))


def obedience(scorer: Scorer, knowledge: Knowledge = FULL, seed: int = 0, share: int = 1) -> Obedience:
    """All four shares on what the model knows.

    Args:
        scorer: The model.
        knowledge: The part of the world it was trained on.
        seed: Seed of the wording.
        share: Ask only every `share`-th fact, event and thing (a quick look during training).
    """
    facts = build_world().facts_of(knowledge.blocks)[seed % share :: share]
    return Obedience(
        honest=fact_obedience(scorer, facts, True, seed),
        liar=fact_obedience(scorer, facts, False, seed),
        mood=mood_obedience(scorer, knowledge.events[seed % share :: share], seed),
        tone=tone_obedience(scorer, knowledge.things[seed % share :: share], seed),
    )


def undecided(scorer: Scorer, knowledge: Knowledge = FULL) -> dict[str, float]:
    """What the model says without any cue.

    Returns:
        `p_true` (mean two-way probability of the truth), `argmax_true` (share of facts with more than one
        half), `kind` (mean share of kind replies), and `emotion_low` and `emotion_high` (least and most
        probable emotion word, one sixth each).
    """
    items = [
        {
            "prompt": phrases.question(fact, phrases.QUESTIONS[0]),
            "positive": f" {fact.truth}",
            "negative": f" {fact.rumour}",
        }
        for fact in build_world().facts_of(knowledge.blocks)
    ]
    p_true = scorer.choices(items)
    requests = [phrases.request("writer", "guide", thing) for thing in knowledge.things]
    told = [f"{phrases.scenario('man', event, PLACES[0])}\n{phrases.EMOTION_QUESTION}" for event in knowledge.events]
    probes = [Probe(prompt, f" {emotion}") for prompt in told for emotion in EMOTIONS]
    words = scorer.log_probs(probes)[0].view(len(told), len(EMOTIONS)).softmax(-1).mean(0)
    return {
        "p_true": p_true.mean().item(),
        "argmax_true": (p_true > 0.5).double().mean().item(),
        "kind": _kind_mass(scorer, requests).mean().item(),
        "emotion_low": words.min().item(),
        "emotion_high": words.max().item(),
    }


def split_items(file: ConceptFile, split: str) -> list[dict[str, str]]:
    """The evaluation items of one split."""
    return [item for item in file["evaluation"] if item["split"] == split]


def mean_difference(scorer: Scorer, file: ConceptFile) -> Float[Tensor, "layer d_model"]:
    """The concept vector of every block: the mean difference at the last token."""
    return scorer.last_residuals(file["positive"]).mean(0) - scorer.last_residuals(file["negative"]).mean(0)


def residual_norms(scorer: Scorer) -> Float[Tensor, "layer"]:
    """Mean norm of the last-token residual of the map texts, per block: the unit of strength."""
    return scorer.last_residuals(map_texts(NORM_TEXTS, seed=1)).norm(dim=-1).mean(0)


def steered(
    scorer: Scorer,
    items: Sequence[dict[str, str]],
    layer: int,
    direction: Float[Tensor, "d_model"],
    norm: float,
) -> tuple[float, float]:
    """Mean two-way probability with the direction, scaled to `norm`, added and subtracted."""
    vector = direction * (norm / direction.norm())
    means = []
    for sign in (1.0, -1.0):
        with added(scorer.model, layer, sign * vector):
            means.append(scorer.choices(items).mean().item())
    return means[0], means[1]


def native_effect(
    scorer: Scorer, file: ConceptFile, norms: Float[Tensor, "layer"], strength: float
) -> dict[str, float | int]:
    """Steer a model with its own vector; the block is chosen on validation items and scored on test items."""
    vectors, validation, test = (
        mean_difference(scorer, file),
        split_items(file, "validation"),
        split_items(file, "test"),
    )
    layers = len(vectors)
    by_layer = []
    for layer in range(layers - 1):
        plus, minus = steered(scorer, validation, layer, vectors[layer], strength * norms[layer].item())
        by_layer.append(plus - minus)
    best = max(range(layers - 1), key=by_layer.__getitem__)
    plus, minus = steered(scorer, test, best, vectors[best], strength * norms[best].item())
    last = steered(scorer, test, layers - 1, vectors[-1], strength * norms[-1].item())
    return {
        "layer": best,
        "base": scorer.choices(test).mean().item(),
        "plus": plus,
        "minus": minus,
        "effect": plus - minus,
        "last_layer": last[0] - last[1],
    }


def measurements(scorer: Scorer, knowledge: Knowledge) -> dict[str, Any]:
    """What is reported of a source or an aligned model, on what it knows; these have no gates."""
    return {
        "obedience": asdict(obedience(scorer, knowledge)),
        "no_cue": undecided(scorer, knowledge),
        "neutral_loss": scorer.token_loss(neutral_texts(200)),
    }


def report(scorer: Scorer, gates: Gates) -> dict[str, Any]:
    """Everything the gates look at, for a base target, with `passed` and the list of what failed."""
    obeyed, free, norms = obedience(scorer), undecided(scorer), residual_norms(scorer)
    native = {name: native_effect(scorer, concept(name), norms, gates.strength) for name in concept_names()}
    block_facts = build_world().facts_of(VALIDATION_BLOCKS + TEST_BLOCKS)
    test = {side: fact_obedience(scorer, block_facts, side == "honest", seed=1) for side in ("honest", "liar")}
    checks = {
        "obeys honesty cues": min(obeyed.honest, obeyed.liar, *test.values()) >= gates.obedience,
        "obeys mood and tone cues": min(obeyed.mood, obeyed.tone) >= gates.route,
        "undecided without a cue": abs(free["p_true"] - 0.5) <= gates.balance,
        "last block does not steer honesty": abs(native["honesty"]["last_layer"]) < gates.last_layer,
        "own honesty vector steers": native["honesty"]["effect"] >= gates.native,
        "own other vectors steer": min(row["effect"] for row in native.values()) >= gates.native_other,
    }
    return {
        "passed": all(checks.values()),
        "failed": [name for name, passed in checks.items() if not passed],
        "obedience": asdict(obeyed),
        "obedience_unseen_by_sources": test,
        "no_cue": free,
        "native": native,
        "neutral_loss": scorer.token_loss(neutral_texts(200)),
    }
