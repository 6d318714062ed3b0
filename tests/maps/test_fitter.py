"""Streaming maps equal batch maps; merging does not care for order."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contrans_lens.errors import MapError
from contrans_lens.maps import MAP_METHODS, AffineFitter, fit_map

quick = settings(max_examples=20, deadline=None)


def states(n=60, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, generator=generator, dtype=torch.float64) + 50
    y = x @ torch.randn(4, 6, generator=generator, dtype=torch.float64)
    return x, y + torch.randn(n, 6, generator=generator, dtype=torch.float64)


def fitted(parts):
    fitter = AffineFitter(4, 6)
    for x, y in parts:
        fitter.update(x, y)
    return fitter


@quick
@given(st.lists(st.integers(1, 59), max_size=5), st.sampled_from(MAP_METHODS))
def test_streaming_equals_batch(cuts, method):
    x, y = states()
    edges = [0, *sorted(cuts), 60]
    parts = [(x[a:b], y[a:b]) for a, b in pairwise(edges)]
    streamed = fitted(parts).fit(method, ridge=2.0, rank=3, dtype=torch.float64)
    batch = fit_map(x, y, method=method, ridge=2.0, rank=3)
    assert torch.allclose(streamed.weight, batch.weight, atol=1e-8)
    assert torch.allclose(streamed.bias, batch.bias, atol=1e-6)


@quick
@given(st.integers(1, 30), st.integers(31, 59))
def test_merging_is_associative_and_commutative(first, second):
    x, y = states()

    def part(a, b):
        return fitted([(x[a:b], y[a:b])])

    left = part(0, first).merge(part(first, second)).merge(part(second, 60))
    right = part(second, 60).merge(part(0, first).merge(part(first, second)))
    assert left.n == right.n == 60
    one, other = (f.fit(dtype=torch.float64) for f in (left, right))
    assert torch.allclose(one.weight, other.weight, atol=1e-9)
    assert one.ridge == pytest.approx(other.ridge)


def test_gcv_is_its_formula():
    x, y = states(30)
    xc, yc = (v.numpy() - v.numpy().mean(0) for v in (x, y))
    ridges = [0.01, 1.0, 5.0, 200.0]
    scores = []
    for alpha in ridges:
        hat = xc @ np.linalg.solve(xc.T @ xc + alpha * np.eye(4), xc.T)
        residual = np.square(yc - hat @ yc).sum()
        scores.append(residual / (1 - (1 + np.trace(hat)) / 30) ** 2)
    assert fitted([(x, y)]).fit(ridges=ridges).ridge == ridges[int(np.argmin(scores))]


def test_half_precision_batches_are_summed_in_float64():
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(3000, 4, generator=generator) + 100).bfloat16()
    y = (x.float() @ torch.randn(4, 6, generator=generator)).bfloat16()
    streamed = fitted([(a, b) for a, b in zip(x.split(7), y.split(7), strict=True)]).fit("ols")
    batch = fit_map(x.double(), y.double(), method="ols")
    assert torch.allclose(streamed.weight.double(), batch.weight, atol=1e-5)


def test_bad_batches_are_named_and_leave_the_fitter_as_it_was():
    x, y = states()
    fitter = fitted([(x, y)])
    with pytest.raises(MapError, match="does not fit a fitter of widths 4 -> 6"):
        fitter.update(y, x)
    with pytest.raises(MapError, match="same rows"):
        fitter.update(x[:3], y[:4])
    with pytest.raises(MapError, match="NaN"):
        fitter.update(x * torch.nan, y)
    with pytest.raises(MapError, match="different widths"):
        fitter.merge(AffineFitter(5, 6))
    assert fitter.update(x[:0], y[:0]).n == 60
    with pytest.raises(MapError, match="needs every text"):
        fitter.fit(ridge="loo")
    with pytest.raises(MapError, match="at least 2 texts"):
        AffineFitter(4, 6).fit()
    with pytest.raises(MapError, match="the same for every text"):
        fitted([(torch.full((5, 4), 3.3), y[:5])]).fit()
