"""Folds and labelings: what may straddle, what may be exchanged, and how evenly."""

from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contrans_lens.errors import LayerError
from contrans_lens.layers.probes import control_labels, grouped_folds, permuted_labels
from contrans_lens.layers.probes.folds import check_training_parts, group_codes, straddling_folds
from contrans_lens.layers.probes.relabelling import log2_labelings


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 14), st.booleans()), min_size=60, max_size=120), st.integers(0, 5))
def test_grouped_folds_never_part_a_group_and_are_reproducible(rows, seed):
    groups = [f"g{group}" for group, _ in rows]
    labels = torch.tensor([label for _, label in rows])
    try:
        folds = grouped_folds(labels, groups, 4, seed)
    except LayerError:
        return
    for group in set(groups):
        members = [int(folds[i]) for i, name in enumerate(groups) if name == group]
        assert len(set(members)) == 1
    assert set(folds.tolist()) == set(range(4))
    assert torch.equal(folds, grouped_folds(labels, groups, 4, seed))
    for fold in range(4):
        assert 0 < int(labels[folds != fold].sum()) < int((folds != fold).sum())


def test_grouped_folds_balance_classes_exactly_without_groups():
    labels = torch.tensor([True] * 20 + [False] * 30)
    folds = grouped_folds(labels, None, 5, 3)
    for fold in range(5):
        assert int(labels[folds == fold].sum()) == 4
        assert int((~labels[folds == fold]).sum()) == 6


def test_an_empty_group_name_is_an_example_of_its_own():
    assert group_codes(["a", "", "a", ""], 4).tolist() == [0, 1, 0, 2]


def test_too_few_groups_are_refused_with_the_class_named():
    labels = torch.tensor([True] * 6 + [False] * 6)
    with pytest.raises(LayerError, match="groups"):
        grouped_folds(labels, ["a"] * 6 + ["b"] * 6, 3)
    with pytest.raises(LayerError, match="positive examples are in 1 fold"):
        grouped_folds(labels, ["a"] * 6 + list("bcdefg"), 3)
    with pytest.raises(LayerError, match="12 of 12"):
        grouped_folds(torch.ones(12, dtype=torch.bool), None, 3)
    with pytest.raises(LayerError, match="group names"):
        grouped_folds(labels, ["a"], 3)
    folds = grouped_folds(labels, ["a"] * 3 + ["h"] * 3 + list("bcdefg"), 3)
    with pytest.raises(LayerError, match="inner fold"):
        check_training_parts(labels, folds, removed=2)


@pytest.mark.parametrize("size", [2, 3, 7])
def test_straddling_folds_part_the_members_of_every_group(size):
    codes = torch.arange(10).repeat_interleave(size)
    folds = straddling_folds(codes, 5, 0)
    for group in range(10):
        assert len(set(folds[codes == group].tolist())) == min(size, 5)
    sizes = torch.bincount(folds)
    assert sizes.max() - sizes.min() <= 1


def test_permuted_labels_keep_fold_counts_and_move_pure_groups_whole():
    # Fold 0: pure groups of two, pure singles, and a mixed group; fold 1: likewise.
    codes = torch.tensor([0, 0, 1, 1, 2, 3, 4, 4, 4, 5, 5, 6, 6])
    labels = torch.tensor([1, 1, 0, 0, 1, 0, 1, 0, 0, 1, 1, 0, 0]).bool()
    folds = torch.tensor([0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1])
    drawn = permuted_labels(labels, codes, folds, 4000, seed=1)
    for fold in range(2):
        assert (drawn[folds == fold].sum(0) == labels[folds == fold].sum()).all()
    for group in (0, 1, 5, 6):
        rows = drawn[codes == group]
        assert (rows == rows[:1]).all()
    assert (drawn[codes == 4].sum(0) == 1).all()
    # 2 (groups 0, 1) x 2 (singles 2, 3) x 3 (inside group 4) x 2 (fold 1) labelings, all equally likely.
    assert log2_labelings(labels, codes, folds) == pytest.approx(torch.tensor(24.0).log2().item())
    found, counts = torch.unique(drawn.T, dim=0, return_counts=True)
    assert len(found) == 24
    expected = 4000 / 24
    assert ((counts - expected).square() / expected).sum() < 60  # chi-square with 23 degrees: p < 1e-4


def test_permuting_pairs_swaps_within_them_only():
    labels = torch.tensor([True, False] * 6)
    codes = torch.arange(6).repeat_interleave(2)
    drawn = permuted_labels(labels, codes, torch.arange(6).repeat_interleave(2) % 3, 50)
    assert (drawn[0::2] != drawn[1::2]).all()


def test_folds_are_as_likely_after_a_permutation_as_before():
    """The exactness of the null: given labels, P(folds | labels) only depends on the counts within folds."""
    labels = torch.tensor([True, True, False, False])
    seen: dict[tuple[int, ...], int] = {}
    for seed in range(600):
        key = tuple(grouped_folds(labels, None, 2, seed).tolist())
        seen[key] = seen.get(key, 0) + 1
    # One positive and one negative a fold: 4 assignments, each as often as the others.
    wanted = {order for order in permutations([0, 0, 1, 1]) if order[0] != order[1] and order[2] != order[3]}
    assert set(seen) == wanted
    assert all(abs(count - 150) < 45 for count in seen.values())


def test_control_labels_are_shared_in_a_group_and_keep_the_share_of_positives():
    labels = torch.tensor([True] * 30 + [False] * 70)
    codes = torch.arange(50).repeat_interleave(2)
    drawn = control_labels(labels, codes, 40, seed=2)
    assert (drawn[0::2] == drawn[1::2]).all()
    assert (drawn.sum(0) == 30).all()
    assert len(torch.unique(drawn.T, dim=0)) == 40
    uneven = control_labels(labels, torch.cat([torch.zeros(98), torch.tensor([1.0, 2.0])]).long(), 20)
    assert (uneven.sum(0) > 0).all()
    assert (uneven.sum(0) < 100).all()
