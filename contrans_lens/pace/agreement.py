"""Agreement of two groupings of the same concepts: clusters against topics, or one clustering against another."""

from collections import Counter
from collections.abc import Sequence

from jaxtyping import Int
from torch import Tensor

from contrans_lens.errors import PaceError

Labels = Sequence[object] | Int[Tensor, " item"]
"""A grouping: the group of each thing."""


def adjusted_rand_index(first: Labels, second: Labels) -> float:
    """Agreement of two groupings of the same things: 1 when they are equal, 0 on average for random ones.

    Hubert and Arabie (1985): pairs that are together in both, less what chance gives, over the most there can be.

    Raises:
        PaceError: they have different lengths, or none.
    """
    cells, rows, columns = _contingency(first, second)
    together, in_first, in_second = (sum(n * (n - 1) / 2 for n in counts.values()) for counts in (cells, rows, columns))
    pairs = len(first) * (len(first) - 1) / 2
    expected = in_first * in_second / pairs if pairs else 0.0
    most = (in_first + in_second) / 2
    return 1.0 if most == expected else (together - expected) / (most - expected)


def purity(labels: Labels, topics: Labels) -> float:
    """Share of concepts that have the commonest topic of their cluster; 1 also when each is alone in its cluster.

    Raises:
        PaceError: they have different lengths, or none.
    """
    cells, rows, _ = _contingency(labels, topics)
    return sum(max(n for (label, _), n in cells.items() if label == row) for row in rows) / len(labels)


def _contingency(first: Labels, second: Labels) -> tuple[Counter, Counter, Counter]:
    if len(first) != len(second) or not len(first):
        raise PaceError(f"two groupings of the same things are compared; these are of {len(first)} and {len(second)}.")
    first, second = (each.tolist() if isinstance(each, Tensor) else list(each) for each in (first, second))
    return Counter(zip(first, second, strict=True)), Counter(first), Counter(second)
