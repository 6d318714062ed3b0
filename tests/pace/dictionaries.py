"""Concept dictionaries and stimuli made up for the tests of this room."""

import torch

from contrans_lens.models import Fingerprint
from contrans_lens.pace.dictionary import ConceptDictionary
from contrans_lens.texts.stimuli import ConceptStimuli

HOOK_POINTS = ("blocks.1.hook_resid_post", "blocks.2.hook_resid_post")

SHORT_TEMPLATE = "{concept}: {stimulus} So"
"""For tiny models, whose context is 128 tokens of a byte or two."""


def unit_rows(n, width, seed=0):
    rows = torch.randn(n, width, generator=torch.Generator().manual_seed(seed))
    return rows / rows.norm(dim=1, keepdim=True)


def random_dictionary(n=12, width=8, hook_points=HOOK_POINTS, seed=0, prefix="concept", **fields) -> ConceptDictionary:
    """Random atoms, with topics of three concepts each and some quality."""
    atoms = {name: unit_rows(n, width, 100 * seed + number) for number, name in enumerate(hook_points)}
    fields.setdefault("quality", torch.linspace(0.5, 1, n * len(hook_points)).reshape(n, len(hook_points)))
    return ConceptDictionary(
        names=tuple(f"{prefix} {number}" for number in range(n)),
        topics=tuple(f"topic {number // 3}" for number in range(n)),
        hook_points=tuple(hook_points),
        atoms=atoms,
        **fields,
    )


def made_up_fingerprint(width=8, name="made up") -> Fingerprint:
    return Fingerprint(name, "GPT2LMHeadModel", 4, width, 50, "0" * 16, "raw", "float32", "none")


def small_concepts(n_stimuli=5) -> list[ConceptStimuli]:
    """Four concepts in two topics, with different numbers of stimuli."""
    told = {
        "sun": ("light", ["The day is warm.", "It shines on the hill.", "She looked up and smiled.", "Noon came."]),
        "lamp": ("light", ["He read by it at night.", "It stood on the desk.", "The room was dim.", "A switch."]),
        "dog": ("pet", ["It barked at the boy.", "It ran home.", "He threw the stick.", "A wet nose."]),
        "cat": ("pet", ["It slept all day.", "It drank the milk.", "A soft paw.", "The mouse was gone."]),
    }
    more = {"dog": ["It wagged its tail.", "They went for a walk."], "sun": ["The sky was red."]}
    return [
        ConceptStimuli(name, tuple([*stimuli, *more.get(name, [])][:n_stimuli]), topic)
        for name, (topic, stimuli) in told.items()
    ]
