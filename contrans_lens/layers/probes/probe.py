"""Linear probes at every layer: is the concept readable there, and is it read or memorised?"""

import math
from collections.abc import Sequence

from jaxtyping import Bool, Float
from torch import Tensor

from contrans_lens.errors import LayerError
from contrans_lens.layers.probes.curve import ProbeCurve
from contrans_lens.layers.probes.states import check_states, site_states
from contrans_lens.layers.probes.table import curve_of
from contrans_lens.layers.probes.task import Measured, Settings, measure, probe_task, solvers

PROBE_METHODS = ("ridge", "logistic", "mean_difference", "lda")
"""Kinds of probes."""
DUAL_FROM = {"ridge": 0.6, "logistic": 1.0, "mean_difference": 1.0, "lda": 1.0}
"""From how many dimensions per example the Gram matrix is the cheaper side, counted in floating-point operations."""
DEFAULT_EXPONENTS = {"ridge": range(-4, 4), "logistic": range(-4, 2)}
"""Default strengths are ``d_model`` times ten to these: relative to the mean squared length of a state."""
DEFAULT_PERMUTATIONS = {"ridge": 200, "logistic": 0, "mean_difference": 200, "lda": 200}
_CHUNK_ELEMENTS = 1 << 26
"""Float64 numbers (512 MiB) that a batch of sites may hold at once; more sites go in several batches."""


def probe_layers(
    states: Float[Tensor, "example layer d_model"],
    labels: Bool[Tensor, " label"],
    hook_points: Sequence[str],
    *,
    groups: Sequence[str] | None = None,
    pairs: Sequence[str] | None = None,
    method: str = "ridge",
    n_folds: int = 5,
    strengths: Sequence[int | float] | None = None,
    n_controls: int = 10,
    n_permutations: int | None = None,
    description_length: bool = False,
    level: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> ProbeCurve:
    """Probe one concept at every layer, all layers, folds, strengths, controls and permutations as one batch.

    *Folds.* What shares a group is tested together (:func:`grouped_folds`). The strength for a test fold is chosen
    on the other folds, by the loss that the probe minimises; the test fold has no say in it.

    *Methods.* ``"ridge"``: least squares on labels -1 and +1. ``"logistic"``: logistic regression with an L2
    penalty. ``"mean_difference"``: the nearest class mean. ``"lda"``: linear discriminant with Ledoit-Wolf shrinkage.
    Intercepts are unpenalised. States are divided by one number per layer, so a strength is scikit-learn's
    ``alpha`` (``1 / C`` for logistic) on states whose entries have unit variance on average.

    *Probabilities*, for the Brier score and the calibration error, are the probe's own for ``"logistic"`` and
    ``"lda"``, and Platt-scaled on inner folds for the others.

    *Control task* (Hewitt and Liang 2019). The probe is trained on labels drawn at random per word type, and
    tested on other tokens of the same types: what it scores is memorised. Here a type is a group. On grouped
    folds a control label could not be predicted by any probe, so controls are run on folds that deal the members
    of each group apart, at the strengths that the *true* labels choose on that same split: the same probe, other
    labels. (A control label's own inner folds would be as good as blind for groups of two, whose other half is
    the test.) ``selectivity`` is the accuracy on new groups less the control accuracy on known ones, a harder
    test than the paper's, where both are on known types; ``straddling_accuracy`` is the paper's first term.
    Groups of one example have no other half and are not scored; where all are such, the control is at chance
    and a warning says so.

    *P-values* permute labels as the null allows (:func:`permuted_labels`), choose strengths anew by the same rule,
    and count ``(1 + #{null >= observed}) / (1 + n)`` for the AUROC; corrected ones take the largest AUROC over
    layers of each permutation (Westfall and Young 1993).

    Args:
        states: ``[example, layer, d_model]``. The middle axis may be any list of sites, such as layers times
            positions, as long as ``hook_points`` names them one to one.
        labels: whether an example shows the concept, ``[example]``.
        hook_points: one name per layer (site).
        groups: what must not straddle test and training part: template, entity or pair of every example; an
            empty name, or None for all, makes an example its own group.
        pairs: contrast pair of every example, where the examples were made in pairs: permuted labels are then
            exchanged within pairs, as the design did, and not among all members of a group. None exchanges within
            groups.
        method: one of ``PROBE_METHODS``.
        n_folds: folds, at least 3.
        strengths: penalties to choose from; None takes decades around the mean squared length of a state
            (``d_model``).
        n_controls: control labelings; 0 leaves controls out.
        n_permutations: permuted labelings; None takes 200, and for ``"logistic"``, whose every permutation is a
            fit of its own, none.
        description_length: also the online code of the labels (:class:`DescriptionLength`), by logistic probes
            whatever the method.
        level: coverage of the intervals.
        n_resamples: bootstrap resamples behind them.
        seed: of folds, controls, permutations, orders and resamples.

    Raises:
        LayerError: states that are not finite or not named, labels or groups that do not fit, one class only, too
            few groups of a class for the folds, an unknown method, or numbers out of range.
    """
    curves = probe_concepts(
        states,
        labels[:, None],
        hook_points,
        ("concept",),
        groups=groups,
        pairs=pairs,
        method=method,
        n_folds=n_folds,
        strengths=strengths,
        n_controls=n_controls,
        n_permutations=n_permutations,
        description_length=description_length,
        level=level,
        n_resamples=n_resamples,
        seed=seed,
    )
    return curves["concept"]


def probe_concepts(
    states: Float[Tensor, "example layer d_model"],
    labels: Bool[Tensor, "label concept"],
    hook_points: Sequence[str],
    concepts: Sequence[str],
    *,
    groups: Sequence[str] | None = None,
    pairs: Sequence[str] | None = None,
    method: str = "ridge",
    n_folds: int = 5,
    strengths: Sequence[int | float] | None = None,
    n_controls: int = 10,
    n_permutations: int | None = None,
    description_length: bool = False,
    level: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> dict[str, ProbeCurve]:
    """Probe several concepts on the same states; what depends on the states alone is factorised once.

    Every concept has its own folds, balanced for its labels. P-values are corrected for the layers, not for the
    number of concepts.

    Args:
        states: as :func:`probe_layers`.
        labels: one column per concept, ``[example, concept]``.
        hook_points: one name per layer (site).
        concepts: names of the columns.
        groups: as :func:`probe_layers`.
        pairs: as there.
        method: as there.
        n_folds: as there.
        strengths: as there.
        n_controls: as there.
        n_permutations: as there.
        description_length: as there.
        level: as there.
        n_resamples: as there.
        seed: as there.

    Returns:
        A curve for each name.

    Raises:
        LayerError: as :func:`probe_layers`, or names that do not fit the columns.
    """
    check_states(states, hook_points)
    if len(labels) != len(states):
        raise LayerError(f"{len(states)} examples need as many labels; got {len(labels)}.")
    if len(set(concepts)) != labels.shape[1] or len(concepts) != labels.shape[1] or not len(concepts):
        raise LayerError(f"{labels.shape[1]} columns of labels need as many different names; got {list(concepts)}.")
    settings = _settings(
        method,
        states.shape[2],
        n_folds,
        strengths,
        n_controls,
        n_permutations,
        description_length,
        level,
        n_resamples,
        seed,
    )
    labels = labels.cpu()
    tasks = [probe_task(labels[:, column].contiguous(), groups, pairs, settings) for column in range(labels.shape[1])]
    found: list[list[Measured]] = [[] for _ in tasks]
    constant: list[str] = []
    dual = states.shape[2] > DUAL_FROM[method] * len(states)
    step = _sites_at_once(states, settings, dual)
    for start in range(0, states.shape[1], step):
        part, flat = site_states(states[:, start : start + step], dual)
        constant += [hook_points[start + site] for site in flat]
        solver, coder = solvers(part, settings)
        for task, measured in zip(tasks, found, strict=True):
            measured.append(measure(solver, coder, task, settings))
    return {
        name: curve_of(measured, task, settings, hook_points, states.shape[2], constant)
        for name, measured, task in zip(concepts, found, tasks, strict=True)
    }


def _settings(
    method: str,
    width: int,
    n_folds: int,
    strengths: Sequence[int | float] | None,
    n_controls: int,
    n_permutations: int | None,
    description_length: bool,
    level: float,
    n_resamples: int,
    seed: int,
) -> Settings:
    """The arguments, checked and completed."""
    if method not in PROBE_METHODS:
        raise LayerError(f"unknown probe {method!r}; choose one of {', '.join(PROBE_METHODS)}.")
    if n_folds < 3:
        raise LayerError(
            f"{n_folds} folds were asked for; choosing a strength inside each training part takes 3 or more."
        )
    if not 0 < level < 1 or n_resamples < 100:
        raise LayerError(
            f"level is {level} and n_resamples {n_resamples}; give a level between 0 and 1 and 100 resamples or more."
        )
    if n_permutations is None:
        n_permutations = DEFAULT_PERMUTATIONS[method]
    if n_controls < 0 or n_permutations < 0:
        raise LayerError(f"n_controls is {n_controls} and n_permutations {n_permutations}; neither can be below 0.")
    if strengths is not None and method not in DEFAULT_EXPONENTS:
        raise LayerError(f"the {method!r} probe has no strength to choose; leave strengths out.")
    values = tuple(sorted({float(value) for value in strengths})) if strengths is not None else None
    if values is not None and not (values and values[0] > 0 and math.isfinite(values[-1])):
        raise LayerError(f"strengths are {strengths}; give one or more finite numbers above 0.")
    if values is None:
        values = tuple(width * 10.0**exponent for exponent in DEFAULT_EXPONENTS.get(method, ()))
    coding = tuple(width * 10.0**exponent for exponent in DEFAULT_EXPONENTS["logistic"])
    return Settings(
        method,
        n_folds,
        values,
        coding if description_length else (),
        n_controls,
        n_permutations,
        level,
        n_resamples,
        seed,
    )


def _sites_at_once(states: Float[Tensor, "example site d_model"], settings: Settings, dual: bool) -> int:
    """How many sites fit a batch."""
    n, _, width = states.shape
    n_strengths = max(1, len(settings.strengths))
    side = n if dual else width
    columns = 1 + max(settings.n_controls, settings.n_permutations)
    # Decisions of every pair of folds: of the examples left out, or, for logistic probes, of all of them.
    pairs = settings.n_folds * (settings.n_folds - 1) // 2
    decided = pairs * n if settings.method == "logistic" else (settings.n_folds - 1) * n
    # Factor, inverse and a copy per strength; the decisions; the states in two precisions.
    per_site = side * side * (3 * n_strengths + 2) + 2 * decided * n_strengths * columns + 2 * n * width
    return max(1, _CHUNK_ELEMENTS // per_site)
