"""Choosing how far to move: several fits, compared on validation pairs and on neutral text."""

from collections.abc import Mapping, Sequence
from math import inf

import torch

from contrans_lens.evaluation.intervals import bootstrap_mean_cis, paired_difference_ci
from contrans_lens.rahf.result import AlphaTrial
from contrans_lens.rahf.scoring import Reading
from contrans_lens.rahf.verdict import AS_GOOD


def chosen_alpha(readings: Mapping[float, Reading], units: Sequence[str], seed: int) -> tuple[AlphaTrial, ...]:
    """Which alpha is taken: of those that are as good as the best one, the one that costs least.

    An alpha is as good where its P(chosen) is at most .02 below that of the best one, or where the interval of their
    paired difference holds zero. What costs least is what moves the base least on neutral text, or without such texts
    the smallest alpha. (Once P(chosen) is close to 1 it hardly grows with alpha, while damage does, many times over.)

    Args:
        readings: what was measured on the validation pairs, by alpha.
        units: the group of each pair.
        seed: of the bootstraps.

    Returns:
        One trial for each alpha, in their order; one of them is chosen.
    """
    alphas = list(readings)
    values = torch.tensor([readings[alpha].log_odds for alpha in alphas], dtype=torch.float64).sigmoid()
    best = int(values.mean(1).argmax())
    spans = bootstrap_mean_cis(values.T, list(units), seed=seed)
    behind = [paired_difference_ci(values[best], row, list(units), seed=seed) for row in values]
    damages = [readings[alpha].damage for alpha in alphas]
    kls = [None if damage is None else float(damage["kl"]) for damage in damages]

    def price(number: int) -> tuple[float, float]:
        kl = kls[number]
        return (inf if kl is None else kl, abs(alphas[number]))

    taken = min((number for number, each in enumerate(behind) if each.low <= 0 or each.value <= AS_GOOD), key=price)
    return tuple(
        AlphaTrial(alpha, spans[number], behind[number], kls[number], number == taken)
        for number, alpha in enumerate(alphas)
    )
