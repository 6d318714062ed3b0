"""The non-linear baseline: seeded, stopped at its best, better than linear where the world is not."""

import pytest
import torch

from contrans_lens.errors import MapError
from contrans_lens.maps import fit_autoencoder, fit_map, r2_score


def states(n=600):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 4, generator=generator)
    return x, torch.cat([x.abs(), x], 1) @ torch.randn(8, 5, generator=generator) * 3 + 20


def test_it_learns_what_a_linear_map_cannot():
    x, y = states()
    trained = fit_autoencoder(x[:500], y[:500], hidden=32, epochs=60)
    linear = fit_map(x[:500], y[:500])
    assert r2_score(y[500:], trained(x[500:])) > r2_score(y[500:], linear(x[500:])) + 0.05


def test_the_kept_weights_are_those_of_the_best_epoch():
    x, y = states(60)
    x_valid, y_valid = x[40:], y[40:]
    trained = fit_autoencoder(
        x[:40], y[:40], validation=(x_valid, y_valid), hidden=64, epochs=80, patience=5, learning_rate=0.05
    )
    losses = trained.validation_losses
    assert losses[trained.best_epoch] == min(losses)
    assert losses[-1] > min(losses)  # the last epoch was not the best, so a reference to the weights would be wrong
    error = (trained(x_valid) - y_valid).square().mean() / trained.target_scale**2
    assert error.item() == pytest.approx(min(losses), rel=1e-3)


def test_patience_ends_training_early():
    x, y = states(60)
    trained = fit_autoencoder(x, y, epochs=500, patience=2, learning_rate=0.05)
    assert len(trained.validation_losses) == trained.best_epoch + 3 < 500


def test_the_seed_decides_and_the_global_state_does_not():
    x, y = states(80)
    torch.manual_seed(1)
    one = fit_autoencoder(x, y, epochs=2, seed=5)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    other = fit_autoencoder(x, y, epochs=2, seed=5)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(one.encoder_weight, other.encoder_weight)
    assert not torch.equal(one.encoder_weight, fit_autoencoder(x, y, epochs=2, seed=6).encoder_weight)


def test_a_concept_is_a_difference_of_predictions():
    x, y = states(80)
    trained = fit_autoencoder(x, y, epochs=2)
    v = torch.ones(4)
    assert torch.allclose(trained.concept(v), trained(trained.source_mean + v) - trained(trained.source_mean))
    assert torch.allclose(trained.concept(v, at=x[0]), trained(x[0] + v) - trained(x[0]))
    assert trained.concept(torch.zeros(2, 4)).abs().max() == 0


def test_it_trains_inside_no_grad():
    x, y = states(80)
    with torch.no_grad():
        assert not fit_autoencoder(x, y, epochs=1).encoder_weight.requires_grad


def test_bad_input_is_named():
    x, y = states(20)
    with pytest.raises(MapError, match="20 source states but 19"):
        fit_autoencoder(x, y[1:])
    with pytest.raises(MapError, match="at least 4"):
        fit_autoencoder(x[:3], y[:3])
    with pytest.raises(MapError, match="the same for every text"):
        fit_autoencoder(torch.ones_like(x), y)
    with pytest.raises(MapError, match="at least 1"):
        fit_autoencoder(x, y, epochs=0)
    with pytest.raises(MapError, match="width 3"):
        fit_autoencoder(x, y, epochs=1)(torch.zeros(3))
