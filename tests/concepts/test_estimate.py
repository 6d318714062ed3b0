"""From states and stores to concept vectors; streaming equals batch; bad states are named."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contrans_lens.concepts import (
    CONCEPT_METHODS,
    STREAMED_METHODS,
    ConceptFitter,
    concept_from_store,
    estimate_concept,
)
from contrans_lens.errors import ConceptError
from contrans_lens.models import Fingerprint
from contrans_lens.residuals import ResidualStore

HOOKS = ("blocks.0.hook_resid_post", "blocks.1.hook_resid_post")
MODEL = Fingerprint("tiny", "Tiny", 2, 4, 50, "00000000", "raw", "float32", "tok")
quick = settings(max_examples=15, deadline=None)


def states(n=40, d=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    positives = torch.randn(n, 2, d, generator=generator) + torch.tensor([1.0, 0.0, 2.0, 0.5]) + 10
    return positives, torch.randn(n - 10, 2, d, generator=generator) + 10


def streamed(parts, covariance=True):
    fitter = ConceptFitter(HOOKS, covariance=covariance)
    for positives, negatives in parts:
        fitter.update(positives, negatives)
    return fitter


def test_residual_norms_and_quality_come_with_the_vectors():
    positives, negatives = states()
    held_out = states(60, seed=1)
    concept = estimate_concept(positives, negatives, HOOKS, name="joy", held_out=held_out, fingerprint=MODEL)
    norms = torch.cat([positives, negatives]).norm(dim=2).mean(0)
    assert torch.allclose(concept.residual_norms, norms)
    assert (concept.name, concept.method, concept.fingerprint) == ("joy", "mean_difference", MODEL)
    for layer, record in enumerate(concept.quality):
        assert 0.85 < record.auroc_low < record.auroc <= record.auroc_high <= 1
        assert record.relative_norm == pytest.approx((concept.vectors[layer].norm() / norms[layer]).item(), rel=1e-5)
        assert (record.n_positive, record.n_negative) == (60, 50)


def test_without_held_out_texts_no_auroc_is_claimed():
    concept = estimate_concept(*states(), HOOKS)
    assert all(record.auroc is None and record.relative_norm for record in concept.quality)


def test_given_residual_norms_are_kept():
    concept = estimate_concept(*states(), HOOKS, residual_norms=torch.tensor([2.0, 4.0]))
    assert concept.residual_norm_at(HOOKS[1]) == 4


def test_a_random_direction_does_not_read():
    concept = estimate_concept(*states(200, d=4), HOOKS, method="random", held_out=states(200, seed=2), seed=5)
    good = estimate_concept(*states(200, d=4), HOOKS, held_out=states(200, seed=2))
    assert all(a.auroc < b.auroc for a, b in zip(concept.quality, good.quality, strict=True))


@pytest.mark.parametrize("method", CONCEPT_METHODS)
def test_a_store_and_labels_give_the_same(method):
    positives, negatives = states(30)
    positives = positives[:20]
    mixed = torch.stack([positives, negatives], 1).flatten(0, 1)
    labels = [True, False] * 20
    store = ResidualStore.from_tensor(mixed, HOOKS, fingerprint=MODEL)
    found = concept_from_store(store, labels, method=method, held_out=(store, labels))
    expected = estimate_concept(positives, negatives, HOOKS, method=method, held_out=(positives, negatives))
    assert torch.equal(found.vectors, expected.vectors)
    assert found.quality == expected.quality
    assert found.fingerprint == MODEL
    with pytest.raises(ConceptError, match="3 labels for 40"):
        concept_from_store(store, labels[:3])


@quick
@given(st.sampled_from(STREAMED_METHODS), st.lists(st.integers(0, 40), max_size=4))
def test_streaming_equals_batch(method, cuts):
    positives, negatives = states()
    edges = [0, *sorted(cuts), 40]
    parts = [(positives[a:b], negatives[a:b]) for a, b in pairwise(edges)]
    found = streamed(parts).fit(method, seed=3)
    expected = estimate_concept(positives, negatives, HOOKS, method=method, seed=3)
    assert torch.allclose(found.vectors, expected.vectors, rtol=1e-5, atol=1e-6)
    assert torch.allclose(found.residual_norms, expected.residual_norms)


@quick
@given(st.integers(0, 20), st.integers(21, 40))
def test_merging_is_associative_and_commutative(first, second):
    positives, negatives = states()

    def part(a, b):
        return streamed([(positives[a:b], negatives[a:b])])

    left = part(0, first).merge(part(first, second)).merge(part(second, 40))
    right = part(second, 40).merge(part(0, first).merge(part(first, second)))
    assert left.counts == right.counts == (40, 30)
    for method in STREAMED_METHODS:
        assert torch.allclose(left.fit(method).vectors, right.fit(method).vectors, rtol=1e-5, atol=1e-6)


def test_a_fitter_may_go_on_after_a_fit():
    positives, negatives = states()
    fitter = streamed([(positives[:10], negatives[:10])], covariance=False)
    early = fitter.fit()
    late = fitter.update(positives[10:], negatives[10:]).fit()
    assert not torch.equal(early.vectors, late.vectors)
    assert torch.allclose(late.vectors, estimate_concept(positives, negatives, HOOKS).vectors, atol=1e-6)


def test_what_cannot_be_streamed_is_said():
    fitter = streamed([states()], covariance=False)
    with pytest.raises(ConceptError, match="cannot be streamed"):
        fitter.fit("logistic")
    with pytest.raises(ConceptError, match="covariance=True"):
        fitter.fit("lda")
    with pytest.raises(ConceptError, match="states themselves"):
        streamed([states()]).fit("lda", shrinkage="ledoit_wolf")
    with pytest.raises(ConceptError, match="at least 1 of each"):
        ConceptFitter(HOOKS).fit()
    with pytest.raises(ConceptError, match="does not fit what was seen"):
        fitter.update(torch.zeros(1, 2, 7), torch.zeros(1, 2, 7))
    with pytest.raises(ConceptError, match="cannot be merged"):
        fitter.merge(ConceptFitter(HOOKS, covariance=True))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"method": "svm"}, "choose one of mean_difference"),
        ({"positives": torch.zeros(0, 2, 4)}, "0 positive and 30 negative"),
        ({"positives": torch.zeros(1, 2, 4), "method": "lda"}, "at least 2"),
        ({"positives": torch.full((3, 2, 4), torch.nan)}, "positive states hold NaN"),
        ({"negatives": torch.full((3, 2, 4), torch.inf)}, "negative states hold NaN or infinity"),
        ({"negatives": torch.zeros(3, 2, 5)}, "agree in layers and width"),
        ({"hook_points": HOOKS[:1]}, "1 hook points were given"),
        ({"hook_points": (HOOKS[0], HOOKS[0])}, "different hook points"),
        ({"held_out": (torch.zeros(3, 2, 5), torch.zeros(3, 2, 5))}, "same hook points"),
        ({"held_out": (torch.zeros(0, 2, 4), torch.zeros(3, 2, 4))}, "at least one positive"),
    ],
)
def test_bad_states_are_named(change, match):
    positives, negatives = states()
    arguments = {"positives": positives, "negatives": negatives, "hook_points": HOOKS} | change
    with pytest.raises(ConceptError, match=match):
        estimate_concept(**arguments)


def test_classes_with_the_same_mean_are_named_by_hook_point():
    positives, negatives = states()
    positives[:, 1], negatives[:, 1] = 2.5, 2.5
    with pytest.raises(ConceptError, match=r"same mean at blocks\.1\.hook_resid_post,"):
        estimate_concept(positives, negatives, HOOKS)
