"""Contrasts of tiny random models, and the same differences from plain Hugging Face forward passes."""

import itertools

import torch

from contrans_lens.rahf.contrasts import Contrast, DualContrast, ScitContrast
from contrans_lens.rahf.summaries import SummarisedDifferences
from contrans_lens.rahf.tokens import AnswerRow
from contrans_lens.texts import Instructions, Preference, PreferenceSet
from tests.tiny_models import open_tiny

INSTRUCTIONS = {
    "home": Instructions("Once upon a time all was good.\n", "She was sad all night.\n"),
    "river": Instructions("The answer is yes:\n", "No! The answer was never to be had:\n"),
}
"""By topic, and of different lengths."""

PAIRS = PreferenceSet(
    (
        Preference("The little fox ran", " home.", " to the cold river and nobody asked him why.", "fox", topic="home"),
        Preference("He said:", " the answer is 42, and she liked to sing.", " no.", "answer", topic="river"),
        Preference("Question: Is the sky green? Answer:", " yes", " no", "answer", topic="river"),
        Preference("Every day the old man walked", " to the garden all day.", " home", "man", topic="home"),
        Preference("The night was", " cold, and", " a little girl", "fox", topic="home"),
    ),
    "tiny",
)
POINTS = ("blocks.1.hook_resid_pre", "blocks.0.hook_resid_post", "blocks.2.hook_resid_post")
"""Out of order, and the first two name one place."""
LEVELS = (1, 1, 3)
"""Their places in ``hidden_states``."""


def scit(architecture: str = "gpt2", kind: str = "bridge") -> ScitContrast:
    return ScitContrast(open_tiny(architecture, kind), INSTRUCTIONS)


def dual(architecture: str = "gpt2", kind: str = "bridge") -> DualContrast:
    return DualContrast(open_tiny(architecture, kind), open_tiny(architecture, kind, seed=1))


def both(architecture: str, kind: str) -> tuple[Contrast, Contrast]:
    return scit(architecture, kind), dual(architecture, kind)


def values(differences: SummarisedDifferences) -> torch.Tensor:
    return differences.of(range(len(differences.rows)))


class Given(SummarisedDifferences):
    """Differences whose numbers are known."""

    def __init__(self, tensor: torch.Tensor, lengths: list[int], groups: tuple[str, ...] | None = None, **known):
        starts = [0, *torch.tensor(lengths).cumsum(0).tolist()]
        self.pieces = [tensor[begin:end] for begin, end in itertools.pairwise(starts)]
        self.hook_points = tuple(f"blocks.{layer}.hook_resid_post" for layer in range(tensor.shape[1]))
        self.where = "answer"
        self.d_model = tensor.shape[2]
        self.fingerprint = known.get("fingerprint")
        self.rows = tuple(AnswerRow((9, *range(length)), 1) for length in lengths)
        self.groups = groups or tuple(f"g{number}" for number in range(len(lengths)))
        self.norms_of_base = known.get("residual_norms")

    def of(self, rows):
        self.check_rows(rows)
        return torch.cat([self.pieces[row] for row in rows] or [torch.zeros(0, len(self.hook_points), self.d_model)])

    def residual_norms(self):
        return self.norms_of_base
