"""Online description length of the labels given the states (Voita and Titov 2020).

Labels are sent block by block. The first block goes at one bit a label; each later block is coded with a
logistic probe fitted on the blocks before it::

    L = t_1 + sum_k -log2 p_{k}(y_{t_k+1 .. t_{k+1}} | x)

so a concept that takes many examples to learn costs bits even if it is learnt in the end. Which penalty to fit
with is not known to the receiver either: the code is the Bayesian mixture of the codes of all strengths, ``-log2
mean_s 2^(-L_s)``, which costs at most ``log2(#strengths)`` bits more than the best of them in hindsight.
Groups are in random order and never straddle a block, and code lengths are means over several orders.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from contrans_lens.layers.probes.logistic import LogisticProbes
from contrans_lens.layers.probes.nested import signs

SHARES = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2)
"""Shares of the examples after which a new block begins."""
N_ORDERS = 4
_FEWEST = 4


@dataclass(frozen=True)
class DescriptionLength:
    """How many bits the labels cost a receiver who has the states."""

    online_bits: float
    """Online code length, the mean over orders."""
    uniform_bits: float
    """One bit a label: a receiver without states or counts."""
    counts_bits: float
    """An adaptive code that knows the counts of the classes so far and no states (Krichevsky and Trofimov)."""
    compression: float
    """``uniform_bits / online_bits``; below 1 the states did not help."""
    learning_curve: tuple[tuple[float, float], ...]
    """Share of the examples trained on, and accuracy on all the examples after them."""

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> "DescriptionLength":
        """Rebuild from plain values."""
        curve = tuple((float(share), float(accuracy)) for share, accuracy in value["learning_curve"])
        return cls(**{**value, "learning_curve": curve})


def description_lengths(
    probes: LogisticProbes,
    labels: Bool[Tensor, " example"],
    codes: Int[Tensor, " example"],
    seed: int = 0,
    n_orders: int = N_ORDERS,
) -> list[DescriptionLength]:
    """Online code of every site.

    Args:
        probes: logistic probes with the strengths to mix.
        labels: whether an example shows the concept.
        codes: group of every example.
        seed: of the orders.
        n_orders: how many random orders of the groups to average over.
    """
    n, n_groups = len(labels), int(codes.max()) + 1
    generator = torch.Generator().manual_seed(seed)
    wanted = [math.ceil(share * n) for share in SHARES if math.ceil(share * n) >= _FEWEST]
    orders = [torch.randperm(n_groups, generator=generator)[codes].argsort(stable=True) for _ in range(n_orders)]
    starts = [_block_starts(codes[order], wanted) for order in orders]
    # All prefixes of all orders are training parts of one batch.
    trained = torch.zeros(n, n_orders, len(wanted), dtype=torch.bool)
    for which, (order, begins) in enumerate(zip(orders, starts, strict=True)):
        for block, start in enumerate(begins):
            trained[order[:start], which, block] = True
    odds = probes.log_odds(trained.flatten(1), labels[:, None])[..., 0].cpu()
    odds = odds.unflatten(1, (n_orders, len(wanted)))
    coded = [
        _online_code(odds[:, which][..., order], labels[order], begins)
        for which, (order, begins) in enumerate(zip(orders, starts, strict=True))
    ]
    bits = torch.stack([code for code, _ in coded]).mean(0).tolist()
    accuracy = torch.stack([curve for _, curve in coded]).nanmean(0)
    shares = [sum(begins[block] for begins in starts) / (n_orders * n) for block in range(len(wanted))]
    counts_bits = sum(_counts_code(labels[order]) for order in orders) / n_orders
    return [
        DescriptionLength(code, float(n), counts_bits, n / code, _points(shares, accuracy[:, site].tolist()))
        for site, code in enumerate(bits)
    ]


def _points(shares: list[float], accuracies: list[float]) -> tuple[tuple[float, float], ...]:
    """The learning curve, where there was anything left to test on."""
    points = zip(shares, accuracies, strict=True)
    return tuple((share, accuracy) for share, accuracy in points if not math.isnan(accuracy))


def _block_starts(codes: Int[Tensor, " example"], wanted: list[int]) -> list[int]:
    """Where blocks begin: the first boundary of groups at or after each wanted number of examples."""
    boundaries = [*(torch.nonzero(codes[1:] != codes[:-1]).flatten() + 1).tolist(), len(codes)]
    return [next(boundary for boundary in boundaries if boundary >= count) for count in wanted]


def _online_code(
    odds: Float[Tensor, "site block strength example"], labels: Bool[Tensor, " example"], starts: list[int]
) -> tuple[Float[Tensor, " site"], Float[Tensor, "block site"]]:
    """Code length of every site in one order, and the accuracy on what comes after each start.

    Args:
        odds: log odds by the probe fitted on what comes before each block, examples in the order of sending.
        labels: in the same order.
        starts: where blocks begin; the first examples are sent uncoded.
    """
    n = len(labels)
    truth = signs(labels)
    spent = torch.zeros(len(odds), odds.shape[2], dtype=torch.float64)
    accuracy = torch.full((len(starts), len(odds)), torch.nan, dtype=torch.float64)
    for block, (start, stop) in enumerate(zip(starts, [*starts[1:], n], strict=True)):
        if start == n:
            continue
        # What the receiver predicts with: each strength weighted by how well it has coded so far.
        trust = torch.softmax(-spent * math.log(2), 1)[..., None]
        positive = (trust * torch.sigmoid(odds[:, block, :, start:])).sum(1) > 0.5
        accuracy[block] = (positive == labels[start:]).double().mean(1)
        cost = torch.nn.functional.softplus(-truth[start:stop] * odds[:, block, :, start:stop])
        spent += cost.sum(2) / math.log(2)
    mixed = math.log2(spent.shape[1]) - torch.logsumexp(-spent * math.log(2), 1) / math.log(2)
    return mixed + (starts[0] if starts else n), accuracy


def _counts_code(labels: Bool[Tensor, " example"]) -> float:
    """Bits of the Krichevsky-Trofimov code: each label by the counts before it, half a count added to both."""
    shown, n = int(labels.sum()), len(labels)
    nats = math.lgamma(n + 1) + 2 * math.lgamma(0.5)
    return (nats - math.lgamma(shown + 0.5) - math.lgamma(n - shown + 0.5)) / math.log(2)
