"""Atoms against principal components of differences that are written out."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contrans_lens.errors import PaceError
from contrans_lens.pace import atoms as room
from contrans_lens.pace.atoms import draw_others, principal_atoms


def residuals(n_concepts, n_own, n_others, width, seed, offset=30.0):
    generator = torch.Generator().manual_seed(seed)
    concept = torch.randn(n_concepts, 1, width, generator=generator)
    own = torch.randn(n_concepts, n_own, width, generator=generator) + concept + offset
    return own, torch.randn(n_concepts, n_others, width, generator=generator) + offset


def differences(own, others):
    """Every pair's unit difference, in full."""
    rows = (own[:, None].double() - others[None].double()).reshape(-1, own.shape[-1])
    norms = rows.norm(dim=1, keepdim=True)
    return (rows / norms)[(norms > 0)[:, 0]]


@pytest.mark.parametrize(("n_own", "n_others", "width"), [(6, 9, 40), (6, 9, 5), (2, 1, 3), (1, 4, 8)])
def test_atoms_are_the_uncentred_principal_direction_of_all_unit_differences(n_own, n_others, width):
    decomposition = pytest.importorskip("sklearn.decomposition")
    own, others = residuals(3, n_own, n_others, width, seed=width)
    found = principal_atoms(own, others)
    for concept in range(3):
        rows = differences(own[concept], others[concept]).numpy()
        svd = decomposition.TruncatedSVD(1, algorithm="arpack").fit(rows) if min(rows.shape) > 1 else None
        expected = rows[0] if svd is None else svd.components_[0]
        assert abs(expected @ found.directions[concept].numpy()) == pytest.approx(1, abs=1e-10)


def test_centring_the_differences_would_lose_the_concept():
    """All own stimuli lie at +8 along the first axis; the other ones scatter along the second."""
    decomposition = pytest.importorskip("sklearn.decomposition")
    own = torch.tensor([[[8.0, 0.3], [8.0, -0.2], [8.0, 0.1]]])
    others = torch.tensor([[[0.0, 3.0], [0.0, -3.0], [0.0, 2.0]]])
    assert float(principal_atoms(own, others).directions[0, 0]) > 0.99
    centred = decomposition.PCA(1).fit(differences(own[0], others[0]).numpy()).components_[0]
    assert abs(centred[0]) < 0.05


@given(st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_own_stimuli_lie_higher_whatever_the_eigensolver_says(seed):
    own, others = residuals(4, 5, 7, 6, seed)
    found = principal_atoms(own, others)
    solver = room.leading_direction
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "leading_direction", lambda rows: -solver(rows))
        turned = principal_atoms(own, others)
    assert torch.equal(found.directions, turned.directions)
    assert torch.equal(found.turned, ~turned.turned)
    gap = own.double().mean(1) - others.double().mean(1)
    assert bool(((gap * found.directions).sum(1) > 0).all())
    assert torch.allclose(found.directions.norm(dim=1), torch.ones(4, dtype=torch.float64))


def test_quality_is_the_area_under_the_curve():
    metrics = pytest.importorskip("sklearn.metrics")
    own, others = residuals(5, 6, 8, 4, seed=3)
    found = principal_atoms(own, others)
    for concept in range(5):
        scores = torch.cat([own[concept], others[concept]]).double() @ found.directions[concept]
        expected = metrics.roc_auc_score([1] * 6 + [0] * 8, scores.numpy())
        assert float(found.quality[concept]) == pytest.approx(expected, abs=1e-12)


def test_padding_does_not_matter():
    own, others = residuals(1, 4, 6, 12, seed=5)
    alone = principal_atoms(own, others)
    padded = principal_atoms(
        torch.cat([own, torch.full((1, 3, 12), 1e4)], 1),
        torch.cat([others, torch.full((1, 2, 12), -1e4)], 1),
        torch.arange(7)[None] < 4,
        torch.arange(8)[None] < 6,
    )
    torch.testing.assert_close(padded.directions, alone.directions)
    torch.testing.assert_close(padded.quality, alone.quality)


@given(st.permutations(range(4)), st.floats(0.01, 100))
@settings(max_examples=15, deadline=None)
def test_atoms_follow_their_concepts_and_know_no_scale_or_origin(order, scale):
    own, others = (rows.double() for rows in residuals(4, 3, 5, 7, seed=1))
    found = principal_atoms(own, others)
    moved = principal_atoms(scale * own[order] + 3, scale * others[order] + 3)
    torch.testing.assert_close(moved.directions, found.directions[order], atol=1e-8, rtol=0)


def test_pairs_that_are_the_same_are_left_out():
    own, others = residuals(1, 4, 5, 9, seed=2)
    others[0, 0] = own[0, 0]
    expected = np.linalg.svd(differences(own[0], others[0]).numpy())[2][0]
    assert abs(expected @ principal_atoms(own, others).directions[0].numpy()) == pytest.approx(1, abs=1e-10)


def test_a_concept_that_differs_from_nothing_is_flat_and_the_others_are_not():
    own, others = residuals(2, 3, 4, 6, seed=2)
    own[0] = others[0, :1] = others[0, 1:] = 123.4
    own[0, 0, 0] = torch.nextafter(own[0, 0, 0], own[0, 0, 0] + 1)  # rounding is no difference
    found = principal_atoms(own, others)
    assert found.flat.tolist() == [True, False]
    assert torch.isfinite(found.directions).all()


def test_a_concept_without_stimuli_is_refused():
    own, others = residuals(2, 3, 4, 6, seed=2)
    with pytest.raises(PaceError, match="at least one stimulus"):
        principal_atoms(own, others, torch.tensor([[True] * 3, [False] * 3]))


@given(
    st.lists(st.integers(1, 5), min_size=2, max_size=6),
    st.integers(1, 12),
    st.integers(0, 3),
    st.randoms(use_true_random=False),
)
@settings(deadline=None)
def test_others_are_different_stimuli_of_other_concepts_in_whatever_order(counts, n_others, seed, random):
    names = [f"c{number}" for number in range(len(counts))]

    def labelled(order):
        """The draw of each concept as (concept, number of its stimulus)."""
        labels = [(names[index], stimulus) for index in order for stimulus in range(counts[index])]
        drawn = draw_others([names[index] for index in order], [counts[index] for index in order], n_others, seed)
        return {names[index]: [labels[row] for row in rows] for index, rows in zip(order, drawn, strict=True)}

    order = list(range(len(counts)))
    found = labelled(order)
    for name, rows in found.items():
        assert len(set(rows)) == len(rows) == min(n_others, sum(counts) - counts[names.index(name)])
        assert all(other != name for other, _ in rows)
    random.shuffle(order)
    assert labelled(order) == found


def test_the_draw_depends_on_the_seed_and_covers_all_others():
    draws = [draw_others(["a", "b"], [5, 40], 3, seed)[0] for seed in range(200)]
    assert {row for draw in draws for row in draw} == set(range(5, 45))


def test_one_concept_alone_or_no_others_is_refused():
    with pytest.raises(PaceError, match="at least two"):
        draw_others(["a"], [3], 5, 0)
    with pytest.raises(PaceError, match="one or more"):
        draw_others(["a", "b"], [3, 3], 0, 0)
