"""What is compared: PaCE with two solvers, projection and addition of the same atoms, contrast vectors, controls."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

from tale_lab import READINGS, Lab, Sizes

from contrans_lens.evaluation import Cell, random_directions
from contrans_lens.interventions import ALL, CONTINUATION, Intervention
from contrans_lens.pace.partition import Partition, partition
from contrans_lens.pace.removal import Mode, removals
from contrans_lens.pace.scorers import Judge
from contrans_lens.pace.solvers import OMP, ElasticNet, OrthogonalProjection, Solver, VectorAddition

METHODS = ("omp", "elastic net", "projection", "addition", "mean difference")
PACE = ("omp", "elastic net")
REFERENCE = "omp"
"""What the other methods are compared with."""
MODES: tuple[Mode, ...] = ("per_prompt", "per_token")
LAYERS = ((1,), (3,), (1, 2, 3))
PARAMETERS: dict[str, tuple[float, ...]] = {"omp": (4.0, 8.0), "elastic net": (0.05, 0.1)}
"""k of OMP, alpha of the elastic net."""
ADDED = 0.3
"""What strength 1 of an addition stands for, in residual norms: with the largest strength it reaches far enough."""
MAX_STRENGTH = 8.0


@dataclass(frozen=True)
class Recipe:
    """How a method is applied: chosen on validation items."""

    method: str
    reading: str
    layers: tuple[int, ...]
    parameter: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {**asdict(self), "layers": list(self.layers)}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> "Recipe":
        """From :meth:`to_dict`."""
        return cls(value["method"], value["reading"], tuple(value["layers"]), value["parameter"])


def recipes(method: str, sizes: Sizes) -> list[Recipe]:
    """All that is tried of a method."""
    layers = LAYERS[1:] if sizes.small else LAYERS
    found = product(READINGS, layers, PARAMETERS.get(method, (0.0,)))
    return [Recipe(method, reading, where, parameter) for reading, where, parameter in found]


def topic_partition(lab: Lab, reading: str, topic: str) -> Partition:
    """The concepts of a topic are undesirable, judged by their topic alone."""
    dictionary = lab.dictionaries[reading]
    topics = dict(zip(dictionary.names, dictionary.topics, strict=True))
    return partition(dictionary, f"remove {topic}", Judge(lambda task, name: 1.0 if topics[name] == topic else -1.0))


def method_cell(lab: Lab, recipe: Recipe, topic: str, mode: Mode, chosen: Partition | None = None) -> Cell:
    """A method as a cell, strength 1.

    Args:
        lab: the model.
        recipe: how the method is applied.
        topic: what is removed.
        mode: when it is decomposed; from the end of the prompt on (``per_prompt``) or at every token.
        chosen: another partition, for controls.
    """
    points = [lab.hook_points[layer] for layer in recipe.layers]
    if recipe.method == "mean difference":
        vectors = [lab.contrasts[recipe.reading, topic][layer] for layer in recipe.layers]
        return _written(lab, points, vectors, mode)
    dictionary = lab.dictionaries[recipe.reading]
    undesirable = topic_partition(lab, recipe.reading, topic) if chosen is None else chosen
    return removals(
        dictionary,
        undesirable,
        points,
        solver=_solver(recipe, len(undesirable.undesirable)),
        mode=mode,
        positions=_positions(mode),
        prepared=lab.prepared[recipe.reading],
        label=recipe.method,
    )


def shuffled_cells(lab: Lab, recipe: Recipe, topic: str, mode: Mode, draws: int) -> list[Cell]:
    """A control: as many other concepts, drawn at random, are undesirable; everything else is the recipe's."""
    own = topic_partition(lab, recipe.reading, topic)
    return [method_cell(lab, recipe, topic, mode, own.shuffled(seed)) for seed in range(draws)]


def random_cells(lab: Lab, recipe: Recipe, mode: Mode, draws: int) -> list[Cell]:
    """A control: isotropic vectors of one norm at the recipe's places."""
    points = [lab.hook_points[layer] for layer in recipe.layers]
    width = int(lab.model.cfg.d_model)
    drawn = [list(random_directions(width, len(points), 1.0, seed=seed)) for seed in range(draws)]
    return [_written(lab, points, vectors, mode) for vectors in drawn]


def _written(lab: Lab, points: Sequence[str], vectors: Sequence[Any], mode: Mode) -> Cell:
    """Vectors taken away at every hook point, in units of its residual norm."""
    return tuple(
        Intervention(
            point, vector, strength=-ADDED, residual_norm=lab.norms[point], positions=_positions(mode), label="vector"
        )
        for point, vector in zip(points, vectors, strict=True)
    )


def _positions(mode: Mode) -> Any:
    return CONTINUATION if mode == "per_prompt" else ALL


def _solver(recipe: Recipe, n_undesirable: int) -> Solver:
    if recipe.method == "omp":
        return OMP(int(recipe.parameter))
    if recipe.method == "elastic net":
        return ElasticNet(recipe.parameter)
    # Parallel atoms add up, so that this is their mean at ADDED residual norms where they all agree.
    return OrthogonalProjection() if recipe.method == "projection" else VectorAddition(ADDED / n_undesirable)
