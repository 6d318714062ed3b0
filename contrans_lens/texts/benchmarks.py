"""Benchmarks: choice items read from a published file, and what was wrong with the file.

Each file format has its own reader (:mod:`~contrans_lens.texts.truthfulqa`, :mod:`~contrans_lens.texts.mmlu`,
:mod:`~contrans_lens.texts.bbq`, :mod:`~contrans_lens.texts.stereoset`). A row that lacks a field or holds a value of
the wrong kind is an error that names file and row. Flaws of the texts themselves (an answer given twice, a stray
semicolon) are put right or the item is left out, and each is listed in :attr:`Benchmark.problems`.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from contrans_lens.errors import TextError
from contrans_lens.texts.choices import ChoiceItem
from contrans_lens.texts.items import checked_text, same_text
from contrans_lens.texts.templates import Template

QUESTION_TEMPLATE = Template("Question: {question}\nAnswer:", name="question")
"""The prompt of questions whose answers are continuations."""


@dataclass(frozen=True)
class Problem:
    """One flaw of a file."""

    row: int
    """Number of the row; the first row of data is 1."""
    what: str
    """The kind of flaw, such as ``"repeated answer"``."""
    detail: str
    """The text it is about."""
    dropped: bool = False
    """Whether the whole item was left out; otherwise it was put right or is harmless."""


@dataclass(frozen=True)
class Benchmark:
    """Items of a benchmark file, and what was wrong with it."""

    name: str
    """Name of the benchmark, or of the file."""
    items: tuple[ChoiceItem, ...]
    """One for each row that could be used, in the file's order."""
    problems: tuple[Problem, ...] = ()
    """Flaws that were put right, and rows that were left out."""

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[ChoiceItem]:
        return iter(self.items)

    @property
    def problem_counts(self) -> dict[str, int]:
        """How many problems there are of each kind, the most frequent first."""
        return dict(Counter(problem.what for problem in self.problems).most_common())

    @property
    def dropped(self) -> int:
        """How many items were left out."""
        return len({problem.row for problem in self.problems if problem.dropped})


def continuations(prompt: str, answers: Sequence[str]) -> tuple[str, ...]:
    """Answers as continuations of a prompt: with a space before each, unless the prompt ends in white space."""
    space = "" if prompt[-1:].isspace() else " "
    return tuple(space + answer.strip() for answer in answers)


def repeated(answers: Sequence[str]) -> str | None:
    """The first answer that was given before, or None; case matters ("Aa" is not "AA"), white space does not."""
    seen: set[str] = set()
    for answer in answers:
        if same_text(answer) in seen:
            return answer
        seen.add(same_text(answer))
    return None


def checked_index(value: object, n: int, what: str) -> int:
    """A whole number from 0 to ``n - 1``, which a csv cell may hold as digits.

    Raises:
        TextError: it is not one.
    """
    index = int(value) if isinstance(value, str) and value.strip().isdecimal() else value
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < n:
        raise TextError(f"{what} is {value!r}; a whole number from 0 to {n - 1} was expected.")
    return index


def checked_texts(value: Any, what: str, n: int | None = None) -> list[str]:
    """A list of texts that are not blank, ``n`` of them if given.

    Raises:
        TextError: it is not one.
    """
    if not isinstance(value, list | tuple) or (n is not None and len(value) != n):
        expected = "a list of texts" if n is None else f"a list of {n} texts"
        raise TextError(f"{what} is {str(value)[:60]!r}; {expected} was expected.")
    return [checked_text(text, f"{what} {index}") for index, text in enumerate(value)]
