"""What every kind of activity differences has in common: computed when asked for, stored, or a control."""

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from contrans_lens.models import Fingerprint
from contrans_lens.rahf.tokens import AnswerRow, Where

TOKENS_AT_ONCE = 1024
"""Answer tokens that are held at a time where all of them are gone through."""


@runtime_checkable
class Differences(Protocol):
    """Activity differences ``v_l(t)`` at the tokens of answers: what an adapter is fitted to."""

    @property
    def hook_points(self) -> tuple[str, ...]:
        """Names of the layers, in the order of the ``layer`` axis."""
        ...

    @property
    def where(self) -> Where:
        """Whether they stand at the answer's own tokens or at those that predict them."""
        ...

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        ...

    @property
    def fingerprint(self) -> Fingerprint | None:
        """The base model, where it is known."""
        ...

    @property
    def rows(self) -> tuple[AnswerRow, ...]:
        """The answers under the plain prompt, on which an adapter is fitted."""
        ...

    def of(self, rows: Sequence[int]) -> Float[Tensor, "token layer d_model"]:
        """Differences of some rows, one row after the other, at the positions read of each in order."""
        ...


def row_chunks(rows: Sequence[AnswerRow], n_tokens: int = TOKENS_AT_ONCE) -> Iterator[range]:
    """Ranges of rows of at most so many answer tokens together; a longer row is a range of its own."""
    begin, held = 0, 0
    for number, row in enumerate(rows):
        length = len(row.answer)
        if held and held + length > n_tokens:
            yield range(begin, number)
            begin, held = number, 0
        held += length
    if held:
        yield range(begin, len(rows))
