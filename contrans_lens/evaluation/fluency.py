"""Fluency of generated text: repetition, loops, compressibility, length. Every measure is defined for every text.

A steered model that falls apart says the same thing again and again, or nothing. These measures see that without a
second model. None of them sees a fluent text about the wrong thing; empty generations look perfect to all but
``empty`` and ``length``, so read those two first.
"""

import re
import zlib
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from contrans_lens.errors import EvaluationError

_WORD = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")


@dataclass(frozen=True)
class Loop:
    """A stretch of tokens that repeats with a fixed period."""

    start: int
    """First token of the stretch."""
    period: int
    """Tokens after which it repeats; 0 where there is no loop."""
    length: int
    """Tokens in the stretch, the first turn included; 0 where there is no loop."""


@dataclass(frozen=True)
class Fluency:
    """The measures of one text."""

    length: int
    """Tokens, or words where no tokens were given."""
    empty: bool
    """Whether there is no token, or nothing but white space in the text."""
    repetition: float
    """Share of repeated n-grams, 0 to 1 (:func:`repetition`)."""
    distinct: float
    """Share of different tokens, 0 to 1 (:func:`distinct` with n = 1); 1 for an empty text."""
    loop: float
    """Share of the text that is a loop at its end, 0 to 1 (:func:`trailing_loop`)."""
    longest_loop: float
    """Share of the text that is its longest loop, wherever it stands, 0 to 1 (:func:`longest_loop`)."""
    compression: float
    """How many times smaller the text gets, 1 or more (:func:`compression_ratio`)."""


def split_words(text: str) -> list[str]:
    """Words and punctuation marks of a text, in lower case: the tokens of a text that comes without any."""
    return _WORD.findall(text.lower())


def distinct(tokens: Sequence[Hashable], n: int = 1) -> float:
    """Different n-grams divided by all n-grams, in (0, 1]; 1 for a text shorter than ``n``.

    Args:
        tokens: token ids or words.
        n: length of the n-grams.

    Raises:
        EvaluationError: ``tokens`` is a string, or ``n`` is less than 1.
    """
    tokens = _checked(tokens)
    if n < 1:
        raise EvaluationError(f"n={n}; an n-gram has at least one token.")
    grams = [tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 1.0


def repetition(tokens: Sequence[Hashable], n: int = 4) -> float:
    """Share of repeated n-grams ``1 - distinct / total``, in [0, 1); 0 for a text shorter than ``n``.

    With n = 4 it is *seq-rep-4* of Welleck et al. 2020 (arXiv 1908.04319).

    Args:
        tokens: token ids or words.
        n: length of the n-grams.

    Raises:
        EvaluationError: as :func:`distinct`.
    """
    return 1.0 - distinct(tokens, n)


def trailing_loop(tokens: Sequence[Hashable], *, turns: int = 2) -> Loop:
    """The longest stretch at the end of a text that repeats with a fixed period.

    Of equally long ones that of the shortest period. ``tokens[t] == tokens[t - period]`` holds for all of the stretch
    but its first turn; a last turn may be cut off.

    Args:
        tokens: token ids or words.
        turns: how many full turns make a loop.

    Raises:
        EvaluationError: ``tokens`` is a string, or ``turns`` is less than 2.
    """
    return _loops(tokens, turns)[0]


def longest_loop(tokens: Sequence[Hashable], *, turns: int = 2) -> Loop:
    """As :func:`trailing_loop`, wherever it stands; of equally long ones the shortest period, then the first.

    Raises:
        EvaluationError: as :func:`trailing_loop`.
    """
    return _loops(tokens, turns)[1]


def compression_ratio(text: str, *, reference: str | None = None) -> float:
    """Bytes of a text (UTF-8) divided by its bytes after DEFLATE, 1 or more; 1 for an empty text.

    The frame that zlib puts around its output (6 bytes) is left off, and a text that does not get smaller counts as
    1: both would otherwise make short texts look strange. What remains is that any text compresses better the longer
    it is (about 1 for a sentence, 2 for a page). Compare texts of the same length, or give a ``reference``: the ratio
    is then divided by that of the reference's beginning of the same number of bytes, and 1 means "as usual".

    Args:
        text: any text.
        reference: ordinary text, at least as long in bytes as ``text``.

    Returns:
        The ratio. With a reference it may lie below 1.

    Raises:
        EvaluationError: the reference is shorter than the text.
    """
    data = text.encode("utf-8", "surrogatepass")
    if reference is None:
        return _ratio(data)
    other = reference.encode("utf-8", "surrogatepass")
    if len(other) < len(data):
        raise EvaluationError(
            f"the reference has {len(other)} bytes and the text {len(data)}; give a reference at least as long."
        )
    return _ratio(data) / _ratio(other[: len(data)])


def fluency(text: str, tokens: Sequence[Hashable] | None = None, *, n: int = 4) -> Fluency:
    """All measures of one text.

    Args:
        text: the generated text, without the prompt.
        tokens: its token ids (without padding or end-of-text); words of the text if None.
        n: length of the n-grams of ``repetition``.

    Raises:
        EvaluationError: ``tokens`` is a string, or ``n`` is less than 1.
    """
    found = split_words(text) if tokens is None else _checked(tokens)
    trailing, longest = _loops(found, 2)
    return Fluency(
        length=len(found),
        empty=not found or not text.strip(),
        repetition=repetition(found, n),
        distinct=distinct(found),
        loop=trailing.length / max(len(found), 1),
        longest_loop=longest.length / max(len(found), 1),
        compression=compression_ratio(text),
    )


def fluency_columns(
    texts: Sequence[str], tokens: Sequence[Sequence[Hashable]] | None = None, *, n: int = 4
) -> dict[str, Float[Tensor, "text"]]:
    """All measures of many texts as columns, named like the fields of :class:`Fluency`.

    Means are plain: ``columns["length"].mean()`` is the mean length in tokens, ``columns["empty"].mean()`` the share of
    empty generations.

    Args:
        texts: generated texts, without their prompts.
        tokens: their token ids; words of the texts if None.
        n: length of the n-grams of ``repetition``.

    Returns:
        For each measure ``[text]``, float64, free of NaN.

    Raises:
        EvaluationError: no texts, another number of token lists than texts, or as :func:`fluency`.
    """
    if not texts:
        raise EvaluationError("there are no texts to measure.")
    if tokens is not None and len(tokens) != len(texts):
        raise EvaluationError(f"{len(texts)} texts need {len(texts)} lists of tokens; got {len(tokens)}.")
    rows = [asdict(fluency(text, None if tokens is None else tokens[number], n=n)) for number, text in enumerate(texts)]
    return {name: torch.tensor([float(row[name]) for row in rows], dtype=torch.float64) for name in rows[0]}


def _checked(tokens: Sequence[Hashable]) -> Sequence[Hashable]:
    """The tokens, if they are not one string, whose letters would be counted."""
    if isinstance(tokens, str | bytes):
        raise EvaluationError("the tokens are one string; give a list of token ids or words (split_words makes one).")
    return tokens


def _ratio(data: bytes) -> float:
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)  # negative: no header and no checksum
    packed = len(packer.compress(data)) + len(packer.flush())
    return max(1.0, len(data) / packed)


def _loops(tokens: Sequence[Hashable], turns: int) -> tuple[Loop, Loop]:
    """The longest loop at the end, and the longest anywhere."""
    tokens = _checked(tokens)
    if turns < 2:
        raise EvaluationError(f"turns={turns}; a loop has at least two turns.")
    numbers: dict[Hashable, int] = {}
    ids = np.array([numbers.setdefault(token, len(numbers)) for token in tokens], dtype=np.int64)
    trailing = longest = Loop(len(ids), 0, 0)
    for period in range(1, len(ids) // turns + 1):
        repeats = ids[period:] == ids[:-period]
        at_end = len(repeats) if repeats.all() else int(np.argmin(repeats[::-1]))
        if at_end >= (turns - 1) * period and at_end + period > trailing.length:
            trailing = Loop(len(ids) - at_end - period, period, at_end + period)
        start, run = _longest_run(repeats)
        if run >= (turns - 1) * period and run + period > longest.length:
            longest = Loop(start, period, run + period)
    return trailing, longest


def _longest_run(flags: Bool[np.ndarray, "place"]) -> tuple[int, int]:
    """Start and length of the longest run of True; the first of equally long ones."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    starts, lengths = edges[::2], edges[1::2] - edges[::2]
    if not len(lengths):
        return 0, 0
    at = int(lengths.argmax())
    return int(starts[at]), int(lengths[at])
