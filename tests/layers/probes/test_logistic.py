"""Logistic probes against scikit-learn, and the online code against refitting every prefix."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from contrans_lens.concepts.estimators import logistic
from contrans_lens.layers.probes import probe_layers
from contrans_lens.layers.probes.description_length import _block_starts, _counts_code, description_lengths
from contrans_lens.layers.probes.logistic import LogisticProbes
from contrans_lens.layers.probes.states import site_states
from tests.layers.probes.planted import make, scaled

STRENGTHS = [0.05, 1.0, 30.0, 1000.0]


def oracle(x, y, alpha):
    return LogisticRegression(C=1 / alpha, tol=1e-12, max_iter=100_000).fit(x, y)


@pytest.mark.parametrize("width", [12, 90], ids=["primal", "dual"])
def test_log_odds_are_scikit_learns_at_every_strength(width):
    states, labels, _ = make(width=width, signal=2.0)
    trained = torch.stack([torch.arange(60) < 45, torch.arange(60) % 3 > 0], 1)
    columns = torch.stack([labels, labels.flip(0)], 1)
    strengths = torch.tensor(STRENGTHS, dtype=torch.float64)
    odds = LogisticProbes(site_states(states, width > 60)[0], strengths).log_odds(trained, columns)
    for layer in range(3):
        x = scaled(states, layer)
        for part in range(2):
            rows = trained[:, part].numpy()
            for column in range(2):
                for index, alpha in enumerate(STRENGTHS):
                    fit = oracle(x[rows], columns[rows, column].numpy(), alpha)
                    got = odds[layer, part, index, :, column].numpy()
                    np.testing.assert_allclose(got, fit.decision_function(x), atol=1e-4)


def test_the_optimum_is_that_of_exact_newton_steps():
    """Conjugate gradients in single precision still end at the optimum in double."""
    states, labels, _ = make(n=80, width=100, signal=3.0)
    strengths = torch.tensor([0.01], dtype=torch.float64)
    odds = LogisticProbes(site_states(states, True)[0], strengths).log_odds(
        torch.ones(80, 1, dtype=torch.bool), labels[:, None]
    )
    weights, intercept = logistic(states[labels], states[~labels], l2=0.01)
    exact = torch.einsum("nld,ld->ln", states.double(), weights) + intercept[:, None]
    torch.testing.assert_close(odds[:, 0, 0, :, 0], exact, atol=1e-6, rtol=1e-6)


def test_nested_choice_is_that_of_refitting():
    states, labels, groups = make(width=90, layers=1, signal=1.0)
    curve = probe_layers(states, labels, ["a"], groups=groups, method="logistic", strengths=STRENGTHS, n_controls=0)
    x, y, folds = scaled(states, 0), labels.numpy(), curve.folds.numpy()
    for fold in range(5):
        losses = []
        for alpha in STRENGTHS:
            total = 0.0
            for inner in set(range(5)) - {fold}:
                test = folds == inner
                train = (folds != fold) & ~test
                f = oracle(x[train], y[train], alpha).decision_function(x[test])
                total += np.logaddexp(0, -(y[test] * 2.0 - 1) * f).sum()
            losses.append(total)
        best = STRENGTHS[int(np.argmin(losses))]
        assert curve.layers[0].strengths[fold] == best
        f = oracle(x[folds != fold], y[folds != fold], best).decision_function(x[folds == fold])
        np.testing.assert_allclose(curve.scores[folds == fold, 0].numpy(), f, atol=1e-4)


def test_one_class_gives_the_odds_of_the_counts():
    states, labels, _ = make()
    trained = labels[:, None].clone()
    odds = LogisticProbes(site_states(states, False)[0], torch.ones(1, dtype=torch.float64)).log_odds(
        trained, labels[:, None]
    )
    assert torch.allclose(odds, torch.tensor(math.log((int(labels.sum()) + 0.5) / 0.5), dtype=torch.float64))


def test_code_length_is_that_of_refitting_every_prefix():
    states, labels, groups = make(n=64, width=90, layers=1, signal=1.5)
    codes = torch.tensor([int(name[1:]) for name in groups])
    codes = torch.unique(codes, return_inverse=True)[1]
    strengths = [1.0, 100.0]
    probes = LogisticProbes(site_states(states, True)[0], torch.tensor(strengths, dtype=torch.float64))
    found = description_lengths(probes, labels, codes, seed=3, n_orders=1)[0]
    generator = torch.Generator().manual_seed(3)
    order = torch.randperm(int(codes.max()) + 1, generator=generator)[codes].argsort(stable=True)
    starts = _block_starts(codes[order], [4, 8, 16, 32])
    assert all(codes[order][start] != codes[order][start - 1] for start in starts)
    x, y = scaled(states, 0)[order.numpy()], labels[order].numpy()
    spent = np.zeros(2)
    for start, stop in zip(starts, [*starts[1:], 64], strict=True):
        for index, alpha in enumerate(strengths):
            if len(set(y[:start])) == 1:
                shown = y[:start].sum()
                f = np.full(stop - start, math.log((shown + 0.5) / (start - shown + 0.5)))
            else:
                f = oracle(x[:start], y[:start], alpha).decision_function(x[start:stop])
            spent[index] += np.logaddexp(0, -(y[start:stop] * 2.0 - 1) * f).sum() / math.log(2)
    expected = starts[0] - math.log2(np.mean(2.0**-spent))
    assert found.online_bits == pytest.approx(expected, abs=1e-3)
    assert found.compression == pytest.approx(64 / found.online_bits)
    assert min(spent) <= found.online_bits - starts[0] <= min(spent) + 1


def test_the_code_of_counts_is_sequential():
    labels = torch.tensor([True, True, False, True])
    probabilities = [0.5, 1.5 / 2, 0.5 / 3, 2.5 / 4]
    assert _counts_code(labels) == pytest.approx(-sum(map(math.log2, probabilities)))


def test_a_concept_that_is_there_compresses_and_noise_does_not():
    states, labels, _ = make(n=120, layers=2, width=60, signal=0.0)
    states[:, 1, 0] += 6 * labels
    curve = probe_layers(states, labels, ["noise", "there"], description_length=True, n_controls=0, n_permutations=0)
    noise, there = (layer.description_length for layer in curve.layers)
    assert noise.compression < 1.1
    assert there.compression > 2
    assert there.learning_curve[-1][1] > 0.95
    assert [share for share, _ in there.learning_curve] == pytest.approx(
        [1 / 24 + 1 / 120 * 0, 1 / 15, 1 / 8, 1 / 4, 1 / 2], abs=0.02
    )
