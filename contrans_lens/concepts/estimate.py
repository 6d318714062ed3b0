"""From states to concept vectors: choose an estimator, orient by labels, bring to one scale, measure."""

from collections.abc import Sequence
from typing import Literal, Protocol, get_args, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from contrans_lens.concepts.estimators import (
    Shrinkage,
    lda,
    logistic,
    mean_difference,
    paired_principal_component,
    principal_component,
    random_direction,
    whitened,
)
from contrans_lens.concepts.estimators.principal_component import orient
from contrans_lens.concepts.quality import measure_quality
from contrans_lens.concepts.vectors import ConceptVectors
from contrans_lens.errors import ConceptError
from contrans_lens.models import Fingerprint

ConceptMethod = Literal[
    "mean_difference",
    "principal_component",
    "paired_principal_component",
    "logistic",
    "lda",
    "whitened",
    "random",
]
CONCEPT_METHODS: tuple[str, ...] = get_args(ConceptMethod)
"""The estimators by name."""


@runtime_checkable
class StateStore(Protocol):
    """What is needed of a residual store: its states, their hook points and the model they are from."""

    @property
    def hook_points(self) -> tuple[str, ...]:
        """Names of the hook points, in the order of the states."""
        ...

    @property
    def fingerprint(self) -> Fingerprint | None:
        """The model the states were captured from."""
        ...

    def tensor(self) -> Float[Tensor, "example layer d_model"]:
        """All states, ``[example, layer, d_model]``."""
        ...


def estimate_concept(
    positives: Float[Tensor, "positive layer d_model"],
    negatives: Float[Tensor, "negative *layer_d_model"],
    hook_points: Sequence[str],
    *,
    method: str = "mean_difference",
    name: str = "concept",
    held_out: tuple[Tensor, Tensor] | None = None,
    residual_norms: Float[Tensor, " layer"] | None = None,
    fingerprint: Fingerprint | None = None,
    shrinkage: Shrinkage = "oas",
    l2: int | float = 1.0,
    seed: int = 0,
) -> ConceptVectors:
    """Estimate a concept at every layer at once. Float64 inside, float32 out.

    Every method gives the length of the mean difference at that layer, so that methods differ in direction
    only, and points from negatives to positives (random directions do too).

    Args:
        positives: states that show the concept.
        negatives: states that do not; for the paired method, row ``i`` belongs to positive ``i``.
        hook_points: one name per layer.
        method: one of ``CONCEPT_METHODS``.
        name: of the concept.
        held_out: positive and negative states of texts that are not in the estimate, for AUROC and its
            interval.
        residual_norms: mean residual norm per layer; None takes that of these states.
        fingerprint: of the model.
        shrinkage: of the covariance in ``lda`` and ``whitened``.
        l2: penalty of ``logistic``.
        seed: of ``random``.

    Raises:
        ConceptError: unknown method, states that do not fit each other, too few or non-finite states, or
            classes with the same mean.
    """
    if method not in CONCEPT_METHODS:
        raise ConceptError(f"unknown concept method {method!r}; choose one of {', '.join(CONCEPT_METHODS)}.")
    check_states(positives, negatives, hook_points, least=1 if method in ("mean_difference", "random") else 2)
    direction = _direction(positives, negatives, method, shrinkage, l2, seed)
    if residual_norms is None:
        norms = torch.cat([states.to(torch.float64).norm(dim=2) for states in (positives, negatives)])
        residual_norms = norms.mean(0)
    return finish(
        direction,
        mean_difference(positives, negatives),
        residual_norms,
        hook_points,
        method=method,
        name=name,
        held_out=held_out,
        fingerprint=fingerprint,
    )


def _direction(
    positives: Float[Tensor, "positive layer d_model"],
    negatives: Float[Tensor, "negative layer d_model"],
    method: str,
    shrinkage: Shrinkage,
    l2: float,
    seed: int,
) -> Float[Tensor, "layer d_model"]:
    """The estimator's own direction, any length."""
    if method == "random":
        return random_direction(positives.shape[1], positives.shape[2], seed).to(positives.device)
    if method == "logistic":
        return logistic(positives, negatives, l2)[0]
    if method == "lda":
        return lda(positives, negatives, shrinkage)
    if method == "whitened":
        return whitened(positives, negatives, shrinkage)
    if method == "principal_component":
        return principal_component(positives, negatives)
    if method == "paired_principal_component":
        return paired_principal_component(positives, negatives)
    return mean_difference(positives, negatives)


def finish(
    direction: Float[Tensor, "layer d_model"],
    difference: Float[Tensor, "layer d_model"],
    residual_norms: Float[Tensor, " layer"],
    hook_points: Sequence[str],
    *,
    method: str,
    name: str,
    held_out: tuple[Tensor, Tensor] | None = None,
    fingerprint: Fingerprint | None = None,
) -> ConceptVectors:
    """Orient directions by the class difference, give them its length, and measure them.

    Raises:
        ConceptError: the classes have the same mean at a layer, or an estimator gave no direction.
    """
    length = difference.norm(dim=1)
    same = length <= 1e-10 * residual_norms.to(length)
    if bool(same.any()):
        where = [name for name, flat in zip(hook_points, same.tolist(), strict=True) if flat]
        raise ConceptError(
            f"positives and negatives have the same mean at {', '.join(where)}, so there is no direction "
            "between them; leave these hook points out, or read at a position that differs."
        )
    norms = direction.norm(dim=1, keepdim=True)
    if not torch.isfinite(direction).all() or bool((norms == 0).any()):
        raise ConceptError(f"method {method!r} found no direction: the states do not vary; use another method.")
    vectors = (orient(direction, difference) / norms * length[:, None]).to("cpu", torch.float32)
    unit = residual_norms.to("cpu", torch.float32)
    quality = measure_quality(vectors, unit, held_out)
    return ConceptVectors(name, vectors, tuple(hook_points), method, fingerprint, unit, quality)


def concept_from_store(
    store: StateStore,
    labels: Sequence[bool],
    *,
    method: str = "mean_difference",
    name: str = "concept",
    held_out: tuple[StateStore, Sequence[bool]] | None = None,
    residual_norms: Float[Tensor, " layer"] | None = None,
    shrinkage: Shrinkage = "oas",
    l2: int | float = 1.0,
    seed: int = 0,
) -> ConceptVectors:
    """Estimate a concept from captured states and one label per text (True: positive).

    For the paired method the ``k``-th positive and the ``k``-th negative, in store order, are a pair.

    Raises:
        ConceptError: a label count that does not fit the store, or anything :func:`estimate_concept` refuses.
    """
    positives, negatives = split_by_labels(store.tensor(), labels)
    return estimate_concept(
        positives,
        negatives,
        store.hook_points,
        method=method,
        name=name,
        held_out=None if held_out is None else split_by_labels(held_out[0].tensor(), held_out[1]),
        residual_norms=residual_norms,
        fingerprint=store.fingerprint,
        shrinkage=shrinkage,
        l2=l2,
        seed=seed,
    )


def split_by_labels(
    states: Float[Tensor, "example layer d_model"], labels: Sequence[bool]
) -> tuple[Float[Tensor, "positive layer d_model"], Float[Tensor, "negative layer d_model"]]:
    """Positive and negative states, each in the order of the store.

    Raises:
        ConceptError: the label count does not fit.
    """
    if len(labels) != states.shape[0]:
        raise ConceptError(f"{len(labels)} labels for {states.shape[0]} states; give one label per text.")
    mask = torch.tensor([bool(label) for label in labels], device=states.device)
    return states[mask], states[~mask]


def check_states(positives: Tensor, negatives: Tensor, hook_points: Sequence[str], least: int) -> None:
    """Raise when two sets of states cannot give a concept.

    Raises:
        ConceptError: too few states, shapes that differ, or values that are not finite.
    """
    if positives.shape[1:] != negatives.shape[1:] or positives.shape[1] != len(hook_points):
        raise ConceptError(
            f"positives {tuple(positives.shape)} and negatives {tuple(negatives.shape)} must agree in "
            f"layers and width, with one hook point per layer; {len(hook_points)} hook points were given."
        )
    if min(positives.shape[0], negatives.shape[0]) < least:
        raise ConceptError(
            f"{positives.shape[0]} positive and {negatives.shape[0]} negative texts; this method needs at "
            f"least {least} of each."
        )
    for states, side in ((positives, "positive"), (negatives, "negative")):
        if not torch.isfinite(states).all():
            raise ConceptError(f"the {side} states hold NaN or infinity; look at their capture.")
