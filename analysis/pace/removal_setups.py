"""What is removed from which model, what is measured of it, and which partitions say what is undesirable.

A setup is a target of the embedded family and an unwanted concept. Its behaviour is asked under a cue that brings the
unwanted concept in, with answers turned so that higher means less of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from contrans_lens.evaluation.behaviours import Behaviour, Choices, NeutralText, PairedAnswers
from contrans_lens.models import HookedModel, open_model, residual_hook_points, tokenize
from contrans_lens.pace.build import build_dictionary
from contrans_lens.pace.dictionary import ConceptDictionary
from contrans_lens.pace.partition import partition
from contrans_lens.pace.removal import prepare
from contrans_lens.pace.scorers import SimilarityScorer
from contrans_lens.pace.solvers.prepared import PreparedAtoms
from contrans_lens.residuals import capture
from contrans_lens.testbed import capability_items, concept, knowledge_items, model_path, neutral_texts
from contrans_lens.testbed.stimuli import STIMULI_TEMPLATE, concept_stimuli
from contrans_lens.testbed.world import OPPOSITE_EMOTION
from contrans_lens.texts import ContrastSet, EvaluationItem

TARGETS = ("gpt2-target", "rotary-target")
PROMPT_TOKENS, MOST_TOKENS = 8, 32
"""First tokens of a neutral text that are its prompt, whose last one per-prompt removals decompose; tokens used of it.

Many short texts: such a removal decomposes once a text, so a damage rests on as many decompositions as there are texts.
"""
AT_LEAST = 0.5


@dataclass(frozen=True)
class Unwanted:
    """An unwanted concept: its items in the embedded world, and the topic of its atoms."""

    concept: str
    topic: str
    opposite: str
    """Topic of the atoms with the opposite meaning."""
    examples: tuple[str, str]
    """Two words from which the offline scorer finds the others."""
    flipped: bool = False
    """Whether the concept of the items is the unwanted one itself, so that items and cues change sides."""


UNWANTED = {
    "unkindness": Unwanted("kindness", "unkindness", "kindness", ("rude", "harsh")),
    "lying": Unwanted("honesty", "lying", "honesty", ("lying", "deceitful")),
    "sadness": Unwanted("sadness", "sadness", "happiness", ("sorrow", "grief"), flipped=True),
}


@dataclass(frozen=True)
class Sizes:
    """How much is measured; the small one is for a quick look at whether all runs."""

    neutral: int = 40
    validation_neutral: int = 24
    test_items: int = 60
    leak_items: int = 24
    capability: int = 40
    knowledge: int = 24
    draws: int = 20
    windows: int = 5


SMALL = Sizes(4, 3, 16, 12, 8, 8, 3, 2)


@dataclass(frozen=True, eq=False)
class Target:
    """A model with its concept dictionary, atoms made ready."""

    name: str
    model: HookedModel
    dictionary: ConceptDictionary
    prepared: Mapping[str, PreparedAtoms]

    def topic(self, name: str) -> tuple[str, ...]:
        """Names of the atoms of a topic."""
        pairs = zip(self.dictionary.names, self.dictionary.topics, strict=True)
        return tuple(atom for atom, topic in pairs if topic == name)


@dataclass(frozen=True, eq=False)
class Setup:
    """A target and an unwanted concept."""

    target: Target
    unwanted: Unwanted
    sizes: Sizes

    @property
    def topic_atoms(self) -> tuple[str, ...]:
        """The true partition: every atom of the unwanted topic."""
        return self.target.topic(self.unwanted.topic)

    @property
    def scored_atoms(self) -> tuple[str, ...]:
        """What the offline scorer finds from two example words."""
        scorer = SimilarityScorer(self.unwanted.examples)
        task = f"remove {self.unwanted.topic}"
        return partition(self.target.dictionary, task, scorer, at_least=AT_LEAST).undesirable

    @property
    def contrasts(self) -> ContrastSet:
        """The concept's items, texts and cues, as they are in the world."""
        return ContrastSet.from_dict(concept(self.unwanted.concept))

    def bad_cue(self) -> str:
        """The words that bring the unwanted concept in."""
        return cues(self.unwanted)[0]

    def good_cue(self) -> str:
        """The words that bring in its opposite."""
        return cues(self.unwanted)[1]

    def asked(self, split: str, cue: str = "", name: str = "unwanted", most: int | None = None) -> PairedAnswers:
        """Items of a split after a cue; higher is less of what is unwanted."""
        items = spread(oriented(self.unwanted, split), self.sizes.test_items if most is None else most)
        return PairedAnswers(tuple(items), name, "probability").with_prefix(cue)

    def neutral(self) -> NeutralText:
        """Texts on which damage is measured and strengths are solved."""
        return _neutral(neutral_texts(self.sizes.neutral))

    def validation_neutral(self) -> NeutralText:
        """Other neutral texts, for choices."""
        return _neutral(neutral_texts(self.sizes.validation_neutral, seed=1))

    def cued_neutral(self) -> NeutralText:
        """The neutral texts after the bad cue: the unwanted concept is there, and has nothing to do with the text."""
        n_cue = int(tokenize(self.target.model, [self.bad_cue()]).mask.sum()) - 1
        texts = tuple(self.bad_cue() + text for text in self.neutral().texts)
        return NeutralText(texts, MOST_TOKENS + n_cue, PROMPT_TOKENS + n_cue, name="cued text")

    def behaviours(self) -> list[Behaviour]:
        """What is measured of every method on test items, the unwanted behaviour first."""
        happy = f" {OPPOSITE_EMOTION['sadness']}"
        wanted = self.asked("test", self.good_cue(), "wanted")
        if self.unwanted.flipped:  # under the opposite mood only this answer is the right one
            wanted = replace(wanted, items=tuple(item for item in wanted.items if item.positive == happy))
        known = [item for item in knowledge_items("test") if item.category != "emblem"]
        return [
            self.asked("test", self.bad_cue()),
            wanted,
            self.asked("test", "", "no cue", self.sizes.leak_items),
            *self.leaks(),
            Choices(tuple(capability_items(self.sizes.capability)), name="capability"),
            Choices(tuple(spread(known, self.sizes.knowledge)), name="knowledge"),
        ]

    def leaks(self) -> list[PairedAnswers]:
        """The other two concepts' items under their bad cues, which are to stay as they are."""
        found = []
        for name, other in UNWANTED.items():
            if other is not self.unwanted:
                items = spread(oriented(other, "test"), self.sizes.leak_items)
                asked = PairedAnswers(tuple(items), f"leak into {name}", "probability")
                found.append(asked.with_prefix(cues(other)[0]))
        return found


def _neutral(texts: Sequence[str]) -> NeutralText:
    return NeutralText(tuple(texts), MOST_TOKENS, PROMPT_TOKENS)


def open_target(name: str, out: Path) -> Target:
    """A target of the embedded family with a dictionary at every block, which is kept under ``out``."""
    folder, model = out / f"dictionary-{name}", open_model(model_path(name))
    if not folder.exists():
        return with_dictionary(name, model, folder)
    dictionary = ConceptDictionary.open(folder, model)
    return Target(name, model, dictionary, prepare(dictionary))


def with_dictionary(name: str, model: HookedModel, folder: Path | None = None) -> Target:
    """A model with the dictionary of the world's concepts at every block."""
    stimuli, points = concept_stimuli(), residual_hook_points(model)
    dictionary = build_dictionary(model, stimuli, points, template=STIMULI_TEMPLATE)
    if folder is not None:
        dictionary.save(folder)
    return Target(name, model, dictionary, prepare(dictionary))


def cues(unwanted: Unwanted) -> tuple[str, str]:
    """The bad and the good cue of an unwanted concept."""
    prompt = ContrastSet.from_dict(concept(unwanted.concept)).prompt
    if prompt is None:
        raise SystemExit(f"{unwanted.concept} has no cues")
    return (prompt.positive, prompt.negative) if unwanted.flipped else (prompt.negative, prompt.positive)


def oriented(unwanted: Unwanted, split: str) -> list[EvaluationItem]:
    """Items of a split, turned so that the positive answer is the one without the unwanted concept."""
    items = [item for item in ContrastSet.from_dict(concept(unwanted.concept)).evaluation if item.split == split]
    if not unwanted.flipped:
        return items
    return [replace(item, positive=item.negative, negative=item.positive) for item in items]


def spread(items: Sequence, most: int) -> list:
    """At most so many items, from the whole length of the list."""
    if len(items) <= most:
        return list(items)
    return [items[index * len(items) // most] for index in range(most)]


def mean_differences(setup: Setup) -> dict[str, tuple[Float[Tensor, " d_model"], float]]:
    """By hook point, the mean difference away from the unwanted concept, and the mean norm of the residuals."""
    contrasts, points = setup.contrasts, setup.target.dictionary.hook_points
    sides = [contrasts.negatives, contrasts.positives]
    if setup.unwanted.flipped:
        sides.reverse()
    bad, good = (capture(setup.target.model, list(side), points).tensor().double() for side in sides)
    norms = torch.cat([bad, good]).norm(dim=2).mean(0)
    away = good.mean(0) - bad.mean(0)
    return {point: (away[at].float(), float(norms[at])) for at, point in enumerate(points)}
