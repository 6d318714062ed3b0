"""What the concept does to its own prompts in its own model, to be compared with what it does in the target."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from contrans_lens.evaluation import solve_strengths
from contrans_lens.evaluation.response import PromptResponse, token_texts
from contrans_lens.ledger import Ledger
from contrans_lens.models import HookedModel
from contrans_lens.pipeline.directions import unit
from contrans_lens.pipeline.reading import ModelReading
from contrans_lens.pipeline.settings import Settings
from contrans_lens.texts import ContrastSet

_ROUGH_TEXTS = 4  # neutral texts that solve a strength; the comparison with the target needs no better


@dataclass(frozen=True, eq=False)
class OwnResponse:
    """What the concept does in the model it was read in."""

    shifts: Float[Tensor, "layer prompt vocab"]
    """Change of next-token probability on the concept's prompts, both signs at the damage budget."""
    token_texts: dict[str, int]


def own_response(
    model: HookedModel,
    reading: ModelReading,
    prompts: Sequence[str],
    neutral: Sequence[str],
    settings: Settings,
    ledger: Ledger,
) -> OwnResponse:
    """Write the concept into its own model at every layer, at the damage budget, and see what it does to the prompts.

    Args:
        model: the model that was read.
        reading: what was read.
        prompts: the concept's prompts.
        neutral: texts that damage is measured on.
        settings: the budget.
        ledger: finished stages.
    """

    def write() -> dict[str, Tensor]:
        response = PromptResponse(model, prompts)
        norms = reading.states.residual_norms
        shifts = []
        for layer, hook_point in enumerate(reading.states.hook_points):
            both = unit(reading.vectors.at(hook_point)[None]) * norms[layer]
            solved = solve_strengths(
                model,
                list(neutral[:_ROUGH_TEXTS]),
                hook_point,
                torch.cat([both, -both]),
                budget=settings.kl_budget,
                tolerance=0.1,
                max_strength=settings.max_strength,
                checks=0,
                max_tokens=settings.max_neutral_tokens,
            )
            strength = min(each.strength for each in solved)
            shifts += [shift for _, shift in response.shifts(hook_point, both * strength)]
        return {"shifts": torch.cat(shifts)}

    keyed = ledger.with_key(model=reading.states.fingerprint.identity())
    return OwnResponse(keyed.recall("own-response", write)["shifts"], token_texts(model))


def response_prompts(train: ContrastSet, n: int) -> tuple[list[str], bool]:
    """Training contrasts whose next token is looked at: evenly spread, positives first; and whether they are pairs.

    Args:
        train: the training part.
        n: at most so many texts, half of them positive.
    """
    half = max(1, n // 2)
    sides = []
    for texts in (train.positives, train.negatives):
        kept = min(half, len(texts), len(train.positives), len(train.negatives))
        sides += [texts[int(i * len(texts) / kept)] for i in range(kept)]
    return sides, train.paired
