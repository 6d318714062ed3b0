"""Reads the residual stream at the tokens of answers, in batches of rows of like length."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from contrans_lens.errors import CaptureError
from contrans_lens.models import HookedModel, parameter_dtype
from contrans_lens.models.tokens import pad_id
from contrans_lens.rahf.contrasts import Contrast, ContrastTokens
from contrans_lens.rahf.protocol import row_chunks
from contrans_lens.rahf.tokens import AnswerRow, Where
from contrans_lens.residuals.positions import ragged_ranges
from contrans_lens.residuals.prepared import PreparedTexts
from contrans_lens.residuals.reader import BatchBudget, ResidualReader


def prepare_rows(rows: Sequence[AnswerRow], where: Where, pad: int, pairs: Sequence[int]) -> PreparedTexts:
    """Rows as texts for a :class:`~contrans_lens.residuals.reader.ResidualReader`: every token read is an example.

    Args:
        rows: at least one.
        where: which positions are read.
        pad: id that fills padding.
        pairs: the pair that each row belongs to, by which errors name it.
    """
    length = torch.tensor([len(row.ids) for row in rows])
    count = torch.tensor([len(row.answer) for row in rows])
    first = torch.tensor([row.reads(where).start for row in rows])
    order = torch.argsort(length, descending=True, stable=True)
    _, example = ragged_ranges((count.cumsum(0) - count)[order], count[order])
    row, start = ragged_ranges(first, count)
    return PreparedTexts(
        order=torch.tensor(pairs)[order],
        length=length[order],
        tokens=torch.tensor([token for each in rows for token in each.ids], dtype=torch.int32),
        token_start=(length.cumsum(0) - length)[order],
        example_end=count[order].cumsum(0),
        example=example,
        start=start[example],
        stop=start[example] + 1,
        text_of_example=torch.tensor(pairs)[row[example]],
        truncated=torch.zeros_like(length),
        one_each=False,
        bos=False,
        pad_token=pad,
    )


@dataclass(frozen=True, eq=False)
class ContrastReader:
    """Computes activity differences of rows of a contrast."""

    contrast: Contrast
    """The two runs."""
    tokens: ContrastTokens
    """Their rows."""
    hook_points: tuple[str, ...]
    """Where the residual stream is read; nothing after the last of them is run."""
    where: Where
    """Which positions are read."""
    budget: BatchBudget
    """Batch size of all runs; halved in place when memory runs out."""
    rows_per_pair: int
    """One or, where both answers of a pair are read, two."""

    def differences(
        self, rows: Sequence[int], advance: Callable[[int], None] = lambda tokens: None
    ) -> Float[Tensor, "token layer d_model"]:
        """``v_l(t)`` of rows, in the order given, on the CPU.

        Args:
            rows: numbers of rows; none gives no tokens.
            advance: told how many tokens have been run, batch by batch.

        Raises:
            CaptureError: an activity is not finite (the pair and the hook point are named), or memory is too small for
                a single row.
        """
        first, second = self.contrast.models
        values = self.activity(first, self.tokens.first, rows, advance)
        return values.sub_(self.activity(second, self.tokens.second, rows, advance))

    def activity(
        self,
        model: HookedModel,
        source: Sequence[AnswerRow],
        rows: Sequence[int],
        advance: Callable[[int], None] = lambda tokens: None,
    ) -> Float[Tensor, "token layer d_model"]:
        """The residual stream of one model at the positions read, row by row, in float32 (float64 of such a model).

        Raises:
            CaptureError: as :meth:`differences`.
        """
        if not rows:
            return torch.zeros(0, len(self.hook_points), int(model.cfg.d_model))
        chosen = [source[row] for row in rows]
        prepared = prepare_rows(chosen, self.where, pad_id(model), [row // self.rows_per_pair for row in rows])
        dtype = torch.promote_types(parameter_dtype(model), torch.float32)
        reader = ResidualReader(model, prepared, self.hook_points, self.budget, dtype=dtype)
        values = torch.empty(prepared.n_examples, len(self.hook_points), int(model.cfg.d_model), dtype=dtype)
        try:
            for batch in reader.read(0, prepared.n_texts):
                values[batch.example] = batch.residuals
                advance(batch.n_tokens)
        except CaptureError as error:
            raise CaptureError(f"while answers were read (text n stands for preference pair n): {error}") from error
        return values

    def mean_norms(
        self, model: HookedModel, advance: Callable[[int], None] = lambda tokens: None
    ) -> Float[Tensor, " layer"]:
        """Mean norm of a model's residual stream at the positions read under the plain prompt, by hook point.

        Raises:
            CaptureError: as :meth:`differences`.
        """
        total = torch.zeros(len(self.hook_points), dtype=torch.float64)
        n_tokens = 0
        for rows in row_chunks(self.tokens.plain):
            values = self.activity(model, self.tokens.plain, rows, advance)
            total += values.norm(dim=2).sum(0, dtype=torch.float64)
            n_tokens += len(values)
        return (total / n_tokens).float()


def token_starts(rows: Sequence[AnswerRow]) -> Int[Tensor, " row_plus_one"]:
    """Where each row begins among the answer tokens of all rows, and where the last ends."""
    counts = torch.tensor([0, *(len(row.answer) for row in rows)])
    return counts.cumsum(0)


def pair_of_token(rows: Sequence[AnswerRow], numbers: Sequence[int], token: int) -> int:
    """The row, among ``numbers``, that a token of their flat differences belongs to."""
    starts = token_starts([rows[number] for number in numbers])
    return numbers[int(torch.searchsorted(starts, token, right=True)) - 1]
