import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata

from contrans_lens.errors import SelectionError
from contrans_lens.selection import Evidence, average_ranks, shortlist


def evidence(values: torch.Tensor, **more: bool) -> Evidence:
    return Evidence("some", values, more.pop("higher_is_better", True), needs_target_labels=False, **more)


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=20))
@settings(max_examples=60, deadline=None)
def test_ranks_equal_scipy(values: list[int]):
    found = average_ranks(torch.tensor(values, dtype=torch.float64))
    assert found.tolist() == rankdata(values).tolist()


def test_the_shortlist_covers_the_depth_with_the_best_source_of_each_target():
    values = torch.tensor([[0.1, 0.9, 0.2], [0.5, 0.1, 0.3]])
    assert shortlist([evidence(values)], 3) == [(1, 0), (0, 1), (1, 2)]


def test_distances_are_turned_round():
    values = torch.tensor([[0.1, 0.9], [0.5, 0.1]])
    assert shortlist([evidence(values, higher_is_better=False)], 2) == [(0, 0), (1, 1)]


def test_with_less_room_than_depth_both_ends_stay_and_the_prior_is_added():
    values = torch.zeros(2, 9)
    chosen = shortlist([evidence(values)], 3, always=[(1, 6)], allowed=range(8))
    assert [target for _, target in chosen] == [0, 4, 7, 6]
    assert chosen[-1] == (1, 6)


def test_with_more_room_second_best_sources_follow():
    values = torch.tensor([[0.3, 0.9], [0.5, 0.1], [0.4, 0.2]])
    assert shortlist([evidence(values)], 4) == [(1, 0), (0, 1), (2, 0), (2, 1)]
    assert len(shortlist([evidence(values)], 100)) == 6


@pytest.mark.parametrize("size", [0, -1])
def test_no_room_is_refused(size: int):
    with pytest.raises(SelectionError):
        shortlist([evidence(torch.zeros(2, 2))], size)


def test_evidence_that_cannot_be_ranked_is_refused():
    with pytest.raises(SelectionError, match="NaN"):
        evidence(torch.full((2, 2), float("nan")))
    partly = torch.tensor([[0.1, float("nan")]])
    measured = Evidence("reach", partly, True, False, measured_only=True)
    assert measured.to_dict()["values"][0][1] is None
    with pytest.raises(SelectionError):
        shortlist([measured], 1)
    with pytest.raises(SelectionError):
        shortlist([evidence(torch.zeros(2, 2)), evidence(torch.zeros(2, 3))], 1)
