"""``SparseCodes``: the coefficients of a batch of sparse decompositions, the non-zero ones only."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag, pad

from contrans_lens.errors import PaceError


@dataclass(frozen=True, eq=False)
class SparseCodes:
    """Coefficients ``c`` of activations ``z ~ D c``, row by row.

    A dense ``c`` has one number per atom of the dictionary, nearly all of them zero; this keeps the others.
    """

    atoms: Int[Tensor, "row k"]
    """Index of each coefficient's atom, int64; -1 where a row has fewer than ``k``."""
    values: Float[Tensor, "row k"]
    """Coefficients, in units of the activation; 0 where a row has fewer than ``k``."""
    n_atoms: int
    """Atoms of the dictionary that the indices point into."""

    def __post_init__(self) -> None:
        if self.atoms.shape != self.values.shape or self.atoms.ndim != 2:
            raise PaceError(
                f"atoms are {tuple(self.atoms.shape)} and values {tuple(self.values.shape)}; "
                "one shape [row, k] is expected of both."
            )
        if self.atoms.numel() and not (int(self.atoms.min()) >= -1 and int(self.atoms.max()) < self.n_atoms):
            raise PaceError(
                f"an atom's index is outside the dictionary of {self.n_atoms} atoms (-1 stands for none); "
                "use the codes with the dictionary they were made on."
            )

    @property
    def n_rows(self) -> int:
        """Number of decomposed activations."""
        return self.atoms.shape[0]

    def dense(self) -> Float[Tensor, "row atom"]:
        """All coefficients, the zeros too."""
        # One column more takes what stands for "none" and is cut off.
        full = self.values.new_zeros(self.n_rows, self.n_atoms + 1)
        full.scatter_(1, torch.where(self.atoms < 0, self.n_atoms, self.atoms), self.values)
        return full[:, : self.n_atoms]

    def only(self, chosen: Bool[Tensor, " atom"]) -> "SparseCodes":
        """The coefficients of chosen atoms alone (``c_I`` of the undesirable set), the others left out.

        Args:
            chosen: one flag per atom of the dictionary.

        Raises:
            PaceError: there is not one flag per atom.
        """
        if chosen.shape != (self.n_atoms,):
            raise PaceError(f"{tuple(chosen.shape)} flags for {self.n_atoms} atoms; give one flag per atom.")
        kept = (self.atoms >= 0) & chosen.to(self.atoms.device)[self.atoms.clamp(min=0)]
        return SparseCodes(torch.where(kept, self.atoms, -1), torch.where(kept, self.values, 0), self.n_atoms)

    def combine(self, atoms: Float[Tensor, "atom d_model"]) -> Float[Tensor, "row d_model"]:
        """``D c`` of each row, in the values' dtype and on their device.

        Args:
            atoms: the dictionary's atoms, one a row.

        Raises:
            PaceError: there are more or fewer atoms than the codes were made on.
        """
        if atoms.shape[0] != self.n_atoms:
            raise PaceError(f"{atoms.shape[0]} atoms for codes over {self.n_atoms}; give the atoms they were made on.")
        if self.atoms.numel() == 0:
            return self.values.new_zeros(self.n_rows, atoms.shape[1])
        index, table = self.atoms.clamp(min=0), atoms
        if atoms.dtype != self.values.dtype or atoms.device != self.values.device:
            # Converting a whole dictionary would cost more than the sum: only the atoms in use are.
            used, index = index.unique(return_inverse=True)
            table = atoms[used.to(atoms.device)].to(self.values.device, self.values.dtype)
        return embedding_bag(index, table, per_sample_weights=self.values, mode="sum")

    def rescaled(self, factors: Float[Tensor, " row"]) -> "SparseCodes":
        """The same with each row's coefficients multiplied by its factor, such as ``||z||``."""
        return SparseCodes(self.atoms, self.values * factors[:, None], self.n_atoms)

    def counts(self) -> Int[Tensor, " row"]:
        """Number of atoms that each row uses."""
        return (self.atoms >= 0).sum(1)

    def row(self, index: int) -> list[tuple[int, float]]:
        """``(atom, coefficient)`` of one row, the largest by absolute value first."""
        pairs = zip(self.atoms[index].tolist(), self.values[index].tolist(), strict=True)
        return sorted(((atom, value) for atom, value in pairs if atom >= 0), key=lambda pair: -abs(pair[1]))


def compact_codes(atoms: Int[Tensor, "row k"], values: Float[Tensor, "row k"], n_atoms: int) -> SparseCodes:
    """Codes without the zeros among ``values``, the others moved to the front of each row in their order."""
    used = (atoms >= 0) & (values != 0)
    width = int(used.sum(1).max()) if used.numel() else 0
    order = (~used).to(torch.int8).argsort(dim=1, stable=True)[:, :width]
    used, atoms, values = (each.gather(1, order) for each in (used, atoms, values))
    return SparseCodes(torch.where(used, atoms, -1), torch.where(used, values, 0), n_atoms)


def join_codes(parts: Sequence[SparseCodes]) -> SparseCodes:
    """The rows of several codes over one dictionary, one after the other.

    Raises:
        PaceError: there are none, or their dictionaries differ in size.
    """
    if len({part.n_atoms for part in parts}) != 1:
        raise PaceError("codes are joined over one dictionary; give at least one part, all with the same n_atoms.")
    width = max(part.atoms.shape[1] for part in parts)
    atoms = [pad(part.atoms, (0, width - part.atoms.shape[1]), value=-1) for part in parts]
    values = [pad(part.values, (0, width - part.values.shape[1])) for part in parts]
    return SparseCodes(torch.cat(atoms), torch.cat(values), parts[0].n_atoms)
