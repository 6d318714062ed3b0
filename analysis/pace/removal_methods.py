"""The methods that are compared, each as a cell that removes at strength 1 and is scaled as a whole."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from removal_setups import Setup, mean_differences

from contrans_lens.evaluation import Cell, random_directions
from contrans_lens.interventions import ALL, CONTINUATION, Intervention
from contrans_lens.pace.build import middle_hook_points
from contrans_lens.pace.removal import Mode, removals
from contrans_lens.pace.solvers.elastic_net import ElasticNet
from contrans_lens.pace.solvers.omp import OMP
from contrans_lens.pace.solvers.projection import OrthogonalProjection, VectorAddition
from contrans_lens.pace.solvers.solver import Solver, solver_from_dict

SHARE = 0.25
"""Strength 1 of an addition, in residual norms at each hook point: the cap of 4 is one whole norm."""
MAX_STRENGTH = 4.0
PAPER_ALPHA = 0.05
ALPHAS = (0.1, 0.05, 0.02, 0.01)
COUNTS = (3, 10, 30)


@dataclass(frozen=True)
class Choice:
    """A method with its numbers: what is tried on validation items and used on test items."""

    solver: dict | None
    """None: the mean difference is added."""
    blocks: tuple[int, ...]

    def to_dict(self) -> dict:
        """As JSON values."""
        return {"solver": self.solver, "blocks": list(self.blocks)}

    @classmethod
    def from_dict(cls, value: dict) -> "Choice":
        """From JSON values."""
        return cls(value["solver"], tuple(value["blocks"]))


def candidate_solvers() -> dict[str, list[Solver | None]]:
    """By method, the solvers that are tried."""
    return {
        "elastic net": [ElasticNet(alpha) for alpha in ALPHAS],
        "OMP": [OMP(k) for k in COUNTS],
        "projection": [OrthogonalProjection()],
        "addition": [VectorAddition(1.0)],
        "mean difference": [None],
    }


class Methods:
    """Makes the cells of a setup."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.away = mean_differences(setup)

    def cell(self, choice: Choice, atoms: Sequence[str] | None = None, mode: Mode = "per_prompt") -> Cell:
        """A method; the true topic's atoms are undesirable where none are named."""
        target = self.setup.target
        points = [target.dictionary.hook_points[block] for block in choice.blocks]
        positions = CONTINUATION if mode == "per_prompt" else ALL
        if choice.solver is None:
            return self.added([self.away[point][0] for point in points], points, mode)
        names = self.setup.topic_atoms if atoms is None else tuple(atoms)
        solver = solver_from_dict(choice.solver)
        if isinstance(solver, VectorAddition):
            rows = [target.dictionary.index(name) for name in names]
            lengths = [float(torch.as_tensor(target.dictionary.at(point)[rows]).sum(0).norm()) for point in points]
            made: list = []
            for point, length in zip(points, lengths, strict=True):
                scaled = VectorAddition(SHARE / length)
                made += removals(target.dictionary, names, [point], solver=scaled, mode=mode, positions=positions)
            return tuple(made)
        return removals(
            target.dictionary, names, points, solver=solver, mode=mode, positions=positions, prepared=target.prepared
        )

    def added(self, vectors: Sequence[torch.Tensor], points: Sequence[str], mode: Mode = "per_prompt") -> Cell:
        """Vectors added at hook points, each with the share of its residual norm."""
        return tuple(
            Intervention(
                point,
                vector,
                strength=SHARE,
                residual_norm=self.away[point][1],
                positions=CONTINUATION if mode == "per_prompt" else ALL,
            )
            for point, vector in zip(points, vectors, strict=True)
        )

    def paper(self) -> Choice:
        """The paper's setting: elastic net of alpha .05 at the middle blocks, nothing chosen."""
        points = middle_hook_points(self.setup.target.model)
        blocks = tuple(self.setup.target.dictionary.hook_points.index(point) for point in points)
        return Choice(ElasticNet(PAPER_ALPHA).to_dict(), blocks)

    def all(self, chosen: dict[str, Choice]) -> dict[str, Cell]:
        """Every method of the comparison, on the true topic's atoms and on what the scorer finds."""
        cells = {"paper": self.cell(self.paper())}
        cells |= {name: self.cell(choice) for name, choice in chosen.items()}
        scored = self.setup.scored_atoms
        if set(scored) == set(self.setup.topic_atoms):
            return cells  # the same partition
        for name in ("elastic net", "projection"):
            cells[f"{name}, scorer"] = self.cell(chosen[name], scored)
        return cells

    def shuffled(self, choice: Choice) -> list[Cell]:
        """The method with the flags permuted over all atoms: as many undesirable atoms, at random."""
        return [self.cell(choice, names) for names in self.shuffled_atoms()]

    def shuffled_atoms(self) -> list[list[str]]:
        """The atoms that each shuffled partition flags."""
        names, n_flagged = self.setup.target.dictionary.names, len(self.setup.topic_atoms)
        generator = torch.Generator().manual_seed(0)
        orders = [torch.randperm(len(names), generator=generator) for _ in range(self.setup.sizes.draws)]
        return [[names[row] for row in order[:n_flagged].tolist()] for order in orders]

    def random(self, choice: Choice) -> list[Cell]:
        """Random vectors of the same norm at the same hook points."""
        points = [self.setup.target.dictionary.hook_points[block] for block in choice.blocks]
        width = self.setup.target.dictionary.d_model
        drawn = [random_directions(width, self.setup.sizes.draws, 1.0, seed=block) for block in choice.blocks]
        return [self.added([each[draw] for each in drawn], points) for draw in range(self.setup.sizes.draws)]
