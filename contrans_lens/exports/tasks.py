"""Tasks of lm-evaluation-harness with and without interventions, on the same documents.

Most metrics are functions of a mean over documents, ``m = T(sum a_i / sum w_i)``: an accuracy (``T(x) = x``, ``w_i =
1``), a perplexity per word (``T(x) = exp(-x)``, log-probabilities over words) or bits per byte (``T(x) = -x / ln 2``).
For them, and for groups of tasks that pool their documents, the difference of a steered and the unsteered model has an
interval from resampled documents, the same ones on both sides (for a mean that of
:func:`~contrans_lens.evaluation.paired_difference_ci`). Which function a metric is, is not told by its name but
by which one gives the reported value from the documents; a metric that is none of them has no interval.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from contrans_lens.errors import EvaluationError
from contrans_lens.evaluation.resampling import expanded_percentiles, group_table, resampled_sums
from contrans_lens.interventions import Edit
from contrans_lens.models import HookedModel

UNSTEERED = "unsteered"
"""Name of the run without interventions."""

Chosen = Edit | Sequence[Edit]
_OURS = ("model", "model_args", "tasks", "log_samples", "use_cache", "batch_size", "bootstrap_iters")
_NUMBERS = (int, float, np.number, np.bool_)
_TOLERANCE = 1e-6  # within which a function of the mean is the reported metric
_FUNCTIONS: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda mean: mean,
    lambda mean: (-mean).exp(),
    lambda mean: -mean / math.log(2),
)


@dataclass(frozen=True)
class TaskMetric:
    """One metric of one task (or group of tasks) in one run, beside the unsteered model's."""

    task: str
    metric: str
    """E.g. ``"acc"``."""
    filter: str
    """What was done to the answers before, ``"none"`` as a rule."""
    intervention: str
    """Name of the run; ``"unsteered"`` for the run without interventions."""
    n: int
    """Documents behind it."""
    value: float
    """The metric as lm-evaluation-harness reports it."""
    unsteered: float
    """The same without interventions."""
    difference: float
    """``value - unsteered``."""
    low: float | None
    """Lower end of the difference's interval; None where there is none."""
    high: float | None
    """Upper end."""
    higher_is_better: bool | None
    """What the task says about the metric."""


def evaluate_tasks(
    model: HookedModel,
    tasks: str | Sequence[str],
    interventions: Mapping[str, Chosen] | Chosen | None = None,
    *,
    limit: int | float | None = None,
    include_path: str | Sequence[str] | None = None,
    num_fewshot: int | None = None,
    lm_options: Mapping[str, Any] | None = None,
    level: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
    **options: Any,
) -> pd.DataFrame:
    """Run tasks of lm-evaluation-harness without interventions and with each of them.

    Args:
        model: the model.
        tasks: names of tasks or groups of tasks.
        interventions: by name, what is done to the residual stream in a run; a single one is called ``"steered"``.
            None runs the unsteered model only.
        limit: documents of every task, or a share of them below 1; all if None.
        include_path: folders with tasks of one's own.
        num_fewshot: examples in every prompt; the task's own number if None.
        lm_options: arguments of :class:`~contrans_lens.exports.SteeredLM`, such as ``batch_size`` or ``add_bos``.
        level: nominal coverage of the intervals.
        n_resamples: resamples of the documents.
        seed: of the resampling.
        options: further arguments of ``lm_eval.simple_evaluate``, such as ``apply_chat_template``, ``gen_kwargs`` or
            ``task_manager`` (making one reads the list of all tasks, which takes seconds).

    Returns:
        The fields of :class:`TaskMetric` as columns, one row a task, metric and run; the unsteered run first.

    Raises:
        EvaluationError: lm-evaluation-harness is missing, a task is unknown, an argument or a name cannot be used, or
            runs saw different documents.
        FingerprintMismatchError: an intervention was made for another model.
        InterventionError: an intervention does not fit the model.
    """
    from contrans_lens.exports.harness import SteeredLM

    if refused := sorted(options.keys() & set(_OURS)):
        raise EvaluationError(f"evaluate_tasks sets {refused} itself; batch sizes go into lm_options.")
    runs = _runs(interventions)
    # All are made before any is run: what does not fit is refused in seconds, not after hours.
    models = {name: SteeredLM(model, chosen, **(lm_options or {})) for name, chosen in runs.items()}
    names = [tasks] if isinstance(tasks, str) else list(tasks)
    manager = _task_manager(names, options.pop("task_manager", None), include_path)
    results: dict[str, dict[str, Any]] = {}
    for name, lm in models.items():
        results[name] = _run(lm, names, task_manager=manager, limit=limit, num_fewshot=num_fewshot, **options)
        _require_same_documents(results[UNSTEERED], results[name], name)
    resampling = {"level": level, "n_resamples": n_resamples, "seed": seed}
    found = _metrics(results, resampling)
    return pd.DataFrame([asdict(each) for each in found], columns=list(TaskMetric.__dataclass_fields__))


def _runs(interventions: Mapping[str, Chosen] | Chosen | None) -> dict[str, Chosen]:
    if interventions is None:
        interventions = {}
    elif not isinstance(interventions, Mapping):
        interventions = {"steered": interventions}
    if UNSTEERED in interventions:
        raise EvaluationError(f"the name {UNSTEERED!r} is that of the run without interventions; choose another.")
    return {UNSTEERED: (), **interventions}


def _task_manager(names: Sequence[str], given: Any, include_path: str | Sequence[str] | None) -> Any:
    from lm_eval.tasks import TaskManager

    if given is not None and include_path is not None:
        raise EvaluationError("task_manager= knows its tasks already; give include_path= to it.")
    manager = TaskManager(include_path=include_path) if given is None else given
    unknown = [name for name in names if not manager.match_tasks([name])]
    if unknown or not names:
        raise EvaluationError(
            f"lm-evaluation-harness knows no task {', '.join(unknown) or 'at all'}; see `lm_eval ls tasks`, or give "
            "the folder of your own with include_path=."
        )
    return manager


def _run(lm: Any, names: list[str], **options: Any) -> dict[str, Any]:
    from lm_eval import simple_evaluate

    # Its own standard errors are left out: for some metrics they take longer than the model.
    found: dict[str, Any] = simple_evaluate(model=lm, tasks=names, log_samples=True, bootstrap_iters=0, **options)
    return found


def _require_same_documents(first: Mapping[str, Any], second: Mapping[str, Any], name: str) -> None:
    keys = ("doc_id", "doc_hash", "prompt_hash", "filter")
    for task, documents in first["samples"].items():
        others = second["samples"][task]
        if [[each[key] for key in keys] for each in documents] != [[each[key] for key in keys] for each in others]:
            raise EvaluationError(
                f"{task}: the run {name!r} was asked other documents or prompts than the unsteered one, so they cannot "
                "be compared. Does the task draw examples without a seed?"
            )


def _metrics(results: Mapping[str, Mapping[str, Any]], resampling: Mapping[str, Any]) -> list[TaskMetric]:
    base, found = results[UNSTEERED], []
    for task, reported in base["results"].items():
        for key, unsteered in reported.items():
            metric, _, chosen = key.partition(",")
            if not chosen or metric.endswith("_stderr") or not isinstance(unsteered, _NUMBERS):
                continue
            better = base["higher_is_better"].get(task, {}).get(metric)
            plain = _documents(base, task, metric, chosen)
            for name, result in results.items():
                value, documents = result["results"][task][key], _documents(result, task, metric, chosen)
                ends: tuple[float | None, float | None] = (None, None)
                if name != UNSTEERED:
                    ends = _interval(documents, plain, metric, float(value), float(unsteered), resampling)
                numbers = float(value), float(unsteered), float(value - unsteered)
                found.append(TaskMetric(task, metric, chosen, name, len(documents), *numbers, *ends, better))
    return found


def _documents(result: Mapping[str, Any], task: str, metric: str, chosen: str) -> list[dict[str, Any]]:
    """The documents behind a metric of a task; for a group those of all its tasks, one after the other."""
    if task in result["samples"]:
        return [each for each in result["samples"][task] if each["filter"] == chosen and metric in each["metrics"]]
    below = result["group_subtasks"].get(task, [])
    return [each for name in below for each in _documents(result, name, metric, chosen)]


def _interval(
    steered: list[dict[str, Any]],
    plain: list[dict[str, Any]],
    metric: str,
    value: float,
    unsteered: float,
    resampling: Mapping[str, Any],
) -> tuple[float | None, float | None]:
    """The interval of ``value - unsteered``, where the metric is a function of a mean over documents."""
    if [each["doc_hash"] for each in steered] != [each["doc_hash"] for each in plain]:
        return None, None  # a document may lack a metric, by what the model answers
    ours, theirs = _table([each[metric] for each in steered]), _table([each[metric] for each in plain])
    if ours is None or theirs is None or len(ours) < 2 or not torch.equal(ours[:, 1], theirs[:, 1]):
        return None, None
    weights = ours[:, 1]

    def explains(function: Callable[[Tensor], Tensor]) -> bool:
        pairs = ((ours, value), (theirs, unsteered))
        means = [function(table[:, 0].sum() / weights.sum()) for table, _ in pairs]
        return all(
            math.isclose(float(mean), reported, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)
            for mean, (_, reported) in zip(means, pairs, strict=True)
        )

    function = next(filter(explains, _FUNCTIONS), None)
    if function is None:
        return None, None
    table, counts = group_table(torch.stack([ours[:, 0], theirs[:, 0], weights], dim=1), None)
    draws = resampled_sums(table, resampling["n_resamples"], resampling["seed"])
    differences = function(draws[:, :1] / draws[:, 2:]) - function(draws[:, 1:2] / draws[:, 2:])
    low, high = expanded_percentiles(differences, len(counts), resampling["level"])
    return float(low[0]), float(high[0])


def _table(values: Sequence[Any]) -> Float[Tensor, "item 2"] | None:
    """Summand and weight of every document, float64; None where they are no numbers."""
    pairs = [value if isinstance(value, tuple | list) else (value, 1) for value in values]
    if not all(len(pair) == 2 and all(isinstance(part, _NUMBERS) for part in pair) for pair in pairs):
        return None
    table = torch.tensor([[float(part) for part in pair] for pair in pairs], dtype=torch.float64).reshape(-1, 2)
    return table if bool(torch.isfinite(table).all()) and bool((table[:, 1] > 0).all()) else None
