"""What the tests of steering share: interventions, prompts and looks into the model."""

import torch

from contrans_lens.interventions import ALL, Intervention
from contrans_lens.models import hooks, logits
from tests.tiny_models import D_MODEL

HOOK = "blocks.1.hook_resid_post"
LATER = "blocks.2.hook_resid_post"
PROMPTS = ("He said: no. Answer: the little fox", "Answer: why", "Once upon a time there was an Answer: 42")


def vector(seed=0):
    return torch.randn(D_MODEL, generator=torch.Generator().manual_seed(seed))


def addition(positions=ALL, hook_point=HOOK, seed=0, **options):
    return Intervention(hook_point, vector(seed), unit="absolute", positions=positions, **options)


def real_rows(batch):
    return [row[mask].tolist() for row, mask in zip(batch.tokens, batch.mask, strict=True)]


def marker_ranks(batch, texts, marker="Answer:"):
    """Rank of the first token that reaches past the marker's start, by brute force over the character spans."""
    return [
        next(rank for rank, (_, stop) in enumerate(spans) if stop > text.rindex(marker))
        for text, spans in zip(texts, batch.offsets, strict=True)
    ]


@torch.no_grad()
def residual(model, batch, hook_point=HOOK):
    """The residual stream as later hooks see it."""
    seen = []
    with hooks(model, {hook_point: seen.append}):
        logits(model, batch)
    return seen[0]


def n_hooks(model):
    modules = {id(each): each for each in [*model.modules(), *model.hook_dict.values()]}
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in modules.values())
