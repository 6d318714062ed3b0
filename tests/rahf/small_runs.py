"""A whole run on a tiny model, which learns next to nothing in a second."""

from pathlib import Path
from typing import Any

from contrans_lens.rahf.align import align
from contrans_lens.rahf.result import RahfResult
from contrans_lens.rahf.training import LoraSettings, TrainingSettings
from contrans_lens.texts import Instructions, Preference, PreferenceSet
from tests.tiny_models import tiny_folder

SHORT = TrainingSettings(steps=2, batch_size=4, accumulation=1, learning_rate=1e-2, log_every=1)
WORDS = Instructions("All is happy.\n", "All is sad.\n")
NEUTRAL = ("The little fox ran home.", "The old man walked to the river.", "Every day she liked to sing.")
_THINGS = ("girl", "fox", "man", "night", "river", "sky", "grass", "garden", "water", "day", "home", "answer")


def small_set() -> PreferenceSet:
    """Two pairs about each of twelve things, a half of them for training; some answers are longer than the others."""
    parts = ("train", "validation", "train", "test")
    pairs = [
        Preference(
            f"{start} the {thing} felt", " happy" + " and liked" * (number % 3 == 0), " sad", thing, parts[place]
        )
        for number, thing in enumerate(_THINGS)
        for start in ("Why is it that", "Nobody said that")
        for place in (number % 4,)
    ]
    return PreferenceSet(tuple(pairs), "feelings")


def open_set() -> PreferenceSet:
    """Pairs of 36 groups that are pinned to no part."""
    pairs = [
        Preference(f"Why is it that the {kind} {thing} felt", " happy", " sad", f"{kind} {thing}")
        for thing in _THINGS
        for kind in ("old", "little", "cold")
    ]
    return PreferenceSet(tuple(pairs), "open feelings")


def small_run(out: Path, **other: Any) -> RahfResult:
    given: dict[str, Any] = {
        "method": "cues",
        "instructions": WORDS,
        "alpha": 1.0,
        "lora": LoraSettings(rank=2, alpha=8),
        "tuning": SHORT,
        "fitting": SHORT,
        "neutral": NEUTRAL,
        "device": "cpu",
    }
    pairs = other.pop("preferences", small_set())
    return align(tiny_folder("gpt2"), pairs, out, **(given | other))
