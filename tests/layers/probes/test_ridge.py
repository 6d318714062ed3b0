"""Ridge probes against scikit-learn refitted for every fold, strength and labeling."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge, RidgeClassifier

from contrans_lens.layers.probes import probe_layers
from contrans_lens.layers.probes.folds import fold_members, group_codes, straddling_folds
from contrans_lens.layers.probes.nested import nested_scores, scores_at
from contrans_lens.layers.probes.ridge import DualRidge, PrimalRidge
from contrans_lens.layers.probes.states import site_states
from tests.layers.probes.planted import make, scaled

STRENGTHS = [0.3, 10.0, 300.0, 1e4]


def brute_force(x, y, folds, strengths):
    """Nested choice by refitting: decisions, chosen strengths."""
    decisions, chosen = np.empty(len(y)), []
    for fold in range(folds.max() + 1):
        inside = folds != fold
        losses = []
        for alpha in strengths:
            total = 0.0
            for inner in range(folds.max() + 1):
                if inner == fold:
                    continue
                train, test = inside & (folds != inner), folds == inner
                fit = Ridge(alpha=alpha).fit(x[train], y[train])
                total += ((fit.predict(x[test]) - y[test]) ** 2).sum()
            losses.append(total)
        chosen.append(strengths[int(np.argmin(losses))])
        fit = Ridge(alpha=chosen[-1]).fit(x[inside], y[inside])
        decisions[folds == fold] = fit.predict(x[folds == fold])
    return decisions, chosen


@pytest.mark.parametrize("width", [12, 90], ids=["primal", "dual"])
def test_nested_choice_and_decisions_are_those_of_refitting(width):
    states, labels, groups = make(width=width)
    curve = probe_layers(
        states, labels, ["a", "b", "c"], groups=groups, strengths=STRENGTHS, n_controls=0, n_permutations=0
    )
    y = labels.numpy() * 2.0 - 1
    for layer in range(3):
        decisions, chosen = brute_force(scaled(states, layer), y, curve.folds.numpy(), STRENGTHS)
        np.testing.assert_allclose(curve.scores[:, layer].numpy(), decisions, atol=1e-8)
        assert curve.layers[layer].strengths == tuple(chosen)
        assert curve.layers[layer].accuracy.value == pytest.approx(((decisions > 0) == labels.numpy()).mean())


@pytest.mark.parametrize("width", [12, 90], ids=["primal", "dual"])
def test_a_single_strength_is_the_ridge_classifier(width):
    states, labels, groups = make(width=width)
    curve = probe_layers(states, labels, ["a", "b", "c"], groups=groups, strengths=[50], n_controls=0)
    for layer in range(3):
        x = scaled(states, layer)
        for rows in fold_members(curve.folds):
            test = np.zeros(len(labels), dtype=bool)
            test[rows.numpy()] = True
            fit = RidgeClassifier(alpha=50).fit(x[~test], labels.numpy()[~test])
            np.testing.assert_allclose(curve.scores[rows, layer].numpy(), fit.decision_function(x[test]), atol=1e-8)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.integers(3, 40), st.sampled_from([1e-4, 1.0, 1e5]))
def test_dual_and_primal_agree(seed, width, alpha):
    states, labels, _ = make(n=40, layers=2, width=width, seed=seed)
    strengths = torch.tensor([alpha * 0.1, alpha], dtype=torch.float64)
    parts = [torch.arange(7), torch.tensor([3, 20, 39])]
    columns = torch.stack([labels, labels.flip(0), ~labels], 1)
    dual = DualRidge(site_states(states, True)[0], strengths).left_out(parts, columns)
    primal = PrimalRidge(site_states(states, False)[0], strengths).left_out(parts, columns)
    for one, other in zip(dual, primal, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5 if alpha < 1e-3 else 1e-8, rtol=1e-5)


def test_columns_choose_for_themselves_as_if_alone():
    states, labels, _ = make(width=90)
    solver = DualRidge(site_states(states, True)[0], torch.tensor(STRENGTHS, dtype=torch.float64))
    folds = torch.arange(60) % 5
    columns = torch.stack([labels, labels.roll(1), labels.flip(0)], 1)
    together = nested_scores(solver, columns, folds)
    for column in range(3):
        alone = nested_scores(solver, columns[:, column : column + 1], folds)
        torch.testing.assert_close(together.decisions[..., column], alone.decisions[..., 0])
        assert torch.equal(together.chosen[..., column], alone.chosen[..., 0])


@pytest.mark.parametrize(("width", "solver_type"), [(12, PrimalRidge), (90, DualRidge)])
def test_given_strengths_are_those_of_the_full_path(width, solver_type):
    states, labels, _ = make(width=width)
    solver = solver_type(site_states(states, width > 60)[0], torch.tensor(STRENGTHS, dtype=torch.float64))
    folds = straddling_folds(group_codes(None, 60), 4, 0)
    columns = torch.stack([labels, labels.flip(0)], 1)
    chosen = torch.tensor([[0, 1, 2, 3], [3, 3, 0, 1], [2, 0, 0, 0]])
    picked = scores_at(solver, columns, folds, chosen[..., None].expand(-1, -1, 2))
    paths = solver.left_out(fold_members(folds), columns)
    for fold, rows in enumerate(fold_members(folds)):
        for site in range(3):
            torch.testing.assert_close(picked[site, rows], paths[fold][site, chosen[site, fold]])


def test_the_test_fold_has_no_say_in_its_strength():
    """Other labels in a test fold change neither its strength nor its decisions."""
    states, labels, _ = make(width=90)
    solver = DualRidge(site_states(states, True)[0], torch.tensor(STRENGTHS, dtype=torch.float64))
    folds = torch.arange(60) % 5
    other = torch.where(folds == 2, ~labels, labels)
    one = nested_scores(solver, labels[:, None], folds)
    two = nested_scores(solver, other[:, None], folds)
    assert torch.equal(one.chosen[:, 2], two.chosen[:, 2])
    torch.testing.assert_close(one.decisions[:, folds == 2], two.decisions[:, folds == 2], atol=1e-9, rtol=0)
    assert (one.decisions[:, folds != 2] - two.decisions[:, folds != 2]).abs().max() > 1e-3
