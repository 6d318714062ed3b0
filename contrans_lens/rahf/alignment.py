"""Answers in the tokens of two models: which token of the one stands for a token of the other.

The answers are the same characters under both tokenizers, so tokens are matched by the characters that they end with.
With one tokenizer every token is matched with itself.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from contrans_lens.errors import RahfError
from contrans_lens.models import Fingerprint, HookedModel, fingerprint
from contrans_lens.models.plain import PlainModel
from contrans_lens.models.tokens import model_tokenizer
from contrans_lens.rahf.contrasts import bos_of
from contrans_lens.rahf.tokens import AnswerRow, Answers, Where, answer_texts, encoded_texts, tokenize_answers
from contrans_lens.texts import Preference, PreferenceSet

_PAIRS_AT_ONCE = 256  # the character offsets of a chunk take far more memory than its tokens


@dataclass(frozen=True, eq=False)
class Spelling:
    """How a model turns texts into tokens."""

    tokenizer: Any
    """A fast Hugging Face tokenizer."""
    bos: int | None
    """Id that every text begins with; None for none."""
    context: int
    """Most tokens in a text."""
    d_model: int
    """Width of the residual stream."""

    @classmethod
    def of(cls, model: HookedModel | PlainModel) -> "Spelling":
        """The conventions of a model, hooked or plain.

        Raises:
            ModelError: it has no tokenizer.
        """
        if isinstance(model, PlainModel):
            return cls(model.tokenizer, model.bos, model.context, model.d_model)
        return cls(model_tokenizer(model), bos_of(model), int(model.cfg.n_ctx), int(model.cfg.d_model))


@dataclass(frozen=True, eq=False)
class AlignedAnswers:
    """Answers as the target reads them, each of their tokens with one of the source's."""

    rows: tuple[AnswerRow, ...]
    """The target's rows under the plain prompt. An answer ends where its tokens have no partner any more."""
    partners: Int[Tensor, " token"]
    """For each token of these answers, row after row: the offset of its partner in the source's answer."""
    unmatched: int
    """Answer tokens of the target that were left out, because the source's answer was cut before them."""
    cut_answers: int
    """Rows whose answer lost tokens on its right in the target, by its own limits."""


def align_answers(
    preferences: PreferenceSet,
    source_rows: Sequence[AnswerRow],
    source: Spelling,
    target: Spelling,
    *,
    where: Where,
    answers: Answers = "chosen",
    max_length: int | None = None,
    max_answer_tokens: int | None = None,
) -> AlignedAnswers:
    """Tokenise answers for a target and match each of their tokens with one that the source has read.

    Args:
        preferences: the pairs that the source's rows were made of.
        source_rows: the source's rows under the plain prompt, cut or not.
        source: how the source tokenises.
        target: how the target tokenises.
        where: which positions are read; see :func:`match_tokens`.
        answers: which answers of a pair the rows hold.
        max_length: most tokens in a row of the target; None: its context.
        max_answer_tokens: most tokens of an answer in the target; None: what fits.

    Raises:
        RahfError: the rows were made of other preferences, other answers or by another tokenizer; an answer of the
            source was cut so short that none of the target's tokens has a partner; a limit that leaves no room.
    """
    n_rows = len(preferences.preferences) * (2 if answers == "both" else 1)
    if n_rows != len(source_rows):
        raise RahfError(
            f"the preferences give {n_rows} rows with answers={answers!r}; the source's differences have "
            f"{len(source_rows)}. Give the preferences and the answers that they were read on."
        )
    if max_length is not None and not 1 <= max_length <= target.context:
        raise RahfError(f"max_length is {max_length}; the target takes 1 to {target.context} tokens.")
    rows: list[AnswerRow] = []
    partners: list[Int[Tensor, " token"]] = []
    unmatched = cut_answers = 0
    for pairs in _chunks(preferences.preferences):
        given = tokenize_answers(
            target.tokenizer,
            pairs,
            bos=target.bos,
            max_length=max_length or target.context,
            answers=answers,
            max_answer_tokens=max_answer_tokens,
        )
        cut_answers += given.cut_answers
        for row, (begin, own, others) in zip(given.rows, _spelled(pairs, answers, source, target), strict=True):
            read = source_rows[len(rows)]
            _check_source(len(rows), read, own, source)
            found = match_tokens(own.stops, others.stops, begin, where)[: len(row.answer)]
            kept = bisect_left(found, len(read.answer))
            if not kept:
                raise RahfError(
                    f"the source's answer of row {len(rows)} was cut to {len(read.answer)} tokens, before the end of "
                    "the target's first; allow longer answers when the differences are read."
                )
            unmatched += len(found) - kept
            rows.append(AnswerRow(row.ids[: row.start + kept], row.start))
            partners.append(torch.tensor(found[:kept], dtype=torch.int32))
    return AlignedAnswers(tuple(rows), torch.cat(partners), unmatched, cut_answers)


def match_tokens(source: Sequence[int], target: Sequence[int], begin: int, where: Where) -> tuple[int, ...]:
    """The partner of each of the target's answer tokens, as an offset in the source's answer; never decreasing.

    A residual stands for all that was read up to its token, so partners are tokens that have read the same:

    * ``"answer"``: the source's token that covers the last character of the target's token. Where the two do not end
      together, the source has read a little more.
    * ``"predicting"``: offset i stands for the position that predicts token i. Its partner is the position that
      predicts the same character: the source's token that covers the first character of the target's token i. So the
      two positions that predict the first tokens belong together whatever these tokens are. Where tokens do not begin
      together, the source has read a little less.

    Where both have several tokens that end with one character (bytes of it), these are matched one by one, from the
    last back (``"answer"``) or from the first on (``"predicting"``), so that a tokenizer is always matched with itself
    token by token. Where the source has no token for what the target reads, such as white space at the end, the
    source's last one is taken.

    Args:
        source: for each token of the source's whole answer, the character of the text at which it ends, ascending.
        target: the same of the target.
        begin: the character at which the answer begins; no token of it ends there or before.
        where: which positions are matched.
    """
    partners = []
    for offset, stop in enumerate(target):
        # Tokens that end at one character share it.
        alike = bisect_left(target, stop), bisect_right(target, stop)
        if where == "answer":
            first, last = _sharing(source, bisect_left(source, stop))
            one_by_one = max(first, last - (alike[1] - 1 - offset))
        else:
            read = target[alike[0] - 1] if alike[0] else begin
            first, last = _sharing(source, bisect_right(source, read))
            one_by_one = min(last, first + offset - alike[0])
        partners.append(one_by_one if source[first] == stop else first)
    return tuple(partners)


@dataclass(frozen=True)
class _Spelled:
    """A whole text in the tokens of one model."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    stops: tuple[int, ...]
    """Characters at which the answer's tokens end."""


def _sharing(stops: Sequence[int], index: int) -> tuple[int, int]:
    """First and last of the tokens that end where this one does; beyond the end, the last one of all."""
    if index >= len(stops):
        return len(stops) - 1, len(stops) - 1
    return bisect_left(stops, stops[index]), bisect_right(stops, stops[index]) - 1


def _chunks(pairs: tuple[Preference, ...]) -> Iterator[tuple[Preference, ...]]:
    for begin in range(0, len(pairs), _PAIRS_AT_ONCE):
        yield pairs[begin : begin + _PAIRS_AT_ONCE]


def _spelled(
    pairs: Sequence[Preference], answers: Answers, source: Spelling, target: Spelling
) -> Iterator[tuple[int, _Spelled, _Spelled]]:
    """Where each answer begins, and its text in the tokens of both."""
    texts = list(answer_texts(pairs, answers, None))
    both = [encoded_texts(each.tokenizer, [text.prompt + text.answer for text in texts]) for each in (source, target)]
    for text, own, others in zip(texts, *both, strict=True):
        begin = len(text.prompt)
        yield begin, _parted(own, begin), _parted(others, begin)


def _parted(encoded: tuple[list[int], list[tuple[int, int]]], begin: int) -> _Spelled:
    ids, offsets = encoded
    start = sum(stop <= begin for _, stop in offsets)
    stops = tuple(stop for _, stop in offsets[start:])
    if any(later < earlier for earlier, later in pairwise(stops)):
        raise RahfError("a tokenizer gives the tokens of an answer out of the text's order; they cannot be matched.")
    return _Spelled(tuple(ids[:start]), tuple(ids[start:]), stops)


def _check_source(number: int, row: AnswerRow, spelled: _Spelled, source: Spelling) -> None:
    """Check that a row of the source was made of this text: both its parts may be cut, the prompt on its left."""
    prompt = row.ids[int(source.bos is not None) : row.start]
    if row.answer != spelled.answer[: len(row.answer)] or prompt != spelled.prompt[len(spelled.prompt) - len(prompt) :]:
        raise RahfError(
            f"row {number} of the source's differences holds other tokens than the source makes of this preference; "
            "give the preferences that they were read on, in the same order, and the model that read them."
        )


def known_fingerprint(model: HookedModel | PlainModel) -> Fingerprint | None:
    """The fingerprint of a hooked model; None of a plain one, which has no hooks to take it by."""
    return None if isinstance(model, PlainModel) else fingerprint(model)
