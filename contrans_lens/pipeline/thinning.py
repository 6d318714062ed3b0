"""Fewer items of a behaviour, taken evenly."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from contrans_lens.evaluation.behaviours import (
    BBQBias,
    Behaviour,
    Choices,
    Generations,
    PairedAnswers,
    StereoSetBias,
    Words,
)
from contrans_lens.texts import BBQ

_Item = TypeVar("_Item")


def thinned(behaviour: Behaviour, limit: int | None) -> Behaviour:
    """The behaviour with at most so many items, taken evenly over its list; all of them if None."""
    if limit is None:
        return behaviour
    match behaviour:
        case Generations():
            return replace(behaviour, prompts=_evenly(behaviour.prompts, limit), groups=())
        case PairedAnswers():
            return replace(behaviour, items=_evenly(behaviour.items, limit))
        case Choices() | Words():
            return replace(behaviour, items=_evenly(behaviour.items, limit))
        case BBQBias():
            return replace(behaviour, benchmark=_evenly_of_each_kind(behaviour.benchmark, limit))
        case StereoSetBias():
            benchmark = behaviour.benchmark
            return replace(behaviour, benchmark=replace(benchmark, items=_evenly(benchmark.items, limit)))
    return behaviour


def _evenly_of_each_kind(benchmark: BBQ, n: int) -> BBQ:
    """At most so many items; kinds of question alternate in the files, so that even steps could take one kind alone."""

    def kind(number: int) -> tuple[bool, bool, int]:
        role = benchmark.roles[number]
        [right, *_] = benchmark.items[number].correct
        return role.ambiguous, role.negative, role.signs[right]

    return benchmark.of(sorted(_evenly(sorted(range(len(benchmark)), key=kind), n)))


def _evenly(items: Sequence[_Item], n: int) -> tuple[_Item, ...]:
    if len(items) <= n:
        return tuple(items)
    return tuple(items[int(i * len(items) / n)] for i in range(n))
