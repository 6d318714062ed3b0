"""Texts made ready for the model: tokenised once, positions resolved, longest first, kept compactly.

Padded batches are cut from flat arrays with a handful of tensor operations, so nothing per text happens in
the loop that runs the model.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from contrans_lens.errors import CaptureError, TextError
from contrans_lens.models import HookedModel, TokenBatch, tokenize
from contrans_lens.residuals.positions import ReadPositions, ragged_ranges

PaddingSide = Literal["left", "right"]
Truncate = Literal["error", "left", "right"]

_TEXTS_AT_ONCE = 256
"""Texts tokenised together; character offsets are dropped after each chunk because they take most of the memory."""


@dataclass(frozen=True)
class PreparedTexts:
    """Tokens and resolved spans of all texts; "sorted" means longest first, ties in the given order."""

    order: Int[Tensor, "text"]
    """Index of each sorted text in the given list."""
    length: Int[Tensor, "text"]
    """Real tokens of each sorted text, descending."""
    tokens: Int[Tensor, "token"]
    """Real tokens of the texts in the given order, one after the other (int32)."""
    token_start: Int[Tensor, "text"]
    """Where each sorted text begins in ``tokens``."""
    example_end: Int[Tensor, "text"]
    """Number of examples of the sorted texts up to and including this one."""
    example: Int[Tensor, "example"]
    """Index of each sorted example in the given order of texts and positions."""
    start: Int[Tensor, "example"]
    """First token of each sorted example, counted in its text's real tokens."""
    stop: Int[Tensor, "example"]
    """One past its last token."""
    text_of_example: Int[Tensor, "example"]
    """Index in the given list of each sorted example's text."""
    truncated: Int[Tensor, "text"]
    """Tokens cut from each text, in the given order."""
    one_each: bool
    """Whether every text gives exactly one example."""
    bos: bool
    """Whether each text begins with BOS."""
    pad_token: int
    """Id that fills padding."""

    @property
    def n_texts(self) -> int:
        """Number of texts."""
        return len(self.order)

    @property
    def n_examples(self) -> int:
        """Number of examples: one for each text, or several."""
        return len(self.example)

    def examples_before(self, text: int) -> int:
        """Number of examples of the sorted texts before ``text``."""
        return int(self.example_end[text - 1]) if text else 0

    def batch(self, begin: int, end: int, padding_side: PaddingSide) -> TokenBatch:
        """Padded batch of the sorted texts ``begin .. end - 1``; without offsets, which nothing needs any more."""
        length = self.length[begin:end]
        width = int(length[0])
        column = torch.arange(width)
        within = column if padding_side == "right" else column - (width - length[:, None])
        mask = (within >= 0) & (within < length[:, None])
        position = (self.token_start[begin:end, None] + within).clamp(0, len(self.tokens) - 1)
        tokens = self.tokens[position].to(torch.int64).masked_fill(~mask, self.pad_token)
        return TokenBatch(
            tokens=tokens,
            mask=mask,
            bos=self.bos,
            padding_side=padding_side,
            offsets=(),
            truncated=(),
        )


def prepare_texts(
    model: HookedModel,
    texts: Sequence[str],
    positions: ReadPositions,
    *,
    truncate: Truncate = "error",
    max_length: int | None = None,
    prepend_bos: bool | None = None,
) -> PreparedTexts:
    """Tokenise all texts once and resolve where they are read.

    Raises:
        TextError: there are no texts, one is empty, or one is too long and ``truncate`` is ``"error"``.
        CaptureError: a text has no token at the position.
    """
    tokens, lengths, truncated, rows, starts, stops = [], [], [], [], [], []
    bos: bool | None = None
    pad_token = 0
    for first in range(0, len(texts), _TEXTS_AT_ONCE):
        chunk = list(texts[first : first + _TEXTS_AT_ONCE])
        try:
            batch = tokenize(
                model,
                chunk,
                padding_side="right",
                truncate=truncate,
                max_length=max_length,
                prepend_bos=prepend_bos,
            )
        except TextError as error:
            if first == 0:
                raise
            raise TextError(f"among the texts from {first} on, counted from there: {error}") from error
        spans = positions.resolve(batch, chunk, first)
        tokens.append(batch.tokens[batch.mask].to("cpu", torch.int32))
        lengths.append(batch.lengths.to("cpu", torch.int64))
        truncated.append(torch.tensor(batch.truncated, dtype=torch.int64))
        rows.append(spans.row.to("cpu") + first)
        starts.append(spans.start.to("cpu"))
        stops.append(spans.stop.to("cpu"))
        if bos is not None and bos != batch.bos:
            raise TextError("some texts begin with the BOS token and others do not; write it in all or in none.")
        bos = batch.bos
        if not batch.mask.all():
            pad_token = int(batch.tokens[~batch.mask][0])
    row = torch.cat(rows)
    if not len(row):
        raise CaptureError("the positions are on no token of any text; look at them.")
    return _sort(
        tokens=torch.cat(tokens),
        length=torch.cat(lengths),
        truncated=torch.cat(truncated),
        row=row,
        start=torch.cat(starts),
        stop=torch.cat(stops),
        bos=bool(bos),
        pad_token=pad_token,
    )


def _sort(
    *,
    tokens: Int[Tensor, "token"],
    length: Int[Tensor, "text"],
    truncated: Int[Tensor, "text"],
    row: Int[Tensor, "example"],
    start: Int[Tensor, "example"],
    stop: Int[Tensor, "example"],
    bos: bool,
    pad_token: int,
) -> PreparedTexts:
    """Bring texts, and their examples with them, into descending order of length."""
    # Longest first: if memory is short it shows in the first batch, before any work is lost, and an ETA errs
    # upwards.
    order = torch.argsort(length, descending=True, stable=True)
    count = torch.bincount(row, minlength=len(length))
    _, example = ragged_ranges((count.cumsum(0) - count)[order], count[order])
    return PreparedTexts(
        order=order,
        length=length[order],
        tokens=tokens,
        token_start=(length.cumsum(0) - length)[order],
        example_end=count[order].cumsum(0),
        example=example,
        start=start[example],
        stop=stop[example],
        text_of_example=row[example],
        truncated=truncated,
        one_each=bool((count == 1).all()),
        bos=bos,
        pad_token=pad_token,
    )


def text_hash(texts: Sequence[str]) -> str:
    """SHA-256 of the texts in order; two lists share it only when they are equal."""
    digest = hashlib.sha256()
    for text in texts:
        encoded = text.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return digest.hexdigest()
