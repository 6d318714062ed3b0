"""Rows of a comparison, from per-item values: every method and column with its paired intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from contrans_lens.evaluation import Interval, SolvedStrength, bootstrap_draws_ci, rank_p_value
from contrans_lens.evaluation.behaviours import Measurement
from contrans_lens.tradeoff.comparison_result import UNSTEERED_ROW, ComparisonRow
from contrans_lens.tradeoff.methods import Methods


class ComparisonRows:
    """Rows of every method and column, from the per-item values."""

    def __init__(
        self,
        sides: Methods,
        measured: Mapping[str, Measurement],
        worded: Mapping[tuple[str, str], Measurement],
        strengths: Sequence[SolvedStrength | None],
        level: float,
        seed: int,
        both: bool = True,
    ) -> None:
        self._sides, self._measured, self._worded = sides, measured, worded
        self._strengths, self._level, self._seed = strengths, level, seed
        self._both = both

    def all(self) -> list[ComparisonRow]:
        """Unsteered, then every method, for each column of each behaviour."""
        rows = []
        for behaviour, found in self._measured.items():
            for column in found.columns:
                base = found.column(column)[0]
                known = self._reference(found, column)
                apart = None if self._sides.reference == UNSTEERED_ROW else -known[None]
                rows.append(self._made(UNSTEERED_ROW, found, base, column, base[None], base[None], apart))
                rows += [self._row(name, found, base, column, known) for name in self._sides.numbers]
                rows += [
                    self._word_row(name, self._worded[name, behaviour], base, column, known)
                    for name in self._sides.cues
                    if column in self._worded[name, behaviour].columns
                ]
        return rows

    def _row(
        self, name: str, found: Measurement, base: Float[Tensor, " item"], column: str, known: Float[Tensor, " item"]
    ) -> ComparisonRow:
        numbers = self._sides.numbers[name]
        values = found.column(column)
        plus, minus = (values[[1 + 2 * number + sign for number in numbers]] for sign in (0, 1))
        apart = None if self._sides.reference in (name, UNSTEERED_ROW) else plus - minus - known
        row = self._made(name, found, base, column, plus, minus, apart)
        solved = [each for number in numbers if (each := self._strengths[number]) is not None]
        if solved:
            mean = sum(each.strength for each in solved) / len(solved)
            row = replace(row, strength=mean, reached=all(each.reached for each in solved))
        if len(numbers) > 1 and self._sides.reference != UNSTEERED_ROW:
            effects = (plus - minus).mean(1)
            # A random direction has no sign of its own.
            rank = rank_p_value(effects.tolist(), float(known.mean()), two_sided=True)
            row = replace(row, draws=tuple(effects.tolist()), p_value=rank)
        return row

    def _word_row(
        self, name: str, found: Measurement, base: Float[Tensor, " item"], column: str, known: Float[Tensor, " item"]
    ) -> ComparisonRow:
        plus, minus = found.column(column)[:1], found.column(column)[1:]
        apart = None if self._sides.reference == UNSTEERED_ROW else plus - minus - known
        return self._made(name, found, base, column, plus, minus, apart)

    def _reference(self, found: Measurement, column: str) -> Float[Tensor, " item"]:
        """The reference's effect; zero where that is the unsteered model."""
        values = found.column(column)
        if self._sides.reference == UNSTEERED_ROW:
            return torch.zeros_like(values[0])
        [place] = self._sides.numbers[self._sides.reference]
        return values[1 + 2 * place] - values[2 + 2 * place]

    def _made(
        self,
        name: str,
        found: Measurement,
        base: Float[Tensor, " item"],
        column: str,
        plus: Float[Tensor, "draw item"],
        minus: Float[Tensor, "draw item"],
        apart: Float[Tensor, "draw item"] | None,
    ) -> ComparisonRow:
        return ComparisonRow(
            method=name,
            n_draws=len(plus),
            behaviour=found.behaviour,
            column=column,
            is_primary=column == found.primary,
            plus=self._interval(found, plus),
            minus=self._interval(found, minus),
            effect=self._interval(found, plus - minus),
            change=self._interval(found, (plus + minus) / 2 - base if self._both else plus - base),
            difference=None if apart is None else self._interval(found, apart),
        )

    def _interval(self, found: Measurement, values: Float[Tensor, "draw item"]) -> Interval:
        """Over items, and over draws where there are several."""
        if len(values) > 1:
            return bootstrap_draws_ci(values, found.groups, level=self._level, seed=self._seed)
        one = Measurement(found.behaviour, {found.primary: values}, found.primary, found.groups, found.weights)
        return one.intervals(level=self._level, seed=self._seed)[0]
