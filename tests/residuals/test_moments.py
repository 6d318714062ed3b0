"""Streaming moments against numpy on everything at once."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contrans_lens.errors import ArtifactError, CaptureError, FingerprintMismatchError, HookPointError
from contrans_lens.models import fingerprint, resid_post
from contrans_lens.residuals import EachToken, Moments, MomentsFitter, capture, capture_moments, moments
from tests.tiny_models import TEXTS, open_tiny

NAMES = (resid_post(0), resid_post(1))


def draw(n, d=5, seed=0, mean=0.0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(n, 2, d, generator=generator, dtype=torch.float64) @ torch.randn(
        d, d, generator=generator, dtype=torch.float64
    )
    return mixed * scale + mean


def assert_moments(found, residuals, rtol=1e-10):
    data = residuals.numpy().astype(np.float64)
    assert found.n == len(data)
    np.testing.assert_allclose(found.mean.numpy(), data.mean(axis=0), rtol=0, atol=rtol * max(1.0, np.abs(data).max()))
    np.testing.assert_allclose(found.mean_norm.numpy(), np.linalg.norm(data, axis=2).mean(axis=0), rtol=rtol)
    for layer in range(data.shape[1]):
        expected = np.cov(data[:, layer], rowvar=False)
        scale = np.abs(expected).max()
        np.testing.assert_allclose(found.covariance[layer].numpy(), expected, atol=rtol * scale, rtol=0)


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.integers(0, 9), min_size=1, max_size=12), block=st.integers(1, 20), seed=st.integers(0, 99))
def test_streaming_equals_batch_however_it_is_cut(sizes, block, seed):
    residuals = draw(sum(sizes), seed=seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moments, "_BLOCK", block)
        fitter = MomentsFitter(NAMES)
        for part in residuals.split(sizes):
            fitter.update(part)
        if len(residuals) < 2:
            with pytest.raises(CaptureError, match="too few"):
                fitter.fit()
        else:
            assert_moments(fitter.fit(), residuals)


@settings(max_examples=20, deadline=None)
@given(cut=st.integers(0, 40), seed=st.integers(0, 99))
def test_merged_fitters_equal_one_that_saw_everything(cut, seed):
    residuals = draw(40, seed=seed)
    one, other = MomentsFitter(NAMES).update(residuals[:cut]), MomentsFitter(NAMES).update(residuals[cut:])
    assert_moments(one.merge(other).fit(), residuals)
    if cut < 39:
        assert_moments(other.fit(), residuals[cut:])


def test_a_mean_far_larger_than_the_spread_costs_no_digits():
    residuals = draw(3000, mean=1e7, scale=1e-1)
    fitter = MomentsFitter(NAMES)
    for part in residuals.split(17):
        fitter.update(part)
    assert_moments(fitter.fit(), residuals, rtol=1e-6)
    data = residuals[:, 0].numpy()
    textbook = data.T @ data / len(data) - np.outer(data.mean(axis=0), data.mean(axis=0))
    expected = np.cov(data, rowvar=False)
    assert np.abs(textbook - expected).max() > 0.01 * np.abs(expected).max()  # what the merge is there for


def test_half_precision_input_is_summed_in_float64():
    residuals = draw(500, scale=30).to(torch.bfloat16)
    found = MomentsFitter(NAMES).update(residuals).fit()
    assert found.mean.dtype == found.covariance.dtype == found.mean_norm.dtype == torch.float64
    assert_moments(found, residuals.double())


def test_memory_does_not_grow_with_the_number_of_examples():
    fitter = MomentsFitter(NAMES)
    held = []
    for _ in range(200):
        fitter.update(torch.randn(10, 2, 5))
        held.append(fitter._n_waiting)
    assert max(held) < moments._BLOCK
    assert held.count(0) >= 2000 // (moments._BLOCK + 10)


def test_fitting_does_not_end_the_accumulation_and_results_are_frozen():
    residuals = draw(30)
    fitter = MomentsFitter(NAMES).update(residuals[:10])
    first = fitter.fit()
    kept = first.covariance.clone()
    assert_moments(fitter.update(residuals[10:]).fit(), residuals)
    assert torch.equal(first.covariance, kept)
    assert_moments(first, residuals[:10])


def test_covariance_can_be_left_out():
    residuals = draw(20)
    found = MomentsFitter(NAMES, covariance=False).update(residuals).fit()
    assert found.covariance is None
    torch.testing.assert_close(found.mean, residuals.mean(dim=0))
    with pytest.raises(CaptureError, match="with and without covariance"):
        MomentsFitter(NAMES).merge(MomentsFitter(NAMES, covariance=False))


def test_batches_that_do_not_fit_are_refused():
    fitter = MomentsFitter(NAMES).update(draw(3))
    with pytest.raises(CaptureError, match="does not fit moments of 2 hook points and width 5"):
        fitter.update(draw(3, d=6))
    with pytest.raises(CaptureError, match="does not fit"):
        fitter.update(torch.ones(3, 1, 5))
    with pytest.raises(CaptureError, match="NaN or infinity"):
        fitter.update(torch.full((1, 2, 5), float("inf")))
    with pytest.raises(CaptureError, match="different widths"):
        fitter.merge(MomentsFitter(NAMES).update(draw(3, d=6)))
    assert_moments(fitter.fit(), draw(3))


def test_captured_moments_are_those_of_the_captured_residuals():
    model = open_tiny("gpt2")
    texts = [f"{text} {number}" for number in range(5) for text in TEXTS]
    for positions in ({}, {"positions": EachToken()}):
        found = capture_moments(model, texts, list(NAMES), batch_size=3, **positions)
        assert_moments(found, capture(model, texts, list(NAMES), **positions).tensor().double(), rtol=1e-5)
    assert found.fingerprint == fingerprint(model)
    assert found.description["positions"] == EachToken().to_dict()
    assert found.hook_points == NAMES


def test_moments_are_saved_selected_and_refused_on_another_model(tmp_path):
    model = open_tiny("gpt2")
    found = capture_moments(model, list(TEXTS), list(NAMES))
    again = Moments.load(found.save(tmp_path / "moments"), fingerprint=fingerprint(model))
    for name in ("mean", "covariance", "mean_norm"):
        assert torch.equal(getattr(again, name), getattr(found, name))
    assert (again.n, again.hook_points, again.description) == (found.n, NAMES, found.description)
    part = again.select([NAMES[1]])
    assert torch.equal(part.mean, found.mean[1:])
    assert torch.equal(part.covariance, found.covariance[1:])
    with pytest.raises(HookPointError, match="no moments at"):
        again.select([resid_post(3)])
    with pytest.raises(FingerprintMismatchError):
        Moments.load(tmp_path / "moments", fingerprint=fingerprint(open_tiny("gpt2", seed=1)))
    with pytest.raises(ArtifactError, match="does not exist"):
        Moments.load(tmp_path / "nothing")
