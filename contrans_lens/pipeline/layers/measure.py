"""The causal part: the carried concept written at pairs of layers, beside control draws, at equal damage."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from contrans_lens.concepts import ConceptVectors
from contrans_lens.evaluation import bootstrap_mean_cis
from contrans_lens.evaluation.response import PromptResponse
from contrans_lens.ledger import Ledger
from contrans_lens.pipeline.bench import Bench
from contrans_lens.pipeline.directions import control_families, unit
from contrans_lens.pipeline.layers.settings import FAMILIES
from contrans_lens.pipeline.reading import PairReading
from contrans_lens.selection import CausalCell

Pair = tuple[str, str]
NATIVE = "native"
"""Stands for the source hook point where the target's own vector is written."""


@dataclass(frozen=True, eq=False)
class Echo:
    """What the concept does in its own model, to be compared with what it does in the target."""

    shifts: Float[Tensor, "source_layer prompt token"]
    """Change of next-token probability on the concept's prompts when the vector of a source layer is written there."""
    tokens: Int[Tensor, "token"]
    """The target's ids of the tokens."""


@dataclass(frozen=True)
class MeasuredCell:
    """A cell with what was measured beside its effect."""

    cell: CausalCell
    item_effects: tuple[float, ...]
    reach: float | None = None
    agreement: float | None = None
    echo: float | None = None


@dataclass(frozen=True, eq=False)
class CausalStudy:
    """Writes a concept that was read in the source at hook points of the target.

    Everything at one target hook point is stacked: all source layers, all draws, both signs.
    """

    bench: Bench
    pair: PairReading
    source: ConceptVectors
    target: ConceptVectors
    draws: int
    ledger: Ledger
    rough: bool
    """Solve strengths on few texts, for choosing; or on all neutral texts, for the numbers that are reported."""
    response: PromptResponse | None = None
    echo: Echo | None = None

    def measure(self, pairs: Sequence[Pair], controlled: Sequence[Pair] = ()) -> list[MeasuredCell]:
        """Measure the concept at (source, target) hook points, one cell a pair, in the order given.

        Args:
            pairs: where; the source ``native`` writes the target's own vector.
            controlled: those that are measured with every family of controls.
        """
        found: dict[Pair, MeasuredCell] = {}
        for target in dict.fromkeys(target for _, target in pairs):
            sources = [source for source, at in pairs if at == target]
            with_controls = [source for source in sources if (source, target) in controlled]
            found |= self._measure_at(target, sources, with_controls)
        return [found[pair] for pair in pairs]

    def _measure_at(self, target: str, sources: list[str], controlled: list[str]) -> dict[Pair, MeasuredCell]:
        ledger = self.ledger.with_key(target=target, sources=sources, controlled=controlled, draws=self.draws)
        measured = ledger.recall("cells", lambda: self._write_at(target, sources, controlled))
        effects = measured["plus"] - measured["minus"]
        settings, n = self.bench.settings, len(sources)
        intervals = bootstrap_mean_cis(
            effects[:n].T.contiguous(), self.bench.groups, level=settings.level, seed=settings.seed
        )
        draws = effects[n:].mean(1).reshape(len(controlled), len(FAMILIES), self.draws)
        cells = {}
        for i, (source, interval) in enumerate(zip(sources, intervals, strict=True)):
            controls = {}
            if source in controlled:
                own = draws[controlled.index(source)]
                controls = {name: tuple(own[k].tolist()) for k, name in enumerate(FAMILIES)}
            strength = float(measured["strengths"][i])
            ends = (interval.low, interval.high)
            scores = (float(measured["plus"][i].mean()), float(measured["minus"][i].mean()))
            cell = CausalCell(source, target, strength, interval.value, ends, *scores, controls)
            responses = {name: float(measured[name][i]) for name in ("reach", "agreement", "echo") if name in measured}
            if source == NATIVE:
                responses.pop("echo", None)  # the target's own vector has no counterpart in the source
            cells[source, target] = MeasuredCell(cell, tuple(effects[i].tolist()), **responses)
        return cells

    def _write_at(self, target: str, sources: list[str], controlled: list[str]) -> dict[str, Tensor]:
        """Scores ``[vector, item]`` of the carried concepts of all sources, then of the control draws."""
        carried = torch.cat([self._carried(source, target) for source in sources])
        strengths = self.bench.solve(target, carried, rough=self.rough)
        units = [carried]
        for source in controlled:
            vector, seed = self.source.at(source), self.bench.settings.seed
            families = control_families(self.pair, vector, source, target, self.draws, seed)
            own = torch.cat([families[name] for name in FAMILIES])
            strengths += self.bench.match(target, own, strengths[sources.index(source)], rough=self.rough)
            units.append(own)
        stacked = torch.cat(units)
        additions = stacked * torch.tensor(strengths)[:, None] * self.bench.residual_norms[target]
        scores = self.bench.score(target, additions)
        found = {"strengths": torch.tensor(strengths), "plus": scores.plus, "minus": scores.minus}
        if self.response is not None:
            found |= self._responses(target, sources, additions[: len(sources)])
        return found

    def _carried(self, source: str, target: str) -> Float[Tensor, "1 d_model"]:
        if source == NATIVE:
            return unit(self.target.at(target)[None])
        return unit(self.pair.maps.concept(self.source.at(source), source, target)[None])

    def _responses(
        self, target: str, sources: list[str], additions: Float[Tensor, "vector d_model"]
    ) -> dict[str, Tensor]:
        if self.response is None:
            return {}
        reference = None
        if self.echo is not None:
            names = self.source.hook_points
            # The target's own vector has no counterpart; the first source layer holds its place and is not reported.
            places = [0 if source == NATIVE else names.index(source) for source in sources]
            reference = self.echo.shifts[places]
        tokens = None if self.echo is None else self.echo.tokens
        response = self.response.measure(target, additions, reference=reference, tokens=tokens)
        found = {"reach": response.reach, "agreement": response.agreement, "echo": response.echo}
        return {name: value for name, value in found.items() if value is not None}
