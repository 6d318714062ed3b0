import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contrans_lens.tradeoff import frontier
from contrans_lens.tradeoff.frontier import best_strength, first_crossing, pareto_front, return_to_zero

POINTS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=10)


@settings(max_examples=150, deadline=None)
@given(POINTS)
def test_the_front_is_what_nothing_dominates(points):
    """Brute force over pairs; small integers, so that ties are common."""
    expected = [
        not any(b >= B and h >= H and (b > B or h > H) for b, h in points)
        for B, H in points
    ]  # fmt: skip
    behaviour, helpfulness = torch.tensor(points, dtype=torch.float64).T[:, None]
    assert pareto_front(behaviour, helpfulness)[0].tolist() == expected


def test_blocks_of_curves_only_bound_the_memory(monkeypatch):
    both = torch.rand(2, 50, 9, dtype=torch.float64)
    whole = pareto_front(*both)
    monkeypatch.setattr(frontier, "_BLOCK_ELEMENTS", 9 * 9 * 7)
    assert torch.equal(pareto_front(*both), whole)
    for row in range(0, 50, 7):
        assert torch.equal(pareto_front(both[0, row : row + 1], both[1, row : row + 1])[0], whole[row])


def test_the_best_of_equals_is_the_nearest_to_zero():
    strengths = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0])
    utility = torch.tensor([[3.0, 0, 0, 0, 3], [0, 3, 0, 3, 3], [1, 1, 1, 1, 1], [0, 0, 1, 2, 3]])
    assert best_strength(strengths, utility).abs().tolist() == [2.0, 1.0, 0.0, 2.0]


def test_crossings_are_interpolated_and_the_first_counts():
    reach = torch.tensor([0.0, 1.0, 2.0, 4.0])
    margin = torch.tensor([[0.5, 0.25, -0.25, 1.0], [0.5, 0.1, 0.3, -0.1], [0.5, 0.1, 0.2, 0.0], [0.0, -1.0, 2.0, 1.0]])
    where, crosses = first_crossing(reach, margin)
    assert where.tolist() == pytest.approx([1.5, 3.5, 4.0, 0.0])
    assert crosses.tolist() == [True, True, False, True]


def test_a_gain_is_used_up_beyond_its_top():
    reach = torch.tensor([0.0, 1.0, 2.0, 4.0])
    gain = torch.tensor(
        [
            [0.0, -0.1, 0.4, -0.4],  # a dip before the top is no break-even
            [0.0, 0.1, 0.2, 0.3],  # never used up
            [0.0, -0.1, -0.2, -0.3],  # nothing to use up
            [0.0, 0.4, 0.0, 0.2],  # exactly zero at a strength
        ]
    )
    where, gains, ends = return_to_zero(reach, gain)
    assert where.tolist() == pytest.approx([3.0, 4.0, 0.0, 2.0])
    assert gains.tolist() == [True, True, False, True]
    assert ends.tolist()[:2] == [True, False]
    assert ends.tolist()[3] is True


@settings(max_examples=60, deadline=None)
@given(st.floats(0.05, 2), st.floats(0.05, 0.5))
def test_crossings_of_fine_grids_are_roots(slope, k):
    reach = torch.linspace(0, 60, 6001, dtype=torch.float64)
    where, _, ends = return_to_zero(reach, (slope * reach - k * reach.square())[None])
    assert bool(ends)
    assert float(where) == pytest.approx(slope / k, rel=1e-3)
    where, crosses = first_crossing(reach, (0.05 - k * reach.square())[None])
    assert bool(crosses)
    assert float(where) == pytest.approx(math.sqrt(0.05 / k), rel=1e-2)
