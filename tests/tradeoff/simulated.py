"""Curves whose truth is known."""

import torch

from contrans_lens.tradeoff.curve import Curve
from contrans_lens.tradeoff.families import ALIGNMENT_FAMILIES, HELPFULNESS_FAMILIES
from contrans_lens.tradeoff.fits import AlignmentFit, HelpfulnessFit


def truth(strengths):
    """The behaviour and the helpfulness of the spec's fourth fixture."""
    return torch.tanh(0.5 * strengths - 0.56), 0.44 - 0.018 * strengths.square()


def draws(chance, n_items, seed, shared):
    """Coin tosses ``[strength, item]``: 1 with the given chance at each strength.

    ``shared`` is how much of an item's luck is the same at every strength: 0 tosses anew, 1 never again.
    """
    generator = torch.Generator().manual_seed(seed)
    own = torch.randn(len(chance), n_items, generator=generator, dtype=torch.float64)
    common = torch.randn(1, n_items, generator=generator, dtype=torch.float64)
    luck = torch.special.ndtr(shared**0.5 * common + (1 - shared) ** 0.5 * own)
    return (luck < chance[:, None]).double()


def behaviour_curve(strengths, means, n_items=100, seed=0, shared=0.0, **fields):
    """Items that behave (+1) or do not (-1)."""
    return Curve(strengths, 2 * draws((1 + means) / 2, n_items, seed, shared) - 1, **fields)


def helpfulness_curve(strengths, means, n_items=100, seed=0, shared=0.0, **fields):
    """Items answered rightly (1) or not (0)."""
    return Curve(strengths, draws(means, n_items, seed + 10_000, shared), **fields)


def grid(reach, n):
    """A symmetric grid through zero."""
    return torch.linspace(-reach, reach, n, dtype=torch.float64)


def quick_fits(behaviour, helpfulness, n_resamples, seed):
    """Fits of the tanh law and of the parabola alone, on all strengths: for many runs."""
    options = {"n_resamples": n_resamples, "seed": seed, "level": 0.95}
    tanh = [family for family in ALIGNMENT_FAMILIES if family.name == "tanh"]
    parabola = [family for family in HELPFULNESS_FAMILIES if family.name == "parabola"]
    ends = (float(behaviour.strengths[0]), float(behaviour.strengths[-1]))
    return AlignmentFit.of(behaviour, ends, tanh, **options), HelpfulnessFit.of(helpfulness, ends, parabola, **options)
