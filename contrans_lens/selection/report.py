"""What a layer selection found: evidence about every pair, the chosen pair or none, and what foretold it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from contrans_lens.artifacts import write_json
from contrans_lens.layers import ProbeCurve, SimilarityGrid
from contrans_lens.selection.causal import CausalCell
from contrans_lens.selection.evidence import Evidence
from contrans_lens.selection.gates import Gate
from contrans_lens.selection.predictors import Predictor

if TYPE_CHECKING:  # both are costly to import and needed only by the methods that return them
    import matplotlib.figure
    import pandas

LAYERS_SCHEMA = "contrans-lens/layers/1"
Pair = tuple[str, str]


@dataclass(frozen=True, eq=False, repr=False)
class LayerReport:
    """The answer to: where is the concept read, where is it written, and does any pair of layers work?"""

    source: dict[str, Any]
    """Fingerprint of the source model, with the name it was opened by."""
    target: dict[str, Any]
    """Fingerprint of the target model, with the name it was opened by."""
    concept: str
    source_hook_points: tuple[str, ...]
    target_hook_points: tuple[str, ...]
    evidence: tuple[Evidence, ...]
    """One number per pair each, had without knowing the causal effect."""
    source_probes: ProbeCurve
    target_probes: ProbeCurve
    similarity: Mapping[str, SimilarityGrid]
    """Similarities with their nulls and intervals, by metric."""
    cells: tuple[CausalCell, ...]
    """Pairs that were written, on validation items, at the damage budget."""
    shortlist: tuple[Pair, ...]
    """Pairs that were written with controls; the choice is among them."""
    prior: Pair
    """The paper's pair: three quarters of both depths."""
    gates: tuple[Gate, ...]
    works: bool
    """Whether all gates were passed."""
    reason: str
    """Why it works, or the first gate that was not passed, with the numbers."""
    best: Pair
    """The best pair on validation items, whether or not it works."""
    test: CausalCell | None
    """The best pair on the test items; None where somebody else scores it."""
    test_native: CausalCell | None
    """The target's own vector at its own best hook point, on the test items: the ceiling."""
    test_prior: CausalCell | None
    """The paper's pair on the test items."""
    native: tuple[CausalCell, ...]
    """The target's own vector at every hook point that may be written at, on validation items."""
    predictors: tuple[Predictor, ...]
    """How well each evidence foretold the measured effects, best first."""
    warnings: tuple[str, ...]
    settings: dict[str, Any]
    hashes: dict[str, str]
    """Hashes of the contrast set, the map texts and the neutral texts."""
    command: str | None = None
    seconds: float = field(default=0.0, compare=False)

    @property
    def pair(self) -> Pair | None:
        """The chosen (source, target) hook points, or None: no pair works."""
        return self.best if self.works else None

    @property
    def effects(self) -> Float[Tensor, "source_layer target_layer"]:
        """Effects on validation items, NaN where a pair was not written."""
        grid = torch.full((len(self.source_hook_points), len(self.target_hook_points)), float("nan"))
        for cell in self.cells:
            grid[self.source_hook_points.index(cell.source), self.target_hook_points.index(cell.target)] = cell.effect
        return grid

    def table(self) -> "pandas.DataFrame":
        """One line per pair of layers: all evidence, the effect where it was measured, and the pair's standing."""
        import pandas

        effects = {cell.pair: cell for cell in self.cells}
        rows = []
        for s, source in enumerate(self.source_hook_points):
            for t, target in enumerate(self.target_hook_points):
                row: dict[str, Any] = {"source": source, "target": target}
                row |= {each.name: float(each.values[s, t]) for each in self.evidence}
                cell = effects.get((source, target))
                row |= {
                    "effect": None if cell is None else cell.effect,
                    "low": None if cell is None else cell.effect_ci[0],
                    "high": None if cell is None else cell.effect_ci[1],
                    "strength": None if cell is None else cell.strength,
                    "shortlisted": (source, target) in self.shortlist,
                    "three_quarters": (source, target) == self.prior,
                    "chosen": (source, target) == self.pair,
                }
                rows.append(row)
        return pandas.DataFrame(rows).set_index(["source", "target"])

    def summary(self) -> dict[str, Any]:
        """The content of ``result.json``. Holds no times, so equal runs give equal bytes."""
        return {
            "schema": LAYERS_SCHEMA,
            "source": self.source,
            "target": self.target,
            "concept": self.concept,
            "hook_points": {"source": list(self.source_hook_points), "target": list(self.target_hook_points)},
            "works": self.works,
            "chosen": None if self.pair is None else {"source": self.pair[0], "target": self.pair[1]},
            "best": {"source": self.best[0], "target": self.best[1]},
            "reason": self.reason,
            "gates": [gate.to_dict() for gate in self.gates],
            "test": None if self.test is None else self.test.to_dict(),
            "test_native": None if self.test_native is None else self.test_native.to_dict(),
            "test_three_quarters": None if self.test_prior is None else self.test_prior.to_dict(),
            "three_quarters": {"source": self.prior[0], "target": self.prior[1]},
            "shortlist": [list(pair) for pair in self.shortlist],
            "cells": [cell.to_dict() for cell in self.cells],
            "native": [cell.to_dict() for cell in self.native],
            "evidence": [each.to_dict() for each in self.evidence],
            "predictors": [each.to_dict() for each in self.predictors],
            "probes": {"source": self.source_probes.to_dict(), "target": self.target_probes.to_dict()},
            "similarity": {name: grid.to_dict() for name, grid in self.similarity.items()},
            "warnings": list(self.warnings),
            "settings": self.settings,
            "text_hashes": self.hashes,
            "command": self.command,
        }

    def with_command(self, command: str | None) -> "LayerReport":
        """The same report with the command that makes it again."""
        return replace(self, command=command)

    def plot(self) -> "matplotlib.figure.Figure":
        """Probe curves, the similarity map, the effects, and predicted beside measured, in one figure."""
        from contrans_lens.reports import layers_overview_figure

        return layers_overview_figure(self)

    def save(self, folder: Path | str) -> Path:
        """Write result.json, pairs.csv, figures and report.html into ``folder``.

        Raises:
            ArtifactError: the folder cannot be written; what was complete there stays.
        """
        from contrans_lens.reports import write_layer_report

        folder = Path(folder)
        write_layer_report(self, folder)
        write_json(folder / "result.json", self.summary())
        return folder

    def __repr__(self) -> str:
        return f"LayerReport({self.concept}: {self.source['name']} -> {self.target['name']}, {self._answer()})"

    def __str__(self) -> str:
        """The answer, the gates, and the best evidence, as plain text."""
        lines = [f"{self.concept}: {self.source['name']} -> {self.target['name']}: {self._answer()}"]
        lines += [f"  {'passed' if gate.passed else 'FAILED':6s} {gate.name:10s} {gate.reason}" for gate in self.gates]
        lines.append(f"{'':18s} {'pair':58s} {'effect':>7s} {'95 % interval':>17s}")
        scored = (("best pair", self.test), ("three quarters", self.test_prior), ("target's own", self.test_native))
        for name, cell in scored:
            if cell is not None:
                where = f"{cell.source} -> {cell.target}"
                low, high = cell.effect_ci
                lines.append(f"{name:18s} {where:58s} {cell.effect:+7.3f} {f'[{low:+.3f}, {high:+.3f}]':>17s}")
        shown = [each for each in self.predictors if each.rho is not None]
        if shown:
            lines.append("rank correlation with the measured effect:")
        for each in shown:
            interval = "" if each.ci is None else f" [{each.ci[0]:+.2f}, {each.ci[1]:+.2f}]"
            lines.append(f"  {each.name:20s} {each.rho:+.2f}{interval}")
        return "\n".join(lines + [f"note: {warning}" for warning in self.warnings])

    def _answer(self) -> str:
        return "no pair works" if self.pair is None else f"{self.pair[0]} -> {self.pair[1]}"

    def _repr_html_(self) -> str:
        from contrans_lens.reports import layer_report_html

        return layer_report_html(self)
