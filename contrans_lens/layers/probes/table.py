"""From measurements to the curve: intervals, p-values, and what to be warned of."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from contrans_lens.layers.probes.calibration import brier_score, calibration_error
from contrans_lens.layers.probes.curve import LayerProbe, ProbeCurve
from contrans_lens.layers.probes.discrimination import (
    Resampling,
    accuracy_intervals,
    auroc_intervals,
    control_intervals,
)
from contrans_lens.layers.probes.relabelling import log2_labelings
from contrans_lens.layers.probes.task import Measured, ProbeTask, Settings

_FEW_GROUPS = 20
_LOPSIDED = 0.8


def curve_of(
    parts: list[Measured],
    task: ProbeTask,
    settings: Settings,
    hook_points: Sequence[str],
    width: int,
    constant: Sequence[str],
) -> ProbeCurve:
    """The curve of one concept from what was measured at every batch of sites."""
    labels = task.labels
    decisions = torch.cat([part.decisions for part in parts])
    probability = torch.cat([part.probability for part in parts])
    area = torch.cat([part.area for part in parts])
    resampling = Resampling(task.codes, settings.level, settings.n_resamples, settings.seed + 5)
    correct = ((decisions > 0) == labels).to(torch.float64).T.contiguous()
    accuracy = accuracy_intervals(correct, resampling)
    auroc = auroc_intervals(area, decisions, labels, task.pair_folds, resampling)
    brier, error = brier_score(probability, labels), calibration_error(probability, labels)
    chosen = torch.cat([part.chosen for part in parts]).tolist()
    alone, corrected = p_values(area, torch.cat([part.null for part in parts]))
    controls: list = [None] * len(area)
    selectivity, straddling = list(controls), list(controls)
    if settings.n_controls:
        control_correct = torch.cat([part.control_correct for part in parts], 2)
        controls, selectivity = control_intervals(correct, control_correct, task.scored, resampling)
    if task.control_folds is not None:
        right = (torch.cat([part.straddling for part in parts]) > 0) == labels
        straddling = right.double().mean(1).tolist()
    code = [length for part in parts for length in part.code]
    layers = tuple(
        LayerProbe(
            hook_points[site],
            settings.method,
            accuracy[site],
            auroc[site],
            float(brier[site]),
            float(error[site]),
            tuple(settings.strengths[index] for index in chosen[site]) if settings.strengths else (),
            controls[site],
            selectivity[site],
            straddling[site],
            alone[site],
            corrected[site],
            code[site],
        )
        for site in range(len(area))
    )
    share = float(labels.double().mean())
    return ProbeCurve(
        layers,
        decisions.T.contiguous(),
        task.folds,
        len(labels),
        task.n_groups,
        max(share, 1 - share),
        settings.n_permutations,
        min(p for p in corrected if p is not None) if settings.n_permutations else None,
        tuple(_warnings(task, settings, width, constant)),
    )


def p_values(
    observed: Float[Tensor, " site"], null: Float[Tensor, "site permutation"]
) -> tuple[list[float | None], list[float | None]]:
    """``(1 + #{null >= observed}) / (1 + n)`` per site: against its own null, and against the maximum over sites."""
    n = null.shape[1]
    if not n:
        return [None] * len(observed), [None] * len(observed)
    bar = observed[:, None] - 1e-9  # a permutation that gives the labels back is a tie whatever the rounding

    def share(reached: Bool[Tensor, "site permutation"]) -> list[float | None]:
        return [(1 + count) / (1 + n) for count in reached.sum(1).tolist()]

    return share(null >= bar), share(null.amax(0, keepdim=True) >= bar)


def _warnings(task: ProbeTask, settings: Settings, width: int, constant: Sequence[str]) -> list[str]:
    """What to keep in mind with these data."""
    n, said = len(task.labels), []
    if n <= width:
        said.append(
            f"{n} examples and {width} dimensions: any labels of a training part can be fitted exactly, so only "
            "held-out scores mean something, and how well they do rests on the penalty."
        )
    if task.n_groups == n:
        said.append(
            "every example is its own group: near copies of a text in the test and the training part would raise "
            "every score. Give groups (template, entity, pair) if there are any."
        )
    if task.n_groups < _FEW_GROUPS:
        said.append(f"{task.n_groups} groups: intervals rest on that many independent units and are wide.")
    share = float(task.labels.double().mean())
    if max(share, 1 - share) >= _LOPSIDED:
        said.append(f"{share:.0%} of the examples are positive: read accuracy against the majority's, or the AUROC.")
    empty = [
        fold
        for fold in range(settings.n_folds)
        if not 0 < int(task.labels[task.folds == fold].sum()) < int((task.folds == fold).sum())
    ]
    if bool((task.pair_folds != task.folds).any()):
        said.append("no test fold has both classes: the AUROC compares decisions of different fits.")
    elif empty:
        said.append(
            f"{len(empty)} of {settings.n_folds} test folds have one class only and do not count for the AUROC."
        )
    said += _control_warnings(task, settings)
    if settings.n_permutations:
        room = log2_labelings(task.labels, task.units, task.folds)
        if room < 10:
            said.append(
                f"only {round(2**room)} labelings can be reached within the folds, so no p-value can be much below "
                f"{2**-room:.2g}; more groups would help."
            )
    elif settings.method == "logistic":
        said.append(
            "no p-values: every permutation of a logistic probe is a fit of its own; 'ridge' gives them cheaply."
        )
    if constant:
        said.append(f"the states at {', '.join(constant)} are the same for every example: nothing can be read there.")
    return said


def _control_warnings(task: ProbeTask, settings: Settings) -> list[str]:
    """Where the control task cannot say much."""
    if not settings.n_controls:
        return []
    if task.control_folds is None:
        return [
            "groups are single examples, so a control label says nothing about any other example: control accuracy "
            "is at chance by construction and selectivity says nothing about memorising."
        ]
    said = []
    share = float(task.scored.double().mean())
    if share < 1:
        said.append(f"controls are scored on the {share:.0%} of examples whose group has another example.")
    if task.n_groups < 6:
        said.append(f"{task.n_groups} groups: there are few ways to give them control labels.")
    return said
