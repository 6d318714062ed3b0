"""The hook points of a transplant: given, the paper's prior, or the best pair of a validation sweep."""

from dataclasses import dataclass

from contrans_lens.errors import SelectionError
from contrans_lens.models import check_hook_points
from contrans_lens.pipeline.bench import Bench
from contrans_lens.pipeline.reading import ConceptReading, PairReading
from contrans_lens.pipeline.settings import THREE_QUARTERS, Settings
from contrans_lens.selection import Candidate, SweepCell, best_cell, sweep, three_quarters


@dataclass(frozen=True)
class Choice:
    """The hook points that were chosen, and the sweep that chose them."""

    source: str
    target: str
    native: str
    table: tuple[SweepCell, ...] = ()


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
