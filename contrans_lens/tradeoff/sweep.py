"""The sweep: every behaviour under every direction at every strength, kept unit by unit, resumed where it stopped."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from contrans_lens.errors import TradeoffError
from contrans_lens.ledger import Ledger
from contrans_lens.models.naming import Model, model_name
from contrans_lens.tradeoff.executors import Executor, LocalExecutor, Work, from_tensors
from contrans_lens.tradeoff.plan import SweepPlan, Unit
from contrans_lens.tradeoff.result import SweepResult

Say = Callable[[str], None]

_KEY = "contrans-lens/sweep/1"


def sweep(
    model: Model,
    plan: SweepPlan,
    *,
    work: Path | str | None = None,
    executor: Executor | None = None,
    opening: Mapping[str, Any] | None = None,
    name: str | None = None,
    say: Say = lambda step: None,
) -> SweepResult:
    """Measure every behaviour of a plan under every direction at every strength.

    ``R += r v`` at every position of the direction's hook points, r over the plan's grid (Wolf et al. 2024, arXiv
    2401.16332, section 3). Strengths are batch rows: what lies before the first hook point is computed once per text,
    and what was finished before under ``work`` is not computed again.

    Args:
        model: hub name, local folder, or a live model.
        plan: what is swept and what is measured.
        work: folder in which finished units are kept. A sweep that was killed, and is called again with the same
            arguments, goes on there and ends with the same bytes. None keeps nothing.
        executor: what computes the units; None computes them here, one after the other.
        opening: keyword arguments of :func:`contrans_lens.models.open_model` for a model given by name.
        name: what the model is called in the result; None takes its name or its folder's.
        say: told about each finished unit and the time left.

    Raises:
        EvaluationError: a behaviour cannot be measured on the model, or logits that are not finite.
        FingerprintMismatchError: a direction was made for another model.
        HookPointError: the model has no such hook point.
        ArtifactError: a kept unit is damaged, or the folder cannot be written.
        TradeoffError: a live model was given to workers of a cluster.
    """
    engine = executor or LocalExecutor()
    task = Work(model, plan, dict(opening or {}))
    identity = engine.identity(task)
    folder = None if work is None else Path(work)
    ledger = Ledger(folder, {"sweep": _KEY, "model": identity})
    units = list(plan.units())
    ledgers = {unit: ledger.with_key(unit=plan.key(unit)) for unit in units}
    found: dict[Unit, dict[str, Tensor]] = {}
    for unit in units:
        kept = ledgers[unit].look_up(unit.stage)
        if kept is not None:
            found[unit] = kept
    missing = [unit for unit in units if unit not in found]
    if len(missing) < len(units):
        say(f"{len(units) - len(missing)} of {len(units)} units were finished before")
    progress = _Progress(len(units), missing)
    for done in engine.run(task, missing):
        found[done.unit] = ledgers[done.unit].keep(done.unit.stage, done.tensors)
        say(progress.note(done.unit, done.seconds))
    lost = [unit.stage for unit in units if unit not in found]
    if lost:
        raise TradeoffError(f"the executor gave no result for {len(lost)} units, {lost[0]} among them.")
    measured = {}
    for behaviour in plan.behaviours:
        for direction in plan.directions:
            mine = [unit for unit in units if (unit.direction, unit.behaviour) == (direction, behaviour.name)]
            if mine:
                parts = [found[unit] for unit in mine]
                measured[direction, behaviour.name] = from_tensors(
                    parts, behaviour.name, behaviour.primary, behaviour.groups
                )
    return SweepResult({**identity, "name": name or model_name(model)}, plan.described(), measured)


class _Progress:
    """How much is left, from what finished units of the same behaviour took."""

    def __init__(self, total: int, missing: list[Unit]) -> None:
        self._total = total
        self._left = list(missing)
        self._seconds: dict[str, list[float]] = {}
        self._started = time.perf_counter()

    def note(self, unit: Unit, seconds: float) -> str:
        """Note a finished unit; the line says how far the sweep is and about how long it still takes."""
        self._left.remove(unit)
        self._seconds.setdefault(unit.behaviour, []).append(seconds)
        done = self._total - len(self._left)
        line = f"unit {done} of {self._total} done ({unit.behaviour} under {unit.direction})"
        return f"{line}, about {_duration(self._remaining())} left" if self._left else line

    def _remaining(self) -> float:
        spent = [each for part in self._seconds.values() for each in part]
        mean = sum(spent) / len(spent)
        own = {name: sum(part) / len(part) for name, part in self._seconds.items()}
        work = sum(own.get(unit.behaviour, mean) for unit in self._left)
        # Workers side by side get through more work than time passes.
        side_by_side = max(1.0, sum(spent) / max(time.perf_counter() - self._started, 1e-9))
        return work / side_by_side


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
