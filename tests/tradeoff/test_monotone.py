import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import isotonic_regression

from contrans_lens.tradeoff.monotone import (
    isotonic,
    largest_reversal,
    nearest_monotone,
    turning_depth,
    turning_point,
)

CURVES = st.lists(st.floats(-10, 10), min_size=1, max_size=12)


@settings(max_examples=150, deadline=None)
@given(CURVES)
def test_isotonic_is_scipys(values):
    found = isotonic(torch.tensor(values, dtype=torch.float64))
    assert np.allclose(found.numpy(), isotonic_regression(values).x, atol=1e-9)


@settings(max_examples=100, deadline=None)
@given(CURVES)
def test_the_nearest_monotone_curve_is_the_better_of_both_directions(values):
    found = nearest_monotone(torch.tensor(values, dtype=torch.float64)).numpy()
    both = [isotonic_regression(values, increasing=up).x for up in (True, False)]
    assert ((found - values) ** 2).sum() == pytest.approx(min(((x - values) ** 2).sum() for x in both), abs=1e-9)


@settings(max_examples=100, deadline=None)
@given(CURVES)
def test_the_reversal_is_the_smaller_of_the_largest_fall_and_rise(values):
    pairs = [(a, b) for i, a in enumerate(values) for b in values[i:]]
    expected = min(max(a - b for a, b in pairs), max(b - a for a, b in pairs))
    found = largest_reversal(torch.tensor([values], dtype=torch.float64))
    assert float(found) == pytest.approx(expected, abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-10, 10), min_size=2, max_size=12))
def test_the_depth_is_that_of_the_deepest_u_or_the_highest_arch(values):
    first, last = values[0], values[-1]
    valley = max(min(first - v, last - v) for v in values)
    hill = max(min(v - first, v - last) for v in values)
    found = turning_depth(torch.tensor([values], dtype=torch.float64))
    assert float(found) == pytest.approx(max(valley, hill), abs=1e-12)
    where = turning_point(torch.tensor(values, dtype=torch.float64))
    assert values[where] == (min(values) if valley >= hill else max(values))


def test_monotone_curves_do_not_turn():
    curves = torch.stack([torch.linspace(-1, 1, 9), torch.linspace(1, -1, 9), torch.zeros(9)])
    assert largest_reversal(curves).tolist() == turning_depth(curves).tolist() == [0.0, 0.0, 0.0]
