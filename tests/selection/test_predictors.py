import pytest
import torch
from scipy.stats import spearmanr

from contrans_lens.errors import SelectionError
from contrans_lens.selection import Evidence, rank_predictors, spearman
from contrans_lens.selection.predictors import _weighted_spearman


def named(name: str, values: torch.Tensor, *, higher: bool = True) -> Evidence:
    return Evidence(name, values, higher, needs_target_labels=False)


def test_spearman_equals_scipy_with_ties():
    generator = torch.Generator().manual_seed(0)
    one = torch.randint(0, 5, (3, 20), generator=generator).double()
    other = one + torch.randint(0, 5, (3, 20), generator=generator)
    expected = [spearmanr(a, b).statistic for a, b in zip(one.tolist(), other.tolist(), strict=True)]
    assert spearman(one, other).tolist() == pytest.approx(expected)


def test_predictors_are_sorted_oriented_and_leave_out_what_was_not_measured():
    generator = torch.Generator().manual_seed(1)
    effects = torch.rand(5, 6, generator=generator)
    noise = torch.rand(5, 6, generator=generator)
    hidden = effects.clone()
    hidden[0, 0] = float("nan")
    found = rank_predictors(
        [named("noise", noise), named("same", effects), named("distance", 1 - effects, higher=False)], hidden
    )
    by_name = {each.name: each for each in found}
    assert found[-1].name == "noise", found
    assert by_name["same"].rho == by_name["distance"].rho == pytest.approx(1.0)
    assert by_name["same"].n_cells == 29
    interval = by_name["noise"].ci
    assert interval is not None
    assert interval[0] < 0 < interval[1]


def test_constant_evidence_and_few_cells_give_no_number():
    effects = torch.rand(4, 4)
    assert rank_predictors([named("flat", torch.ones(4, 4))], effects)[0].rho is None
    sparse = torch.full((4, 4), float("nan"))
    sparse[0] = torch.rand(4)
    assert rank_predictors([named("some", torch.rand(4, 4))], sparse)[0].rho is None


def test_intervals_cover_where_there_is_nothing_to_predict():
    generator = torch.Generator().manual_seed(2)
    covered = 0
    for _ in range(60):
        # Rows and columns carry noise of their own, as layers do.
        tables = [
            torch.randn(8, 1, generator=generator)
            + torch.randn(1, 8, generator=generator)
            + torch.randn(8, 8, generator=generator)
            for _ in range(2)
        ]
        [found] = rank_predictors([named("noise", tables[0])], tables[1], n_resamples=200)
        assert found.ci is not None
        covered += found.ci[0] <= 0 <= found.ci[1]
    assert covered >= 50


def test_shapes_that_differ_are_refused():
    with pytest.raises(SelectionError):
        rank_predictors([named("some", torch.zeros(2, 3))], torch.zeros(3, 2))


def test_resampled_correlations_equal_those_of_the_repeated_cells():
    generator = torch.Generator().manual_seed(3)
    one = torch.randint(0, 4, (12,), generator=generator).double()
    other = torch.rand(12, generator=generator).double()
    weights = torch.randint(0, 3, (5, 12), generator=generator).double()
    repeated = []
    for row in weights.long():
        repeated.append(spearmanr(one.repeat_interleave(row), other.repeat_interleave(row)).statistic)
    assert _weighted_spearman(one, other, weights).tolist() == pytest.approx(repeated)
