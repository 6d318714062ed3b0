import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contrans_lens.errors import EvaluationError
from contrans_lens.evaluation.controls import (
    covariance_directions,
    mapped_directions,
    random_directions,
    rank_p_value,
    scale_to_norm,
)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 20), st.floats(1e-3, 1e3), st.integers(0, 99))
def test_every_control_has_the_norm_asked_for(width, n, norm, seed):
    root = torch.randn(width, width, generator=torch.Generator().manual_seed(seed))
    covariance = root @ root.T
    for draws in (
        random_directions(width, n, norm, seed),
        covariance_directions(covariance, n, norm, seed),
        mapped_directions(lambda x: x @ torch.ones(width, 3), width, n, norm, seed),
    ):
        assert len(draws) == n
        assert torch.allclose(draws.norm(dim=1), torch.full((n,), norm), rtol=1e-4)


def test_isotropic_draws_have_no_preferred_direction():
    draws = random_directions(16, 20_000, 4.0)  # norm sqrt(16): unit variance per coordinate
    assert torch.allclose(draws.T @ draws / len(draws), torch.eye(16), atol=0.05)
    assert draws.mean(0).abs().max() < 0.05


def test_covariance_draws_have_the_directions_of_the_covariance():
    basis = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(0)))[0]
    variances = torch.tensor([9.0, 4.0, 1.0, 1.0, 0.0, 0.0])
    draws = covariance_directions((basis * variances) @ basis.T, 20_000, 1.0)
    along = (draws @ basis).square().mean(0)
    assert along[4:].max() < 1e-8  # singular directions are never entered
    assert along[0] > along[1] > along[2]
    assert along[2].item() == pytest.approx(along[3].item(), rel=0.1)


def test_mapped_draws_are_random_source_directions_through_the_map():
    weight = torch.randn(5, 7)
    draws = mapped_directions(lambda x: x @ weight.T, 7, 4, 2.0, seed=3)
    expected = random_directions(7, 4, 1.0, seed=3) @ weight.T
    assert torch.allclose(draws, 2 * expected / expected.norm(dim=1, keepdim=True), atol=1e-5)
    covariance = torch.diag(torch.tensor([1.0, 0, 0, 0, 0, 0, 0]))
    shaped = mapped_directions(lambda x: x @ weight.T, 7, 4, 2.0, covariance=covariance)
    assert torch.allclose(torch.nn.functional.cosine_similarity(shaped, weight[:, 0][None]).abs(), torch.ones(4))


def test_seed_decides():
    assert torch.equal(random_directions(8, 3, 1.0, 5), random_directions(8, 3, 1.0, 5))
    assert not torch.equal(random_directions(8, 3, 1.0, 5), random_directions(8, 3, 1.0, 6))


def test_scale_to_norm_keeps_dtype_and_direction():
    vectors = torch.randn(2, 3, 4, dtype=torch.float64)
    scaled = scale_to_norm(vectors, 2.5)
    assert scaled.dtype == torch.float64
    assert torch.allclose(scaled.norm(dim=-1), torch.full((2, 3), 2.5, dtype=torch.float64))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: random_directions(0, 1, 1.0), "at least one"),
        (lambda: random_directions(4, 0, 1.0), "at least one"),
        (lambda: random_directions(4, 1, 0.0), "norm"),
        (lambda: random_directions(4, 1, float("nan")), "norm"),
        (lambda: covariance_directions(torch.zeros(3, 3), 1, 1.0), "zero"),
        (lambda: covariance_directions(torch.full((3, 3), float("inf")), 1, 1.0), "NaN or infinity"),
        (lambda: covariance_directions(torch.triu(torch.ones(3, 3)), 1, 1.0), "symmetric"),
        (lambda: covariance_directions(torch.diag(torch.tensor([1.0, -1.0])), 1, 1.0), "negative"),
        (lambda: mapped_directions(lambda x: x[:1], 3, 2, 1.0), "expected"),
        (lambda: mapped_directions(lambda x: x * 0, 3, 2, 1.0), "zero"),
        (lambda: scale_to_norm(torch.zeros(2, 3), 1.0), "zero"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(EvaluationError, match=message):
        call()


def test_rank_p_values_count_the_draws_that_reach():
    assert rank_p_value([0.1, 0.2, 0.3], 0.25) == pytest.approx(2 / 4)
    assert rank_p_value([0.0] * 19, 1.0) == pytest.approx(0.05)
    assert rank_p_value([1.0] * 19, 1.0) == 1.0
    assert rank_p_value([-0.9, 0.1], 0.5) == pytest.approx(1 / 3)


def test_where_signs_are_arbitrary_sizes_are_compared():
    assert rank_p_value([-0.9, 0.1], 0.5, two_sided=True) == pytest.approx(2 / 3)
    assert rank_p_value([-0.9, 0.1], -0.5, two_sided=True) == pytest.approx(2 / 3)
    assert rank_p_value([0.1] * 19, 0.5, two_sided=True) == pytest.approx(0.05)
