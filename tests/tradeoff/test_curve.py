import math

import jaxtyping
import pytest
import torch

from contrans_lens.errors import TradeoffError
from contrans_lens.evaluation import resampling
from contrans_lens.evaluation.intervals import bootstrap_mean_cis
from contrans_lens.tradeoff.curve import Curve, shared_strengths

GROUPS = ("a", "b", "a", "", "", "c")


def _curve(n_items=6, groups=None, seed=0):
    values = torch.rand(5, n_items, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Curve(torch.tensor([-2.0, -1.0, 0.0, 0.5, 2.0]), values, groups, "honesty")


def test_everything_is_brought_to_float64_and_the_mean_is_over_items():
    curve = Curve(torch.tensor([-1.0, 0.0, 1.0]), torch.tensor([[1.0, 0.0], [0.5, 0.0], [0.0, 0.0]]))
    assert curve.strengths.dtype == curve.values.dtype == torch.float64
    assert curve.mean.tolist() == [0.5, 0.25, 0.0]
    assert curve.at_zero == 0.25
    assert (curve.zero, curve.n_items, curve.n_groups) == (1, 2, 2)


def test_a_rounded_zero_is_zero():
    strengths = torch.linspace(-3, 3, 41)  # float32: the middle is -1e-7 or so
    assert bool((strengths != 0).all())
    assert Curve(strengths, torch.zeros(41, 1)).zero == 20


def test_groups_count_names_and_every_empty_one():
    assert _curve(groups=GROUPS).n_groups == 5
    assert _curve(groups=("a",) * 6).n_groups == 1
    assert _curve().n_groups == 6


@pytest.mark.parametrize("groups", [None, GROUPS])
def test_resamples_are_means_over_drawn_groups(groups):
    """Brute force: the same draws, items looked up one by one."""
    curve = _curve(groups=groups)
    units = [[0], [1], [2], [3], [4], [5]] if groups is None else [[0, 2], [1], [3], [4], [5]]
    counts = next(resampling.resample_counts(len(units), 100, 7, resampling.block_size(len(units))))
    drawn = curve.resampled(100, 7)
    for resample in range(0, 100, 9):
        items = [item for unit, n in zip(units, counts[resample], strict=True) for item in unit * int(n)]
        assert torch.allclose(drawn[resample], curve.values[:, items].mean(1), atol=1e-14)


def test_curves_of_the_same_items_are_resampled_alike():
    one, other = _curve(), _curve(seed=1)
    moved = Curve(one.strengths, one.values + other.values)
    assert torch.allclose(moved.resampled(200, 3), one.resampled(200, 3) + other.resampled(200, 3), atol=1e-14)
    assert not torch.allclose(one.resampled(200, 3), one.resampled(200, 4))


def test_what_items_share_across_strengths_cancels_in_differences():
    """Two strengths that differ by the same amount on every item differ by that in every resample."""
    luck = torch.rand(1, 40, dtype=torch.float64)
    curve = Curve(torch.tensor([0.0, 1.0]), torch.cat([luck, luck + 0.25]))
    drawn = curve.resampled(300, 0)
    assert float((drawn[:, 1] - drawn[:, 0] - 0.25).abs().max()) < 1e-14
    assert float(drawn[:, 0].std()) > 0.02


def test_resamples_spread_like_the_standard_error():
    curve = Curve(torch.tensor([0.0]), torch.randn(1, 400, generator=torch.Generator().manual_seed(0)))
    expected = float(curve.values.std(correction=0)) / 20
    assert float(curve.resampled(4000, 0).std()) == pytest.approx(expected, rel=0.05)


def test_blocks_only_bound_the_memory(monkeypatch):
    curve = _curve()
    monkeypatch.setattr(resampling, "_BLOCK_ELEMENTS", 6 * 7)
    assert curve.resampled(100, 0).shape == (100, 5)


def test_intervals_are_those_of_the_evaluation_room():
    curve = _curve(groups=GROUPS)
    expected = bootstrap_mean_cis(curve.values.T, GROUPS, level=0.9, n_resamples=300, seed=2)
    assert curve.intervals(0.9, n_resamples=300, seed=2) == expected


def test_a_window_holds_its_ends():
    part = _curve(groups=GROUPS).window(-1.0, 0.5)
    assert part.strengths.tolist() == [-1.0, 0.0, 0.5]
    assert torch.equal(part.values, _curve().values[1:4])
    assert (part.groups, part.name) == (GROUPS, "honesty")
    tenths = Curve(torch.linspace(-1, 1, 21, dtype=torch.float64), torch.zeros(21, 1))
    assert len(tenths.window(-0.3, 0.3).strengths) == 7  # 0.1 * 3 is not 0.3


def test_some_strengths_can_be_picked():
    picked = _curve().at(torch.tensor([-2.0, 0.5]))
    assert torch.equal(picked.values, _curve().values[[0, 3]])
    with pytest.raises(TradeoffError, match="not measured at strength 1"):
        _curve().at(torch.tensor([0.0, 1.0]))


def test_shared_strengths_are_those_of_both_grids():
    fine = Curve(torch.linspace(-1, 1, 21), torch.zeros(21, 1))
    coarse = Curve(torch.linspace(-2, 2, 9), torch.zeros(9, 1))
    assert shared_strengths(fine, coarse).tolist() == pytest.approx([-1.0, -0.5, 0.0, 0.5, 1.0], abs=1e-6)


def test_a_curve_survives_its_record():
    for curve in (_curve(), _curve(groups=GROUPS)):
        again = Curve.from_dict(curve.to_dict())
        assert torch.equal(again.values, curve.values)
        assert torch.equal(again.strengths, curve.strengths)
        assert (again.groups, again.name) == (curve.groups, curve.name)


def test_published_means_are_one_item():
    curve = Curve.from_means([-1.0, 0.0, 1.0], [0.1, 0.5, 0.2], "figure 2")
    assert (curve.n_items, curve.resamples, curve.at_zero) == (1, False, 0.5)
    with pytest.raises(TradeoffError, match=r"'figure 2' has one item.*n_resamples=0"):
        curve.resampled(200, 0)
    with pytest.raises(TradeoffError, match="one item"):
        curve.intervals()


THREE = torch.tensor([-1.0, 0.0, 1.0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Curve(THREE, torch.zeros(3, 0)), "at least one"),
        (lambda: Curve(torch.zeros(0), torch.zeros(0, 2)), "at least one"),
        (lambda: Curve(torch.tensor([0.0, -1.0, 1.0]), torch.zeros(3, 2)), "ascend"),
        (lambda: Curve(torch.tensor([-1.0, 0.0, 0.0]), torch.zeros(3, 2)), "not repeat"),
        (lambda: Curve(torch.tensor([-1.0, 0.0, math.inf]), torch.zeros(3, 2)), "finite"),
        (lambda: Curve(THREE, torch.zeros(3, 2), ("a",)), "2 items of the curve need as many groups; got 1"),
        (lambda: Curve(THREE, torch.zeros(3, 2)).window(2.0, 3.0), r"no strength of the curve lies in \[2, 3\]"),
        (lambda: Curve(THREE + 2, torch.zeros(3, 2)).at_zero, "strength 0 is not on the grid"),
        (lambda: Curve(THREE, torch.zeros(3, 4), ("a",) * 4).resampled(200, 0), "4 items, all in one group"),
        (lambda: Curve(THREE, torch.zeros(3, 4)).resampled(5, 0), "resamples"),
        (lambda: Curve(THREE, torch.zeros(3, 4)).intervals(1.5), "level"),
        (lambda: Curve.from_dict({"strengths": [0.0]}), "'values'"),
        (lambda: Curve.from_dict({"strengths": ["x"], "values": [[1.0]]}), "numbers"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(TradeoffError, match=message):
        call()


@pytest.mark.parametrize(("shape", "shown"), [((2, 4), r"\[3\] and \[2, 4\]"), ((3,), r"\[strength, item\]")])
def test_shapes_that_do_not_fit_are_named(shape, shown):
    jaxtyping.config.update("jaxtyping_disable", True)  # as it is outside the tests
    try:
        with pytest.raises(TradeoffError, match=shown):
            Curve(THREE, torch.zeros(shape))
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.parametrize(("value", "shown"), [(math.nan, "nan"), (math.inf, "inf")])
def test_a_value_that_is_not_finite_is_named_by_strength_and_item(value, shown):
    values = torch.zeros(3, 4)
    values[2, 1] = value
    with pytest.raises(TradeoffError, match=f"item 1 at strength 1 of 'honesty' is {shown}"):
        Curve(THREE, values, name="honesty")
