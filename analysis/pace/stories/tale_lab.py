"""A model with its dictionaries, contrast vectors and neutral texts: what every part of the study stands on."""

import re
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import stories
import torch
from jaxtyping import Float
from story_cloze import cloze_items
from tale_stimuli import TEMPLATE, UNWANTED, tale_concepts, topic_texts
from torch import Tensor

from contrans_lens.evaluation.behaviours import Choices, NeutralText
from contrans_lens.models import HookedModel, open_model, resid_post
from contrans_lens.pace.build import build_dictionary
from contrans_lens.pace.dictionary import ConceptDictionary
from contrans_lens.pace.removal import prepare
from contrans_lens.pace.solvers import PreparedAtoms
from contrans_lens.residuals import capture
from contrans_lens.texts.stimuli import ConceptStimuli

SHARED = Path(__file__).resolve().parents[4] / "shared"
MODELS = ("stories-260k", "storychars-1m")
READINGS = ("word", "stop")
"""Where a stimulus is read: at its last word, or at the full stop after it."""
GROUND = "+mean"
"""Behind a reading: the dictionary with the mean state as one more atom, last, without a topic."""
PROMPT_TOKENS, MAX_TOKENS = 8, 48
N_NEUTRAL, N_SEARCH_NEUTRAL, N_CLOZE = 24, 8, 32


@dataclass(frozen=True)
class Sizes:
    """How much is drawn and measured."""

    draws: int = 20
    """Of each control: a rank among 20 is at best p = .048."""
    repeats: int = 3
    """Texts written after each prompt."""
    small: bool = False


def word_list(text: str) -> list[str]:
    """The words of a text, in lower case."""
    return re.findall(r"[a-z]+", text.lower())


@dataclass(frozen=True, eq=False)
class Lab:
    """One model."""

    name: str
    model: HookedModel
    sizes: Sizes

    @classmethod
    def open(cls, name: str, sizes: Sizes) -> "Lab":
        """Open one of the models."""
        return cls(name, open_model(SHARED / "models" / name), sizes)

    @cached_property
    def concepts(self) -> dict[str, list[ConceptStimuli]]:
        """Stimuli by reading."""
        told = tale_concepts()
        cut = [replace(one, stimuli=tuple(text.removesuffix(".") for text in one.stimuli)) for one in told]
        return {"word": cut, "stop": told}

    @cached_property
    def hook_points(self) -> list[str]:
        """The output of every block."""
        return [resid_post(layer) for layer in range(int(self.model.cfg.n_layers))]

    @cached_property
    def dictionaries(self) -> dict[str, ConceptDictionary]:
        """Atoms by reading, at every block; those with :data:`GROUND` hold the mean state too."""
        found = {
            reading: build_dictionary(self.model, told, self.hook_points, template=TEMPLATE)
            for reading, told in self.concepts.items()
        }
        ground = self._ground(found["word"])
        return found | {f"{reading}{GROUND}": each.merged(ground) for reading, each in found.items()}

    def _ground(self, like: ConceptDictionary) -> ConceptDictionary:
        """The mean over all stimuli at their full stops as a dictionary of one atom."""
        store = capture(self.model, [text for one in self.concepts["stop"] for text in one.stimuli], self.hook_points)
        means = {point: store.tensor(point).float().mean(0, keepdim=True) for point in self.hook_points}
        atoms = {point: torch.nn.functional.normalize(mean, dim=1) for point, mean in means.items()}
        return ConceptDictionary(("mean state",), ("",), like.hook_points, atoms, like.fingerprint, like.template)

    @cached_property
    def prepared(self) -> dict[str, dict[str, PreparedAtoms]]:
        """Atoms made ready, by reading and hook point."""
        return {reading: prepare(dictionary) for reading, dictionary in self.dictionaries.items()}

    @cached_property
    def contrasts(self) -> dict[tuple[str, str], Float[Tensor, "layer d_model"]]:
        """By reading and unwanted topic: mean over its stimuli minus mean over those of the opposite."""
        found = {}
        for reading, told in self.concepts.items():
            for topic, opposite in UNWANTED.items():
                means = []
                for side in (topic, opposite):
                    store = capture(self.model, topic_texts(told, side), self.hook_points)
                    means.append(torch.stack([store.tensor(point).float().mean(0) for point in self.hook_points]))
                found[reading, topic] = means[0] - means[1]
        return found

    @cached_property
    def norms(self) -> dict[str, float]:
        """Mean residual norm at each hook point, over the stimuli at their full stops."""
        texts = [text for one in self.concepts["stop"] for text in one.stimuli[:2]]
        store = capture(self.model, texts, self.hook_points)
        return {point: float(store.tensor(point).float().norm(dim=1).mean()) for point in self.hook_points}

    @cached_property
    def stories(self) -> list[str]:
        """Real stories of the test part."""
        return [story for story in self._told if stories.part_of(story) == "test"]

    @cached_property
    def vocabulary(self) -> frozenset[str]:
        """Every word of the real stories of all parts, in lower case."""
        return frozenset(word for story in self._told for word in word_list(story))

    @cached_property
    def _told(self) -> list[str]:
        return stories.load_stories(SHARED / "data/tinystories/stories.jsonl")

    def neutral(self, part: str) -> NeutralText:
        """Beginnings of real stories that name no feeling, others for the search than for the scores.

        Damage is that of what follows the first eight tokens: a removal per prompt has no earlier effect, and all
        methods are measured on the same tokens.
        """
        texts = stories.neutral_texts(self.stories, N_NEUTRAL)
        chosen = texts[:N_SEARCH_NEUTRAL] if part == "search" else texts[N_SEARCH_NEUTRAL:]
        return NeutralText(tuple(chosen), max_tokens=MAX_TOKENS, prompt_tokens=PROMPT_TOKENS)

    def cloze(self) -> Choices:
        """Which word comes next in real stories, words of feelings left out."""
        return Choices(tuple(cloze_items(self.stories, N_CLOZE, stories.ADJECTIVES)), name="cloze")
