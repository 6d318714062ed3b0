"""One concept made ready for probing (folds, controls, permutations), and its measurement at some sites."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from contrans_lens.errors import LayerError
from contrans_lens.layers.probes.baselines import Discriminant, MeanDifference
from contrans_lens.layers.probes.calibration import calibrated
from contrans_lens.layers.probes.description_length import DescriptionLength, description_lengths
from contrans_lens.layers.probes.discrimination import fold_auroc
from contrans_lens.layers.probes.folds import check_training_parts, group_codes, grouped_folds, straddling_folds
from contrans_lens.layers.probes.logistic import LogisticProbes
from contrans_lens.layers.probes.nested import NestedScores, Solver, nested_scores, scores_at
from contrans_lens.layers.probes.relabelling import control_labels, permuted_labels
from contrans_lens.layers.probes.ridge import DualRidge, PrimalRidge
from contrans_lens.layers.probes.states import SiteStates


@dataclass(frozen=True)
class Settings:
    """How to probe; see :func:`probe_layers`."""

    method: str
    n_folds: int
    strengths: tuple[float, ...]
    """Ascending; empty for methods without one."""
    coding_strengths: tuple[float, ...]
    """Of the logistic probes that code the labels; empty where no description length is asked for."""
    n_controls: int
    n_permutations: int
    level: float
    n_resamples: int
    seed: int

    @property
    def chooses(self) -> bool:
        """Whether there is a strength to choose."""
        return len(self.strengths) > 1

    @property
    def scales(self) -> bool:
        """Whether probabilities need Platt scaling."""
        return self.method in ("ridge", "mean_difference")


@dataclass(frozen=True)
class ProbeTask:
    """One concept with everything that is drawn for it."""

    labels: Bool[Tensor, " example"]
    codes: Int[Tensor, " example"]
    """Group of every example."""
    folds: Int[Tensor, " example"]
    """Grouped folds."""
    pair_folds: Int[Tensor, " example"]
    """Folds within which the AUROC compares: the same, or all in one where no fold has both classes."""
    control_folds: Int[Tensor, " example"] | None
    """Straddling folds; None where every group is a single example or there are no controls."""
    controls: Bool[Tensor, "example control"]
    scored: Bool[Tensor, " example"]
    """Examples that controls are scored on: those with a group mate in another fold of the control."""
    units: Int[Tensor, " example"]
    """Within which permuted labels are exchanged: pairs, or groups."""
    permuted: Bool[Tensor, "example permutation"]

    @property
    def n_groups(self) -> int:
        """Independent units."""
        return int(self.codes.max()) + 1


@dataclass(frozen=True)
class Measured:
    """What the probes of some sites gave for one concept, on the CPU."""

    decisions: Float[Tensor, "site example"]
    probability: Float[Tensor, "site example"]
    chosen: Int[Tensor, "site fold"]
    area: Float[Tensor, " site"]
    null: Float[Tensor, "site permutation"]
    straddling: Float[Tensor, "site example"]
    """Decisions on the true labels under the control's split."""
    control_correct: Float[Tensor, "control example site"]
    code: list[DescriptionLength | None]


def probe_task(
    labels: Bool[Tensor, " example"], groups: Sequence[str] | None, pairs: Sequence[str] | None, settings: Settings
) -> ProbeTask:
    """Draw folds, controls and permutations for a concept.

    Raises:
        LayerError: groups or pairs that do not fit, pairs that straddle groups, one class only, or too few groups of a
            class for nested folds.
    """
    codes = group_codes(groups, len(labels))
    units = codes if pairs is None else group_codes(pairs, len(labels))
    if len(torch.stack([units, codes]).unique(dim=1)[0]) != len(units.unique()):
        raise LayerError("a pair stands in two groups; both of its examples belong to one group, or to none.")
    folds = grouped_folds(labels, groups, settings.n_folds, settings.seed)
    check_training_parts(labels, folds, removed=2)
    mixed = any(0 < int(labels[folds == fold].sum()) < int((folds == fold).sum()) for fold in range(settings.n_folds))
    sizes = torch.bincount(codes)
    straddle = bool((sizes > 1).any()) and settings.n_controls > 0
    scored = (sizes > 1)[codes] if straddle else torch.ones(len(labels), dtype=torch.bool)
    return ProbeTask(
        labels,
        codes,
        folds,
        folds if mixed else torch.zeros_like(folds),
        straddling_folds(codes, settings.n_folds, settings.seed + 1) if straddle else None,
        control_labels(labels, codes, settings.n_controls, settings.seed + 2),
        scored,
        units,
        permuted_labels(labels, units, folds, settings.n_permutations, settings.seed + 3),
    )


def solvers(states: SiteStates, settings: Settings) -> tuple[Solver, LogisticProbes | None]:
    """The probe of the method, and the one that codes labels where it is asked for."""
    strengths = torch.tensor(settings.strengths, dtype=torch.float64)
    coding = torch.tensor(settings.coding_strengths, dtype=torch.float64)
    coder = LogisticProbes(states, coding) if len(coding) else None
    if settings.method == "ridge":
        return (PrimalRidge if states.gram is None else DualRidge)(states, strengths), coder
    if settings.method == "logistic":
        return LogisticProbes(states, strengths), coder
    if settings.method == "mean_difference":
        return MeanDifference(states), coder
    if settings.method == "lda":
        return Discriminant(states), coder
    raise LayerError(f"unknown probe {settings.method!r}.")


def measure(solver: Solver, coder: LogisticProbes | None, task: ProbeTask, settings: Settings) -> Measured:
    """Fit everything that one concept needs at the solver's sites."""
    own, null = _true_and_permuted(solver, task, settings)
    decisions = own.decisions[..., 0]
    if settings.scales:
        assert own.inner is not None
        probability = calibrated(decisions, own.inner, task.labels, task.folds)
    else:
        probability = torch.sigmoid(decisions)
    straddling, control_correct = _controls(solver, task, settings, own)
    code: list[DescriptionLength | None] = [None] * len(decisions)
    if coder is not None:
        code = [*description_lengths(coder, task.labels, task.codes, settings.seed + 4)]
    return Measured(
        decisions.cpu(),
        probability.cpu(),
        own.chosen[..., 0].cpu(),
        fold_auroc(own.decisions[..., :1], task.labels[:, None], task.pair_folds)[:, 0].cpu(),
        null.cpu(),
        straddling.cpu(),
        control_correct.cpu(),
        code,
    )


def _true_and_permuted(
    solver: Solver, task: ProbeTask, settings: Settings
) -> tuple[NestedScores, Float[Tensor, "site permutation"]]:
    """Scores of the true labels, and the AUROC of every permuted labeling."""
    true = task.labels[:, None]
    if settings.chooses:  # permuted labels choose their own strengths: columns of the same systems
        every = torch.cat([true, task.permuted], 1)
        own = nested_scores(solver, every, task.folds)
        permuted = own.decisions[..., 1:]
    else:
        own = nested_scores(solver, true, task.folds, inner_folds=settings.scales)
        permuted = own.decisions[..., :0]
        if settings.n_permutations:
            permuted = nested_scores(solver, task.permuted, task.folds, inner_folds=False).decisions
    return own, fold_auroc(permuted, task.permuted, task.pair_folds)


def _controls(
    solver: Solver, task: ProbeTask, settings: Settings, own: NestedScores
) -> tuple[Float[Tensor, "site example"], Float[Tensor, "control example site"]]:
    """True labels on straddling folds, and whether each control label was decided rightly there."""
    true, straddling = task.labels[:, None], own.decisions[..., 0]
    if not settings.n_controls:
        return straddling, straddling.new_zeros(0, *straddling.T.shape)
    if task.control_folds is None:
        chosen = own.chosen[..., :1].expand(-1, -1, settings.n_controls)
        decided = scores_at(solver, task.controls, task.folds, chosen)
    else:
        scores = nested_scores(solver, true, task.control_folds, settings.chooses, task.controls)
        straddling, decided = scores.decisions[..., 0], scores.decisions[..., 1:]
    correct = (decided > 0) == task.controls.to(decided.device)
    return straddling, correct.to(torch.float64).permute(2, 1, 0)
