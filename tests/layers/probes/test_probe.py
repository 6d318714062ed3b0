"""The whole: what is planted is found where it is, what is not is not, and what cannot be probed says so."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contrans_lens.errors import LayerError
from contrans_lens.layers.probes import PROBE_METHODS, ProbeCurve, permuted_labels, probe_concepts, probe_layers

NAMES = [f"blocks.{layer}.hook_resid_post" for layer in range(4)]


def noise(n=96, layers=4, width=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, layers, width, generator=generator) + 2, torch.arange(n) % 2 == 0


def planted(layer=2, size=1.0, **kwargs):
    states, labels = noise(**kwargs)
    states[:, layer] += size * (labels * 2.0 - 1)[:, None] * 0.6
    return states, labels


@pytest.mark.parametrize("method", PROBE_METHODS)
@pytest.mark.parametrize("width", [16, 160])
def test_a_concept_at_one_layer_is_found_there(method, width):
    states, labels = planted(width=width)
    groups = [f"pair{i // 2}" for i in range(len(labels))]
    curve = probe_layers(states, labels, NAMES, groups=groups, method=method, n_permutations=39, n_controls=4)
    assert curve.best().hook_point == NAMES[2]
    assert curve.best_p == pytest.approx(1 / 40)
    assert curve.best().accuracy.value > 0.8
    assert curve.best().accuracy.contains(curve.best().accuracy.value)
    for name in (NAMES[0], NAMES[1], NAMES[3]):
        assert 0.2 < curve.at(name).auroc.value < 0.8
        assert curve.at(name).p_corrected >= curve.at(name).p_value
    assert curve.n_groups == 48
    assert curve.majority_accuracy == 0.5


def test_p_values_are_exact_under_the_null():
    """With labels that say nothing, best_p <= .05 and <= .2 happen no more often than that."""
    runs, small, medium = 120, 0, 0
    for seed in range(runs):
        generator = torch.Generator().manual_seed(seed)
        states = torch.randn(24, 3, 5, generator=generator)
        labels = torch.randperm(24, generator=generator) < 10
        curve = probe_layers(
            states, labels, NAMES[:3], n_folds=3, n_permutations=19, n_controls=0, n_resamples=100, seed=5000 + seed
        )
        small += curve.best_p <= 0.05
        medium += curve.best_p <= 0.2
    assert small <= 14  # binomial(120, .05): P(> 14) = .001
    assert 11 <= medium <= 38  # binomial(120, .2): .001 on either side


def test_p_values_are_exact_for_pure_groups():
    """Whole groups of one label, with a strong state of their own: examples are far from independent."""
    runs, small = 80, 0
    for seed in range(runs):
        generator = torch.Generator().manual_seed(1000 + seed)
        own = torch.randn(18, 2, 6, generator=generator).repeat_interleave(4, 0)
        states = own + 0.1 * torch.randn(72, 2, 6, generator=generator)
        labels = (torch.randperm(18, generator=generator) < 9).repeat_interleave(4)
        groups = [f"g{i // 4}" for i in range(72)]
        curve = probe_layers(
            states,
            labels,
            NAMES[:2],
            groups=groups,
            n_folds=3,
            n_permutations=19,
            n_controls=0,
            n_resamples=100,
            seed=5000 + seed,
        )
        small += curve.best_p <= 0.05
    assert small <= 11  # binomial(80, .05): P(> 11) = .001


def test_selectivity_is_high_for_a_direction_and_low_for_features_that_name_the_group():
    states, labels = planted(layer=0, size=2.0, n=160, layers=2, width=300)
    generator = torch.Generator().manual_seed(5)
    groups = [f"entity{i // 4}" for i in range(160)]
    # Layer 1 knows the entity, all but exactly, and nothing of the concept.
    states[:, 1] = torch.randn(40, 300, generator=generator).repeat_interleave(4, 0)
    states[:, 1] += 0.1 * torch.randn(160, 300, generator=generator)
    curve = probe_layers(states, labels, NAMES[:2], groups=groups, n_permutations=0, strengths=[300.0])
    concept, entity = curve.layers
    assert concept.selectivity.low > 0.3
    assert 0.4 < concept.control_accuracy.value < 0.65
    assert entity.control_accuracy.value > 0.95
    assert entity.selectivity.high < -0.2
    assert concept.selectivity.value == pytest.approx(concept.accuracy.value - concept.control_accuracy.value)


def test_labels_given_per_group_are_memorised_only_where_groups_straddle():
    generator = torch.Generator().manual_seed(5)
    states = torch.randn(40, 1, 200, generator=generator).repeat_interleave(4, 0)
    states = states + 0.1 * torch.randn(160, 1, 200, generator=generator)
    labels = (torch.arange(40) % 2 == 0).repeat_interleave(4)
    groups = [f"entity{i // 4}" for i in range(160)]
    layer = probe_layers(states, labels, NAMES[:1], groups=groups, strengths=[100.0]).layers[0]
    assert layer.straddling_accuracy > 0.95
    assert layer.accuracy.value < 0.75
    assert layer.p_value > 0.02
    naive = probe_layers(states, labels, NAMES[:1], strengths=[100.0])
    assert naive.layers[0].accuracy.value > 0.95  # what leaving out the groups would have claimed
    assert any("its own group" in warning for warning in naive.warnings)


def test_controls_without_groups_are_at_chance_and_say_so():
    states, labels = planted(n=200)
    curve = probe_layers(states, labels, NAMES, n_permutations=0)
    assert 0.4 < curve.at(NAMES[2]).control_accuracy.value < 0.6
    assert curve.at(NAMES[2]).straddling_accuracy is None
    assert any("chance by construction" in warning for warning in curve.warnings)


def test_concepts_together_are_as_alone():
    states, labels = planted(width=160)
    other = torch.arange(96) % 3 == 0
    together = probe_concepts(
        states, torch.stack([labels, other], 1), NAMES, ["one", "two"], n_permutations=19, description_length=True
    )
    for name, column in (("one", labels), ("two", other)):
        alone = probe_layers(states, column, NAMES, n_permutations=19, description_length=True)
        assert together[name].layers == alone.layers
        assert torch.equal(together[name].scores, alone.scores)


def test_batches_of_sites_change_nothing(monkeypatch):
    states, labels = planted(width=160)
    whole = probe_layers(states, labels, NAMES, n_permutations=19)
    monkeypatch.setattr("contrans_lens.layers.probes.probe._CHUNK_ELEMENTS", 1)
    parts = probe_layers(states, labels, NAMES, n_permutations=19)
    torch.testing.assert_close(whole.scores, parts.scores)
    assert [layer.p_corrected for layer in whole.layers] == [layer.p_corrected for layer in parts.layers]


@settings(max_examples=5, deadline=None)
@given(st.floats(0.01, 100), st.floats(-50, 50), st.integers(0, 50))
def test_scale_shift_and_rotation_of_a_layer_change_nothing(scale, shift, seed):
    states, labels = planted(seed=seed)
    states = states.double()
    turn = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(seed)).double()).Q
    kwargs = {"n_controls": 0, "n_permutations": 0, "n_resamples": 100}
    one = probe_layers(states, labels, NAMES, **kwargs)
    two = probe_layers(states @ turn * scale + shift, labels, NAMES, **kwargs)
    torch.testing.assert_close(one.scores, two.scores, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("method", PROBE_METHODS)
def test_a_constant_layer_is_unreadable_not_an_error(method):
    states, labels = planted()
    states[:, 1] = states[:1, 1] * 1000
    states[::2, 1, 0] *= 1 + 1e-7  # rounding that happens to follow the labels
    curve = probe_layers(states, labels, NAMES, method=method, n_permutations=9)
    assert curve.at(NAMES[1]).auroc.value == 0.5
    assert curve.at(NAMES[1]).p_value == 1.0
    assert any(NAMES[1] in warning and "same for every example" in warning for warning in curve.warnings)
    assert curve.best().hook_point == NAMES[2]


def test_a_curve_survives_json():
    states, labels = planted()
    groups = [f"pair{i // 2}" for i in range(len(labels))]
    curve = probe_layers(states, labels, NAMES, groups=groups, n_permutations=19, description_length=True)
    back = ProbeCurve.from_dict(json.loads(json.dumps(curve.to_dict())))
    assert back.layers == curve.layers
    assert torch.equal(back.scores, curve.scores)
    assert torch.equal(back.folds, curve.folds)
    assert back.to_dict() == curve.to_dict()
    assert NAMES[2] in repr(curve)


def test_the_same_seed_gives_the_same_curve_and_one_layer_is_enough():
    states, labels = planted()
    one = probe_layers(states[:, 2:3], labels, NAMES[2:3], n_permutations=19, seed=4)
    two = probe_layers(states[:, 2:3], labels, NAMES[2:3], n_permutations=19, seed=4)
    assert one.to_dict() == two.to_dict()
    assert one.layers[0].p_value == one.layers[0].p_corrected == one.best_p
    before = states.clone()
    probe_layers(states, labels, NAMES, n_permutations=0, n_controls=0)
    assert torch.equal(states, before)


def test_warnings_name_what_the_numbers_mean():
    states, labels = planted(width=200)
    labels = torch.arange(96) % 8 == 0
    groups = [f"g{i // 8}" for i in range(96)]
    said = " ".join(probe_layers(states, labels, NAMES, groups=groups, n_folds=3).warnings)
    for part in ("96 examples and 200 dimensions", "12 groups", "12% of the examples"):
        assert part in said
    pure = torch.tensor([True] * 3 + [False] * 3).repeat_interleave(16)
    few = probe_layers(states, pure, NAMES, groups=[f"g{i // 16}" for i in range(96)], n_folds=3)
    assert any("only 8 labelings" in warning for warning in few.warnings)
    assert few.best_p > 0.05


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "svm"}, "unknown probe"),
        ({"n_folds": 2}, "3 or more"),
        ({"n_folds": 97}, "96 groups"),
        ({"strengths": [0.0]}, "above 0"),
        ({"strengths": []}, "above 0"),
        ({"strengths": [1.0], "method": "lda"}, "no strength"),
        ({"level": 1.0}, "level"),
        ({"n_resamples": 5}, "resamples"),
        ({"n_controls": -1}, "below 0"),
        ({"groups": ["a"]}, "group names"),
        ({"hook_points": ["a", "a", "b", "c"]}, "different hook points"),
        ({"labels": torch.ones(96, dtype=torch.bool)}, "96 of 96"),
        ({"labels": torch.ones(5, dtype=torch.bool)}, "as many labels"),
        ({"labels": torch.arange(96) < 2}, "2 fold"),
    ],
)
def test_bad_input_is_refused_with_what_to_do(change, message):
    states, labels = noise()
    arguments = {"states": states, "labels": labels, "hook_points": NAMES, **change}
    with pytest.raises(LayerError, match=message):
        probe_layers(**arguments)


def test_states_that_are_not_finite_are_named():
    states, labels = noise()
    states[3, 1, 2] = float("nan")
    with pytest.raises(LayerError, match=r"1 of 96 examples .* at blocks.1.hook_resid_post"):
        probe_layers(states, labels, NAMES)
    with pytest.raises(LayerError, match="different names"):
        probe_concepts(noise()[0], labels[:, None], NAMES, ["a", "b"])


def test_labels_of_pairs_are_exchanged_within_pairs():
    groups = torch.arange(4).repeat_interleave(6)
    pairs = torch.arange(12).repeat_interleave(2)
    labels = torch.tensor([True, False] * 12)
    permuted = permuted_labels(labels, pairs, groups, 50, seed=0)
    assert bool((permuted.reshape(12, 2, 50).sum(1) == 1).all())
    assert 50 * 0.3 < int(permuted[0].sum()) < 50 * 0.7


def test_p_values_of_paired_designs_are_exact_under_flipped_pairs():
    # A strong direction tells the two texts of every pair apart, and the labels flip it at random: labels that were
    # permuted within groups of three pairs would vary less than flipped pairs do, and p-values would be too small.
    generator = torch.Generator().manual_seed(0)
    n_groups, hits, runs = 8, 0, 150
    groups = [f"group {g}" for g in range(n_groups) for _ in range(6)]
    pairs = [f"pair {g}.{k}" for g in range(n_groups) for k in range(3) for _ in range(2)]
    side = torch.tensor([1.0, -1.0]).repeat(3 * n_groups)
    for run in range(runs):
        coin = torch.randint(0, 2, (3 * n_groups,), generator=generator).repeat_interleave(2).bool()
        labels = (side > 0) ^ coin
        states = torch.randn(len(side), 1, 8, generator=generator) * 0.3
        states[:, 0, 0] += 5 * side
        curve = probe_layers(
            states,
            labels,
            ["a"],
            groups=groups,
            pairs=pairs,
            n_folds=4,
            n_permutations=39,
            n_controls=0,
            n_resamples=100,
            seed=run,
        )
        assert curve.best_p is not None
        hits += curve.best_p <= 0.05
    assert hits <= 15  # 150 runs at .05 give 7.5 +- 2.7; exchanged within groups, one in eight is a hit


def test_a_pair_that_straddles_groups_is_refused():
    states = torch.randn(12, 1, 4)
    labels = torch.tensor([True, False] * 6)
    pairs = [f"pair {i // 2}" for i in range(12)]
    groups = [f"group {i % 6}" for i in range(12)]
    with pytest.raises(LayerError, match="two groups"):
        probe_layers(states, labels, ["a"], groups=groups, pairs=pairs, n_folds=3, n_permutations=0)
