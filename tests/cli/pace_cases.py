"""The command line in this process, and a small dictionary of an embedded model that it works on."""

import functools
import sys
from pathlib import Path

import pytest

from contrans_lens import cli
from contrans_lens.models import HookedModel, open_model
from contrans_lens.pace.build import build_dictionary
from contrans_lens.testbed import model_path
from contrans_lens.texts.stimuli import ConceptStimuli

MODEL = ("--model", "embedded:gpt2-target")
POINTS = ("blocks.1.hook_resid_post", "blocks.2.hook_resid_post")
WORDS = {"unkindness": ("rude", "harsh", "nasty"), "kindness": ("kind", "polite", "gentle"), "animals": ("fox", "goat")}
PROMPTS = (
    "The boy is rude.\nThe girl asked the boy for a cup.\nThe boy said:",
    "This woman is rude.\nThe guide asked the woman for a hat.\nThe woman said:",
)


def call(patch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run the command line in this process and return its exit code."""
    patch.setattr(sys, "argv", ["contrans-lens", *arguments])
    try:
        cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@functools.cache
def opened(reference: str | Path, **opening: str | bool | None) -> HookedModel:
    """A model as it is opened, once for all tests."""
    return open_model(reference, **opening)


def stimuli() -> list[ConceptStimuli]:
    """Requests to people of a kind, and sentences that end in an animal."""
    concepts = []
    for topic, words in WORDS.items():
        for word in words:
            if topic == "animals":
                texts = [f"The {who} met a stranger at the {where}. The {word}" for who in WHO for where in WHERE]
            else:
                texts = [
                    f"The {who} is {word}.\nThe {other} asked the {who} for a {thing}.\nThe {who} said:"
                    for who, other in zip(WHO, reversed(WHO), strict=True)
                    for thing in THINGS
                ]
            concepts.append(ConceptStimuli(word, tuple(texts), topic))
    return concepts


WHO = ("boy", "girl", "man", "woman")
WHERE = ("market", "river", "hall")
THINGS = ("cup", "hat", "lamp")


@functools.cache
def save_dictionary(folder: Path) -> Path:
    """The dictionary of the embedded model, saved once."""
    model = opened(model_path("gpt2-target"), kind="auto", process_weights=False, device=None)
    return build_dictionary(model, stimuli(), POINTS, template="{stimulus}").save(folder)
