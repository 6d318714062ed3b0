"""Held-out diagnostics against scikit-learn and by hand."""

import pytest
import torch
from sklearn.metrics import r2_score as sklearn_r2

from contrans_lens.errors import MapError
from contrans_lens.maps import MapDiagnostics, fit_map, mean_cosine, r2_score


@pytest.fixture
def states():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(120, 5, generator=generator) + 1
    a = torch.randn(7, 5, generator=generator)
    return x, x @ a.T + 0.5 * torch.randn(120, 7, generator=generator) + 40, a


def test_r2_weights_dimensions_by_variance_as_scikit_learn_does(states):
    _, y, _ = states
    predicted = y + torch.randn(y.shape) * torch.arange(7.0)
    expected = sklearn_r2(y.numpy(), predicted.numpy(), multioutput="variance_weighted")
    assert r2_score(y, predicted) == pytest.approx(expected, abs=1e-6)


def test_cosine_is_not_fooled_by_a_shared_mean(states):
    _, y, _ = states
    shuffled = y[torch.randperm(120, generator=torch.Generator().manual_seed(0))]
    assert torch.cosine_similarity(y, shuffled).mean() > 0.95
    assert abs(mean_cosine(y, shuffled)) < 0.2
    assert mean_cosine(y, y) == pytest.approx(1)


def test_a_good_map_scores_well_everywhere_and_a_shrunk_one_shows_it(states):
    x, y, a = states
    v = torch.ones(5)
    native = a @ v
    good = fit_map(x[:80], y[:80], held_out=(x[80:], y[80:]), concept=(v, native)).diagnostics
    assert (good.n_train, good.n_test) == (80, 40)
    assert min(good.r2, good.cosine, good.concept_r2, good.concept_cosine) > 0.9
    assert good.shrinkage == pytest.approx(1, abs=0.1)
    heavy = fit_map(x[:80], y[:80], ridge=500.0, held_out=(x[80:], y[80:]), concept=(v, native)).diagnostics
    assert heavy.shrinkage < 0.4
    assert heavy.r2 < good.r2
    assert heavy.concept_cosine > 0.9  # the direction survives what the length does not


def test_concept_r2_is_r2_of_the_component(states):
    x, y, _ = states
    v, native = torch.randn(5), torch.randn(7)
    fitted = fit_map(x[:80], y[:80], held_out=(x[80:], y[80:]), concept=(v, native))
    expected = sklearn_r2((y[80:] @ native).numpy(), (fitted(x[80:]) @ native).numpy())
    assert fitted.diagnostics.concept_r2 == pytest.approx(expected, abs=1e-5)


def test_what_was_not_given_is_none(states):
    x, y, _ = states
    bare = fit_map(x, y).diagnostics
    assert bare.n_test == 0
    assert bare.r2 is bare.concept_r2 is bare.shrinkage is None
    assert 0.5 < bare.loo_r2 < 1
    mapped_only = fit_map(x, y, held_out=(x, y), concept=(torch.ones(5), None)).diagnostics
    assert mapped_only.concept_r2 is not None
    assert mapped_only.concept_cosine is mapped_only.shrinkage is None


def test_training_r2_lies_where_leave_one_out_does_not():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(21, 20, generator=generator), torch.randn(21, 6, generator=generator)
    fitted = fit_map(x, y, method="ols")
    assert r2_score(y, fitted(x)) > 0.99
    assert fitted.diagnostics.loo_r2 < 0
    assert fitted.diagnostics.warnings


def test_bad_held_out_states_are_named(states):
    x, y, _ = states
    with pytest.raises(MapError, match="10 held-out source rows but 9"):
        fit_map(x, y, held_out=(x[:10], y[:9]))
    with pytest.raises(MapError, match="NaN"):
        fit_map(x, y, held_out=(x[:10], y[:10] * torch.nan))
    with pytest.raises(MapError, match="R2 has no meaning"):
        fit_map(x, y, held_out=(x[:10], y[:1].expand(10, -1)))
    with pytest.raises(MapError, match="at least 2"):
        r2_score(y[:1], y[:1])


def test_diagnostics_of_a_later_version_are_read():
    assert MapDiagnostics.from_dict({"n_train": 3, "warnings": ["a"], "later": 1}) == MapDiagnostics(3, warnings=("a",))
