"""Decompositions of activations on a concept dictionary: which concepts are found, how strongly, and what is left."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from contrans_lens.errors import PaceError
from contrans_lens.models import HookedModel
from contrans_lens.pace.codes import SparseCodes
from contrans_lens.pace.dictionary import ConceptDictionary
from contrans_lens.pace.solvers.elastic_net import ElasticNet
from contrans_lens.pace.solvers.prepared import PreparedAtoms
from contrans_lens.pace.solvers.solver import Solver
from contrans_lens.residuals import capture

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

_SHOWN = 8


@dataclass(frozen=True, eq=False, repr=False)
class Decomposition:
    """Activations at one hook point as sums of few concepts: ``z = D c + r`` (PaCE, equation of its decomposition)."""

    hook_point: str
    names: tuple[str, ...]
    """Name of each atom of the dictionary."""
    codes: SparseCodes
    """Coefficients, in the residual's own units."""
    norms: Float[Tensor, " row"]
    """Norm of each activation."""
    residuals: Float[Tensor, " row"]
    """Norm of what no concept explains, ``||z - D c||``, of all concepts even where ``codes`` holds some alone."""
    solver: Mapping[str, Any]
    """How coefficients were found."""
    texts: tuple[str, ...] = ()
    """Where the activations come from; empty where they were given."""

    @property
    def explained(self) -> Float[Tensor, " row"]:
        """Share of each activation's square that the concepts explain, ``1 - ||r||^2 / ||z||^2``; 0 for a zero one."""
        square = self.norms.square()
        return torch.where(square > 0, 1 - self.residuals.square() / square, torch.zeros_like(square))

    def row(self, index: int, k: int | None = None) -> list[tuple[str, float]]:
        """Concepts of one activation with their coefficients, the largest first; ``k`` of them at most."""
        return [(self.names[atom], value) for atom, value in self.codes.row(index)[:k]]

    def table(self, k: int | None = None) -> "pandas.DataFrame":
        """One line for each activation and concept: row, text, rank, concept, coefficient, share of the norm."""
        import pandas

        lines = []
        for index, norm in enumerate(self.norms.tolist()):
            text = self.texts[index] if self.texts else ""
            for rank, (name, value) in enumerate(self.row(index, k)):
                share = value / norm if norm else 0.0
                lines.append(
                    {"row": index, "text": text, "rank": rank, "concept": name, "coefficient": value, "share": share}
                )
        return pandas.DataFrame(lines, columns=["row", "text", "rank", "concept", "coefficient", "share"])

    def mean_shares(self) -> list[tuple[str, float]]:
        """Mean of ``c_i / ||z||`` over the activations, by concept, the largest absolute mean first; zeros left out."""
        if not len(self.norms):
            return []
        norms = self.norms.clamp_min(torch.finfo(self.norms.dtype).tiny)
        mean = (self.codes.dense() / norms[:, None]).mean(0)
        order = mean.abs().argsort(descending=True, stable=True).tolist()
        return [(self.names[atom], float(mean[atom])) for atom in order if mean[atom] != 0]

    def plot(self, index: int = 0, k: int = 15) -> "Figure":
        """A bar chart of one activation's largest coefficients."""
        from contrans_lens.reports import decomposition_figure

        return decomposition_figure(self, index, k)

    def __repr__(self) -> str:
        return f"Decomposition({self.hook_point}: {len(self.norms)} activations on {len(self.names)} concepts)"

    def __str__(self) -> str:
        lines = [f"{self.hook_point}, {self.solver}"]
        for index, (explained, n_found) in enumerate(
            zip(self.explained.tolist(), self.codes.counts().tolist(), strict=True)
        ):
            shown = ", ".join(f"{name} {value:+.3g}" for name, value in self.row(index, _SHOWN))
            more = f", and {n_found - _SHOWN} more" if n_found > _SHOWN else ""
            of = f"{self.texts[index][-40:]!r}: " if self.texts else f"row {index}: "
            lines.append(f"{of}{shown or 'no concept'}{more} ({explained:.0%} explained)")
        return "\n".join(lines)


def decompose(
    dictionary: ConceptDictionary,
    activations: Float[Tensor, "row d_model"],
    hook_point: str,
    *,
    solver: Solver | None = None,
    prepared: PreparedAtoms | None = None,
    only: Bool[Tensor, " atom"] | None = None,
    texts: Sequence[str] = (),
) -> Decomposition:
    """Decompose activations on the concepts of a dictionary.

    Args:
        dictionary: the atoms.
        activations: residuals at the hook point, ``[row, d_model]``, in their own units.
        hook_point: whose atoms to use.
        solver: how coefficients are found; the paper's elastic net if None.
        prepared: the hook point's atoms made ready before (:func:`contrans_lens.pace.prepare`).
        only: keep the coefficients of these atoms alone; the activation is decomposed on all of them. A copy of
            another atom stands for it.
        texts: where the activations come from, for tables.

    Raises:
        PaceError: activations of another width or not finite, a number of texts that does not fit, atoms that were
            prepared for another dictionary, or a solver of scope ``"undesirable"``, which has no dictionary to
            decompose on.
        HookPointError: the dictionary has no atoms at the hook point.
    """
    chosen = ElasticNet() if solver is None else solver
    if chosen.scope != "dictionary":
        raise PaceError(f"{chosen} works on undesirable atoms alone; decompose with OMP or ElasticNet.")
    if texts and len(texts) != len(activations):
        raise PaceError(f"{len(texts)} texts do not fit {len(activations)} activations; give one for each.")
    atoms = dictionary.at(hook_point)
    ready = PreparedAtoms.of(atoms) if prepared is None else prepared
    if ready.n_atoms != dictionary.n_atoms:
        raise PaceError(
            f"{ready.n_atoms} atoms were prepared and the dictionary has {dictionary.n_atoms}; prepare this dictionary."
        )
    ready = ready.to(activations.device)
    codes = chosen.decompose(ready, activations)
    states = activations.float()
    residuals = (states - codes.combine(ready.atoms)).norm(dim=1)
    return Decomposition(
        hook_point,
        dictionary.names,
        codes if only is None else codes.only(ready.with_copies(only)),
        states.norm(dim=1),
        residuals,
        chosen.to_dict(),
        tuple(texts),
    )


def decompose_texts(
    model: HookedModel,
    texts: Sequence[str],
    dictionary: ConceptDictionary,
    hook_points: Sequence[str] | None = None,
    *,
    solver: Solver | None = None,
    prepared: Mapping[str, PreparedAtoms] | None = None,
) -> dict[str, Decomposition]:
    """Decompose the last token of each text, at several hook points from one pass over the texts.

    The dictionary's template is not applied: the texts are read as they are.

    Raises:
        PaceError: texts or hook points are one text and no list.
        FingerprintMismatchError: the dictionary was made on another model.
        HookPointError: the dictionary or the model has no such hook point.
        TextError: there are no texts, or one is empty or too long.
    """
    for name, given in (("texts", texts), ("hook_points", hook_points)):
        if isinstance(given, str):
            raise PaceError(f"{name} is the one text {given[:40]!r}; give a list.")
    dictionary.require_model(model)
    points = list(dictionary.hook_points if hook_points is None else hook_points)
    for point in points:
        dictionary.at(point)  # refused before the model is run
    store = capture(model, list(texts), points)
    ready = prepared or {}
    return {
        point: decompose(
            dictionary, store.tensor(point), point, solver=solver, prepared=ready.get(point), texts=tuple(texts)
        )
        for point in points
    }
