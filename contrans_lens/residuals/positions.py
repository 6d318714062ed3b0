"""Where in a text the residual stream is read, as data.

A position is resolved once, at tokenisation, into *token spans*: for each example the text it belongs to and
the half-open range of that text's real tokens it covers. Tokens are counted from the first real token (BOS,
where the row has one), so a span knows nothing of padding; the padding side enters only where columns are
computed.

An example is a span that covers one token (read as it is) or several (their mean). Most positions give one
example for each text; :class:`EachToken` and :class:`TokenEnds` give several.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from contrans_lens.errors import CaptureError
from contrans_lens.models import TokenBatch

CharRange = tuple[int, int]
"""Half-open range of characters of a text."""


@dataclass(frozen=True)
class TokenSpans:
    """Resolved positions: example ``i`` covers tokens ``start[i] .. stop[i] - 1`` of row ``row[i]``."""

    row: Int[Tensor, "example"]
    """Row of the batch, ascending."""
    start: Int[Tensor, "example"]
    """First token, counted from the row's first real token."""
    stop: Int[Tensor, "example"]
    """One past the last token."""

    def columns(self, batch: TokenBatch) -> Int[Tensor, "example"]:
        """Column of each span's first token in the padded batch."""
        return self.start + left_padding(batch)[self.row]


def left_padding(batch: TokenBatch) -> Int[Tensor, "batch"]:
    """Number of padding tokens before each row's first real token."""
    if batch.padding_side == "right":
        return torch.zeros_like(batch.lengths)
    return batch.tokens.shape[1] - batch.lengths


@dataclass(frozen=True)
class ReadPositions(ABC):
    """Base of every position; frozen dataclasses that print, compare and turn into JSON and back."""

    kind: ClassVar[str]
    """Name in :meth:`to_dict`."""
    needs_offsets: ClassVar[bool] = True
    """Whether character offsets of the tokens are read."""

    @abstractmethod
    def resolve(self, batch: TokenBatch, texts: Sequence[str], first: int = 0) -> TokenSpans:
        """Resolve to token spans, rows ascending.

        Args:
            batch: the tokens of ``texts``, one row each.
            texts: the texts of the batch.
            first: index of ``texts[0]`` in the whole list; used in messages and for per-text positions.

        Raises:
            CaptureError: a text has no token at the position; the message gives its index.
        """

    def weights(self, batch: TokenBatch, texts: Sequence[str]) -> Float[Tensor, "example pos"]:
        """Pooling weights over the padded positions; each row sums to one.

        ``weights @ residual[row]`` is the pooled residual; with one example for each text the rows are the
        batch's.

        Raises:
            CaptureError: a text has no token at the position.
        """
        spans = self.resolve(batch, texts)
        begin = spans.columns(batch)[:, None]
        end = begin + (spans.stop - spans.start)[:, None]
        column = torch.arange(batch.tokens.shape[1], device=begin.device)
        inside = (column >= begin) & (column < end)
        return inside.to(torch.float32) / (end - begin)

    def to_dict(self) -> dict[str, Any]:
        """Plain data with a ``kind``; :func:`positions_from_dict` reads it back."""
        return {"kind": self.kind, **asdict(self)}


@dataclass(frozen=True)
class LastToken(ReadPositions):
    """The last real token of each text: where a causal model has read all of it."""

    kind: ClassVar[str] = "last_token"
    needs_offsets: ClassVar[bool] = False

    def resolve(self, batch: TokenBatch, texts: Sequence[str], first: int = 0) -> TokenSpans:
        """See :meth:`ReadPositions.resolve`."""
        lengths = batch.lengths
        return TokenSpans(torch.arange(len(lengths), device=lengths.device), lengths - 1, lengths)


@dataclass(frozen=True)
class MeanOver(ReadPositions):
    """Mean over a slice of each text's tokens, counted as Python slices are."""

    span: tuple[int, int | None] = (0, None)
    """``(start, stop)`` in tokens of the text; negative counts from the end; ``(0, None)`` is the whole text."""
    include_bos: bool = False
    """Whether BOS is token 0. Its massive activations drown everything else, so by default it is left out."""
    kind: ClassVar[str] = "mean_over"
    needs_offsets: ClassVar[bool] = False

    def resolve(self, batch: TokenBatch, texts: Sequence[str], first: int = 0) -> TokenSpans:
        """See :meth:`ReadPositions.resolve`."""
        lengths = batch.lengths
        skipped = int(batch.bos and not self.include_bos)
        own = lengths - skipped
        start = _slice_bound(self.span[0], own)
        stop = own if self.span[1] is None else _slice_bound(self.span[1], own)
        empty = torch.nonzero(stop <= start)
        if len(empty):
            row = int(empty[0])
            raise CaptureError(
                f"text {first + row} has {int(own[row])} tokens and none in the span {self.span}; "
                "choose a span that every text has, or leave the text out."
            )
        return TokenSpans(torch.arange(len(own), device=own.device), start + skipped, stop + skipped)


@dataclass(frozen=True)
class EachToken(ReadPositions):
    """Every real token of every text is an example of its own (for moments of the whole stream)."""

    include_bos: bool = False
    """Whether BOS is one of them."""
    kind: ClassVar[str] = "each_token"
    needs_offsets: ClassVar[bool] = False

    def resolve(self, batch: TokenBatch, texts: Sequence[str], first: int = 0) -> TokenSpans:
        """See :meth:`ReadPositions.resolve`."""
        skipped = int(batch.bos and not self.include_bos)
        count = batch.lengths - skipped
        empty = torch.nonzero(count <= 0)
        if len(empty):
            raise CaptureError(f"text {first + int(empty[0])} has no token beside BOS; leave it out.")
        row, start = ragged_ranges(torch.full_like(count, skipped), count)
        return TokenSpans(row, start, start + 1)


@dataclass(frozen=True)
class RelativeTo(ReadPositions):
    """One token, counted from the one that holds an edge of a marker string.

    ``RelativeTo("Answer:")`` is the token in which the last "Answer:" ends; ``offset=-1`` is the token before
    it.
    """

    marker: str
    """String to look for in the text, exactly."""
    offset: int = 0
    """Tokens to move from there; negative is towards the beginning."""
    edge: Literal["start", "end"] = "end"
    """Count from the token of the marker's first or of its last character."""
    occurrence: Literal["first", "last"] = "last"
    """Which marker counts where a text has several."""
    kind: ClassVar[str] = "relative_to"

    def resolve(self, batch: TokenBatch, texts: Sequence[str], first: int = 0) -> TokenSpans:
        """See :meth:`ReadPositions.resolve`."""
        if not self.marker:
            raise CaptureError("RelativeTo was given an empty marker; give the string to count from.")
        lengths = batch.lengths.tolist()
        found = []
        for row, text in enumerate(texts):
            at = text.find(self.marker) if self.occurrence == "first" else text.rfind(self.marker)
            if at < 0:
                raise CaptureError(f"text {first + row} has no marker {self.marker!r}; add it or leave the text out.")
            held = _held_tokens(batch, row, (at, at + len(self.marker)), first)
            token = (held[0] if self.edge == "start" else held[1] - 1) + self.offset
            if not 0 <= token < lengths[row]:
                raise CaptureError(
                    f"text {first + row}: offset {self.offset} from marker {self.marker!r} leaves the text, "
                    f"which has {lengths[row]} tokens; choose a nearer offset."
                )
            found.append((row, token, token + 1))
        return _from_rows(found, batch)


@dataclass(frozen=True)
class CharSpan(ReadPositions):
    """The tokens that overlap a range of characters: their mean, the first or the last of them."""

    spans: tuple[CharRange, ...]
    """``(start, stop)`` of each text in order, or one for all of them."""
    reduce: Literal["mean", "first", "last"] = "mean"
    """What is read of the overlapping tokens."""
    kind: ClassVar[str] = "char_span"

    def resolve(self, batch: TokenBatch, texts: Sequence[str], first: int = 0) -> TokenSpans:
        """See :meth:`ReadPositions.resolve`."""
        found = []
        for row, text in enumerate(texts):
            characters = self._of_text(first + row)
            if not 0 <= characters[0] < characters[1] <= len(text):
                raise CaptureError(
                    f"text {first + row}: characters {characters} are not a range within its {len(text)} characters."
                )
            start, stop = _held_tokens(batch, row, characters, first)
            if self.reduce == "first":
                stop = start + 1
            elif self.reduce == "last":
                start = stop - 1
            found.append((row, start, stop))
        return _from_rows(found, batch)

    def _of_text(self, index: int) -> CharRange:
        if len(self.spans) == 1:
            return self.spans[0]
        if index >= len(self.spans):
            raise CaptureError(
                f"CharSpan has {len(self.spans)} ranges and text {index} has none; give one for each text."
            )
        return self.spans[index]


@dataclass(frozen=True)
class TokenEnds(ReadPositions):
    """The tokens that end exactly at given characters: several examples for each text.

    Used to read two models with different tokenizers after the same characters.
    """

    ends: tuple[tuple[int, ...], ...]
    """For each text, in order, the character offsets at which a token ends, ascending."""
    kind: ClassVar[str] = "token_ends"

    def resolve(self, batch: TokenBatch, texts: Sequence[str], first: int = 0) -> TokenSpans:
        """See :meth:`ReadPositions.resolve`."""
        found = []
        for row in range(len(texts)):
            token_at = token_ends(batch, row)
            for end in self.ends[first + row]:
                if end not in token_at:
                    raise CaptureError(f"text {first + row} has no token that ends at character {end}.")
                found.append((row, token_at[end], token_at[end] + 1))
        return _from_rows(found, batch)


def token_ends(batch: TokenBatch, row: int) -> dict[int, int]:
    """For each character offset at which a token of a row ends: the last such token, in real tokens."""
    return {stop: token for token, (start, stop) in enumerate(batch.offsets[row]) if stop > start}


def ragged_ranges(
    start: Int[Tensor, "row"], count: Int[Tensor, "row"]
) -> tuple[Int[Tensor, "item"], Int[Tensor, "item"]]:
    """Concatenate the ranges ``start[i] .. start[i] + count[i] - 1``; returns each item's row and value."""
    row = torch.repeat_interleave(torch.arange(len(count), device=count.device), count)
    within = torch.arange(len(row), device=count.device) - (count.cumsum(0) - count)[row]
    return row, start[row] + within


def positions_from_dict(data: Mapping[str, Any]) -> ReadPositions:
    """Read back what :meth:`ReadPositions.to_dict` wrote.

    Raises:
        CaptureError: the kind is unknown or the fields do not fit it.
    """
    fields = {key: _tuples(value) for key, value in data.items() if key != "kind"}
    make = _KINDS.get(data.get("kind", ""))
    if make is None:
        raise CaptureError(f"unknown position kind {data.get('kind')!r}; known: {', '.join(sorted(_KINDS))}.")
    try:
        return make(**fields)
    except TypeError as error:
        raise CaptureError(f"position {data!r} cannot be read: {error}.") from error


_KINDS: dict[str, Callable[..., ReadPositions]] = {
    made.kind: made for made in (LastToken, MeanOver, EachToken, RelativeTo, CharSpan, TokenEnds)
}


def _tuples(value: Any) -> Any:
    """JSON has lists where positions have tuples."""
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value


def _slice_bound(bound: int, length: Int[Tensor, "batch"]) -> Int[Tensor, "batch"]:
    """A slice bound as Python means it: negative from the end, clipped to the sequence."""
    absolute = length + bound if bound < 0 else torch.full_like(length, bound)
    return torch.minimum(absolute.clamp(min=0), length)


def _held_tokens(batch: TokenBatch, row: int, characters: CharRange, first: int) -> tuple[int, int]:
    """Half-open range of the row's tokens that overlap the characters, all of which must have survived truncation."""
    begin, end = characters
    offsets = batch.offsets[row]
    held = [i for i, (start, stop) in enumerate(offsets) if start < end and stop > begin and stop > start]
    if not held:
        raise CaptureError(
            f"text {first + row} has no token over characters {characters}"
            + (f"; {batch.truncated[row]} tokens were cut from it." if batch.truncated[row] else ".")
        )
    if batch.truncated[row]:
        kept = [span for span in offsets if span[1] > span[0]]
        if kept[0][0] > begin or kept[-1][1] < end:
            raise CaptureError(
                f"text {first + row}: truncation cut into characters {characters}; shorten the text, raise "
                "max_length or truncate on the other side."
            )
    return held[0], held[-1] + 1


def _from_rows(found: list[tuple[int, int, int]], batch: TokenBatch) -> TokenSpans:
    table = torch.tensor(found, dtype=torch.int64, device=batch.tokens.device).reshape(-1, 3)
    return TokenSpans(table[:, 0], table[:, 1], table[:, 2])
