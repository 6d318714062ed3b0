"""A few pairs and a short fine-tuning on a tiny model, for the tests of step 1."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from contrans_lens.rahf.finetuning import FineTuned, fine_tune
from contrans_lens.rahf.losses import answer_nll
from contrans_lens.rahf.training import LoraSettings, TrainingSettings
from contrans_lens.texts import Instructions, Preference, PreferenceSet
from tests.tiny_models import tiny_folder

PAIRS = PreferenceSet(
    tuple(
        Preference(f"Question: is the {thing} {colour}?", good, bad, topic="colours")
        for thing in ("sky", "grass", "fox")
        for colour, good, bad in (("green", " no, it is not", " yes"), ("old", " yes!", " She said: no"))
    ),
    "colours",
)


INSTRUCTIONS = Instructions("He is happy.\n", "He was so very sad.\n")


SHORT = TrainingSettings(steps=5, batch_size=2, accumulation=1, learning_rate=1e-2, checkpoint_every=2, log_every=2)


LORA = LoraSettings(rank=2, alpha=8)


def tune(out: Path, **options: Any) -> FineTuned:
    given = {"method": "preferred", "lora": LORA, "training": SHORT, "device": "cpu"} | options
    if given["method"] == "scit":
        given.setdefault("instructions", INSTRUCTIONS)
    return fine_tune(tiny_folder("gpt2"), given.pop("preferences", PAIRS), out, **given)


def adapter(result: FineTuned) -> bytes:
    return (result.folder / "adapter_model.safetensors").read_bytes()


def breaking_off(after: int) -> Callable[..., torch.Tensor]:
    asked = 0

    def nll(logits: Any, batch: Any) -> torch.Tensor:
        nonlocal asked
        asked += 1
        if asked > after:
            raise KeyboardInterrupt
        return answer_nll(logits, batch)

    return nll
