import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from contrans_lens.errors import EvaluationError
from contrans_lens.evaluation import resampling
from contrans_lens.evaluation.intervals import (
    Interval,
    bootstrap_draws_ci,
    bootstrap_mean_ci,
    bootstrap_mean_cis,
    paired_difference_ci,
    ratio_ci,
    weighted_mean_cis,
    wilson_ci,
)
from contrans_lens.evaluation.resampling import student_quantile

RUNS = 300


def _share_covered(simulate, truth):
    covered = sum(simulate(seed).contains(truth) for seed in range(RUNS))
    return covered / RUNS


@pytest.mark.parametrize("degrees", [1, 2, 4, 5, 10, 40])
@pytest.mark.parametrize("probability", [0.9, 0.95, 0.975])
def test_student_quantile_agrees_with_scipy(degrees, probability):
    assert student_quantile(probability, degrees) == pytest.approx(stats.t.ppf(probability, degrees), abs=1e-3)


@pytest.mark.parametrize("n", [8, 40])
def test_mean_interval_covers_at_its_nominal_rate(n):
    def simulate(seed):
        values = torch.randn(n, generator=torch.Generator().manual_seed(seed)).double() + 0.3
        return bootstrap_mean_ci(values, n_resamples=400, seed=seed)

    assert 0.91 <= _share_covered(simulate, 0.3) <= 0.985


def test_cluster_interval_covers_where_the_item_interval_does_not():
    groups = [f"g{i // 8}" for i in range(96)]

    def simulate(seed, clustered):
        noise = torch.randn(12 + 96, generator=torch.Generator().manual_seed(seed)).double()
        values = noise[:12].repeat_interleave(8) + 0.5 * noise[12:]
        return bootstrap_mean_ci(values, groups if clustered else None, n_resamples=400, seed=seed)

    assert _share_covered(lambda seed: simulate(seed, True), 0.0) >= 0.91
    assert _share_covered(lambda seed: simulate(seed, False), 0.0) < 0.75


@pytest.mark.parametrize("method", ["bootstrap", "fieller"])
def test_ratio_interval_covers_for_correlated_clustered_effects(method):
    groups = [f"g{i // 3}" for i in range(60)]

    def simulate(seed):
        noise = torch.randn(3, 60, generator=torch.Generator().manual_seed(seed)).double()
        shared = noise[0, :20].repeat_interleave(3)
        native = 0.6 + 0.3 * shared + 0.2 * noise[1]
        carried = 0.8 * (0.6 + 0.3 * shared) + 0.2 * noise[2]
        result = ratio_ci(carried, native, groups, method=method, n_resamples=400, seed=seed)
        assert result.defined
        return Interval(result.value, result.low, result.high, 0.95, 60, 20)

    assert 0.91 <= _share_covered(simulate, 0.8) <= 0.985


def test_draws_interval_covers_when_draws_and_items_both_vary():
    def simulate(seed):
        generator = torch.Generator().manual_seed(seed)
        draws = torch.randn(20, 1, generator=generator).double()
        items = torch.randn(1, 40, generator=generator).double()
        noise = torch.randn(20, 40, generator=generator).double()
        return bootstrap_draws_ci(draws + items + noise, n_resamples=400, seed=seed)

    assert _share_covered(simulate, 0.0) >= 0.91


def test_draws_interval_is_wider_than_either_source_alone():
    values = torch.randn(20, 1).double() + torch.randn(1, 40).double()
    both = bootstrap_draws_ci(values)
    items = bootstrap_mean_ci(values.mean(0))
    draws = bootstrap_mean_ci(values.mean(1))
    assert both.value == pytest.approx(float(values.mean()))
    assert both.high - both.low > max(items.high - items.low, draws.high - draws.low)


def test_wilson_agrees_with_scipy_and_covers():
    for successes, n in [(0, 10), (3, 10), (10, 10), (480, 500)]:
        oracle = stats.binomtest(successes, n).proportion_ci(method="wilson")
        ours = wilson_ci(successes, n)
        assert (ours.low, ours.high) == pytest.approx((oracle.low, oracle.high), abs=1e-12)
    binomial = torch.distributions.Binomial(50, torch.tensor(0.9))
    torch.manual_seed(0)
    covered = sum(wilson_ci(int(k), 50).contains(0.9) for k in binomial.sample((500,)))
    assert 0.92 <= covered / 500 <= 0.985


def test_fieller_agrees_with_its_closed_form():
    generator = torch.Generator().manual_seed(5)
    b = torch.randn(25, generator=generator).double() * 0.3 + 1
    a = 0.7 * b + torch.randn(25, generator=generator).double() * 0.1
    result = ratio_ci(a, b, method="fieller")
    t = stats.t.ppf(0.975, 24)
    for theta in (
        result.low,
        result.high,
    ):  # at the limits the paired t statistic of a - theta b is exactly t
        d = a - theta * b
        assert abs(float(d.mean() / (d.std() / math.sqrt(25)))) == pytest.approx(t, rel=1e-6)
    assert result.low < result.value < result.high


@pytest.mark.parametrize("method", ["bootstrap", "fieller"])
def test_ratio_is_undefined_where_the_denominator_straddles_zero(method):
    generator = torch.Generator().manual_seed(1)
    denominator = torch.randn(40, generator=generator).double()
    denominator -= denominator.mean() - 0.01
    result = ratio_ci(denominator.abs(), denominator, method=method)
    assert not result.defined
    assert result.value is None
    assert result.low is None
    assert "zero" in result.reason
    assert result.to_dict()["denominator"]["low"] < 0 < result.to_dict()["denominator"]["high"]


def test_ratio_of_proportional_effects_is_exact():
    native = torch.rand(30).double() + 0.5
    result = ratio_ci(0.8 * native, native)
    assert (result.value, result.low, result.high) == pytest.approx((0.8, 0.8, 0.8))


def test_one_item_per_group_equals_no_groups_and_empty_names_too():
    values = torch.rand(20).double()
    plain = bootstrap_mean_ci(values)
    assert bootstrap_mean_ci(values, [str(i) for i in range(20)]) == plain
    assert bootstrap_mean_ci(values, [""] * 20) == plain
    assert bootstrap_mean_ci(values) == plain
    assert bootstrap_mean_ci(values, seed=1) != plain


def test_columns_share_resamples():
    values = torch.rand(15, 3).double()
    together = bootstrap_mean_cis(values)
    assert [bootstrap_mean_ci(column) for column in values.T] == together


def test_blocks_of_resamples_only_bound_the_memory(monkeypatch):
    values = torch.rand(15).double()
    whole = bootstrap_mean_ci(values), bootstrap_draws_ci(values.reshape(5, 3))
    monkeypatch.setattr(resampling, "_BLOCK_ELEMENTS", 15 * 7)
    blocks = bootstrap_mean_ci(values), bootstrap_draws_ci(values.reshape(5, 3))
    for one, other in zip(whole, blocks, strict=True):
        assert (one.value, one.low, one.high) == pytest.approx((other.value, other.low, other.high), abs=0.03)


def test_weighted_mean_pools_over_tokens():
    sums, weights = torch.tensor([[2.0], [30.0]]), torch.tensor([2.0, 10.0])
    [interval] = weighted_mean_cis(sums, weights)
    assert interval.value == pytest.approx(32 / 12)
    assert (interval.low, interval.high) == pytest.approx((1.0, 3.0))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=12), st.floats(-5, 5), st.integers(0, 3))
def test_mean_interval_moves_with_the_data(values, shift, seed):
    data = torch.tensor(values, dtype=torch.float64)
    base = bootstrap_mean_ci(data, n_resamples=100, seed=seed)
    moved = bootstrap_mean_ci(data + shift, n_resamples=100, seed=seed)
    assert base.low <= base.value + 1e-9
    assert base.value <= base.high + 1e-9
    assert min(values) - 1e-9 <= base.low
    assert base.high <= max(values) + 1e-9
    assert (moved.low, moved.high) == pytest.approx((base.low + shift, base.high + shift), abs=1e-8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap_mean_ci(torch.tensor([])), "got none"),
        (lambda: bootstrap_mean_ci(torch.tensor([1.0])), "two independent groups"),
        (lambda: bootstrap_mean_ci(torch.ones(3), ["a"] * 3), "two independent groups"),
        (lambda: bootstrap_mean_ci(torch.ones(3), ["a"]), "group names"),
        (lambda: bootstrap_mean_ci(torch.tensor([1.0, math.nan])), "item 1"),
        (lambda: bootstrap_mean_ci(torch.ones(3), level=1.0), "level"),
        (lambda: bootstrap_mean_ci(torch.ones(3), n_resamples=5), "resamples"),
        (lambda: paired_difference_ci(torch.ones(3), torch.ones(2)), "same items"),
        (lambda: ratio_ci(torch.ones(3), torch.ones(2)), "paired"),
        (lambda: bootstrap_draws_ci(torch.ones(1, 4)), "two draws"),
        (lambda: weighted_mean_cis(torch.ones(2, 1), torch.tensor([1.0, 0.0])), "positive weight"),
        (lambda: wilson_ci(3, 2), "proportion"),
        (lambda: wilson_ci(0, 0), "proportion"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(EvaluationError, match=message):
        call()
