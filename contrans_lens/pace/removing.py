"""What a removal does in a forward pass: decompose what is seen, remember what is to be taken out, take it out."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from contrans_lens.errors import InterventionError
from contrans_lens.interventions import Finding
from contrans_lens.interventions.operations import check_width
from contrans_lens.interventions.passes import ForwardPass
from contrans_lens.pace.codes import SparseCodes
from contrans_lens.pace.solvers.prepared import PreparedAtoms
from contrans_lens.pace.solvers.solver import Solver

_ROWS_AT_ONCE = 512  # activations decomposed together: bounds the [row, atom] correlations


class Removing:
    """The operation of one removal in one run; see :class:`contrans_lens.pace.ConceptRemoval`."""

    def __init__(
        self,
        hook_point: str,
        names: tuple[str, ...],
        prepared: PreparedAtoms,
        undesirable: Bool[Tensor, " atom"],
        solver: Solver,
        *,
        per_prompt: bool,
        strength: float,
    ) -> None:
        self._hook_point, self._names, self._solver = hook_point, names, solver
        self._prepared = prepared
        self._undesirable = prepared.with_copies(undesirable)
        self._per_prompt, self._strength = per_prompt, strength
        self._sequence = -1
        self._ends = torch.zeros(0, dtype=torch.long)  # column of each row's last prompt token
        self._known: Tensor | None = None  # rows whose prompt was decomposed
        self._all_known = False
        self._deltas: Tensor | None = None  # what is taken out of each row, [batch, d_model]

    def on_pass(
        self,
        activation: Float[Tensor, "batch pos d_model"],
        where: Bool[Tensor, "batch pos"] | None,
        current: ForwardPass,
        findings: list[Finding] | None,
    ) -> Float[Tensor, "batch pos d_model"]:
        """The activation without what is undesirable, at the tokens of ``where``.

        Raises:
            InterventionError: tokens are acted on before the end of their prompt was seen; the activation is not as
                wide as the atoms.
        """
        check_width(activation, self._prepared.atoms.shape[1])
        if self._per_prompt:
            return self._as_prompt(activation, where, current, findings)
        if where is None:
            tokens = activation.flatten(0, 1)
            places = None if findings is None else torch.ones(activation.shape[:2], dtype=torch.bool).nonzero()
            delta = self._removed(tokens.detach(), places, current, findings)
            return _less(tokens, delta).view_as(activation)
        if not bool(where.any()):
            return activation
        tokens = activation[where]
        delta = self._removed(tokens.detach(), where.nonzero(), current, findings)
        edited = activation.clone()
        edited[where] = _less(tokens, delta)
        return edited

    def removed(self, activations: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
        """What is taken out of activations, strength included, float32 on their device."""
        return self._removed(activations, None, None, None)

    def _as_prompt(
        self,
        activation: Float[Tensor, "batch pos d_model"],
        where: Bool[Tensor, "batch pos"] | None,
        current: ForwardPass,
        findings: list[Finding] | None,
    ) -> Float[Tensor, "batch pos d_model"]:
        if self._sequence != current.sequence or self._deltas is None or self._known is None:
            self._sequence, self._ends = current.sequence, torch.tensor(current.prompt.last_columns())
            self._known = torch.zeros(current.size, dtype=torch.bool)
            self._deltas = torch.zeros(current.size, activation.shape[-1], device=activation.device)
            self._all_known = False
        if not self._all_known:
            self._look(activation, current, findings, self._known, self._deltas)
            unknown = ~self._known if where is None else where.any(dim=1).cpu() & ~self._known
            if bool(unknown.any()):
                raise InterventionError(
                    f"{self._hook_point}: tokens are to be edited before the end of their prompt was seen. Run the "
                    "prompt in one pass, or act from its end on (positions CONTINUATION)."
                )
            self._all_known = bool(self._known.all())
        if where is not None and not bool(where.any()):
            return activation
        edited = _less(activation, self._deltas[:, None])
        return edited if where is None else torch.where(where[..., None], edited, activation)

    def _look(
        self,
        activation: Float[Tensor, "batch pos d_model"],
        current: ForwardPass,
        findings: list[Finding] | None,
        known: Bool[Tensor, " batch"],
        deltas: Float[Tensor, "batch d_model"],
    ) -> None:
        """Decompose the rows whose prompt ends in this pass, and keep what is to be taken out of them."""
        columns = self._ends - current.start
        seen = ~known & (columns >= 0) & (columns < current.width)
        if not bool(seen.any()):
            return
        rows = seen.nonzero()[:, 0]
        places = torch.stack([rows, columns[rows]], dim=1)
        there = places.to(activation.device)
        states = activation[there[:, 0], there[:, 1]].detach()
        deltas[rows.to(activation.device)] = self._removed(states, places, current, findings)
        known[rows] = True

    @torch.no_grad()
    def _removed(
        self,
        states: Float[Tensor, "row d_model"],
        places: Int[Tensor, "row 2"] | None,
        current: ForwardPass | None,
        findings: list[Finding] | None,
    ) -> Float[Tensor, "row d_model"]:
        """What is taken out of states, some at a time; findings are noted where they are asked for."""
        atoms = self._on(states.device)
        taken = []
        ranks = None if current is None or findings is None else current.mask().long().cumsum(dim=1) - 1
        for start in range(0, len(states), _ROWS_AT_ONCE):
            part = states[start : start + _ROWS_AT_ONCE]
            codes = self._solver.decompose(atoms, part)
            unwanted = codes.only(self._undesirable.to(states.device))
            delta = self._strength * unwanted.combine(atoms.atoms)
            taken.append(delta)
            if ranks is not None and current is not None and findings is not None and places is not None:
                unexplained = part.float() - codes.combine(atoms.atoms)
                for row, (batch_row, column) in enumerate(places[start : start + len(part)].tolist()):
                    findings.append(
                        Finding(
                            hook_point=self._hook_point,
                            sequence=current.sequence,
                            row=batch_row,
                            position=int(ranks[batch_row, current.start + column]),
                            found=self._named(codes, row),
                            removed=self._named(unwanted, row),
                            norm=float(part[row].float().norm()),
                            residual=float(unexplained[row].norm()),
                            removed_norm=float(delta[row].norm()),
                        )
                    )
        return torch.cat(taken) if taken else states.float()

    def _named(self, codes: SparseCodes, row: int) -> tuple[tuple[str, float], ...]:
        return tuple((self._names[atom], value) for atom, value in codes.row(row))

    def _on(self, device: torch.device) -> PreparedAtoms:
        if self._prepared.atoms.device != device:
            # What is made in inference mode could not be used by a later pass outside it.
            with torch.inference_mode(False):
                self._prepared = self._prepared.to(device)
        return self._prepared


def _less(activation: Tensor, delta: Tensor) -> Tensor:
    """The activation without ``delta``, rounded once, to the activation's dtype."""
    wide = torch.promote_types(activation.dtype, torch.float32)
    return (activation.to(wide) - delta).to(activation.dtype)
