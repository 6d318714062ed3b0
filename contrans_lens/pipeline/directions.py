"""Unit vectors that are written: the concept's own, and the draws of every family of controls."""

from jaxtyping import Float
from torch import Tensor

from contrans_lens.errors import MapError
from contrans_lens.evaluation import covariance_directions, random_directions
from contrans_lens.pipeline.bench import Bench
from contrans_lens.pipeline.reading import PairReading


def random_units(bench: Bench, draws: int, seed: int) -> Float[Tensor, "draw d_model"]:
    """Isotropic random directions of norm one in the target's residual stream."""
    return random_directions(bench.model.cfg.d_model, draws, 1.0, seed)


def control_families(
    pair: PairReading, vector: Float[Tensor, "d_source"], source: str, target: str, draws: int, seed: int
) -> dict[str, Float[Tensor, "draw d_target"]]:
    """Draws of every family of controls at one pair of hook points, norm one; names as in ``CONTROL_ROWS``.

    Draw k comes from the same seed at every pair, so it is one and the same control everywhere.
    """
    d_target = pair.target.states.shape[2]
    random = random_directions(vector.shape[0], draws, float(vector.norm()), seed)
    return {
        "random": random_directions(d_target, draws, 1.0, seed),
        "random_covariance": covariance_directions(pair.target.covariance(target), draws, 1.0, seed),
        "random_source": unit(pair.maps.concept(random, source, target)),
        "shuffled_map": unit(pair.maps.shuffled_concepts(vector, source, target, draws, seed)),
    }


def unit(vectors: Float[Tensor, "vector d_model"]) -> Float[Tensor, "vector d_model"]:
    """Vectors scaled to norm one.

    Raises:
        MapError: one of them is zero.
    """
    lengths = vectors.float().norm(dim=-1, keepdim=True)
    if not (lengths > 0).all():
        raise MapError("a carried vector is zero: the map kills this direction. Use more varied map texts.")
    return vectors.float() / lengths
