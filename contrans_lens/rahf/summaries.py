"""What can be said of activity differences as a whole: their norms, their mean, and how far they are one direction."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from contrans_lens.concepts.vectors import ConceptVectors
from contrans_lens.errors import HookPointError, RahfError
from contrans_lens.models import Fingerprint
from contrans_lens.rahf.norms import MOST_OFFSETS, DifferenceNorms, difference_norms
from contrans_lens.rahf.protocol import Differences, row_chunks
from contrans_lens.rahf.tokens import AnswerRow, Where


class SummarisedDifferences(ABC):
    """Base of all activity differences of this package; they satisfy :class:`~contrans_lens.rahf.protocol.Differences`.

    Summaries go through the differences about a thousand tokens at a time and keep none of them.
    """

    hook_points: tuple[str, ...]
    """Names of the layers, in the order of the ``layer`` axis."""
    where: Where
    """Whether they stand at the answer's own tokens or at those that predict them."""
    d_model: int
    """Width of the residual stream."""
    fingerprint: Fingerprint | None
    """The base model, where it was given."""
    rows: tuple[AnswerRow, ...]
    """The answers under the plain prompt."""
    groups: tuple[str, ...]
    """The group of each row's pair."""

    @abstractmethod
    def of(self, rows: Sequence[int]) -> Float[Tensor, "token layer d_model"]:
        """Differences of some rows, one row after the other, at the positions read of each in order.

        Args:
            rows: numbers of rows, from 0; a row may come twice, and none gives no tokens.

        Raises:
            RahfError: there is no such row.
        """

    @abstractmethod
    def residual_norms(self) -> Float[Tensor, " layer"] | None:
        """Mean norm of the base model's residual stream at the positions read, by layer; None without a base."""

    @property
    def reading_tokens(self) -> tuple[int, ...]:
        """Tokens that are run whenever a row is asked for, by row: none where differences are kept."""
        return (0,) * len(self.rows)

    @property
    def n_tokens(self) -> int:
        """Number of answer tokens in all rows."""
        return sum(len(row.answer) for row in self.rows)

    def layer(self, hook_point: str) -> int:
        """Place of a hook point on the ``layer`` axis.

        Raises:
            HookPointError: it was not read.
        """
        if hook_point not in self.hook_points:
            raise HookPointError(f"{hook_point!r} was not read; there are {', '.join(self.hook_points)}.")
        return self.hook_points.index(hook_point)

    def norms(self, *, n_offsets: int = MOST_OFFSETS, n_resamples: int = 2000, seed: int = 0) -> DifferenceNorms:
        """Mean ``||v_l(t)||_2`` by layer and by token of the answer, with intervals over groups of pairs.

        Args:
            n_offsets: tokens of an answer that are told apart, from its first.
            n_resamples: bootstrap resamples.
            seed: of the resampling.

        Raises:
            RahfError: ``n_offsets`` is below one.
        """
        return difference_norms(
            self, self.groups, self.residual_norms(), n_offsets=n_offsets, n_resamples=n_resamples, seed=seed
        )

    def mean_vectors(self, name: str) -> ConceptVectors:
        """The mean of v over all tokens of all answers as a concept, which is steered and transplanted like any other.

        It belongs to the base model, whose residual norms are its unit of strength.

        Args:
            name: the concept's name.
        """
        mean, _ = mean_and_square(self)
        return ConceptVectors(
            name,
            mean.float(),
            self.hook_points,
            method="mean_activity_difference",
            fingerprint=self.fingerprint,
            residual_norms=self.residual_norms(),
        )

    def shares(self) -> tuple[float, ...]:
        """How far the activity is one direction: ``||mean v||^2 / mean ||v||^2`` by layer, over all tokens.

        1 where every token has the same v; of n independent directions about 1 / n.

        Raises:
            RahfError: v is zero at a layer, and has no direction.
        """
        mean, square = mean_and_square(self)
        empty = [name for name, value in zip(self.hook_points, square.tolist(), strict=True) if value == 0]
        if empty:
            raise RahfError(f"v is zero at {', '.join(empty)}: the two runs of the contrast do not differ there.")
        return tuple((mean.square().sum(1) / square).tolist())

    def check_rows(self, rows: Sequence[int]) -> None:
        """Refuse numbers of rows that there are not.

        Raises:
            RahfError: one is out of range.
        """
        for number in rows:
            if not 0 <= number < len(self.rows):
                raise RahfError(f"row {number} was asked for; there are {len(self.rows)}, from 0.")


def reading_tokens(differences: Differences) -> tuple[int, ...]:
    """Tokens that are run whenever a row of differences is asked for, by row, as far as that is known."""
    if isinstance(differences, SummarisedDifferences):
        return differences.reading_tokens
    return (0,) * len(differences.rows)


def mean_and_square(
    differences: Differences,
) -> tuple[Float[Tensor, "layer d_model"], Float[Tensor, " layer"]]:
    """Mean of v, and mean of ``||v||^2``, over all tokens, in float64.

    Args:
        differences: of at least one answer.
    """
    n_layers, width = len(differences.hook_points), differences.d_model
    total = torch.zeros(n_layers, width, dtype=torch.float64)
    square = torch.zeros(n_layers, dtype=torch.float64)
    n_tokens = 0
    for rows in row_chunks(differences.rows):
        values = differences.of(rows)
        total += values.sum(0, dtype=torch.float64)
        square += values.square().sum((0, 2), dtype=torch.float64)
        n_tokens += len(values)
    return total / n_tokens, square / n_tokens
