"""The controls that stand beside a transplanted vector, at its hook point and at equal norm or equal damage."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from contrans_lens.evaluation import rank_p_value
from contrans_lens.pipeline.bench import Bench
from contrans_lens.pipeline.choice import Choice
from contrans_lens.pipeline.directions import control_families, unit
from contrans_lens.pipeline.reading import ConceptReading, PairReading
from contrans_lens.pipeline.result import Row
from contrans_lens.pipeline.verdict import CONTROL_ROWS


def control_rows(
    bench: Bench,
    pair: PairReading,
    reading: ConceptReading,
    choice: Choice,
    strength: float,
    moved: Float[Tensor, "d_target"],
    effect: float,
) -> list[Row]:
    """Every control at the hook point of the transplanted vector, at equal norm or equal budget."""
    settings = bench.settings
    draws, seed = settings.draws, settings.seed
    seeds = tuple(range(seed, seed + draws))
    vector = reading.source.at(choice.source)
    families = control_families(pair, vector, choice.source, choice.target, draws, seed)
    rows = []
    for name in CONTROL_ROWS:
        units = families[name]
        strengths = [strength] * draws
        if settings.controls_at == "budget":
            strengths = bench.solve(choice.target, units)
        row, _ = bench.row(name, choice.target, units, strengths, seeds=seeds)
        rows.append(replace(row, p_value=rank_p_value(row.draws, effect)))
    if vector.shape[0] <= moved.shape[0]:
        padded = torch.zeros_like(moved)
        padded[: vector.shape[0]] = vector
        rows.append(bench.row("identity", choice.target, unit(padded[None]), [strength])[0])
    last = pair.target.hook_points[-1]
    carried = pair.maps.concept(vector, choice.source, last)
    rows.append(bench.row("last_layer", last, unit(carried[None]), [strength])[0])
    return rows
