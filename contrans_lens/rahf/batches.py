"""Which examples a training sees together, planned for the whole run before it begins."""

import random
from collections.abc import Sequence

_WINDOW = 8  # batches that are sorted by length together: longer ones pad less, but shuffle less


def plan_batches(tokens: Sequence[int], batch_size: int, n_batches: int, seed: int) -> list[tuple[int, ...]]:
    """The batches of a whole run, as indices of examples.

    The examples come in rounds, each of them once in a round. Examples of about one length share a batch, so that less
    is padded: they are sorted within windows of 8 batches, and the batches of a window are shuffled. Where one round
    ends and the next begins within a window, an example may come twice there, and in a small set even in one batch.

    Args:
        tokens: length of each example.
        batch_size: examples in a batch.
        n_batches: batches in the run.
        seed: another seed, another order.
    """
    rng = random.Random(f"batches:{seed}")
    order: list[int] = []
    while len(order) < batch_size * n_batches:
        order += rng.sample(range(len(tokens)), len(tokens))
    planned: list[tuple[int, ...]] = []
    while len(planned) < n_batches:
        begin = len(planned) * batch_size
        stop = min(begin + _WINDOW * batch_size, n_batches * batch_size)
        window = sorted(order[begin:stop], key=lambda index: tokens[index])
        batches = [tuple(window[at : at + batch_size]) for at in range(0, len(window), batch_size)]
        rng.shuffle(batches)
        planned += batches
    return planned


def loss_factors(weights: Sequence[int], per_update: int) -> list[float]:
    """What makes the plain mean over the batches of an update, which Trainer takes, one by the batches' weights.

    Args:
        weights: what the examples of each batch count together, in order.
        per_update: batches of one update, of all processes.
    """
    updates = [weights[at : at + per_update] for at in range(0, len(weights), per_update)]
    return [len(update) * weight / sum(update) for update in updates for weight in update]
