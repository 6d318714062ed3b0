import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from contrans_lens.errors import PaceError
from contrans_lens.pace.agreement import adjusted_rand_index, purity


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40))
def test_agreement_equals_another_library(pairs):
    metrics = pytest.importorskip("sklearn.metrics")
    first, second = (list(each) for each in zip(*pairs, strict=True))
    assert adjusted_rand_index(first, second) == pytest.approx(metrics.adjusted_rand_score(first, second), abs=1e-12)
    assert purity(first, second) == pytest.approx(
        metrics.cluster.contingency_matrix(first, second).max(1).sum() / len(first)
    )


def test_agreement_takes_tensors_and_names():
    labels = torch.tensor([0, 0, 1, 1])
    assert adjusted_rand_index(labels, ["a", "a", "b", "b"]) == 1
    assert purity(labels, ["a", "b", "b", "b"]) == 0.75
    with pytest.raises(PaceError, match="of 4 and 2"):
        purity(labels, ["a", "b"])
    with pytest.raises(PaceError):
        adjusted_rand_index([], [])
