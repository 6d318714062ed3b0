"""Each estimator against an independent oracle, and what all of them share."""

import numpy as np
import pytest
import scipy.linalg
import sklearn.covariance
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression

from contrans_lens.concepts import CONCEPT_METHODS, estimate_concept
from contrans_lens.concepts.estimators import (
    lda,
    logistic,
    mean_difference,
    paired_principal_component,
    principal_component,
    random_direction,
    whitened,
)
from contrans_lens.concepts.estimators.covariance import apply_power, shrinkage_share, within_class
from contrans_lens.errors import ConceptError

LAYERS = 3
HOOKS = tuple(f"blocks.{layer}.hook_resid_post" for layer in range(LAYERS))
quick = settings(max_examples=20, deadline=None)


def states(n_positive=40, n_negative=30, d=5, seed=0, gap=1.0):
    """Anisotropic states, another scale at each layer, another gap in each coordinate."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(LAYERS, d, d, generator=generator, dtype=torch.float64)
    unit = torch.tensor([1.0, 20.0, 0.1], dtype=torch.float64)[:, None]
    shift = gap * torch.randn(LAYERS, d, generator=generator, dtype=torch.float64)
    both = []
    for n, sign in ((n_positive, 0.5), (n_negative, -0.5)):
        noise = torch.randn(n, LAYERS, d, generator=generator, dtype=torch.float64)
        both.append((torch.einsum("nld,lde->nle", noise, mix) + sign * shift + 3) * unit)
    return both[0], both[1]


def stacked(positives, negatives, layer):
    labels = np.r_[np.ones(len(positives)), np.zeros(len(negatives))]
    return torch.cat([positives, negatives])[:, layer].numpy(), labels


def cosine(one, other):
    return float(np.dot(one, other) / np.linalg.norm(one) / np.linalg.norm(other))


def test_mean_difference_by_hand():
    positives = torch.tensor([[[1.0, 2.0]], [[3.0, 4.0]]])
    negatives = torch.tensor([[[0.0, 1.0]]])
    assert torch.equal(mean_difference(positives, negatives), torch.tensor([[2.0, 2.0]], dtype=torch.float64))


def test_mean_difference_of_half_precision_is_summed_in_float64():
    states16 = torch.full((4096, 1, 1), 1.001).bfloat16()
    assert mean_difference(states16, states16[:1]).abs().max() < 1e-12


@pytest.mark.parametrize("d", [5, 120])
def test_principal_component_is_scikit_learns(d):
    positives, negatives = states(d=d, gap=0.0 if d == 5 else 1.0)
    found = principal_component(positives, negatives)
    for layer in range(LAYERS):
        rows, _ = stacked(positives, negatives, layer)
        expected = PCA(1, svd_solver="full").fit(rows).components_[0]
        assert abs(cosine(found[layer].numpy(), expected)) == pytest.approx(1, abs=1e-10)
    assert ((found * mean_difference(positives, negatives)).sum(1) >= 0).all()


@pytest.mark.parametrize("d", [5, 120])
def test_paired_component_is_the_first_right_singular_vector(d):
    positives, negatives = states(30, 30, d=d)
    found = paired_principal_component(positives, negatives)
    for layer in range(LAYERS):
        expected = np.linalg.svd((positives - negatives)[:, layer].numpy())[2][0]
        assert abs(cosine(found[layer].numpy(), expected)) == pytest.approx(1, abs=1e-10)
    assert torch.allclose(found.norm(dim=1), torch.ones(LAYERS, dtype=torch.float64))


@pytest.mark.parametrize("d", [5, 100])
@pytest.mark.parametrize("l2", [0.01, 1.0, 50.0])
def test_logistic_is_scikit_learns(d, l2):
    positives, negatives = states(d=d)
    weights, intercept = logistic(positives, negatives, l2)
    for layer in range(LAYERS):
        rows, labels = stacked(positives, negatives, layer)
        scale = np.sqrt(np.square(rows - rows.mean(0)).mean())
        oracle = LogisticRegression(C=1 / l2, tol=1e-10, max_iter=50_000).fit(rows / scale, labels)
        assert cosine(weights[layer].numpy(), oracle.coef_[0]) > 1 - 1e-6
        scores = rows @ weights[layer].numpy() + intercept[layer].item()
        np.testing.assert_allclose(scores, oracle.decision_function(rows / scale), atol=2e-3 * np.abs(scores).max())
        assert ((scores > 0) == labels).mean() == oracle.score(rows / scale, labels)


def test_logistic_converges_on_separable_and_on_hopeless_data():
    positives, negatives = states(gap=0.0)
    weights, _ = logistic(positives + 1e4, negatives)
    assert torch.isfinite(weights).all()
    gradient_free, _ = logistic(negatives, negatives)
    assert gradient_free.abs().max() < 1e-8


@pytest.mark.parametrize(("d", "shrinkage"), [(5, 0.0), (5, 0.3), (100, 0.3), (5, 1.0)])
def test_lda_is_scikit_learns(d, shrinkage):
    positives, negatives = states(d=d)
    found = lda(positives, negatives, shrinkage)
    for layer in range(LAYERS):
        rows, labels = stacked(positives, negatives, layer)
        oracle = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(rows, labels)
        np.testing.assert_allclose(found[layer].numpy(), oracle.coef_[0], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("d", [5, 100])
@pytest.mark.parametrize("rule", ["oas", "ledoit_wolf"])
def test_estimated_shrinkage_is_scikit_learns(d, rule):
    positives, negatives = states(d=d)
    found = lda(positives, negatives, rule)
    estimate = {"oas": sklearn.covariance.oas, "ledoit_wolf": sklearn.covariance.ledoit_wolf}[rule]
    for layer in range(LAYERS):
        within = [side[:, layer].numpy() - side[:, layer].numpy().mean(0) for side in (positives, negatives)]
        covariance, _ = estimate(np.concatenate(within), assume_centered=True)
        expected = np.linalg.solve(covariance, mean_difference(positives, negatives)[layer].numpy())
        np.testing.assert_allclose(found[layer].numpy(), expected, rtol=1e-7)


@pytest.mark.parametrize("d", [5, 100])
def test_whitened_is_the_inverse_root_of_the_covariance(d):
    positives, negatives = states(d=d)
    found = whitened(positives, negatives, 0.2)
    for layer in range(LAYERS):
        within = [side[:, layer].numpy() - side[:, layer].numpy().mean(0) for side in (positives, negatives)]
        covariance = sklearn.covariance.shrunk_covariance(
            sklearn.covariance.empirical_covariance(np.concatenate(within), assume_centered=True), 0.2
        )
        root = scipy.linalg.sqrtm(covariance).real
        expected = np.linalg.solve(root, mean_difference(positives, negatives)[layer].numpy())
        np.testing.assert_allclose(found[layer].numpy(), expected, rtol=1e-6)


def test_whitening_twice_is_lda():
    positives, negatives = states()
    rows = within_class(positives, negatives)
    twice = apply_power(rows, whitened(positives, negatives, 0.1), -0.5, 0.1)
    assert torch.allclose(twice, lda(positives, negatives, 0.1))


def test_random_directions_are_unit_and_seeded():
    one = random_direction(2, 7, seed=3)
    assert torch.allclose(one.norm(dim=1), torch.ones(2, dtype=torch.float64))
    assert torch.equal(one, random_direction(2, 7, seed=3))
    assert not torch.equal(one, random_direction(2, 7, seed=4))


@quick
@given(st.sampled_from(CONCEPT_METHODS), st.integers(0, 1000))
def test_every_method_points_to_the_positives_with_the_length_of_the_mean_difference(method, seed):
    positives, negatives = states(20, 20, d=6, seed=seed)
    concept = estimate_concept(positives, negatives, HOOKS, method=method)
    difference = mean_difference(positives, negatives)
    assert torch.allclose(concept.vectors.norm(dim=1).double(), difference.norm(dim=1), rtol=1e-5)
    assert ((concept.vectors * difference).sum(1) >= 0).all()
    swapped = estimate_concept(negatives, positives, HOOKS, method=method)
    assert torch.allclose(swapped.vectors, -concept.vectors, rtol=1e-3, atol=1e-4)


@quick
@given(st.sampled_from([m for m in CONCEPT_METHODS if m != "random"]), st.floats(0.01, 100))
def test_a_direction_follows_the_unit_and_forgets_a_shift(method, unit):
    positives, negatives = states(20, 20, d=6)
    base = estimate_concept(positives, negatives, HOOKS, method=method)
    moved = estimate_concept(positives * unit + 5, negatives * unit + 5, HOOKS, method=method)
    assert torch.allclose(moved.vectors / unit, base.vectors, rtol=1e-3, atol=1e-4)


@quick
@given(st.sampled_from([m for m in CONCEPT_METHODS if m != "random"]))
def test_a_direction_turns_with_the_stream(method):
    positives, negatives = states(20, 20, d=6)
    turn = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64)).Q
    base = estimate_concept(positives, negatives, HOOKS, method=method)
    turned = estimate_concept(positives @ turn.T, negatives @ turn.T, HOOKS, method=method)
    assert torch.allclose(turned.vectors, base.vectors @ turn.T.float(), rtol=1e-3, atol=1e-3)


def test_layers_do_not_mix():
    positives, negatives = states()
    for method in CONCEPT_METHODS[:2] + CONCEPT_METHODS[3:6]:
        whole = estimate_concept(positives, negatives, HOOKS, method=method).vectors[1]
        alone = estimate_concept(positives[:, 1:2], negatives[:, 1:2], HOOKS[1:2], method=method).vectors[0]
        assert torch.allclose(whole, alone, rtol=1e-4), method


def test_impossible_estimates_are_named():
    positives, negatives = states()
    with pytest.raises(ConceptError, match="not pairs"):
        paired_principal_component(positives, negatives)
    with pytest.raises(ConceptError, match="above 0"):
        logistic(positives, negatives, 0.0)
    with pytest.raises(ConceptError, match="singular"):
        lda(*states(d=100), shrinkage=0.0)
    with pytest.raises(ConceptError, match="between 0 and 1"):
        lda(positives, negatives, 1.5)
    with pytest.raises(ConceptError, match="unknown shrinkage"):
        lda(positives, negatives, "ledoit")
    with pytest.raises(ConceptError, match="do not vary"):
        lda(torch.ones(3, 1, 2), torch.zeros(3, 1, 2))
    with pytest.raises(ConceptError, match="states themselves"):
        shrinkage_share("ledoit_wolf", 5, torch.ones(1), torch.ones(1), 3)
    constant = torch.cat([positives, torch.ones_like(positives[:, :, :1])], 2)
    with pytest.raises(ConceptError, match="constant features"):
        lda(constant, torch.cat([negatives, torch.ones_like(negatives[:, :, :1])], 2), 0.0)
