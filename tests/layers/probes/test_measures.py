"""AUROC, intervals, probabilities: against scikit-learn and direct loops."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, roc_auc_score

from contrans_lens.evaluation.intervals import bootstrap_mean_ci, wilson_ci
from contrans_lens.evaluation.resampling import resample_counts
from contrans_lens.layers.probes.calibration import brier_score, calibrated, calibration_error, platt_scaling
from contrans_lens.layers.probes.discrimination import (
    Resampling,
    accuracy_intervals,
    auroc_intervals,
    control_intervals,
    fold_auroc,
)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_auroc_is_the_mean_of_the_folds_weighted_by_pairs(seed, ties):
    generator = torch.Generator().manual_seed(seed)
    decisions = torch.randn(2, 40, 3, generator=generator, dtype=torch.float64)
    if ties:
        decisions = decisions.round()
    labels = torch.rand(40, 3, generator=generator) < 0.4
    folds = torch.randint(3, (40,), generator=generator)
    found = fold_auroc(decisions, labels, folds)
    for site in range(2):
        for column in range(3):
            total, pairs = 0.0, 0
            for fold in range(3):
                y, f = labels[folds == fold, column].numpy(), decisions[site, folds == fold, column].numpy()
                if 0 < y.sum() < len(y):
                    weight = y.sum() * (~y).sum()
                    total, pairs = total + weight * roc_auc_score(y, f), pairs + weight
            assert float(found[site, column]) == pytest.approx(total / pairs)


def test_auroc_of_one_fold_is_roc_auc_score():
    decisions = torch.randn(1, 50, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    labels = torch.arange(50) % 3 == 0
    found = fold_auroc(decisions, labels[:, None], torch.zeros(50, dtype=torch.long))
    assert float(found) == pytest.approx(roc_auc_score(labels.numpy(), decisions[0, :, 0].numpy()))


def test_auroc_interval_is_that_of_resampling_copies_of_groups():
    generator = torch.Generator().manual_seed(0)
    codes = torch.arange(20).repeat_interleave(3)
    labels = torch.rand(60, generator=generator) < 0.5
    folds = codes % 4
    decisions = (torch.randn(1, 60, generator=generator) + labels).round(decimals=1).double()
    resampling = Resampling(codes, 0.9, 300, 7)
    value = fold_auroc(decisions[..., None], labels[:, None], folds)[:, 0]
    found = auroc_intervals(value, decisions, labels, folds, resampling)[0]
    draws = []
    for counts in next(iter(resample_counts(20, 300, 7, 300))):
        rows = torch.repeat_interleave(torch.arange(60), counts[codes].long())
        draws.append(fold_auroc(decisions[:, rows, None], labels[rows, None], folds[rows])[0])
    expected = resampling.intervals(value, torch.stack(draws))[0]
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert found.low < found.value < found.high


def test_accuracy_interval_is_the_house_bootstrap_and_wilsons_when_all_are_right():
    codes = torch.arange(30).repeat_interleave(2)
    correct = (torch.rand(60, 1, generator=torch.Generator().manual_seed(0)) < 0.8).double()
    found = accuracy_intervals(correct, Resampling(codes, 0.95, 500, 3))[0]
    house = bootstrap_mean_ci(correct[:, 0], [f"g{int(c)}" for c in codes], n_resamples=500, seed=3)
    assert (found.value, found.low, found.high) == pytest.approx((house.value, house.low, house.high))
    perfect = accuracy_intervals(torch.ones(60, 1, dtype=torch.float64), Resampling(codes, 0.95, 500, 3))[0]
    assert (perfect.low, perfect.high) == (wilson_ci(30, 30).low, 1.0)


def test_selectivity_is_the_difference_and_its_interval_knows_the_labelings():
    generator = torch.Generator().manual_seed(0)
    codes = torch.arange(40).repeat_interleave(2)
    correct = (torch.rand(80, 1, generator=generator) < 0.9).double()
    chance = torch.tensor([0.3, 0.9] * 10)
    control = (torch.rand(20, 80, 1, generator=generator) < chance[:, None, None]).double()
    everyone = torch.ones(80, dtype=torch.bool)
    resampling = Resampling(codes, 0.95, 1000, 0)
    accuracy, selectivity = (each[0] for each in control_intervals(correct, control, everyone, resampling))
    assert accuracy.value == pytest.approx(float(control.mean()))
    assert selectivity.value == pytest.approx(float(correct.mean() - control.mean()))
    assert accuracy.high - accuracy.low > 0.2  # .3 standard deviation between labelings, over twenty of them
    same = control_intervals(correct, control[1::2], everyone, resampling)[0][0]
    assert same.high - same.low < 0.12
    half = everyone.clone()
    half[:40] = False
    some = control_intervals(correct, control, half, resampling)[0][0]
    assert some.value == pytest.approx(float(control[:, 40:].mean()))


def test_platt_scaling_is_a_logistic_fit_on_soft_targets():
    generator = torch.Generator().manual_seed(0)
    labels = torch.rand(70, generator=generator) < 0.3
    decisions = (3 * torch.randn(2, 70, generator=generator) + 2 * labels).double() + 5
    slope, offset = platt_scaling(decisions, labels)
    n_positive, n_negative = int(labels.sum()), int((~labels).sum())
    soft = np.where(labels.numpy(), (n_positive + 1) / (n_positive + 2), 1 / (n_negative + 2))
    for row in range(2):
        x = np.tile(decisions[row].numpy()[:, None], (2, 1))
        fit = LogisticRegression(C=1e12, tol=1e-12, max_iter=10_000).fit(
            x, np.repeat([1, 0], 70), sample_weight=np.concatenate([soft, 1 - soft])
        )
        assert float(slope[row]) == pytest.approx(fit.coef_[0, 0], rel=1e-4)
        assert float(offset[row]) == pytest.approx(fit.intercept_[0], rel=1e-4)


def test_platt_scaling_stays_finite_for_separable_and_constant_decisions():
    labels = torch.arange(20) < 10
    decisions = torch.stack([labels * 2.0 - 1, torch.zeros(20), torch.full((20,), 3.0)]).double()
    slope, offset = platt_scaling(decisions, labels)
    probability = torch.sigmoid(slope[:, None] * decisions + offset[:, None])
    assert torch.isfinite(probability).all()
    assert probability[0, 0] == pytest.approx(11 / 12, abs=1e-6)
    torch.testing.assert_close(probability[1:], torch.full((2, 20), 0.5, dtype=torch.float64))


def test_calibration_for_a_fold_does_not_look_at_its_labels():
    generator = torch.Generator().manual_seed(0)
    labels = torch.rand(40, generator=generator) < 0.5
    folds = torch.arange(40) % 4
    decisions = torch.randn(1, 40, generator=generator).double()
    inner = torch.randn(1, 4, 40, generator=generator).double()
    first = calibrated(decisions, inner, labels, folds)
    second = calibrated(decisions, inner, torch.where(folds == 1, ~labels, labels), folds)
    assert torch.equal(first[:, folds == 1], second[:, folds == 1])
    assert not torch.equal(first[:, folds == 2], second[:, folds == 2])


def test_brier_and_calibration_error():
    generator = torch.Generator().manual_seed(0)
    probability = torch.rand(1, 90, generator=generator).double()
    labels = torch.rand(90, generator=generator) < probability[0]
    assert float(brier_score(probability, labels)) == pytest.approx(
        brier_score_loss(labels.numpy(), probability[0].numpy())
    )
    total = 0.0
    for low in range(10):
        rows = (probability[0] >= low / 10) & (probability[0] < (low + 1) / 10)
        if rows.any():
            total += float(rows.double().mean()) * abs(
                float(probability[0, rows].mean() - labels[rows].double().mean())
            )
    assert float(calibration_error(probability, labels)) == pytest.approx(total)
    assert float(calibration_error(labels[None].double(), labels)) == 0.0
