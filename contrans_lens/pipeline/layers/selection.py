"""The causal half of a layer selection: a shortlist is written, one pair is chosen, and scored on other items."""

from collections.abc import Sequence
from dataclasses import dataclass

from contrans_lens.errors import SelectionError
from contrans_lens.evaluation.response import PromptResponse, shared_tokens
from contrans_lens.ledger import Ledger
from contrans_lens.models import HookedModel
from contrans_lens.pipeline.bench import Bench
from contrans_lens.pipeline.layers.evidence import StateEvidence, response_evidence
from contrans_lens.pipeline.layers.measure import NATIVE, CausalStudy, Echo, MeasuredCell, Pair
from contrans_lens.pipeline.layers.response import OwnResponse
from contrans_lens.pipeline.layers.settings import ALL_PAIRS, SHORTLIST, LayerSettings
from contrans_lens.pipeline.reading import ModelReading, PairReading
from contrans_lens.selection import (
    CausalCell,
    Evidence,
    Gate,
    Predictor,
    rank_predictors,
    shortlist,
    three_quarters,
)
from contrans_lens.selection import gates as gate
from contrans_lens.texts import ContrastSet

SHORTLIST_EVIDENCE = ("source_auroc", "carried_r2")
"""What ranks the source layers of a shortlist; none of it needs labels in the target."""


@dataclass(frozen=True, eq=False)
class Responding:
    """The prompts whose next token is looked at, with what the concept does to them in its own model."""

    response: PromptResponse
    echo: Echo | None

    @classmethod
    def prepare(cls, model: HookedModel, prompts: Sequence[str], paired: bool, own: OwnResponse) -> "Responding":
        """Run the prompts through the unsteered target and find the tokens that both models have."""
        theirs, ours = shared_tokens(own.token_texts, model)
        echo = Echo(own.shifts[:, :, theirs], ours) if len(ours) else None
        return cls(PromptResponse(model, prompts, paired=paired), echo)


@dataclass(frozen=True, eq=False)
class LayerChoice:
    """What was found on validation items."""

    cells: tuple[CausalCell, ...]
    native: tuple[CausalCell, ...]
    shortlist: tuple[Pair, ...]
    prior: Pair
    best: Pair
    best_native: str
    """Hook point where the target's own vector does most."""
    responses: tuple[Evidence, ...]
    predictors: tuple[Predictor, ...]
    gates: tuple[Gate, ...]


@dataclass(frozen=True)
class TestScores:
    """What was found on test items, which chose nothing."""

    __test__ = False  # the name begins with "Test": pytest must not collect it

    best: CausalCell
    native: CausalCell
    prior: CausalCell
    gate: Gate


@dataclass(frozen=True, eq=False)
class Selection:
    """The causal half of a selection, on an opened target."""

    model: HookedModel
    pair: PairReading
    source: ModelReading
    target: ModelReading
    evidence: StateEvidence
    settings: LayerSettings
    neutral: Sequence[str]
    ledger: Ledger
    responding: Responding | None = None

    def choose(self, validation: ContrastSet) -> LayerChoice:
        """Write the shortlist with controls (and, if asked for, all other pairs without) and choose the best pair.

        The last block of the target is left out: after it nothing is computed any more, and a vector there only adds
        a fixed push to the logits.

        Raises:
            SelectionError: the target has one layer only.
        """
        sources, targets = self.pair.source.hook_points, self.pair.target.hook_points
        if len(targets) < 2:
            raise SelectionError(
                "the target has one layer, and after it nothing is computed: a vector there only pushes the logits. "
                "Choose a target with two layers or more."
            )
        allowed = targets[:-1]
        prior = (three_quarters(sources), min(three_quarters(targets), allowed[-1], key=targets.index))
        listed = self._shortlist(prior)
        study = self._study(validation, rough=True)
        every = [(s, t) for s in sources for t in allowed] if self.settings.measure != SHORTLIST else listed
        asked = [*every, *((NATIVE, t) for t in allowed)]
        measured = study.measure(asked, controlled=listed)
        moved, native = measured[: len(every)], [each.cell for each in measured[len(every) :]]
        controlled = [each.cell for each in moved if each.cell.pair in listed]
        best = max(controlled, key=lambda cell: cell.effect)
        responses = response_evidence(moved, sources, targets)
        return LayerChoice(
            cells=tuple(each.cell for each in moved),
            native=tuple(native),
            shortlist=tuple(listed),
            prior=prior,
            best=best.pair,
            best_native=max(native, key=lambda cell: cell.effect).target,
            responses=tuple(responses),
            predictors=self._predictors(moved, responses),
            gates=self._gates(controlled, best),
        )

    def score(self, choice: LayerChoice, test: ContrastSet) -> TestScores:
        """Score the best pair with its controls on test items, beside the ceiling and the paper's prior."""
        study = self._study(test, rough=False)
        pairs = list(dict.fromkeys([choice.best, choice.prior, (NATIVE, choice.best_native)]))
        found = {each.cell.pair: each.cell for each in study.measure(pairs, controlled=[choice.best])}
        best = found[choice.best]
        native = found[NATIVE, choice.best_native]
        return TestScores(best, native, found[choice.prior], gate.confirmed(best, self.settings.alpha))

    def _shortlist(self, prior: Pair) -> list[Pair]:
        sources, targets = self.pair.source.hook_points, self.pair.target.hook_points
        ranked = [each for each in self.evidence.evidence if each.name in SHORTLIST_EVIDENCE]
        always = [(sources.index(prior[0]), targets.index(prior[1]))]
        everything = len(sources) * (len(targets) - 1)
        room = everything if self.settings.measure == ALL_PAIRS else self.settings.shortlist
        places = shortlist(ranked, room, always=always, allowed=range(len(targets) - 1))
        return [(sources[s], targets[t]) for s, t in places]

    def _study(self, items: ContrastSet, *, rough: bool) -> CausalStudy:
        norms = dict(zip(self.pair.target.hook_points, self.pair.target.residual_norms.tolist(), strict=True))
        return CausalStudy(
            bench=Bench(self.model, items.evaluation, self.neutral, norms, self.settings.transplant),
            pair=self.pair,
            source=self.source.vectors,
            target=self.target.vectors,
            draws=self.settings.draws,
            ledger=self.ledger.with_key(
                source=self.pair.source.fingerprint.identity(),
                target=self.pair.target.fingerprint.identity(),
                items=items.content_hash,
                rough=rough,
            ),
            rough=rough,
            response=self.responding.response if self.responding and rough else None,
            echo=self.responding.echo if self.responding and rough else None,
        )

    def _predictors(self, moved: Sequence[MeasuredCell], responses: Sequence[Evidence]) -> tuple[Predictor, ...]:
        sources, targets = self.pair.source.hook_points, self.pair.target.hook_points
        effects = self.evidence.evidence[0].values.new_full((len(sources), len(targets)), float("nan"))
        for each in moved:
            effects[sources.index(each.cell.source), targets.index(each.cell.target)] = each.cell.effect
        base = self.settings.transplant
        return rank_predictors([*self.evidence.evidence, *responses], effects, level=base.level, seed=base.seed)

    def _gates(self, controlled: Sequence[CausalCell], best: CausalCell) -> tuple[Gate, ...]:
        alpha = self.settings.alpha
        probe = self.evidence.source_probes.best()
        p_value = self.evidence.source_probes.best_p
        carriage = self.evidence.similarity["carried_r2"]
        found = carriage.at(best.source, best.target)
        return (
            gate.readable(1.0 if p_value is None else p_value, probe.hook_point, probe.auroc.value, alpha),
            gate.carried(found["p_corrected"], found["values"], best.pair, alpha),
            gate.causal(controlled, best, alpha),
        )
