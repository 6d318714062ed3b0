"""Controls for activity differences: they stand in the place of others, of which they keep some properties only.

Each computes when it is asked, from the differences that it was made of.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from contrans_lens.errors import RahfError
from contrans_lens.rahf.reading import token_starts
from contrans_lens.rahf.summaries import SummarisedDifferences, mean_and_square


class DerivedDifferences(SummarisedDifferences):
    """Differences made from others; rows, layers and base are those of the others."""

    def __init__(self, source: SummarisedDifferences) -> None:
        self.source = source
        self.hook_points = source.hook_points
        self.where = source.where
        self.d_model = source.d_model
        self.fingerprint = source.fingerprint
        self.rows = source.rows
        self.groups = source.groups

    @property
    def reading_tokens(self) -> tuple[int, ...]:
        """Those of the source."""
        return self.source.reading_tokens

    def residual_norms(self) -> Float[Tensor, " layer"] | None:
        """Those of the source."""
        return self.source.residual_norms()


class ScaledDifferences(DerivedDifferences):
    """``factor * v_l(t)``; made by :func:`scaled` and :func:`negated`."""

    def __init__(self, source: SummarisedDifferences, factor: float) -> None:
        super().__init__(source)
        self.factor = factor

    def of(self, rows: Sequence[int]) -> Float[Tensor, "token layer d_model"]:
        """See :meth:`SummarisedDifferences.of`."""
        return self.source.of(rows) * self.factor


class ConstantDifferences(DerivedDifferences):
    """The mean of v at each layer, at every token; made by :func:`constant`."""

    def __init__(self, source: SummarisedDifferences, mean: Float[Tensor, "layer d_model"]) -> None:
        super().__init__(source)
        self.mean = mean

    def of(self, rows: Sequence[int]) -> Float[Tensor, "token layer d_model"]:
        """See :meth:`SummarisedDifferences.of`."""
        self.check_rows(rows)
        return self.mean.repeat(sum(len(self.rows[row].answer) for row in rows), 1, 1)


class RandomDifferences(DerivedDifferences):
    """Random directions of the norm of v at each token and layer; made by :func:`random_directions`."""

    def __init__(self, source: SummarisedDifferences, seed: int, one: bool) -> None:
        super().__init__(source)
        self.seed = seed
        self.one = one

    def of(self, rows: Sequence[int]) -> Float[Tensor, "token layer d_model"]:
        """See :meth:`SummarisedDifferences.of`."""
        values = self.source.of(rows)
        if self.one:
            directions = self._directions(0, 1)
        else:
            # By row, so that a row's directions do not depend on the rows that are asked for with it.
            drawn = [self._directions(row + 1, len(self.rows[row].answer)) for row in rows]
            directions = torch.cat(drawn) if drawn else values
        return directions.to(values.dtype) * values.norm(dim=2, keepdim=True)

    def _directions(self, stream: int, n_tokens: int) -> Float[Tensor, "token layer d_model"]:
        """Unit vectors, uniform over all directions."""
        generator = torch.Generator().manual_seed(_mixed(self.seed, stream))
        drawn = torch.randn(n_tokens, len(self.hook_points), self.d_model, generator=generator)
        return drawn / drawn.norm(dim=2, keepdim=True)


class ShuffledDifferences(DerivedDifferences):
    """The v of other rows, offset by offset; made by :func:`shuffled`."""

    def __init__(self, source: SummarisedDifferences, seed: int) -> None:
        super().__init__(source)
        order = torch.randperm(len(self.rows), generator=torch.Generator().manual_seed(_mixed(seed, 0)))
        self._order: list[int] = order.tolist()
        self._place: list[int] = order.argsort().tolist()

    def of(self, rows: Sequence[int]) -> Float[Tensor, "token layer d_model"]:
        """See :meth:`SummarisedDifferences.of`."""
        self.check_rows(rows)
        taken = [place for row in rows for place in self._donors(row)]
        donors = sorted({donor for donor, _ in taken})
        starts = dict(zip(donors, token_starts([self.rows[donor] for donor in donors]).tolist(), strict=False))
        index = torch.tensor([starts[donor] + offset for donor, offset in taken], dtype=torch.int64)
        return self.source.of(donors)[index]

    def _donors(self, row: int) -> list[tuple[int, int]]:
        """Row and offset from which each of a row's tokens takes its v.

        All rows stand in a circle. A token takes that of the next row which has a token at its offset, so that at each
        offset every v is given to exactly one other row. Where no other row is as long, it takes the last token's of
        the longest other row.
        """
        n, place = len(self.rows), self._place[row]
        found: list[tuple[int, int]] = []
        longest = (row, -1)
        for step in range(1, n):
            other = self._order[(place + step) % n]
            last = len(self.rows[other].answer) - 1
            longest = max(longest, (other, last), key=lambda donor: donor[1])
            found += [(other, offset) for offset in range(len(found), min(last + 1, len(self.rows[row].answer)))]
            if len(found) == len(self.rows[row].answer):
                return found
        return found + [longest] * (len(self.rows[row].answer) - len(found))


def scaled(source: SummarisedDifferences, factor: float | int) -> ScaledDifferences:
    """``factor * v_l(t)``.

    Args:
        source: the differences.
        factor: a finite number.

    Raises:
        RahfError: it is not finite.
    """
    if not math.isfinite(factor):
        raise RahfError(f"differences cannot be scaled by {factor}; give a finite number.")
    return ScaledDifferences(source, float(factor))


def negated(source: SummarisedDifferences) -> ScaledDifferences:
    """``-v_l(t)``, bit for bit what the swapped contrast gives."""
    return ScaledDifferences(source, -1.0)


def constant(source: SummarisedDifferences) -> ConstantDifferences:
    """The mean of v at each layer, over all tokens of all answers, in the place of every v: steering by one vector.

    The source is gone through once, here.
    """
    return ConstantDifferences(source, mean_and_square(source)[0].float())


def random_directions(source: SummarisedDifferences, seed: int = 0, *, one: bool = False) -> RandomDifferences:
    """A random direction of the norm of v at each token and layer, in the place of v.

    Args:
        source: the differences.
        seed: another seed, other directions.
        one: one direction at each layer for all tokens, instead of one for each token.
    """
    return RandomDifferences(source, seed, one)


def shuffled(source: SummarisedDifferences, seed: int = 0) -> ShuffledDifferences:
    """Take v of other rows, offset by offset: each offset keeps its set of v, which stand in other answers.

    Args:
        source: the differences.
        seed: of the order in which rows give to each other.

    Raises:
        RahfError: there is only one row.
    """
    if len(source.rows) < 2:
        raise RahfError("there is one row only, and no other to take differences from; give two or more pairs.")
    return ShuffledDifferences(source, seed)


def _mixed(seed: int, stream: int) -> int:
    """A seed for each pair of seed and stream; multiplied by an odd number so that they do not run into each other."""
    return (seed * 0x9E3779B97F4A7C15 + stream) % 2**63
