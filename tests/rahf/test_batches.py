"""Batches are planned: full, fair, of like lengths, and weighted by what they hold."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contrans_lens.rahf.batches import loss_factors, plan_batches


@given(
    tokens=st.lists(st.integers(1, 50), min_size=1, max_size=40),
    batch_size=st.integers(1, 9),
    n_batches=st.integers(1, 40),
    seed=st.integers(0, 5),
)
@settings(max_examples=60, deadline=None)
def test_batches_are_full_and_use_every_example_equally(
    tokens: list[int], batch_size: int, n_batches: int, seed: int
) -> None:
    planned = plan_batches(tokens, batch_size, n_batches, seed)
    assert [len(batch) for batch in planned] == [batch_size] * n_batches
    uses = Counter(index for batch in planned for index in batch)
    counts = [uses[index] for index in range(len(tokens))]
    assert max(counts) - min(counts) <= 1
    assert planned == plan_batches(tokens, batch_size, n_batches, seed)


def test_another_seed_gives_another_order_and_like_lengths_share_a_batch() -> None:
    rng = random.Random(1)
    tokens = [rng.randint(1, 200) for _ in range(500)]
    planned = plan_batches(tokens, 8, 200, 0)
    assert planned != plan_batches(tokens, 8, 200, 1)
    padded = sum(8 * max(tokens[index] for index in batch) for batch in planned)
    real = sum(tokens[index] for batch in planned for index in batch)
    assert padded < 1.25 * real  # batches drawn at random pad by three quarters


@given(st.lists(st.integers(1, 50), min_size=6, max_size=6), st.sampled_from([1, 2, 3, 6]))
def test_factors_make_the_mean_over_batches_one_by_weights(weights: list[int], per_update: int) -> None:
    factors = loss_factors(weights, per_update)
    losses = [float(number) for number in range(6)]
    for at in range(0, 6, per_update):
        update = range(at, at + per_update)
        mean = sum(factors[number] * losses[number] for number in update) / per_update
        assert mean == pytest.approx(sum(weights[n] * losses[n] for n in update) / sum(weights[n] for n in update))
    assert per_update > 1 or factors == [1.0] * 6
