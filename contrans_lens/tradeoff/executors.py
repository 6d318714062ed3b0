"""Where the units of a sweep are computed: here, or on the workers of a Ray cluster.

Units do not depend on each other, so any engine that can call a function on them will do: an executor takes the work
and the units and gives results in whatever order they come. The numbers are those of :meth:`Work.compute` in every
case; with equal libraries, hardware and numbers of threads they are equal to the bit.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from contrans_lens.errors import ContransLensError, TradeoffError
from contrans_lens.evaluation.behaviours import Measurement
from contrans_lens.models import HookedModel, fingerprint, open_model
from contrans_lens.models.naming import Model
from contrans_lens.tradeoff.plan import SweepPlan, Unit

_WHOLE, _COLUMN, _WEIGHTS = "whole.", "column.", "weights"


@dataclass(frozen=True, eq=False)
class Work:
    """A plan and the model it is carried out on; everything in it travels to workers, unless the model is live."""

    model: Model
    """Hub name, local folder, or a live model (this process only)."""
    plan: SweepPlan
    opening: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of :func:`contrans_lens.models.open_model`."""

    def open(self) -> HookedModel:
        """The model, opened where it is not live."""
        return open_model(self.model, **self.opening) if isinstance(self.model, str | Path) else self.model

    def compute(self, unit: Unit, model: HookedModel) -> dict[str, Tensor]:
        """The numbers of a unit as named tensors, ``[strength, item]`` and ``[strength]``."""
        behaviour = self.plan.behaviour(unit.behaviour)
        found = behaviour.measure(model, self.plan.cells(unit), token_budget=self.plan.token_budget)
        return to_tensors(found)


@dataclass(frozen=True, eq=False)
class Done:
    """A unit that was computed."""

    unit: Unit
    tensors: dict[str, Tensor]
    seconds: float
    """How long the worker took."""


@runtime_checkable
class Executor(Protocol):
    """An engine that computes units."""

    def identity(self, work: Work) -> dict[str, Any]:
        """What tells the work's model from others: its fingerprint, as JSON values."""
        ...

    def run(self, work: Work, units: Sequence[Unit]) -> Iterator[Done]:
        """Compute units; results come in any order. Whatever is started is stopped when the iterator is closed."""
        ...


class LocalExecutor:
    """One unit after the other in this process; the model is opened once."""

    def __init__(self) -> None:
        self._opened: tuple[Work, HookedModel] | None = None

    def identity(self, work: Work) -> dict[str, Any]:
        """The fingerprint of the work's model."""
        return fingerprint(self._model(work)).to_dict()

    def run(self, work: Work, units: Sequence[Unit]) -> Iterator[Done]:
        """Compute units in the given order."""
        model = self._model(work)
        for unit in units:
            started = time.perf_counter()
            tensors = work.compute(unit, model)
            yield Done(unit, tensors, time.perf_counter() - started)

    def _model(self, work: Work) -> HookedModel:
        if self._opened is None or self._opened[0] is not work:
            self._opened = (work, work.open())
        return self._opened[1]


_OPENED: dict[str, HookedModel] = {}
"""On a worker: the model it opened last, by what it was opened from."""


class RayExecutor:
    """Units on the workers of a Ray cluster (``pip install contrans-lens[ray]``), each of which opens the model once.

    Every machine needs this package, and the model under the same name or path. Results travel back to the process that
    sweeps, which keeps them: the workers need no shared folder.
    """

    def __init__(self, address: str | None = None, *, cpus: float | int = 1, gpus: float | int = 0) -> None:
        """Choose the cluster.

        Args:
            address: of a running cluster, ``"auto"`` for the one this machine belongs to; None starts one here, which
                :meth:`close` stops.
            cpus: CPUs (and threads) of a worker.
            gpus: GPUs of a worker; a share below 1 lets several workers use one.

        Raises:
            TradeoffError: Ray is not installed.
        """
        self._address, self._cpus, self._gpus = address, cpus, gpus
        self._ray = _ray()
        self._started = False

    def identity(self, work: Work) -> dict[str, Any]:
        """The fingerprint of the work's model, read on a worker.

        Raises:
            TradeoffError: the model is live.
        """
        found: dict[str, Any] = self._get(self._remote(_identity).remote(self._shared(work)))
        return found

    def run(self, work: Work, units: Sequence[Unit]) -> Iterator[Done]:
        """Compute units on the workers, in the order in which they finish.

        Raises:
            TradeoffError: the model is live.
        """
        shared = self._shared(work)
        compute = self._remote(_compute)
        waiting = [compute.remote(shared, unit) for unit in units]
        try:
            while waiting:
                ready, waiting = self._ray.wait(waiting, num_returns=1)
                yield self._get(ready[0])
        finally:
            for each in waiting:
                self._ray.cancel(each, force=True)

    def _get(self, reference: Any) -> Any:
        """A result; an error of ours comes as it was raised, without the worker's traceback in its text."""
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            cause = getattr(error, "cause", None)
            if isinstance(cause, ContransLensError):
                raise cause from error
            raise

    def close(self) -> None:
        """Stop the cluster, if it was started here."""
        if self._started:
            self._ray.shutdown()
            self._started = False

    def __enter__(self) -> "RayExecutor":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _shared(self, work: Work) -> Any:
        """The work in the cluster's store, where every worker finds it; connects to the cluster first."""
        if not isinstance(work.model, str | Path):
            raise TradeoffError(
                "a live model cannot travel to the workers of a cluster; give its hub name or folder instead."
            )
        if not self._ray.is_initialized():
            self._ray.init(address=self._address, include_dashboard=False, log_to_driver=False, logging_level="error")
            self._started = self._address is None
        return self._ray.put(work)

    def _remote(self, function: Any) -> Any:
        return self._ray.remote(num_cpus=self._cpus, num_gpus=self._gpus, max_retries=2)(function)


def to_tensors(found: Measurement) -> dict[str, Tensor]:
    """A measurement as named tensors: what travels and what is kept."""
    tensors = {f"{_COLUMN}{name}": values.contiguous() for name, values in found.columns.items()}
    tensors |= {f"{_WHOLE}{name}": values.contiguous() for name, values in found.whole.items()}
    return tensors if found.weights is None else {**tensors, _WEIGHTS: found.weights}


def from_tensors(
    parts: Sequence[Mapping[str, Tensor]], behaviour: str, primary: str, groups: tuple[str, ...]
) -> Measurement:
    """The measurement of all strengths from its parts, in the order of the strengths."""
    # By name, since units read from disk and units just computed hold them in different orders.
    names = sorted(name for name in parts[0] if name != _WEIGHTS)
    joined = {name: torch.cat([part[name] for part in parts]) for name in names}
    return Measurement(
        behaviour,
        {name.removeprefix(_COLUMN): each for name, each in joined.items() if name.startswith(_COLUMN)},
        primary,
        groups,
        parts[0].get(_WEIGHTS),
        {name.removeprefix(_WHOLE): each for name, each in joined.items() if name.startswith(_WHOLE)},
    )


def _identity(work: Work) -> dict[str, Any]:
    return fingerprint(_opened(work)).to_dict()


def _compute(work: Work, unit: Unit) -> Done:
    started = time.perf_counter()
    tensors = work.compute(unit, _opened(work))
    return Done(unit, tensors, time.perf_counter() - started)


def _opened(work: Work) -> HookedModel:
    """The work's model, opened once by each worker."""
    key = repr((str(work.model), sorted(work.opening.items(), key=str)))
    if key not in _OPENED:
        _OPENED.clear()
        _OPENED[key] = work.open()
    return _OPENED[key]


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise TradeoffError("Ray is not installed; run pip install 'contrans-lens[ray]'.") from error
    return ray
