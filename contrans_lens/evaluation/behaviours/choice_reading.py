"""Log-probabilities of every choice of every item, for any tokenizer, under many cells.

Prompt and choice are tokenised together, since a tokenizer may merge across the end of the prompt. Choices of one item
are compared from the same token on, ``c``, the first that is not wholly the prompt's in all of them::

    log P(choice) = sum_{t >= c} log p(text_t | text_<t)

What precedes ``c`` is the same in all and cancels. Equal sequences are run once (the single-token answers of a prompt
are read from one row), and a row that another row of the item begins with is read on the way.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from contrans_lens.errors import EvaluationError
from contrans_lens.evaluation.behaviours.behaviour import check_finite
from contrans_lens.evaluation.cells import Cell, Cells, stack_logits
from contrans_lens.evaluation.continuations import Read, TokenRow, full_row, shown_prompt
from contrans_lens.evaluation.scores import log_probabilities
from contrans_lens.evaluation.stacked import StackedRuns
from contrans_lens.models import HookedModel, tokenize
from contrans_lens.texts import ChoiceItem


@dataclass(frozen=True, eq=False)
class ChoiceReading:
    """What a model says of every choice; ``choice`` is padded to the item with the most."""

    log_p: Float[Tensor, "cell item choice"]
    """Log-probability of the whole choice, nats, float64; minus infinity where there is no such choice."""
    first_log_p: Float[Tensor, "cell item choice"]
    """Log-probability of its first token."""
    greedy: Bool[Tensor, "cell item choice"]
    """Whether each of its tokens is the most probable one: greedy decoding would write it."""
    on_format: Bool[Tensor, "cell item"]
    """Whether the most probable next token begins one of the choices."""
    n_tokens: Int[Tensor, "item choice"]
    """Tokens behind ``log_p``; 0 where there is no such choice."""
    n_characters: Int[Tensor, "item choice"]
    """Characters of the choice without white space around it."""
    mask: Bool[Tensor, "item choice"]
    """Where there is a choice."""
    first_tokens: Int[Tensor, "item choice"]
    """The first token of each choice; -1 where there is none."""


def read_choices(
    model: HookedModel, items: Sequence[ChoiceItem], cells: Sequence[Cell] = ((),), *, token_budget: int | None = None
) -> ChoiceReading:
    """Read every choice of every item under every cell.

    Args:
        model: the model that answers.
        items: prompts with their choices.
        cells: what is done to the model; one empty cell (unsteered) by default.
        token_budget: most tokens in one forward pass; chosen by device if None.

    Raises:
        EvaluationError: no items, an item longer than the context, a choice without tokens or two that are the same
            tokens, or a log-probability that is not finite; the item is named.
        FingerprintMismatchError: an intervention was made for another model.
        HookPointError: the model has no such hook point.
    """
    plan = ChoicePlan(model, items)
    checked = Cells(model, cells)
    runs = checked.runs(model, plan.rows, token_budget=token_budget)
    shape = len(checked), len(plan.starts) * plan.width
    log_p, first = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64)
    missed = torch.zeros(shape, dtype=torch.float64)
    top = torch.full((len(checked), len(items)), -1, dtype=torch.long)
    for group in runs.groups(checked.widest):
        places = _places(runs, group, plan)
        for numbers, logits in stack_logits(runs, group, checked.stacks):
            values, best = _at(logits, places)
            log_p[numbers] = log_p[numbers].index_add(1, places.choice, values)
            missed[numbers] = missed[numbers].index_add(1, places.choice, (best != places.token).double())
            where = places.first.nonzero()[:, 0]
            first[numbers] = first[numbers].index_add(1, places.choice[where], values[:, where])
            cell_index = torch.tensor(numbers)[:, None]
            top[cell_index, places.choice[where] // plan.width] = best[:, where]
    return plan.reading(log_p, first, missed, top)


@dataclass(frozen=True)
class _Places:
    """The reads of a group of rows as index tensors."""

    row: Int[Tensor, " read"]
    column: Int[Tensor, " read"]
    token: Int[Tensor, " read"]
    choice: Int[Tensor, " read"]
    first: Bool[Tensor, " read"]


class ChoicePlan:
    """Items as token rows; choice ``j`` of item ``i`` has the number ``i * width + j``."""

    def __init__(self, model: HookedModel, items: Sequence[ChoiceItem]) -> None:
        if not items:
            raise EvaluationError("there are no choice items to score.")
        self.items = list(items)
        self.width = max(len(item.choices) for item in items)
        self.rows: list[TokenRow] = []
        self._decisions: list[TokenRow] = []
        self.starts: list[int] = []
        """Position at which each item's first token is read."""
        self.n_tokens = torch.zeros(len(items), self.width, dtype=torch.long)
        self.first_tokens = torch.full((len(items), self.width), -1, dtype=torch.long)
        texts = [item.prompt + choice for item in items for choice in item.choices]
        batch = tokenize(model, texts, truncate="right")
        kept: dict[tuple[int, tuple[int, ...]], TokenRow] = {}
        place = 0
        for number, item in enumerate(items):
            name = f"choice item {number} ({shown_prompt(item.prompt)!r})"
            whole = [full_row(model, batch, texts, place + j, item.prompt, name) for j in range(len(item.choices))]
            place += len(whole)
            for row in self._rows_of_item(number, whole, name):
                same = kept.setdefault((row.prompt_length, tuple(row.tokens)), row)
                if same is not row:
                    same.reads += row.reads
        self.rows = list(kept.values())

    def _rows_of_item(self, number: int, whole: list[TokenRow], name: str) -> list[TokenRow]:
        common = min(row.prompt_length for row in whole)
        if common == 0:
            raise EvaluationError(
                f"{name}: a choice begins in the first token of the text and the model reads no BOS before it, so "
                "there is nothing to predict it from. Give a longer prompt."
            )
        if len({tuple(row.tokens) for row in whole}) < len(whole):
            raise EvaluationError(f"{name}: two choices are the same tokens, so nothing tells them apart.")
        self.starts.append(common - 1)
        first = whole[0]
        reads = [Read(number, common - 1, first.tokens[common], 1)]
        prompt_length = min(first.prompt_length, common)
        self._decisions.append(
            TokenRow(first.tokens[:common], first.offsets[:common], first.text, prompt_length, first.bos, reads)
        )
        rows: list[TokenRow] = []
        for choice, row in enumerate(whole):
            code = number * self.width + choice
            reads = [Read(code, place - 1, row.tokens[place], 1) for place in range(common, len(row.tokens))]
            self.n_tokens[number, choice] = len(reads)
            self.first_tokens[number, choice] = row.tokens[common]
            length = len(row.tokens) - 1
            prompt_length = min(row.prompt_length, length)
            rows.append(TokenRow(row.tokens[:length], row.offsets[:length], row.text, prompt_length, row.bos, reads))
        return _without_beginnings(rows)

    def decision_rows(self) -> list[TokenRow]:
        """One row an item, read where its choices part from the prompt."""
        return list(self._decisions)

    def right_tokens(self, number: int, d_vocab: int) -> Bool[Tensor, " vocab"]:
        """The first tokens of an item's right choices, as a mask over the vocabulary."""
        mask = torch.zeros(d_vocab, dtype=torch.bool)
        mask[self.first_tokens[number, list(self.items[number].correct)]] = True
        return mask

    def reading(
        self,
        log_p: Float[Tensor, "cell flat"],
        first: Float[Tensor, "cell flat"],
        missed: Float[Tensor, "cell flat"],
        top: Int[Tensor, "cell item"],
    ) -> ChoiceReading:
        """What was summed up, by item and choice."""
        shape = (-1, len(self.items), self.width)
        mask = self.n_tokens > 0
        prompts = [item.prompt for item in self.items]
        check_finite(log_p.reshape(shape).sum(2), prompts, "choices")
        characters = torch.zeros_like(self.n_tokens)
        for number, item in enumerate(self.items):
            characters[number, : len(item.choices)] = torch.tensor([len(each.strip()) for each in item.choices])
        begins = (top[:, :, None] == self.first_tokens) & mask
        return ChoiceReading(
            log_p=log_p.reshape(shape).masked_fill(~mask, -torch.inf),
            first_log_p=first.reshape(shape).masked_fill(~mask, -torch.inf),
            greedy=(missed.reshape(shape) == 0) & mask,
            on_format=begins.any(2),
            n_tokens=self.n_tokens,
            n_characters=characters,
            mask=mask,
            first_tokens=self.first_tokens,
        )


def _without_beginnings(rows: list[TokenRow]) -> list[TokenRow]:
    """The rows of an item; what one row would read is read in a longer row that begins with it."""
    kept: list[TokenRow] = []
    for row in sorted(rows, key=lambda each: -len(each.tokens)):
        size = len(row.tokens)
        longer = (each for each in kept if each.prompt_length == row.prompt_length and each.tokens[:size] == row.tokens)
        host = next(longer, None)
        if host is None:
            kept.append(row)
        else:
            host.reads += row.reads
    return kept


def _places(runs: StackedRuns, group: Sequence[int], plan: ChoicePlan) -> _Places:
    found = []
    for row, index in enumerate(group):
        column = {position: place for place, position in enumerate(runs.positions(index))}
        for read in runs.rows[index].reads:
            is_first = read.position == plan.starts[read.item // plan.width]
            found.append((row, column[read.position], read.token, read.item, int(is_first)))
    row_at, column_at, token, choice, first = torch.tensor(found).T
    return _Places(row_at, column_at, token, choice, first.bool())


def _at(
    logits: Float[Tensor, "cell row read vocab"], places: _Places
) -> tuple[Float[Tensor, "cell place"], Int[Tensor, "cell place"]]:
    """Log-probability of the token that is read at every place, float64, and the most probable token there."""
    log_p = log_probabilities(logits)
    row, column, token = (each.to(log_p.device) for each in (places.row, places.column, places.token))
    values = log_p[:, row, column, token].to("cpu", torch.float64)
    return values, log_p.argmax(-1)[:, row, column].cpu()


def right_choices(items: Sequence[ChoiceItem], reading: ChoiceReading) -> Bool[Tensor, "item choice"]:
    """Where the right choices stand."""
    right = torch.zeros_like(reading.mask)
    for number, item in enumerate(items):
        right[number, list(item.correct)] = True
    return right
