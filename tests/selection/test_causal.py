import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contrans_lens.errors import SelectionError
from contrans_lens.selection import CausalCell, corrected_p_values, max_statistic_p
from contrans_lens.selection.gates import causal, confirmed, works


def cell(effect: float, draws: list[float], *, low: float = 0.1, source: str = "s") -> CausalCell:
    controls = {"random": tuple(draws)} if draws else {}
    return CausalCell(source, "t", 0.5, effect, (low, effect + 0.1), effect, 0.0, controls)


def test_the_p_value_counts_the_best_cell_of_each_draw():
    observed = torch.tensor([0.2, 0.5])
    null = torch.tensor([[0.6, 0.0], [0.1, 0.4], [0.1, 0.5], [0.0, 0.0]])
    # Draws 0 and 2 reach .5 somewhere: (1 + 2) / (1 + 4).
    assert max_statistic_p(observed, null) == pytest.approx(3 / 5)


@given(st.integers(1, 6), st.integers(1, 30), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_searching_more_cells_never_lowers_the_p_value_of_the_same_best(cells: int, draws: int, seed: int):
    generator = torch.Generator().manual_seed(seed)
    observed = torch.randn(cells, generator=generator)
    null = torch.randn(draws, cells, generator=generator)
    best = observed.argmax()
    alone = max_statistic_p(observed[best : best + 1], null[:, best : best + 1])
    assert max_statistic_p(observed, null) >= alone


def test_under_the_null_the_level_is_kept_whatever_the_dependence():
    generator = torch.Generator().manual_seed(0)
    hits = 0
    for _ in range(600):
        shared = torch.randn(20, 1, generator=generator)  # cells of one draw go together
        table = shared + 0.5 * torch.randn(20, 6, generator=generator)
        hits += max_statistic_p(table[0], table[1:]) <= 0.05
    # Exact level 1/20; 600 runs give 30 +- 5.3.
    assert 12 <= hits <= 48


@pytest.mark.parametrize("null", [torch.zeros(0, 2), torch.zeros(3, 1), torch.full((3, 2), float("nan"))])
def test_a_null_that_does_not_fit_is_refused(null: torch.Tensor):
    with pytest.raises(SelectionError):
        max_statistic_p(torch.zeros(2), null)


def test_cells_with_different_controls_are_refused():
    with pytest.raises(SelectionError, match="different controls"):
        corrected_p_values([cell(0.3, [0.1]), cell(0.3, [])])
    with pytest.raises(SelectionError, match="no pair"):
        corrected_p_values([])


def test_the_causal_gate_needs_every_family_beaten():
    best = CausalCell("s", "t", 0.5, 0.5, (0.4, 0.6), 0.7, 0.2, {"easy": (0.0,) * 39, "hard": (0.6,) * 39})
    found = causal([best], best, 0.05)
    assert not found.passed
    assert found.p_value == 1.0
    assert "hard" in found.reason


def test_confirmation_needs_the_interval_above_zero_and_the_controls_beaten():
    assert confirmed(cell(0.5, [0.0] * 39), 0.05).passed
    assert not confirmed(cell(0.5, [0.0] * 39, low=-0.1), 0.05).passed
    assert not confirmed(cell(0.5, [0.0] * 30 + [0.7] * 9), 0.05).passed


def test_the_first_failed_gate_is_the_reason():
    passed, failed = confirmed(cell(0.5, [0.0] * 39), 0.05), confirmed(cell(0.1, [0.2] * 39), 0.05)
    assert works([passed, passed])[0]
    answer, reason = works([passed, failed])
    assert not answer
    assert reason.startswith("no pair works: not confirmed")
