"""Activity differences some of whose pairs have their sign exchanged: the control of labels that say nothing."""

import random
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from contrans_lens.rahf.controls import DerivedDifferences
from contrans_lens.rahf.summaries import SummarisedDifferences


class SignedDifferences(DerivedDifferences):
    """``+v`` or ``-v``, pair by pair; made by :func:`signs_exchanged`."""

    def __init__(self, source: SummarisedDifferences, flipped: frozenset[int]) -> None:
        super().__init__(source)
        self.flipped = flipped
        """Numbers of the rows that are exchanged."""

    def of(self, rows: Sequence[int]) -> Float[Tensor, "token layer d_model"]:
        """See :meth:`SummarisedDifferences.of`."""
        values = self.source.of(rows)
        signs = [-1.0 if row in self.flipped else 1.0 for row in rows for _ in self.rows[row].answer]
        return values * torch.tensor(signs, dtype=values.dtype)[:, None, None]


def signs_exchanged(source: SummarisedDifferences, rows_per_pair: int, seed: int = 0) -> SignedDifferences:
    """The differences with the sign of one half of the pairs exchanged, as if their labels had been.

    Args:
        source: the differences.
        rows_per_pair: 2 where both answers of a pair were read, else 1.
        seed: decides which half.
    """
    n_pairs = len(source.rows) // rows_per_pair
    pairs = random.Random(f"signs:{seed}").sample(range(n_pairs), n_pairs // 2)
    return SignedDifferences(
        source, frozenset(pair * rows_per_pair + place for pair in pairs for place in range(rows_per_pair))
    )
