"""What is aligned to what: base targets of the embedded family, topics, texts, and the settings that are tried."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Literal

from contrans_lens.evaluation.behaviours import Choices, NeutralText, PairedAnswers
from contrans_lens.models import HookedModel, open_model
from contrans_lens.rahf.training import LoraSettings, TrainingSettings
from contrans_lens.testbed import SCIT_INSTRUCTIONS, capability_items, model_path, neutral_texts, preference_set
from contrans_lens.texts import EvaluationItem, PreferenceSet

Topic = Literal["kindness", "honesty"]
TARGETS = ("gpt2-target", "rotary-target")
SOURCES = ("gpt2-source", "rotary-source")
TOPICS: tuple[Topic, ...] = ("kindness", "honesty")
LAYERS = tuple(f"blocks.{block}.hook_resid_post" for block in (1, 2, 3, 4))
"""Where adapters are fitted: the middle of six blocks, as the paper takes the middle of 32."""
BUDGETS = (0.02, 0.05)
"""Nats of KL a token on neutral text at which methods are compared."""
MAIN = BUDGETS[-1]
"""The budget at which settings are chosen and the headline is read."""
MAX_SCALE = 3.0
"""Adapters are multiplied by at most this much."""
MAX_STRENGTH = 4.0
"""Vectors are added at most so many residual norms long."""
LORA = LoraSettings()
"""One shape for every training: rank 8, alpha 16, dropout .05, query and value projections."""


@dataclass(frozen=True)
class Sizes:
    """How much is trained and measured; the small one is for a quick look at whether all runs."""

    pairs: int = 288
    steps: int = 50
    batch_size: int = 16
    seeds: tuple[int, ...] = (0, 1, 2)
    neutral: int = 16
    capability: int = 60
    cued_items: int = 36
    """Items that are asked under each cue."""
    map_texts: int = 600
    draws: int = 20
    alphas: tuple[float, ...] = (1.0, 2.0, 5.0)
    wheres: tuple[Literal["predicting", "answer"], ...] = ("predicting", "answer")
    rates: tuple[float, ...] = (3e-4, 1e-3)


SMALL = Sizes(
    pairs=96,
    steps=25,
    seeds=(0,),
    neutral=8,
    capability=16,
    cued_items=12,
    map_texts=300,
    draws=5,
    alphas=(1.0,),
    wheres=("predicting",),
    rates=(1e-3,),
)


@dataclass(frozen=True)
class Setup:
    """A base target and a topic to align it on."""

    target: str
    topic: Topic
    out: Path
    sizes: Sizes = field(default_factory=Sizes)

    @property
    def name(self) -> str:
        """Target and topic."""
        return f"{self.target} {self.topic}"

    @property
    def folder(self) -> Path:
        """Where everything of this setup is kept."""
        return self.out / self.name.replace(" ", "-")

    @property
    def other(self) -> Topic:
        """The topic that is not aligned, which should stay as it is."""
        return TOPICS[1 - TOPICS.index(self.topic)]

    @property
    def place(self) -> Path:
        """Folder of the base model."""
        return Path(model_path(self.target))

    @property
    def base(self) -> HookedModel:
        """The base model, opened once a process."""
        return opened(self.target)

    def training_pairs(self, seed: int) -> PreferenceSet:
        """What is learnt: the wording goes with the seed of the training."""
        return preference_set(self.topic, seed=seed, n=self.sizes.pairs).part("train")

    def training(self, seed: int, rate: float) -> TrainingSettings:
        """Steps, batches and rate of a training."""
        sizes = self.sizes
        return TrainingSettings(
            steps=sizes.steps, batch_size=sizes.batch_size, accumulation=1, learning_rate=rate, seed=seed
        )

    @cached_property
    def validation(self) -> PairedAnswers:
        """The validation pairs, on which every setting is chosen."""
        return asked(self.topic, "validation")

    @cached_property
    def test(self) -> PairedAnswers:
        """The test pairs: the same ones for every seed, so that seeds differ in what was learnt alone."""
        return asked(self.topic, "test")

    @cached_property
    def neutral(self) -> NeutralText:
        """Held-out text on which strengths are solved and damage is told."""
        return NeutralText(tuple(neutral_texts(self.sizes.neutral)))

    @cached_property
    def validation_neutral(self) -> NeutralText:
        """Other neutral text, for choices."""
        return NeutralText(tuple(neutral_texts(self.sizes.neutral // 2, seed=1)))

    @cached_property
    def checked_neutral(self) -> NeutralText:
        """Neutral text on which nothing was solved."""
        return NeutralText(tuple(neutral_texts(self.sizes.neutral, seed=2)))

    @cached_property
    def other_texts(self) -> NeutralText:
        """Text of the other topic, chosen and rejected answers alike: what an alignment on this one should leave."""
        items = spread(asked(self.other, "test").items, self.sizes.neutral)
        return NeutralText(tuple(item.prompt + answer for item in items for answer in (item.positive, item.negative)))

    @cached_property
    def capability(self) -> Choices:
        """What the model can do apart from any preference."""
        return Choices(tuple(capability_items(self.sizes.capability)), name="capability")

    def cued(self, topic: Topic, side: Literal["positive", "negative"]) -> PairedAnswers:
        """Test pairs of a topic under a cue."""
        few = replace(asked(topic, "test"), items=tuple(spread(asked(topic, "test").items, self.sizes.cued_items)))
        return few.with_prefix(getattr(SCIT_INSTRUCTIONS[topic], side))


def setups(out: Path, sizes: Sizes, only: str = "") -> list[Setup]:
    """The setups whose name has something in it."""
    found = [Setup(target, topic, out, sizes) for target in TARGETS for topic in TOPICS]
    return [setup for setup in found if only in setup.name]


@lru_cache(maxsize=8)
def opened(name: str) -> HookedModel:
    """A model of the family, opened once a process."""
    return open_model(model_path(name))


@lru_cache(maxsize=8)
def asked(topic: Topic, split: str) -> PairedAnswers:
    """Pairs of a part as paired answers, in the wording of seed 0."""
    return PairedAnswers(tuple(preference_set(topic).part(split).items()), name=topic, primary="probability")


def spread(items: Sequence[EvaluationItem], most: int) -> list[EvaluationItem]:
    """At most so many items, from the whole length of the list."""
    if len(items) <= most:
        return list(items)
    return [items[index * len(items) // most] for index in range(most)]
