import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contrans_lens.tradeoff.laws import bell, gaussian_bell, parabola, parabola_terms, slope_at_zero, tanh_law

R = torch.linspace(-4, 4, 33, dtype=torch.float64)


def _derivatives(law, at=0.0):
    """First and second derivative by automatic differentiation."""
    r = torch.tensor([at], dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(law(r).sum(), r, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), r)
    return float(first.detach()), float(second.detach())


@pytest.mark.parametrize("seed", range(5))
def test_opposite_shifts_of_two_token_sets_give_the_tanh_law_exactly(seed):
    """The spec's first fixture: aligned logits go up by D r, all others down by it."""
    logits = torch.randn(500, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    aligned = torch.rand(500, generator=torch.Generator().manual_seed(seed + 99)) < 0.3
    sign, rate = torch.where(aligned, 1.0, -1.0).double(), 0.7
    behaviour = torch.stack([(torch.softmax(logits + rate * r * sign, 0) * sign).sum() for r in R])
    start = float((torch.softmax(logits, 0) * sign).sum())
    assert float((behaviour - tanh_law(R, rate, math.atanh(start))).abs().max()) < 1e-12


def test_gaussian_changes_of_wrong_logits_give_the_gaussian_bell():
    """The spec's second fixture: |V| = 20,000, P0 = .6, spread .5, 40 draws."""
    wrong = torch.full((20_000 - 1,), math.log(0.4 / 19_999), dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    changes = 0.5 * torch.randn(40, len(wrong), generator=generator, dtype=torch.float64)
    for r, printed in ((1.0, 0.56966), (2.0, 0.47638)):
        mean = (0.6 / (0.6 + (wrong + r * changes).exp().sum(1))).mean()
        law = float(gaussian_bell(torch.tensor([r]), 0.6, 0.0, 0.5))
        assert law == pytest.approx(printed, abs=5e-6)
        assert float(mean) == pytest.approx(printed, abs=0.003)


def test_a_mean_change_of_wrong_logits_enters_the_gaussian_bell():
    generator = torch.Generator().manual_seed(1)
    changes = -0.3 + 0.4 * torch.randn(200_000, generator=generator, dtype=torch.float64)
    for r in (-1.5, 0.7, 1.5):
        expected = 0.6 / (0.6 + 0.4 * float((r * changes).exp().mean()))
        assert float(gaussian_bell(torch.tensor([r]), 0.6, -0.3, 0.4)) == pytest.approx(expected, abs=2e-3)


@settings(max_examples=60, deadline=None)
@given(st.floats(0.05, 0.95), st.floats(-1, 1), st.floats(0, 1.5))
def test_parabola_terms_are_the_derivatives_of_the_bells(p0, mu, b):
    linear, k = parabola_terms(p0, mu, b)
    first, second = _derivatives(lambda r: gaussian_bell(r, p0, mu, b))
    assert (linear, k) == pytest.approx((first, -second / 2), abs=1e-10)
    linear, k = parabola_terms(p0, 0.0, b)
    first, second = _derivatives(lambda r: bell(r, p0, b))
    assert (linear, k) == pytest.approx((first, -second / 2), abs=1e-10)


@settings(max_examples=60, deadline=None)
@given(st.floats(-3, 3), st.floats(-2, 2))
def test_slope_at_zero_is_the_derivative_of_the_tanh_law(a, b0):
    first, _ = _derivatives(lambda r: tanh_law(r, a, b0))
    assert slope_at_zero(a, math.tanh(b0)) == pytest.approx(first, abs=1e-12)


def test_the_laws_meet_where_they_should():
    assert float(tanh_law(torch.tensor([1.12]), 0.5, -0.56)) == pytest.approx(0.0, abs=1e-7)  # r_half = -b0 / a
    for law in (bell(R, 0.44, 0.4), gaussian_bell(R, 0.44, 0.0, 0.4)):
        assert float(law.max()) == float(law[16]) == pytest.approx(0.44)
        assert torch.allclose(law, law.flip(0), atol=1e-15)
    small = R / 100
    assert torch.allclose(bell(small, 0.44, 0.4), gaussian_bell(small, 0.44, 0.0, 0.4), atol=1e-9)
    linear, k = parabola_terms(0.44, 0.1, 0.4)
    assert torch.allclose(parabola(small, 0.44, linear, k), gaussian_bell(small, 0.44, 0.1, 0.4), atol=1e-6)
    assert bool((gaussian_bell(R, 0.44, 0.0, 0.4) <= bell(R, 0.44, 0.4) + 1e-15).all())  # exp x >= 1 + x
