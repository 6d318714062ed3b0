"""Checks of the numbers that solvers are made with."""

from math import inf, isfinite

from contrans_lens.errors import PaceError


def finite(name: str, number: float | int, low: float = -inf, high: float = inf) -> float:
    """The number as a float.

    Raises:
        PaceError: it is no number, not finite, or outside ``[low, high]``.
    """
    if isinstance(number, bool) or not isinstance(number, int | float) or not isfinite(number):
        raise PaceError(f"{name} is {number!r}; a finite number is expected.")
    if not low <= number <= high:
        raise PaceError(f"{name} is {number}; a number in [{low}, {high}] is expected.")
    return float(number)
