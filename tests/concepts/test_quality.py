"""AUROC against scikit-learn; its interval against its own equation and by simulation."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from contrans_lens.concepts import auroc, auroc_interval
from contrans_lens.errors import ConceptError


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 6), st.integers(0, 1000))
def test_auroc_is_scikit_learns_ties_included(n_positive, n_negative, levels, seed):
    generator = torch.Generator().manual_seed(seed)
    positives = torch.randint(levels, (n_positive, 2), generator=generator).float()
    negatives = torch.randint(levels, (n_negative, 2), generator=generator).float()
    labels = np.r_[np.ones(n_positive), np.zeros(n_negative)]
    for layer in range(2):
        scores = torch.cat([positives, negatives])[:, layer].numpy()
        expected = roc_auc_score(labels, scores)
        assert auroc(positives, negatives)[layer].item() == pytest.approx(expected)


@settings(max_examples=30, deadline=None)
@given(st.floats(0.001, 0.999), st.integers(2, 200), st.integers(2, 200))
def test_the_ends_solve_newcombes_equation(area, n_positive, n_negative):
    low, high = auroc_interval(torch.tensor([area]).double(), n_positive, n_negative)
    assert low < area < high
    extra = (n_positive + n_negative) / 2 - 1
    for end in (low.item(), high.item()):
        variance = end * (1 - end) * (1 + extra * ((1 - end) / (2 - end) + end / (1 + end)))
        assert (end - area) ** 2 == pytest.approx(1.959964**2 * variance / (n_positive * n_negative), rel=1e-4)


def test_a_perfect_score_still_has_an_interval():
    low, high = auroc_interval(torch.tensor([1.0, 0.0]), 20, 20)
    assert 0.8 < low[0] < 1 == high[0]
    assert low[1] == 0 < high[1] < 0.2
    assert torch.allclose(low[0], 1 - high[1])


def test_the_interval_covers_the_truth():
    generator = torch.Generator().manual_seed(0)
    gap = 1.2
    truth = torch.distributions.Normal(0, 1).cdf(torch.tensor(gap / 2**0.5)).item()
    areas = auroc(torch.randn(30, 2000, generator=generator) + gap, torch.randn(30, 2000, generator=generator))
    low, high = auroc_interval(areas, 30, 30)
    covered = ((low <= truth) & (truth <= high)).double().mean().item()
    assert 0.93 < covered < 0.985


def test_bad_intervals_are_refused():
    with pytest.raises(ConceptError):
        auroc_interval(torch.tensor([0.5]), 0, 3)
    with pytest.raises(ConceptError):
        auroc_interval(torch.tensor([0.5]), 3, 3, level=1.0)
