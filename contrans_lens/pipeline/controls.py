"""The controls that stand beside a transplanted vector, at its hook point and at equal norm or equal damage."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from contrans_lens.errors import MapError
from contrans_lens.evaluation import covariance_directions, random_directions
from contrans_lens.pipeline.bench import Bench
from contrans_lens.pipeline.choice import Choice
from contrans_lens.pipeline.reading import ConceptReading, PairReading
from contrans_lens.pipeline.result import Row
from contrans_lens.pipeline.verdict import CONTROL_ROWS, control_p_value


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
    families = {
        "random": random_units(bench, draws, seed),
        "random_covariance": covariance_directions(pair.target.covariance(choice.target), draws, 1.0, seed),
        "random_source": _random_source_units(pair, choice, vector, draws, seed),
        "shuffled_map": unit(pair.maps.shuffled_concepts(vector, choice.source, choice.target, draws, seed)),
    }
    rows = []
    for name in CONTROL_ROWS:
        units = families[name]
        strengths = [strength] * draws
        if settings.controls_at == "budget":
            strengths = bench.solve(choice.target, units)
        row, _ = bench.row(name, choice.target, units, strengths, seeds=seeds)
        rows.append(replace(row, p_value=control_p_value(row.draws, effect)))
    if vector.shape[0] <= moved.shape[0]:
        padded = torch.zeros_like(moved)
        padded[: vector.shape[0]] = vector
        rows.append(bench.row("identity", choice.target, unit(padded[None]), [strength])[0])
    last = pair.target.hook_points[-1]
    carried = pair.maps.concept(vector, choice.source, last)
    rows.append(bench.row("last_layer", last, unit(carried[None]), [strength])[0])
    return rows


def random_units(bench: Bench, draws: int, seed: int) -> Float[Tensor, "draw d_model"]:
    """Isotropic random directions of norm one in the target's residual stream."""
    return random_directions(bench.model.cfg.d_model, draws, 1.0, seed)


def _random_source_units(
    pair: PairReading, choice: Choice, vector: Float[Tensor, "d_source"], draws: int, seed: int
) -> Float[Tensor, "draw d_target"]:
    """Random source directions through the true map."""
    random = random_directions(vector.shape[0], draws, float(vector.norm()), seed)
    return unit(pair.maps.concept(random, choice.source, choice.target))


def unit(vectors: Float[Tensor, "vector d_model"]) -> Float[Tensor, "vector d_model"]:
    """Vectors scaled to norm one.

    Raises:
        MapError: one of them is zero.
    """
    lengths = vectors.float().norm(dim=-1, keepdim=True)
    if not (lengths > 0).all():
        raise MapError("a carried vector is zero: the map kills this direction. Use more varied map texts.")
    return vectors.float() / lengths
