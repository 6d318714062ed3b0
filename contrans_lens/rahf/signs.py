"""Activity differences some of whose pairs have their sign exchanged: the control of labels that say nothing."""

import random
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from contrans_lens.rahf.summaries import SummarisedDifferences


class SignedDifferences(SummarisedDifferences):
    """``+v`` or ``-v``, pair by pair; made by :func:`signs_exchanged`."""

    def __init__(self, source: SummarisedDifferences, flipped: frozenset[int]) -> None:
        self.source = source
        self.flipped = flipped
        """Numbers of the rows that are exchanged."""
        self.hook_points = source.hook_points
        self.where = source.where
        self.d_model = source.d_model
        self.fingerprint = source.fingerprint
        self.rows = source.rows
        self.groups = source.groups

    def of(self, rows: Sequence[int]) -> Float[Tensor, "token layer d_model"]:
        """See :meth:`SummarisedDifferences.of`."""
        values = self.source.of(rows)
        signs = [-1.0 if row in self.flipped else 1.0 for row in rows for _ in self.rows[row].answer]
        return values * torch.tensor(signs, dtype=values.dtype)[:, None, None]

    def residual_norms(self) -> Float[Tensor, " layer"] | None:
        """Those of the source."""
        return self.source.residual_norms()


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
