"""The shuffled-pair null: what a map fitted on texts paired at random makes of a concept.

Shuffling permutes the rows of ``Y`` and leaves the source alone, so the text weights of ``A v = Y^T w`` stay
and only move to other rows: every draw of the null together is one matrix product.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from contrans_lens.maps.factor import SourceFactor
from contrans_lens.maps.fit import solve
from contrans_lens.maps.leave_one_out import leave_one_out_path

_CHUNK_ELEMENTS = 2**26
"""Numbers that one batched product over shuffled copies may hold at once."""


def permutations(n: int, draws: int, seed: int) -> Int[Tensor, "draws n"]:
    """Uniform permutations; draw ``k`` pairs source text ``i`` with target text ``orders[k, i]``."""
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randperm(n, generator=generator) for _ in range(draws)])


def permuted_product(
    weights: Float[Tensor, "draw n"], orders: Int[Tensor, "draw n"], y: Float[Tensor, "n d_target"]
) -> Float[Tensor, "draw d_target"]:
    """``Y[order]^T w`` for every draw, by moving the weights instead of the states."""
    moved = torch.zeros_like(weights).scatter_(1, orders, weights)
    return moved.to(y.dtype) @ y


def shuffled_ridges(
    left: Float[Tensor, "n rank"],
    singular: Float[Tensor, " rank"],
    y: Float[Tensor, "n d_target"],
    orders: Int[Tensor, "draw n"],
    strengths: Float[Tensor, " strength"],
) -> Float[Tensor, "draw 1"]:
    """Exact leave-one-out strength of every shuffled copy, the copies stacked as target layers."""
    found = []
    for part in orders.split(max(1, _CHUNK_ELEMENTS // (y.numel() + left.numel()))):
        path = leave_one_out_path(left, singular, y[part], strengths)
        found.append(path.ridges[path.best])
    return torch.cat(found)[:, None]


def refitted_concepts(
    method: str,
    factor: SourceFactor,
    layer: int,
    left: Float[Tensor, "n rank"],
    y: Float[Tensor, "n d_target"],
    orders: Int[Tensor, "draw n"],
    vector: Float[Tensor, " d_source"],
    ridge: float | None,
    rank: int | None,
) -> Float[Tensor, "draw d_target"]:
    """The null for methods without a closed form in the text weights: one solve per draw."""
    rows = []
    for order in orders:
        b = left.mT @ y.to(torch.float64)[order]
        rows.append(solve(method, factor, layer, b, ridge, rank).weight @ vector.to(torch.float64))
    return torch.stack(rows).to(vector.dtype)
