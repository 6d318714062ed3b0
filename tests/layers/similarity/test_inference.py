"""What chance gives: shuffles, corrected p-values, subsamples; checked by doing the same the slow way."""

import json
import math

import numpy as np
import pytest
import torch

from contrans_lens.errors import LayerError
from contrans_lens.layers.similarity import METRICS, STATE_METRICS, SimilarityGrid, SimilarityOptions, similarity_grid
from contrans_lens.layers.similarity import sides as sides_module
from contrans_lens.layers.similarity.compare import _engines
from contrans_lens.layers.similarity.inference import summarise_null
from contrans_lens.layers.similarity.resampling import plan_resampling, shuffles, subsamples, text_units
from contrans_lens.layers.similarity.sides import make_sides

WHOLE = SimilarityOptions(k=4, max_components=None, variance_share=0.95)


def names(layers):
    return tuple(f"blocks.{layer}.hook_resid_post" for layer in range(layers))


def states(n=30, layers=3, d=6, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(n, layers, d, generator=generator) * torch.linspace(0.3, 2, d) + 1).to(dtype)


def related(n=30, seed=0):
    x = states(n, 3, 6, seed)
    y = states(n, 2, 8, seed + 1)
    y[:, 1, :6] += 2 * x[:, 2]
    return x, y


def values_of(x, y, metric, options=WHOLE):
    grids = similarity_grid(
        x,
        y,
        names(x.shape[1]),
        names(y.shape[1]),
        metrics=[metric],
        n_permutations=0,
        n_subsamples=0,
        options=options,
    )
    return grids[metric].values


def engine_of(x, y, metric):
    source, target = make_sides(x, y, names(x.shape[1]), names(y.shape[1]))
    notes = {metric: []}
    (found,) = list(_engines(source, target, (metric,), WHOLE, True, notes))
    return found[2]


@pytest.mark.parametrize("metric", STATE_METRICS)
@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("limit", [0, 2**22])
def test_a_shuffle_is_the_metric_on_shuffled_texts(metric, swap, limit, monkeypatch):
    monkeypatch.setattr(sides_module, "DOUBLE_LIMIT", limit)
    x, y = related()
    x, y = (y, x) if swap else (x, y)
    orders, _ = shuffles(torch.arange(30), 5, seed=3)
    drawn = engine_of(x, y, metric).permuted(orders)[:, 0]
    for order, found in zip(orders, drawn, strict=True):
        assert torch.allclose(found, values_of(x, y[order], metric), atol=2e-6)


@pytest.mark.parametrize("metric", STATE_METRICS)
@pytest.mark.parametrize("limit", [0, 2**22])
@pytest.mark.parametrize("repeat", [False, True])
def test_a_subset_is_the_metric_on_fewer_texts(metric, limit, repeat, monkeypatch):
    monkeypatch.setattr(sides_module, "DOUBLE_LIMIT", limit)
    x, y = related()
    if repeat:  # ties of distances and ranks
        x[20:25], y[20:25] = x[0], y[0]
    members, kept = subsamples(torch.arange(30), 5, 0.8, seed=3)
    assert kept == 24
    drawn = engine_of(x, y, metric).subset(members)[:, 0]
    for inside, found in zip(members, drawn, strict=True):
        assert int(inside.sum()) == 24
        expected = values_of(x[inside], y[inside], metric)
        # Ties between copies, and ranks in float32, may fall differently in the shorter list.
        slack = 0.03 if repeat and metric == "mutual_knn" else 1e-4 if repeat or not limit else 1e-6
        assert torch.allclose(found, expected, atol=slack)


def test_pearson_rsa_on_a_subset():
    x, y = related()
    options = SimilarityOptions(rsa_correlation="pearson", rsa_distance="cosine")
    source, target = make_sides(x, y, names(3), names(2))
    (found,) = list(_engines(source, target, ("rsa",), options, True, {"rsa": []}))
    members = torch.rand(4, 30, generator=torch.Generator().manual_seed(0)) < 0.7
    expected = [values_of(x, y, "rsa", options), *(None for _ in members)]
    assert torch.allclose(found[2].subset(torch.ones(1, 30, dtype=torch.bool))[0, 0], expected[0], atol=1e-9)
    # A subset keeps the mean of all texts for the angles; with distances nothing is left to choose.
    options = SimilarityOptions(rsa_correlation="pearson")
    (found,) = list(_engines(source, target, ("rsa",), options, True, {"rsa": []}))
    for inside, drawn in zip(members, found[2].subset(members)[:, 0], strict=True):
        assert torch.allclose(drawn, values_of(x[inside], y[inside], "rsa", options), atol=1e-9)


@pytest.mark.parametrize("metric", STATE_METRICS)
def test_p_values_by_counting(metric):
    x, y = related()
    grid = similarity_grid(
        x, y, names(3), names(2), metrics=[metric], n_permutations=39, n_subsamples=0, seed=5, options=WHOLE
    )[metric]
    sign = 1 if METRICS[metric].higher_is_closer else -1
    orders = plan_resampling(30, None, n_permutations=39, n_subsamples=0, keep=0.8, level=0.95, seed=5).orders
    null = sign * torch.stack([values_of(x, y[order], metric) for order in orders]).numpy()
    seen = sign * grid.values.numpy()
    every = np.concatenate([seen[None], null])
    z = (every - every.mean(0)) / every.std(0)
    for s in range(3):
        for t in range(2):
            count = np.sum(null[:, s, t] >= seen[s, t] - 1e-6)
            assert float(grid.p_values[s, t]) == pytest.approx((1 + count) / 40)
            largest = np.array([draw.max() for draw in z[1:]])
            assert float(grid.p_corrected[s, t]) == pytest.approx((1 + np.sum(largest >= z[0, s, t] - 1e-6)) / 40)
            tau = np.sort(every[:, s, t])[math.ceil(0.95 * 40) - 1]
            assert sign * float(grid.null_critical[s, t]) == pytest.approx(tau, abs=1e-6)
            perfect = sign * METRICS[metric].perfect
            share = max(0, (seen[s, t] - tau) / (perfect - tau))
            assert float(grid.calibrated[s, t]) == pytest.approx(share, abs=1e-5)
    assert torch.allclose(sign * grid.null_mean, torch.tensor(null.mean(0)), atol=1e-6)
    assert bool((grid.p_corrected >= grid.p_values - 1e-12).all())


@pytest.mark.parametrize("metric", STATE_METRICS)
def test_a_planted_rotation_is_found(metric):
    x, y = states(60, 3, 6), states(60, 2, 9, 1)
    turn = torch.linalg.qr(torch.randn(9, 9, generator=torch.Generator().manual_seed(2))).Q[:6]
    y[:, 1] = 3 * x[:, 2] @ turn + 2
    grid = similarity_grid(x, y, names(3), names(2), metrics=[metric], n_permutations=49, n_subsamples=20)[metric]
    best = grid.best()
    assert (best.source, best.target) == ("blocks.2.hook_resid_post", "blocks.1.hook_resid_post")
    assert best.p_corrected == pytest.approx(1 / 50)
    assert best.value == pytest.approx(METRICS[metric].perfect, abs=1e-5)
    assert grid.significant().tolist() == [[False, False], [False, False], [False, True]]
    assert grid.at(best.source, best.target)["calibrated"] == pytest.approx(1, abs=1e-4)


def test_independent_states_are_seldom_significant():
    """At most about one run in twenty; the bound of 10 in 60 is passed by a correct test in 1 case in 10,000."""
    found = dict.fromkeys(STATE_METRICS, 0)
    options = SimilarityOptions(k=5)
    for seed in range(60):
        x, y = states(30, 3, 6, 2 * seed), states(30, 3, 40, 2 * seed + 1)
        y[:, 0, 0] *= 30  # a one-dimensional layer, whose null is skewed
        grids = similarity_grid(x, y, names(3), names(3), n_permutations=39, n_subsamples=0, seed=seed, options=options)
        for metric, grid in grids.items():
            found[metric] += bool(grid.significant(0.05).any())
    assert max(found.values()) <= 10, found


def test_the_search_is_paid_for():
    """Uncorrected, the best of many cells is significant far too often: the correction is what the last test sees."""
    found = 0
    for seed in range(20):
        x, y = states(30, 4, 6, 2 * seed), states(30, 4, 6, 2 * seed + 1)
        grid = similarity_grid(x, y, names(4), names(4), metrics=["cka"], n_permutations=39, n_subsamples=0)["cka"]
        found += bool((grid.p_values <= 0.05).any())
    assert found >= 6


def test_cells_with_a_wide_null_do_not_hide_the_others():
    values = torch.tensor([[0.5, 0.1]])
    null = torch.randn(199, 1, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 0.01])
    summary = summarise_null(METRICS["cka"], values.double(), null.double(), 0.05)
    assert float(summary.corrected[0, 0]) > 0.2
    assert float(summary.corrected[0, 1]) == pytest.approx(1 / 200)


def test_a_metric_that_is_one_by_construction_shows_nothing():
    x, y = states(12, 2, 30), states(12, 2, 40, 1)
    options = SimilarityOptions(variance_share=1.0, max_components=None)
    grid = similarity_grid(
        x, y, names(2), names(2), metrics=["svcca"], n_permutations=39, n_subsamples=0, options=options
    )["svcca"]
    assert torch.allclose(grid.values, torch.ones(2, 2, dtype=torch.float64))
    assert bool((grid.p_values == 1).all())
    assert bool((grid.p_corrected == 1).all())
    assert bool((grid.calibrated == 0).all())


def test_intervals_cover_what_as_many_texts_give():
    """Jackknife intervals of 95 % on 40 data sets of correlated states, and neither too wide."""
    options = SimilarityOptions(k=5)
    seen = {metric: [] for metric in STATE_METRICS}
    for seed in range(40):
        x, y = states(50, 1, 6, 2 * seed), states(50, 1, 6, 2 * seed + 1)
        y = y + 1.5 * x
        grids = similarity_grid(x, y, names(1), names(1), n_permutations=0, n_subsamples=50, options=options)
        for metric, grid in grids.items():
            seen[metric].append([float(table) for table in (grid.values, grid.low, grid.high)])
    for metric, rows in seen.items():
        values, low, high = np.array(rows).T
        covered = np.mean((low <= values.mean()) & (values.mean() <= high))
        assert covered >= 0.85, metric
        assert (high - low).mean() < 2.2 * 2 * 1.96 * values.std(), metric


def test_groups_move_and_stay_together():
    groups = [f"template {text // 3}" for text in range(30)] + ["alone", "alone too"]
    units = text_units(32, groups)
    orders, notes = shuffles(units, 50, seed=0)
    assert not notes
    assert int(units.max()) == 11
    moved = 0
    for order in orders:
        assert sorted(order.tolist()) == list(range(32))
        for start in range(0, 30, 3):
            first = int(order[start])
            assert first % 3 == 0
            assert order[start : start + 3].tolist() == [first, first + 1, first + 2]
            moved += first != start
        assert {int(order[30]), int(order[31])} == {30, 31}
    assert moved > 300
    members, kept = subsamples(units, 20, 0.8, seed=0)
    assert kept == 10
    assert bool((members[:, 0:30:3] == members[:, 2:30:3]).all())
    assert len(set(units[members[0]].tolist())) == 10


def test_empty_names_are_groups_of_their_own_and_few_ways_are_told():
    assert text_units(5, ["a", "", "a", "", "b"]).tolist() == [0, 1, 0, 2, 3]
    _, notes = shuffles(text_units(12, list("aaaabbbbcccc")), 20, seed=0)
    assert "only 6 ways" in notes[0]


def test_grouped_texts_without_groups_would_be_found_significant():
    """Copies of few independent texts: one by one they look like much evidence, as groups they do not."""
    alone, grouped = 0, 0
    for seed in range(12):
        copies = torch.arange(32) // 4
        x, y = (
            states(8, 2, 5, 2 * seed + side)[copies] + 0.05 * states(32, 2, 5, 900 + 2 * seed + side) for side in (0, 1)
        )
        more = {"metrics": ["rsa"], "n_permutations": 39, "n_subsamples": 0}
        alone += bool(similarity_grid(x, y, names(2), names(2), **more)["rsa"].significant().any())
        named = [f"text {i}" for i in copies.tolist()]
        grouped += bool(similarity_grid(x, y, names(2), names(2), groups=named, **more)["rsa"].significant().any())
    assert grouped <= 4
    assert alone >= grouped + 4


def test_the_same_seed_gives_the_same_numbers():
    x, y = related()
    first, again, other = (
        similarity_grid(x, y, names(3), names(2), n_permutations=19, n_subsamples=20, seed=seed, options=WHOLE)
        for seed in (1, 1, 2)
    )
    for metric in STATE_METRICS:
        assert first[metric].to_dict() == again[metric].to_dict()
        assert first[metric].values.tolist() == other[metric].values.tolist()
        assert not torch.equal(first[metric].null_mean, other[metric].null_mean)


def test_a_grid_survives_json():
    x, y = related()
    for n_permutations in (0, 19):
        grids = similarity_grid(
            x, y, names(3), names(2), n_permutations=n_permutations, n_subsamples=n_permutations and 20
        )
        for grid in grids.values():
            back = SimilarityGrid.from_dict(json.loads(json.dumps(grid.to_dict())) | {"later": 1})
            assert back.to_dict() == grid.to_dict()
            assert back.best() == grid.best()
    with pytest.raises(LayerError, match="unknown metric"):
        SimilarityGrid.from_dict({"metric": "cosine"})
    with pytest.raises(LayerError, match="values is"):
        SimilarityGrid.from_dict(grid.to_dict() | {"values": [[1.0]]})
    grid = similarity_grid(x, y, names(3), names(2), n_permutations=0, n_subsamples=0)["cka"]
    with pytest.raises(LayerError, match="no shuffles"):
        grid.significant()
    with pytest.raises(LayerError, match="not in this grid"):
        grid.at("blocks.9.hook_resid_post", names(2)[0])


def test_subsamples_that_are_too_small():
    x, y = (z[:13] for z in related())
    with pytest.raises(LayerError, match="n_subsamples=0"):
        similarity_grid(x, y, names(3), names(2))
    assert similarity_grid(x, y, names(3), names(2), n_subsamples=0)["mutual_knn"].low is None
