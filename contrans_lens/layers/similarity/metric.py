"""What each similarity measures, which changes of the states it does not see, and which way is closer."""

from dataclasses import dataclass
from typing import Literal

ORTHOGONAL = "orthogonal maps of either side"
SCALE = "isotropic scaling of either side"
SHIFT = "translation of either side"


@dataclass(frozen=True)
class Metric:
    """How to read one number of a :class:`SimilarityGrid`."""

    name: str
    higher_is_closer: bool
    """False for distances."""
    low: float
    """Smallest possible value (minus infinity where there is none)."""
    high: float
    """Largest possible value."""
    perfect: float
    """Value of a layer with itself."""
    invariances: tuple[str, ...]
    """Changes of the states that leave the value as it is."""
    symmetric: bool
    """Whether swapping source and target only transposes the grid."""
    citation: str
    description: str
    """The formula, and what the number means."""
    scale: Literal["identity", "fisher"] = "identity"
    """Scale on which intervals are symmetric: the value itself, or ``atanh`` of it for averages of correlations."""


_ALL = (
    Metric(
        "cka",
        True,
        -1.0,
        1.0,
        1.0,
        (ORTHOGONAL, SCALE, SHIFT),
        True,
        "Kornblith et al. 2019 (arXiv 1905.00414); unbiased HSIC of Song et al. 2012 as in Nguyen et al. 2020 "
        "(arXiv 2010.15327); Murphy et al. 2024 (arXiv 2405.01012)",
        "Debiased linear CKA: HSIC_1(K, L) / sqrt(HSIC_1(K, K) HSIC_1(L, L)) with K = X X^T, L = Y Y^T and the "
        "U-statistic HSIC_1, whose mean is 0 for independent states at any width. Directions count by their variance "
        "squared, so one massive direction can decide it. May be slightly negative.",
        "fisher",
    ),
    Metric(
        "mutual_knn",
        True,
        0.0,
        1.0,
        1.0,
        (ORTHOGONAL, SCALE, SHIFT),
        True,
        "Huh et al. 2024 (arXiv 2405.07987)",
        "Mutual k-nearest-neighbour overlap: the mean over texts of |N_X(i) & N_Y(i)| / k. Its mean for independent "
        "states is k / (n - 1). Local: blind to how the far parts of the space lie to each other.",
    ),
    Metric(
        "rsa",
        True,
        -1.0,
        1.0,
        1.0,
        (ORTHOGONAL, SCALE, SHIFT),
        True,
        "Kriegeskorte et al. 2008 (doi 10.3389/neuro.06.004.2008)",
        "Representational similarity analysis: the rank (or linear) correlation of the two distance matrices over all "
        "pairs of texts.",
        "fisher",
    ),
    Metric(
        "svcca",
        True,
        0.0,
        1.0,
        1.0,
        (ORTHOGONAL, SCALE, SHIFT),
        True,
        "Raghu et al. 2017 (arXiv 1706.05806)",
        "Singular vector canonical correlation analysis: the mean of the min(r_x, r_y) canonical correlations after "
        "each side is cut to its leading principal directions. Invariant to every invertible linear map only where "
        "nothing is cut. Rises with r / n for independent states, to 1 where r_x + r_y >= n.",
        "fisher",
    ),
    Metric(
        "pwcca",
        True,
        0.0,
        1.0,
        1.0,
        ("orthogonal maps of the target", SCALE, SHIFT),
        False,
        "Morcos et al. 2018 (arXiv 1806.05759)",
        "Projection-weighted CCA: canonical correlations weighted by sum_j |<h_i, x_j>|, how much of the source's "
        "neurons x_j each source canonical variable h_i accounts for. The weights are the source's, so swapping the "
        "models changes it, and they depend on the source's basis: turning the source changes them.",
        "fisher",
    ),
    Metric(
        "procrustes",
        False,
        0.0,
        2.0**0.5,
        0.0,
        (ORTHOGONAL, SCALE, SHIFT),
        True,
        "Williams et al. 2021 (arXiv 2110.14739); Ding et al. 2021 (arXiv 2108.01661), who give its square",
        "Orthogonal Procrustes distance of the centred states brought to unit Frobenius norm: min over orthogonal Q of "
        "|X - Y Q| = sqrt(2 - 2 |X^T Y|_*), a metric between shapes: 0 is the same shape, sqrt(2) nothing shared.",
    ),
    Metric(
        "affine_r2",
        True,
        float("-inf"),
        1.0,
        1.0,
        ("invertible linear maps of the source (least squares)", ORTHOGONAL, SCALE, SHIFT),
        False,
        "Bansal et al. 2021 (arXiv 2106.07682), held out as in maps.MapGrid",
        "Held-out R2 of the fitted affine map: 1 - sum |y - A x - b|^2 / sum |y - mean y|^2 over texts that were not "
        "fitted. 0 is the mean; below 0 the map does harm.",
    ),
    Metric(
        "concept_cosine",
        True,
        -1.0,
        1.0,
        1.0,
        ("scaling of either vector",),
        False,
        "ConTrans; see concept_carriage",
        "Cosine between the carried concept A v and the target's own vector. Needs target labels.",
        "fisher",
    ),
    Metric(
        "carried_r2",
        True,
        float("-inf"),
        1.0,
        1.0,
        ("scaling of the vector", SCALE, SHIFT),
        False,
        "ConTrans; see concept_carriage",
        "Held-out R2 along the carried direction u = A v / |A v|: how well u . y is predicted by u . (A x + b). Needs "
        "no labels.",
    ),
)

METRICS: dict[str, Metric] = {metric.name: metric for metric in _ALL}
"""Every similarity by name."""
