"""Mutual k-nearest-neighbour overlap of all pairs.

Distances come from the Gram in the working dtype; wherever their rounding could decide who the k-th neighbour is, the
candidates' distances are taken again in float64 from the states as given, so the neighbour sets are those of float64.
Exact ties go to the text that comes first.

The sets of all source layers lie in one table of bit masks ``[text, text]``, one bit per source layer; one look-up
per target neighbour then answers for every source layer at once, also when the target's texts are relabelled.
"""

from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from contrans_lens.errors import LayerError

_ROWS = 64
"""Texts whose neighbours are decided in float64 at once."""

_BITS = 62
"""Source layers in one table of 64-bit masks."""

_GRAIN = 1e-12
"""Distances that agree to this share of the largest candidate's are ties: float64 rounding must not decide them."""


def nearest_neighbours(
    products: Float[Tensor, "n n"], raw: Float[Tensor, "n d"], k: int, reach: int, cosine: bool
) -> Int[Tensor, "n reach"]:
    """The nearest other texts of every text in one layer, nearest first.

    The set of the first ``k`` is exact with ties to the earlier text; the order beyond is that of the working dtype.

    Args:
        products: Gram of the centred states, or of their directions for the cosine.
        raw: the states as given.
        k: neighbours, at most ``n - 2``.
        reach: how many to list, from ``k`` to ``n - 1``.
        cosine: whether angles count and not distances.
    """
    square = products.diagonal()
    far = torch.add(square, products, alpha=-2)  # |x_i - x_j|^2 - |x_i|^2: the same order within row i
    far.fill_diagonal_(torch.inf)
    values, found = far.topk(max(k + 1, reach), largest=False)
    slack = (square + square.max()) * (torch.finfo(products.dtype).eps * raw.shape[1] ** 0.5)
    doubtful = (values[:, k] - values[:, k - 1] <= slack).nonzero().flatten()
    exact = _Exact(raw, cosine)
    for rows in doubtful.split(_ROWS) if len(doubtful) else ():
        # Whoever may be among the first k has a computed distance within the rounding of the k-th.
        possible = far[rows] <= (values[rows, k - 1] + slack[rows])[:, None]
        candidates = far[rows].topk(int(possible.sum(1).max()), largest=False).indices
        width = min(candidates.shape[1], found.shape[1])
        found[rows, :width] = exact.sorted(rows, candidates)[:, :width]
    return found[:, :reach]


class _Exact:
    """Float64 distances of single texts to their candidates."""

    def __init__(self, raw: Float[Tensor, "n d"], cosine: bool) -> None:
        self.raw, self.cosine = raw, cosine

    @cached_property
    def mean(self) -> Float[Tensor, " d"]:
        return self.raw.mean(0, dtype=torch.float64)

    def rows(self, index: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape d"]:
        if not self.cosine:
            return self.raw[index].double()
        chosen = self.raw[index].double() - self.mean
        return chosen / chosen.norm(dim=-1, keepdim=True).clamp_min(1e-300)

    def sorted(self, rows: Int[Tensor, " row"], candidates: Int[Tensor, "row m"]) -> Int[Tensor, "row m"]:
        """The candidates of every row by distance, ties to the earlier text."""
        ordered = candidates.sort(1).values
        step = max(1, 2**22 // (candidates.shape[1] * self.raw.shape[1]))
        far = [
            (self.rows(others) - self.rows(own)[:, None]).square().sum(2)
            for own, others in zip(rows.split(step), ordered.split(step), strict=True)
        ]
        distance = torch.cat(far)
        grain = (distance.amax(1, keepdim=True) * _GRAIN).clamp_min(1e-300)
        return ordered.gather(1, (distance / grain).round().argsort(dim=1, stable=True))


class MutualNeighbours:
    """Overlap of the neighbour sets of two sides."""

    names: tuple[str, ...] = ("mutual_knn",)

    def __init__(
        self, source: Int[Tensor, "source_layer n reach"], target: Int[Tensor, "target_layer n reach"], k: int
    ) -> None:
        """Lists of neighbours, nearest first; those beyond the first ``k`` stand in within subsets."""
        self.source, self.target, self.k = source, target, k

    def values(self) -> Float[Tensor, "metric source_layer target_layer"]:
        """Mean share of common neighbours."""
        n = self.source.shape[1]
        table = _table(self.source[:, :, : self.k], n)
        return (_shared(table, self.target[:, :, : self.k], len(self.source)) / (n * self.k))[None]

    def permuted(self, orders: Int[Tensor, "draw n"]) -> Float[Tensor, "draw metric source_layer target_layer"]:
        """The same when source text ``i`` meets target text ``order[i]``: the target's texts are relabelled."""
        n = self.source.shape[1]
        table = _table(self.source[:, :, : self.k], n)
        target = self.target[:, :, : self.k]
        draws = []
        for order in orders:
            name = torch.argsort(order)
            draws.append(_shared(table, name[target[:, order]], len(self.source)) / (n * self.k))
        return torch.stack(draws)[:, None]

    def subset(self, members: Bool[Tensor, "draw n"]) -> Float[Tensor, "draw metric source_layer target_layer"]:
        """The same on subsets of the texts: the nearest ``k`` that are in the subset."""
        draws = []
        for inside in members:
            rows = inside.nonzero().flatten()
            table = _table(self._within(self.source, inside), len(inside))
            shared = _shared(table, self._within(self.target, inside), len(self.source))
            draws.append(shared / (len(rows) * self.k))
        return torch.stack(draws)[:, None]

    def _within(self, lists: Int[Tensor, "layer n reach"], inside: Bool[Tensor, " n"]) -> Int[Tensor, "layer n k"]:
        """First ``k`` of every list that are in the subset; rows and places without are marked -1."""
        kept = inside[lists] & inside[:, None]
        place = kept.cumsum(2)
        place = torch.where(kept & (place <= self.k), place - 1, self.k)
        result = torch.full((*lists.shape[:2], self.k + 1), -1, dtype=lists.dtype, device=lists.device)
        return result.scatter_(2, place, lists)[:, :, : self.k]


def list_length(n: int, k: int, subsets: bool) -> int:
    """How long the neighbour lists must be."""
    return min(n - 1, 5 * k + 30) if subsets else k


def check_k(n: int, k: int) -> None:
    """Raise when there are not enough texts for ``k`` neighbours.

    Raises:
        LayerError: fewer than ``k + 2`` texts: every other text would be a neighbour.
    """
    if k > n - 2:
        raise LayerError(
            f"k = {k} neighbours among {n} texts leave nobody out, so every overlap would be 1; give more texts or a "
            "smaller k."
        )


def _table(lists: Int[Tensor, "layer n k"], n: int) -> Int[Tensor, "word entry"]:
    """Bit ``s`` of entry ``i n + j``: whether ``j`` is a neighbour of ``i`` in layer ``s``; the last entry is empty."""
    words = []
    for part in lists.split(_BITS):
        table = torch.zeros(n * n + 1, dtype=torch.int64, device=lists.device)
        for bit, own in enumerate(part):
            entries = _entries(own, n)
            table.index_add_(0, entries, torch.full_like(entries, 1 << bit))
        table[-1] = 0
        words.append(table)
    return torch.stack(words)


def _shared(
    table: Int[Tensor, "word entry"], lists: Int[Tensor, "layer n k"], layers: int
) -> Float[Tensor, "source_layer target_layer"]:
    """Common neighbours of all texts, counted."""
    n = lists.shape[1]
    entries = torch.stack([_entries(own, n) for own in lists])
    counts: list[Tensor] = []
    for word in table:
        seen = word[entries]
        for bit in range(min(_BITS, layers - len(counts))):
            counts.append(((seen >> bit) & 1).sum(1))
    return torch.stack(counts).double()


def _entries(lists: Int[Tensor, "n k"], n: int) -> Int[Tensor, " entry"]:
    rows = torch.arange(n, device=lists.device)[:, None] * n
    return torch.where(lists >= 0, rows + lists, n * n).flatten()
