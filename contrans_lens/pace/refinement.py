"""Concept vectors refined on a concept dictionary: keep what belongs to the concept, or take out what does not.

A concept vector read from contrasts holds whatever else the two sides differed in. Decomposed on the dictionary of its
own model it is ``v = D c + r``; what belongs to the concept can be kept, or what does not be taken out::

    keep    v' = D_K c_K          nothing but the named concepts is left
    drop    v' = v - D_I c_I      everything but the named concepts is left
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool
from torch import Tensor

from contrans_lens.concepts import ConceptVectors
from contrans_lens.errors import ConceptError, PaceError
from contrans_lens.pace.decomposition import Decomposition, decompose
from contrans_lens.pace.dictionary import ConceptDictionary
from contrans_lens.pace.partition import Partition, flags_of
from contrans_lens.pace.solvers.prepared import PreparedAtoms
from contrans_lens.pace.solvers.solver import Solver

_LEAST = 1e-6  # of the vector's length: less than this is rounding


@dataclass(frozen=True, eq=False)
class Refinement:
    """A refined concept with the decompositions it was made from."""

    concept: ConceptVectors
    """The refined vectors."""
    decompositions: tuple[Decomposition, ...]
    """Of the original vector, by hook point."""
    cosines: tuple[float, ...]
    """Cosine of the refined with the original vector, by hook point."""
    shares: tuple[float, ...]
    """Length of the refined vector over that of the original one, by hook point."""

    def __str__(self) -> str:
        lines = [self.concept.name]
        for found, cosine, share in zip(self.decompositions, self.cosines, self.shares, strict=True):
            shown = ", ".join(f"{name} {value:+.3g}" for name, value in found.row(0, 6))
            lines.append(f"{found.hook_point}: cosine {cosine:.3f}, length x {share:.3f}; {shown}")
        return "\n".join(lines)


def keep_concepts(
    concept: ConceptVectors,
    dictionary: ConceptDictionary,
    names: Sequence[str] | Partition,
    *,
    solver: Solver | None = None,
) -> Refinement:
    """Keep of a concept vector only what lies along the named concepts, ``D_K c_K``.

    Args:
        concept: the vectors; each hook point must be one of the dictionary's.
        dictionary: of the same model.
        names: concepts that belong; of a partition, those that it calls undesirable (what a task is about). A copy
            of another atom stands for it.
        solver: how coefficients are found; the paper's elastic net if None.

    Raises:
        PaceError: no names, or unknown ones; the partition is of another dictionary.
        ConceptError: nothing is left of the vector at a hook point, or it is zero there.
        HookPointError: the dictionary has no atoms at a hook point.
        FingerprintMismatchError: the dictionary is of another model.
    """
    return _refine(concept, dictionary, names, solver, keep=True)


def drop_concepts(
    concept: ConceptVectors,
    dictionary: ConceptDictionary,
    names: Sequence[str] | Partition,
    *,
    solver: Solver | None = None,
) -> Refinement:
    """Take out of a concept vector what lies along the named concepts, ``v - D_I c_I``; the rest stays as it is.

    Arguments and errors are those of :func:`keep_concepts`, with ``names`` the concepts that do not belong.
    """
    return _refine(concept, dictionary, names, solver, keep=False)


def _refine(
    concept: ConceptVectors,
    dictionary: ConceptDictionary,
    names: Sequence[str] | Partition,
    solver: Solver | None,
    *,
    keep: bool,
) -> Refinement:
    if concept.fingerprint is not None and dictionary.fingerprint is not None:
        dictionary.fingerprint.require(concept.fingerprint, "the dictionary")
    chosen = flags_of(dictionary, names)
    if not bool(chosen.any()):
        raise PaceError("no concept was named; give a list of concepts of the dictionary.")
    made, found = [], []
    for point in concept.hook_points:
        vector = concept.at(point).float()
        if not float(vector.norm()):
            raise ConceptError(f"{concept.name!r} is the zero vector at {point}; leave that hook point out.")
        prepared = PreparedAtoms.of(dictionary.at(point), device=vector.device)
        decomposition = decompose(dictionary, vector[None], point, solver=solver, prepared=prepared)
        part = decomposition.codes.only(prepared.with_copies(chosen)).combine(prepared.atoms)[0]
        refined = part if keep else vector - part
        if float(refined.norm()) <= _LEAST * float(vector.norm()):
            raise ConceptError(
                f"nothing is left of {concept.name!r} at {point}: "
                f"{'none of the concepts to keep was found in it' if keep else 'it lies in what was dropped'}."
            )
        made.append(refined)
        found.append(decomposition)
    vectors = torch.stack(made)
    verb = "kept to" if keep else "without"
    label = f"{concept.name} {verb} {_shown(dictionary, chosen)}"
    return Refinement(
        replace(concept, name=label, vectors=vectors.to(concept.vectors.dtype), quality=()),
        tuple(found),
        tuple(torch.cosine_similarity(vectors, concept.vectors.float()).tolist()),
        tuple((vectors.norm(dim=1) / concept.vectors.float().norm(dim=1)).tolist()),
    )


def _shown(dictionary: ConceptDictionary, chosen: Bool[Tensor, " atom"]) -> str:
    names = [dictionary.names[atom] for atom in chosen.nonzero()[:, 0].tolist()]
    return ", ".join(names) if len(names) <= 3 else f"{', '.join(names[:2])} and {len(names) - 2} more"
