"""At which tokens an intervention acts, as data.

Positions are decided on the *prompt rows*, once for every sequence, as column bounds ``[start, stop)`` in the
absolute columns of the token matrix. A decoding step under a KV cache shows a hook one column only; comparing
that column's absolute index with the bounds gives the same answer as an uncached run would.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from jaxtyping import Bool, Int
from torch import Tensor, arange

from contrans_lens.errors import InterventionError

Bounds = tuple[int, int | None]
"""Columns ``[start, stop)`` of one row; ``None`` is open."""

_SHOWN_CHARACTERS = 60


@dataclass(frozen=True)
class PromptRows:
    """The first pass of a sequence: what positions are decided on.

    Built by :func:`~contrans_lens.interventions.steer` from what the model is seen to run, or from the batch
    that the caller gave.
    """

    tokens: Int[Tensor, "batch pos"] | None
    """Token ids, or ``None`` where the model was given embeddings."""
    mask: Bool[Tensor, "batch pos"]
    """Real tokens."""
    decode: Callable[[list[int]], str] | None = None
    """Token ids to text, special tokens kept."""
    texts: tuple[str, ...] | None = None
    """The rows' texts, where the caller gave them."""
    offsets: tuple[tuple[tuple[int, int], ...], ...] | None = None
    """Character span of each real token in its text, where the caller gave the batch."""
    lengths: tuple[int, ...] | None = None
    """Real tokens that belong to the prompt, where the pass holds prompt and continuation together."""

    @property
    def width(self) -> int:
        """Columns of the pass, padding included."""
        return self.mask.shape[1]

    @property
    def size(self) -> int:
        """Number of rows."""
        return self.mask.shape[0]

    def column(self, row: int, rank: int) -> int:
        """Column of a row's real token number ``rank``, from 0, BOS included.

        Tokens yet to come follow the pass.
        """
        columns = self.mask[row].nonzero()[:, 0].tolist()
        return int(columns[rank]) if rank < len(columns) else self.width + rank - len(columns)

    def ends(self) -> list[int]:
        """First column after each row's prompt."""
        if self.lengths is None:
            return [self.width] * self.size
        return [self.column(row, length) for row, length in enumerate(self.lengths)]

    def last_columns(self) -> list[int]:
        """Column of each row's last real prompt token: what the first generated token is predicted from.

        Raises:
            InterventionError: a row has no real token, or its prompt has none.
        """
        if self.lengths is not None:
            if min(self.lengths) < 1:
                row = self.lengths.index(min(self.lengths))
                raise InterventionError(
                    f"row {row} has a prompt of no tokens, so it has no last one; give it a prompt."
                )
            return [self.column(row, length - 1) for row, length in enumerate(self.lengths)]
        if not bool(self.mask.any(dim=1).all()):
            raise InterventionError("a row of the prompt has no real token; leave empty prompts out.")
        columns = self.mask.long() * (1 + arange(self.width))
        return [int(column) - 1 for column in columns.max(dim=1).values.tolist()]

    def text(self, row: int) -> str:
        """The text of the row's prompt, as given or decoded from its real tokens.

        Raises:
            InterventionError: the model was given embeddings, or has no tokenizer.
        """
        length = None if self.lengths is None else self.lengths[row]
        if self.texts is not None and self.offsets is not None:
            last = self.offsets[row][:length][-1:]
            return self.texts[row][: last[0][1]] if length is not None and last else self.texts[row]
        return self._decoder()(self._real_tokens(row)[:length])

    def spanning(self, row: int, character: int) -> int:
        """Rank of the row's real token that holds the character with this index in :meth:`text`."""
        if self.texts is not None and self.offsets is not None:
            spans = self.offsets[row]
            return next((rank for rank, (_, stop) in enumerate(spans) if stop > character), len(spans))
        tokens, decode, text = self._real_tokens(row), self._decoder(), self.text(row)
        # The shortest prefix of tokens whose text agrees up to and with that character ends in the token
        # sought. Comparing text, not lengths: half a multi-byte character decodes to replacement signs of
        # any number.
        low, high = 1, len(tokens)
        while low < high:
            middle = (low + high) // 2
            if decode(tokens[:middle])[: character + 1] == text[: character + 1]:
                high = middle
            else:
                low = middle + 1
        return low - 1

    def _real_tokens(self, row: int) -> list[int]:
        if self.tokens is None:
            raise InterventionError(
                "the model was run on embeddings, so its text is unknown. Run it on token ids, or act at ALL positions."
            )
        return [int(token) for token in self.tokens[row][self.mask[row]].tolist()]

    def _decoder(self) -> Callable[[list[int]], str]:
        if self.decode is None:
            raise InterventionError(
                "a marker can only be found in text, and this model has no tokenizer. "
                "Give steer() batch= and texts=, or use Between(start, stop)."
            )
        return self.decode


@dataclass(frozen=True)
class All:
    """Every token of the prompt and every generated one, as in the ConTrans paper."""

    def bounds(self, prompt: PromptRows) -> list[Bounds]:
        """Column bounds of each row."""
        return [(0, None)] * prompt.size


@dataclass(frozen=True)
class Prompt:
    """The tokens of the prompt only."""

    def bounds(self, prompt: PromptRows) -> list[Bounds]:
        """Column bounds of each row."""
        return [(0, end) for end in prompt.ends()]


@dataclass(frozen=True)
class Generated:
    """The generated tokens only: those after the prompt.

    The first generated token is *predicted* at the prompt's last position, which is not steered; it is
    steered itself once it is fed back.
    """

    def bounds(self, prompt: PromptRows) -> list[Bounds]:
        """Column bounds of each row."""
        return [(end, None) for end in prompt.ends()]


@dataclass(frozen=True)
class Continuation:
    """The last token of the prompt and everything after it: all positions that predict a generated token."""

    def bounds(self, prompt: PromptRows) -> list[Bounds]:
        """Column bounds of each row."""
        return [(column, None) for column in prompt.last_columns()]


@dataclass(frozen=True)
class Between:
    """Real tokens number ``start`` up to and without ``stop`` of each row, from 0, BOS included.

    ``Between(1)`` leaves the first token alone.
    """

    start: int
    stop: int | None = None

    def __post_init__(self) -> None:
        if self.start < 0 or (self.stop is not None and self.stop <= self.start):
            raise InterventionError(
                f"Between({self.start}, {self.stop}) holds no token: 0 <= start < stop is expected."
            )

    def bounds(self, prompt: PromptRows) -> list[Bounds]:
        """Column bounds of each row."""
        return [
            (prompt.column(row, self.start), None if self.stop is None else prompt.column(row, self.stop))
            for row in range(prompt.size)
        ]


@dataclass(frozen=True)
class FromMarker:
    """From a piece of the prompt's text on, to the end of what is generated.

    Every row has its own start: the token that holds the marker's first character, or with ``after`` the
    first token past the marker (a token that straddles its end counts as the marker's).
    """

    marker: str
    occurrence: Literal["first", "last"] = "last"
    after: bool = False

    def __post_init__(self) -> None:
        if not self.marker:
            raise InterventionError("the marker is empty; give the text from which to steer, such as 'Answer:'.")
        if self.occurrence not in ("first", "last"):
            raise InterventionError(f"occurrence is {self.occurrence!r}; 'first' or 'last' is expected.")

    def bounds(self, prompt: PromptRows) -> list[Bounds]:
        """Column bounds of each row.

        Raises:
            InterventionError: a row's text lacks the marker; the row and its text are named.
        """
        return [(prompt.column(row, self._rank(prompt, row)), None) for row in range(prompt.size)]

    def require_in(self, texts: Sequence[str]) -> None:
        """Check that every text holds the marker.

        Raises:
            InterventionError: names the first text that lacks it.
        """
        for index, text in enumerate(texts):
            self._find(text, f"prompt {index}")

    def _rank(self, prompt: PromptRows, row: int) -> int:
        first = self._find(prompt.text(row), f"row {row}")
        return prompt.spanning(row, first + len(self.marker) - 1) + 1 if self.after else prompt.spanning(row, first)

    def _find(self, text: str, where: str) -> int:
        found = text.find(self.marker) if self.occurrence == "first" else text.rfind(self.marker)
        if found < 0:
            shown = text if len(text) <= _SHOWN_CHARACTERS else f"…{text[-_SHOWN_CHARACTERS:]}"
            raise InterventionError(
                f"the marker {self.marker!r} does not occur in {where} ({shown!r}). "
                "Every prompt needs it; change the marker or the prompt."
            )
        return found


Positions = All | Prompt | Generated | Continuation | Between | FromMarker
"""What an intervention's ``positions`` may be."""

ALL = All()
PROMPT = Prompt()
GENERATED = Generated()
CONTINUATION = Continuation()

_KINDS: dict[str, type[Positions]] = {
    "all": All,
    "prompt": Prompt,
    "generated": Generated,
    "continuation": Continuation,
    "between": Between,
    "from_marker": FromMarker,
}


def positions_to_dict(positions: Positions) -> dict[str, Any]:
    """JSON form of positions: their kind and their fields."""
    kind = next(name for name, cls in _KINDS.items() if type(positions) is cls)
    return {"kind": kind, **vars(positions)}


def positions_from_dict(value: Mapping[str, Any]) -> Positions:
    """Positions from their JSON form.

    Raises:
        InterventionError: the kind or its fields are unknown.
    """
    fields = {name: field for name, field in value.items() if name != "kind"}
    cls = _KINDS.get(value.get("kind", ""))
    if cls is None:
        raise InterventionError(f"positions of kind {value.get('kind')!r}; one of {sorted(_KINDS)} is expected.")
    if unknown := fields.keys() - cls.__dataclass_fields__.keys():
        raise InterventionError(f"positions {value.get('kind')!r} have no field {sorted(unknown)}.")
    missing = {name for name in ("start", "marker") if name in cls.__dataclass_fields__} - fields.keys()
    if missing:
        raise InterventionError(f"positions {value.get('kind')!r} lack {sorted(missing)}.")
    return cls(**fields)
