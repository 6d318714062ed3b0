"""CKA and RSA: cosines between symmetric text-by-text matrices, one matrix per layer, all pairs in one product.

Debiased CKA is the cosine of the U-centred Gram matrices (Székely and Rizzo 2014), which is the U-statistic of Song et
al. (2012). With ``K`` and ``L`` without their diagonals and ``k_i``, ``l_i`` their row sums,

    n (n - 3) HSIC_1(K, L) = <K, L> - 2 / (n - 2) sum_i k_i l_i + (sum_i k_i)(sum_i l_i) / ((n - 1)(n - 2)),

and for centred states ``k_i = -|x_i|^2``: apart from one number per text, only ``<K, L>`` is needed. RSA is the cosine
of the distances (or their ranks) about their mean. Shuffling the texts of one side permutes rows and columns.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from contrans_lens.errors import LayerError

_CHUNK = 2**15
"""Entries per product of vectorised matrices. Their float32 products are summed in float64, and stay in cache."""

_ROWS = 128
"""Rows of the permuted matrices that are gathered at once: few enough for the cache, many enough for threads."""

_BLOCK = 128
"""Rows of the Gram that are computed at once, from the diagonal on: the other triangle is a copy."""


def gram(states: Float[Tensor, "n d"], out: Float[Tensor, "n n"] | None = None) -> Float[Tensor, "n n"]:
    """``X X^T`` of one layer, in ``out`` where given."""
    n = len(states)
    result = states.new_empty(n, n) if out is None else out
    for start in range(0, n, _BLOCK):
        stop = min(start + _BLOCK, n)
        torch.mm(states[start:stop], states[start:].T, out=result[start:stop, start:])
        result[stop:, start:stop] = result[start:stop, stop:].T
    return result


def centred_distances(
    products: Float[Tensor, "n n"], out: Float[Tensor, "n n"], distance: str, correlation: str
) -> None:
    """Write the distances between texts, or their ranks, about their mean to ``out``.

    Args:
        products: Gram of the states; of the directions for the cosine distance.
        out: the matrix; zero on the diagonal.
        distance: ``"euclidean"`` or ``"cosine"``.
        correlation: ``"spearman"`` or ``"pearson"``.
    """
    n = len(products)
    upper = torch.triu_indices(n, n, 1, device=products.device)
    square = products.diagonal()
    values = products.flatten().index_select(0, upper[0] * n + upper[1])
    values = torch.add(square[upper[0]] + square[upper[1]], values, alpha=-2).clamp_min_(0)
    if correlation == "spearman":
        values = average_ranks(values)
    elif distance == "euclidean":
        values = values.sqrt()
    values = values.double() - values.mean(dtype=torch.float64)
    out.zero_()[upper[0], upper[1]] = values.to(out.dtype)
    out.add_(out.T.clone())


def average_ranks(values: Float[Tensor, " item"]) -> Float[Tensor, " item"]:
    """Ranks from 1, ties sharing their mean, float64. Values as close as rounding leaves equal ones are ties."""
    grain = float(values.max()) * torch.finfo(values.dtype).eps * 64
    ordered, order = (values / max(grain, torch.finfo(values.dtype).tiny)).round_().sort()
    _, inverse, counts = torch.unique_consecutive(ordered, return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    shared = last - (counts.double() - 1) / 2
    return torch.empty(len(values), dtype=torch.float64, device=values.device).index_copy_(0, order, shared[inverse])


@dataclass(frozen=True, eq=False)
class Matrices:
    """One symmetric matrix per layer."""

    entries: Float[Tensor, "layer n n"]
    """Zero on the diagonal."""
    rows: Float[Tensor, "layer n"] | None = None
    """Row sums, float64, where the comparison takes them off (CKA); None where the entries are centred already."""

    def squares(self) -> Float[Tensor, " layer"]:
        """Squared norms of the centred matrices, float64."""
        norms = [torch.linalg.vector_norm(own, dim=1).double().square().sum() for own in self.entries]
        total = torch.stack(norms)
        if self.rows is None:
            return total
        n = self.rows.shape[1]
        edges, sums = self.rows.square().sum(1), self.rows.sum(1).square()
        return (total - 2 / (n - 2) * edges + sums / ((n - 1) * (n - 2))).clamp_min(0)


class MatrixCosine:
    """Cosines between the matrices of two sides: debiased CKA or RSA."""

    def __init__(self, name: str, source: Matrices, target: Matrices) -> None:
        self.names: tuple[str, ...] = (name,)
        self.source, self.target = source, target
        lengths = [side.squares().sqrt() for side in (source, target)]
        if any(bool((length == 0).any()) for length in lengths):
            raise LayerError("all texts of a layer lie equally far from each other: its geometry cannot be compared.")
        self.lengths = lengths[0][:, None] * lengths[1]

    def values(self) -> Float[Tensor, "metric source_layer target_layer"]:
        """All pairs in one contraction over the vectorised matrices."""
        total = _contract(self.source.entries.flatten(1), self.target.entries.flatten(1))
        return (self._centred(total, self.target.rows) / self.lengths)[None]

    def permuted(self, orders: Int[Tensor, "draw n"]) -> Float[Tensor, "draw metric source_layer target_layer"]:
        """The same with the target's texts in another order: rows and columns of the smaller side are gathered."""
        swap = len(self.source.entries) < len(self.target.entries)
        still, moved = (self.target, self.source) if swap else (self.source, self.target)
        n = still.entries.shape[1]
        blocks = _upper_blocks(still.entries)
        packed = _Packed(moved.entries)
        draws = []
        for order, index in zip(orders, torch.argsort(orders, dim=1).int() if swap else orders.int(), strict=True):
            total = torch.zeros(len(still.entries), packed.width, dtype=torch.float64, device=order.device)
            for start, own in zip(range(0, n, _ROWS), blocks, strict=True):
                packed.add_products(own, index[start : start + _ROWS, None] * n + index[start:], total)
            total = total[:, : len(moved.entries)]
            rows = self.target.rows
            rows = rows if rows is None else rows[:, order]
            draws.append(self._centred(total.T if swap else total, rows) / self.lengths)
        return torch.stack(draws)[:, None]

    def _centred(
        self,
        total: Float[Tensor, "source_layer target_layer"],
        rows: Float[Tensor, "target_layer n"] | None,
    ) -> Float[Tensor, "source_layer target_layer"]:
        """Inner products of the centred matrices from those of the plain ones."""
        if self.source.rows is None or rows is None:
            return total
        n = rows.shape[1]
        sums = self.source.rows.sum(1)[:, None] * rows.sum(1)
        return total - 2 / (n - 2) * self.source.rows @ rows.T + sums / ((n - 1) * (n - 2))

    def subset(self, members: Bool[Tensor, "draw n"]) -> Float[Tensor, "draw metric source_layer target_layer"]:
        """The same on subsets of the texts, centred anew.

        The sum of ``K_ij L_ij`` over a subset is ``m^T (K * L) m``: one product per pair serves every subset.
        """
        a, b = self.source.entries, self.target.entries
        mask = members.to(a.dtype)
        count = mask.sum(1, dtype=torch.float64)
        rows_a, rows_b = ((mask @ matrices).mul_(mask) for matrices in (a, b))  # row sums within each subset
        cross = torch.stack([self._inner(own, b, r, rows_b, mask, count) for own, r in zip(a, rows_a, strict=True)], 1)
        own_a, own_b = (
            torch.cat(
                [self._inner(own, own[None], r, r[None], mask, count) for own, r in zip(matrices, rows, strict=True)], 1
            )
            for matrices, rows in ((a, rows_a), (b, rows_b))
        )
        return (cross / (own_a[:, :, None] * own_b[:, None]).sqrt())[:, None]

    def _inner(
        self,
        a: Float[Tensor, "n n"],
        others: Float[Tensor, "layer n n"],
        rows_a: Float[Tensor, "draw n"],
        rows_b: Float[Tensor, "layer draw n"],
        mask: Float[Tensor, "draw n"],
        count: Float[Tensor, " draw"],
    ) -> Float[Tensor, "draw layer"]:
        """Inner products of one matrix with several, both centred within each subset."""
        plain = torch.stack([((mask @ (a * b)) * mask).sum(1, dtype=torch.float64) for b in others], 1)
        total = rows_a.sum(1, dtype=torch.float64)[:, None] * rows_b.sum(2, dtype=torch.float64).T
        count = count[:, None]
        if self.source.rows is None:
            return plain - total / (count * (count - 1))
        edges = torch.einsum("bn,lbn->bl", rows_a, rows_b).double()
        return plain - 2 * edges / (count - 2) + total / ((count - 1) * (count - 2))


class RankCosine(MatrixCosine):
    """RSA by ranks: subsets are ranked anew, by counting along the order that all texts already have."""

    def subset(self, members: Bool[Tensor, "draw n"]) -> Float[Tensor, "draw metric source_layer target_layer"]:
        """The same on subsets of the texts."""
        a, b = self.source.entries, self.target.entries
        n = a.shape[1]
        upper = torch.triu_indices(n, n, 1, device=a.device)
        sides = [_Ranked(m.flatten(1).index_select(1, upper[0] * n + upper[1])) for m in (a, b)]
        draws = []
        for inside in members:
            pairs = inside[upper[0]] & inside[upper[1]]
            ranks = [side.among(pairs) for side in sides]
            lengths = [torch.linalg.vector_norm(own, dim=1, dtype=torch.float64) for own in ranks]
            draws.append(_contract(*ranks) / (lengths[0][:, None] * lengths[1]))
        return torch.stack(draws)[:, None]


class _Ranked:
    """The order of all pairs of texts in every layer."""

    def __init__(self, ranks: Float[Tensor, "layer pair"]) -> None:
        ordered, self.order = ranks.sort(dim=1)
        self.first = self.last = None
        if bool((ordered.diff(dim=1) == 0).any()):
            self.first = torch.searchsorted(ordered, ordered)
            self.last = torch.searchsorted(ordered, ordered, right=True) - 1
        self.dtype = ranks.dtype

    def among(self, pairs: Bool[Tensor, " pair"]) -> Float[Tensor, "layer pair"]:
        """Ranks among some of the pairs, about their mean; zero for the others."""
        chosen = pairs[self.order]
        count = chosen.cumsum(1, dtype=torch.int32)
        if self.first is None or self.last is None:
            ranks = count.to(self.dtype)
        else:  # ties share the mean of the ranks that they take up
            below = count.gather(1, self.first) - chosen.gather(1, self.first).int()
            ranks = (count.gather(1, self.last) + below + 1).to(self.dtype) / 2
        ranks = ranks.sub_((int(pairs.sum()) + 1) / 2).mul_(chosen)
        return torch.empty_like(ranks).scatter_(1, self.order, ranks)


def _contract(a: Float[Tensor, "source_layer entry"], b: Float[Tensor, "target_layer entry"]) -> Tensor:
    """All inner products: float32 within a chunk, float64 between chunks."""
    total = torch.zeros(len(a), len(b), dtype=torch.float64, device=a.device)
    for own, other in zip(a.split(_CHUNK, 1), b.split(_CHUNK, 1), strict=True):
        total += own @ other.T
    return total


def _upper_blocks(entries: Float[Tensor, "layer n n"]) -> list[Float[Tensor, "layer entry"]]:
    """The matrices from the diagonal on, some rows at a time; what stands for both triangles counts twice."""
    found = []
    for start in range(0, entries.shape[1], _ROWS):
        block = 2 * entries[:, start : start + _ROWS, start:]
        block[:, :, : block.shape[1]] /= 2
        found.append(block.flatten(1))
    return found


class _Packed:
    """Matrices of all layers with several layers in each element, so that one look-up moves them together."""

    def __init__(self, entries: Float[Tensor, "layer n n"]) -> None:
        layers, self.dtype = len(entries), entries.dtype
        self.each = 16 // entries.element_size()
        groups = -(-layers // self.each)
        self.width = groups * self.each
        table = entries.new_zeros(groups, entries[0].numel(), self.each)
        for layer, own in enumerate(entries):
            table[layer // self.each, :, layer % self.each] = own.flatten()
        self.table = table.view(torch.complex128)[..., 0]  # 16 bytes: four layers of float32, two of float64

    def add_products(
        self,
        other: Float[Tensor, "other_layer entry"],
        index: Int[Tensor, "row column"],
        total: Float[Tensor, "other_layer width"],
    ) -> None:
        """Add the inner products of other matrices with the entries at flat indices, for every layer, to ``total``."""
        flat = index.flatten()
        for group, columns in zip(self.table, total.split(self.each, 1), strict=True):
            columns += other @ group.index_select(0, flat).view(self.dtype).view(-1, self.each)
