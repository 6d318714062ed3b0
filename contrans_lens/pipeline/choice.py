"""The hook points of a transplant: given, the paper's prior, the best pair of a sweep, or chosen by evidence."""

from dataclasses import dataclass
from typing import Any

from contrans_lens.errors import SelectionError
from contrans_lens.ledger import Ledger
from contrans_lens.models import check_hook_points
from contrans_lens.pipeline.bench import Bench
from contrans_lens.pipeline.layers.evidence import state_evidence
from contrans_lens.pipeline.layers.select import layer_report
from contrans_lens.pipeline.layers.selection import Selection
from contrans_lens.pipeline.layers.settings import LayerSettings
from contrans_lens.pipeline.reading import ConceptReading, ModelReading, PairReading
from contrans_lens.pipeline.settings import THREE_QUARTERS, Settings
from contrans_lens.selection import Candidate, LayerReport, SweepCell, best_cell, sweep, three_quarters
from contrans_lens.texts import ContrastSplits


@dataclass(frozen=True)
class Choice:
    """The hook points that were chosen, and the sweep that chose them."""

    source: str
    target: str
    native: str
    table: tuple[SweepCell, ...] = ()
    report: LayerReport | None = None
    """What the evidence said, where it chose; its last gate is left to the transplant's own test items."""


def choose(bench: Bench, pair: PairReading, reading: ConceptReading, settings: Settings) -> Choice:
    """Choose the hook points: given ones, the three-quarters prior, or the best pair on validation items.

    The native vector, the ceiling, is always written at its own best hook point unless hook points were given. The
    sweep leaves out the target's last block, where a vector can only push the logits.

    Raises:
        HookPointError: given hook points do not exist.
        SelectionError: nothing of the concept arrives in the target.
    """
    sources, targets = pair.source.hook_points, pair.target.hook_points
    if settings.given_pair or settings.layers == THREE_QUARTERS:
        source, target = settings.given_pair or (three_quarters(sources), three_quarters(targets))
        check_hook_points(bench.model, [target])
        if source not in sources or target not in targets:
            raise SelectionError(
                f"{source} -> {target} is not a pair of captured hook points; choose from {', '.join(sources)} and "
                f"{', '.join(targets)}."
            )
        return Choice(source, target, target)
    # After the last block nothing is computed any more: a vector there only adds a fixed push to the logits. It is a
    # control (row last_layer), not a place to write a concept.
    places = targets[:-1] or targets
    moved = [Candidate(s, t, pair.maps.concept(reading.source.at(s), s, t)) for s in sources for t in places]
    own = [Candidate(t, t, reading.target.at(t)) for t in places]
    cells = sweep(bench.model, bench.items, moved + own, bench.residual_norms, bench.solve_rough)
    table = cells[: len(moved)]
    best, native = best_cell(table), best_cell(cells[len(moved) :])
    return Choice(best.source, best.target, native.target, tuple(table))


def choose_by_evidence(
    bench: Bench,
    pair: PairReading,
    source: ModelReading,
    target: ModelReading,
    splits: ContrastSplits,
    models: tuple[dict[str, Any], dict[str, Any]],
    settings: Settings,
) -> Choice:
    """Choose the hook points by evidence: probes, similarities, and a shortlist that is written beside controls.

    Where no pair works the best one is taken all the same, so that its numbers can be seen; the report says so.

    Args:
        bench: the target with the validation items and the neutral texts.
        pair: the maps.
        source: what was read of the source.
        target: what was read of the target.
        splits: the parts of the contrast set.
        models: source and target as results name them.
        settings: of the transplant; its number of draws is used here too.

    Raises:
        LayerError: too few contrasts for the folds of the probes.
        SelectionError: the target has one layer only.
    """
    chosen = LayerSettings(transplant=settings, draws=settings.draws, response_prompts=0)
    evidence = state_evidence(pair, source, target, splits.train, chosen)
    selection = Selection(bench.model, pair, source, target, evidence, chosen, bench.neutral, Ledger(None, {}))
    choice = selection.choose(splits.validation)
    report = layer_report(selection, choice, None, models, splits.train.name, {"map": pair.text_hash})
    table = tuple(
        SweepCell(c.source, c.target, c.strength, c.effect, c.score_plus, c.score_minus) for c in choice.cells
    )
    return Choice(*choice.best, choice.best_native, table, report)
