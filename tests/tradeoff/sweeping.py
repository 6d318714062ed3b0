"""A small sweep that several tests carry out, here and in processes of their own."""

import sys
from pathlib import Path

import torch

from contrans_lens.evaluation.behaviours import Choices, PairedAnswers
from contrans_lens.models import fingerprint, open_model
from contrans_lens.texts import ChoiceItem, EvaluationItem
from contrans_lens.tradeoff import SweepPlan, direction, family, strength_grid, sweep, tradeoff_plan
from tests.tiny_models import D_MODEL

PROMPTS = (
    "He said: the answer is",
    "Is the sky green? Answer:",
    "She felt",
    "the old man",
    "No",
    "a girl who",
    "the fox",
)
PAIRS = tuple(EvaluationItem(prompt, " happy", " sad", f"g{i % 4}") for i, prompt in enumerate(PROMPTS))
CHOICES = tuple(ChoiceItem(prompt, (" yes", " no", " the garden"), (i % 3,)) for i, prompt in enumerate(PROMPTS))
NEUTRAL = ("Once upon a time there was a girl.", "The little fox ran home because the night was cold.", "He said: no!")
FIRST, SECOND = "blocks.1.hook_resid_post", "blocks.2.hook_resid_post"


def unit(seed):
    return torch.randn(D_MODEL, generator=torch.Generator().manual_seed(seed))


def small_plan(model, strengths_per_unit=3, n=2):
    identity = fingerprint(model)
    directions = {
        "one": direction(FIRST, unit(0), residual_norm=2.0, fingerprint=identity),
        "two layers": direction(FIRST, unit(1), residual_norm=2.0) + direction(SECOND, unit(2), residual_norm=3.0),
        **family("random", [direction(FIRST, unit(10 + draw), residual_norm=2.0) for draw in range(2)]),
    }
    return tradeoff_plan(
        directions,
        PairedAnswers(PAIRS, "mood"),
        strength_grid(2.0, n),
        helpfulness=Choices(CHOICES, name="facts"),
        neutral=NEUTRAL,
        strengths_per_unit=strengths_per_unit,
    )


def one_by_one(model, plan: SweepPlan):
    """Every value of a plan from single measurements."""
    from contrans_lens.evaluation import scaled

    found = {}
    for behaviour in plan.behaviours:
        for name, cell in plan.directions.items():
            if name.startswith("random") and behaviour.name.endswith("shift"):
                continue
            parts = [behaviour.measure(model, [scaled(cell, r) if r else ()]) for r in plan.strengths]
            for column in parts[0].columns:
                found[name, behaviour.name, column] = torch.cat([part.column(column) for part in parts])
    return found


def main(folder: str, work: str, out: str) -> None:
    """Carry the sweep out and save it; says when a unit is done, so that whoever watches can kill it."""
    torch.set_num_threads(1)
    model = open_model(Path(folder))

    def say(line: str) -> None:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    sweep(model, small_plan(model), work=Path(work), say=say, name="tiny").save(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
