"""Mean difference and shrunk discriminant against scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.covariance import ledoit_wolf_shrinkage
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from contrans_lens.layers.probes import probe_layers
from contrans_lens.layers.probes.baselines import Discriminant, MeanDifference
from contrans_lens.layers.probes.states import site_states
from tests.layers.probes.planted import make, scaled


@pytest.mark.parametrize("width", [12, 90], ids=["rows", "gram"])
def test_the_discriminant_is_scikit_learns_at_the_ledoit_wolf_share(width):
    states, labels, _ = make(width=width)
    removed = torch.arange(0, 60, 4)
    columns = torch.stack([labels, labels.roll(5)], 1)
    found = Discriminant(site_states(states, width > 60)[0]).left_out([removed], columns)[0]
    train = np.ones(60, dtype=bool)
    train[removed.numpy()] = False
    for layer in range(3):
        x = scaled(states, layer)
        for column in range(2):
            y = columns[:, column].numpy()
            within = x[train].copy()
            for side in (True, False):
                within[y[train] == side] -= within[y[train] == side].mean(0)
            share = ledoit_wolf_shrinkage(within, assume_centered=True)
            fit = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=share).fit(x[train], y[train])
            np.testing.assert_allclose(
                found[layer, 0, :, column].numpy(), fit.decision_function(x[~train]), rtol=1e-6, atol=1e-8
            )


@pytest.mark.parametrize("width", [12, 90], ids=["rows", "gram"])
def test_the_mean_difference_names_the_nearer_mean(width):
    states, labels, _ = make(width=width)
    removed = torch.arange(0, 60, 4)
    found = MeanDifference(site_states(states, width > 60)[0]).left_out([removed], labels[:, None])[0]
    train = np.ones(60, dtype=bool)
    train[removed.numpy()] = False
    for layer in range(3):
        x, y = scaled(states, layer), labels.numpy()
        far, near = (x[train & (y == side)].mean(0) for side in (False, True))
        expected = (((x[~train] - far) ** 2).sum(1) - ((x[~train] - near) ** 2).sum(1)) / 2
        np.testing.assert_allclose(found[layer, 0, :, 0].numpy(), expected, atol=1e-10)


@pytest.mark.parametrize("method", ["lda", "mean_difference"])
def test_baselines_find_a_planted_concept_and_nothing_else(method):
    states, labels, _ = make(n=100, layers=2, width=30, signal=0.0)
    states[:, 1, 0] += 6 * labels
    curve = probe_layers(states, labels, ["noise", "there"], method=method, n_permutations=99)
    assert curve.best().hook_point == "there"
    assert curve.best_p == pytest.approx(0.01)
    assert curve.at("noise").p_value > 0.05
    assert curve.at("there").strengths == ()
    assert curve.at("there").brier < 0.1 < curve.at("noise").brier
