"""``ConceptRemoval``: decompose the residual stream on a concept dictionary and take out what is unwanted.

PaCE (Luo et al. 2024, arXiv 2406.04331), step 3 of its algorithm: with ``D`` the dictionary, ``I`` the undesirable
concepts and ``c`` the coefficients of an activation ``z``::

    z' = z - s D_I c_I

The benign part and what no concept explains are never touched, and need not be formed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from contrans_lens.errors import InterventionError, PaceError
from contrans_lens.interventions import ALL, CONTINUATION, Positions, positions_to_dict
from contrans_lens.interventions.suspension import require_model
from contrans_lens.models import Fingerprint, HookedModel
from contrans_lens.pace.dictionary import ConceptDictionary
from contrans_lens.pace.partition import Partition, flags_of
from contrans_lens.pace.removing import Removing
from contrans_lens.pace.solvers.elastic_net import ElasticNet
from contrans_lens.pace.solvers.prepared import PreparedAtoms
from contrans_lens.pace.solvers.solver import Solver

Mode = Literal["per_prompt", "per_token"]

_GRAM_BYTES = 1 << 32  # of the Gram matrices of all hook points together


@dataclass(frozen=True, eq=False)
class ConceptRemoval:
    """Removal of undesirable concepts at one hook point, as data: an :class:`~contrans_lens.interventions.Edit`.

    Made by :func:`removals`. A strength of 1 takes out what was found, 0 attaches no hook, beyond 1 overshoots, and a
    negative strength strengthens what was found.
    """

    hook_point: str
    """Name, such as ``"blocks.3.hook_resid_post"``."""
    names: tuple[str, ...]
    """Name of each atom."""
    prepared: PreparedAtoms
    """The atoms that activations are decomposed on, ``[atom, d_model]``; copies of this removal share them."""
    undesirable: Bool[Tensor, " atom"]
    """Which of them are taken out."""
    solver: Solver
    """How coefficients are found."""
    mode: Mode = "per_prompt"
    """``per_prompt`` decomposes the last token of the prompt and takes the same thing out from there on (the paper);
    ``per_token`` decomposes every token it acts on, BOS among them unless positions leave it out (``Between(1)``)."""
    positions: Positions = CONTINUATION
    """At which tokens it acts."""
    strength: float = 1.0
    """Share of what was found that is taken out."""
    fingerprint: Fingerprint | None = None
    """The model whose residual stream the atoms live in; another model is refused."""
    label: str = ""
    """A name for people."""
    digest: str = ""
    """Digest of the dictionary, for the key of kept results."""

    def __post_init__(self) -> None:
        if self.mode not in ("per_prompt", "per_token"):
            raise PaceError(f"mode is {self.mode!r}; 'per_prompt' or 'per_token' is expected.")
        if isinstance(self.strength, bool) or not isfinite(self.strength):
            raise PaceError(f"strength is {self.strength!r}; a finite number is expected (1 takes out what is found).")
        object.__setattr__(self, "strength", float(self.strength))
        n_atoms = len(self.prepared.atoms)
        if len(self.names) != n_atoms or self.undesirable.shape[0] != n_atoms:
            raise PaceError(
                f"{len(self.names)} names and {self.undesirable.shape[0]} flags do not fit {n_atoms} atoms; "
                "make removals from one dictionary with removals()."
            )

    @property
    def d_model(self) -> int:
        """Width of the atoms."""
        return self.prepared.atoms.shape[1]

    @property
    def is_neutral(self) -> bool:
        """Whether it changes nothing whatever the activation: strength 0, or no undesirable atom."""
        return self.strength == 0 or not bool(self.undesirable.any())

    @property
    def undesirable_names(self) -> tuple[str, ...]:
        """Names of the atoms that are taken out."""
        return tuple(name for name, flag in zip(self.names, self.undesirable.tolist(), strict=True) if flag)

    def compile(self) -> Removing:
        """What is run at the hook point."""
        return Removing(
            self.hook_point,
            self.names,
            self.prepared,
            self.undesirable,
            self.solver,
            per_prompt=self.mode == "per_prompt",
            strength=self.strength,
        )

    def with_strength(self, strength: float) -> "ConceptRemoval":
        """The same removal at another strength."""
        return replace(self, strength=strength)

    def unchecked(self) -> "ConceptRemoval":
        """The same removal without its fingerprint, for a model that it was compared with before."""
        return replace(self, fingerprint=None)

    def require_model(self, model: HookedModel) -> None:
        """Check that the dictionary was made on this model and weight processing.

        Raises:
            FingerprintMismatchError: it was made on another one; the message says what differs.
        """
        require_model(self.fingerprint, model, f"the dictionary behind the removal at {self.hook_point}")

    def to_key(self) -> dict[str, Any]:
        """Everything besides the model that decides what it does, as JSON values."""
        return {
            "kind": "concept_removal",
            "hook_point": self.hook_point,
            "dictionary": self.digest,
            "names": list(self.names),
            "undesirable": list(self.undesirable_names),
            "solver": self.solver.to_dict(),
            "mode": self.mode,
            "positions": positions_to_dict(self.positions),
            "strength": self.strength,
        }

    def __str__(self) -> str:
        name = f"{self.label}: " if self.label else ""
        return (
            f"{name}remove {int(self.undesirable.sum())} of {len(self.names)} concepts x {self.strength:.4g} at "
            f"{self.hook_point}, {self.mode}, {self.solver}"
        )


def removals(
    dictionary: ConceptDictionary,
    undesirable: Partition | Sequence[str],
    hook_points: Sequence[str] | None = None,
    *,
    solver: Solver | None = None,
    mode: Mode = "per_prompt",
    positions: Positions | None = None,
    strength: float | int = 1.0,
    label: str = "",
    prepared: Mapping[str, PreparedAtoms] | None = None,
) -> tuple[ConceptRemoval, ...]:
    """Removals of undesirable concepts at several hook points, which act in sequence: each sees what the last one left.

    Args:
        dictionary: the atoms, by hook point.
        undesirable: a partition of this dictionary, or names of atoms.
        hook_points: where to act; every hook point of the dictionary if None.
        solver: how coefficients are found; the paper's elastic net if None. A solver of scope ``"undesirable"``
            (orthogonal projection, vector addition) is given the undesirable atoms alone.
        mode: ``"per_prompt"`` or ``"per_token"``.
        positions: at which tokens to act; if None from the last token of the prompt on for ``per_prompt``, and all for
            ``per_token``.
        strength: share of what is found that is taken out.
        label: a name for people.
        prepared: atoms made ready before, by hook point (:func:`prepare`), for solvers of scope ``"dictionary"``; saves
            factoring them again.

    Returns:
        One removal for each hook point: a cell for everything that measures.

    Raises:
        PaceError: the partition is of another dictionary, names are unknown, nothing or everything is undesirable.
        HookPointError: the dictionary has no atoms at a hook point.
    """
    flags = flags_of(dictionary, undesirable)
    if not bool(flags.any()) or bool(flags.all()):
        raise PaceError(
            f"{int(flags.sum())} of {len(flags)} concepts are undesirable; some, but not all, are expected: removing "
            "nothing does nothing, and removing everything leaves no concept for the rest of the activation."
        )
    chosen = ElasticNet() if solver is None else solver
    at = (CONTINUATION if mode == "per_prompt" else ALL) if positions is None else positions
    names, made = dictionary.names, []
    points = dictionary.hook_points if hook_points is None else hook_points
    alone = chosen.scope == "undesirable"
    if alone:
        names = tuple(name for name, flag in zip(dictionary.names, flags.tolist(), strict=True) if flag)
        atoms = {point: PreparedAtoms.of(dictionary.at(point)[flags]) for point in points}
    else:
        known = {} if prepared is None else dict(prepared)
        atoms = known | prepare(dictionary, [point for point in points if point not in known])
    for point in points:
        made.append(
            ConceptRemoval(
                point,
                names,
                atoms[point],
                torch.ones(len(names), dtype=torch.bool) if alone else flags,
                chosen,
                mode,
                at,
                float(strength),
                dictionary.fingerprint,
                label,
                dictionary.digest,
            )
        )
    if not made:
        raise InterventionError("no hook points were given; name one at least, or leave hook_points out.")
    return tuple(made)


def prepare(
    dictionary: ConceptDictionary, hook_points: Sequence[str] | None = None, *, gram: bool | None = None
) -> dict[str, PreparedAtoms]:
    """Atoms made ready for decompositions at hook points: what several calls of :func:`removals` can share.

    Args:
        dictionary: the atoms.
        hook_points: where; every hook point of the dictionary if None.
        gram: whether to make the Gram matrices, ``4 n_atoms^2`` bytes for each hook point. None: where each fits into 1
            GiB and all together into 4 GiB. The numbers are the same without; single activations are then slower.

    Raises:
        HookPointError: the dictionary has no atoms at a hook point.
    """
    points = dictionary.hook_points if hook_points is None else hook_points
    if gram is None and 4 * dictionary.n_atoms**2 * len(points) > _GRAM_BYTES:
        gram = False
    return {point: PreparedAtoms.of(dictionary.at(point), gram=gram) for point in points}


def removed_at(removal: ConceptRemoval, activations: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
    """What the removal would take out of activations, strength included: ``s D_I c_I``, float32.

    Raises:
        PaceError: activations of another width, or not finite.
    """
    return removal.compile().removed(activations)
