"""Evaluation items as token sequences to run and log-probabilities to read from them.

An item asks for ``log P(positive | prompt) - log P(negative | prompt)`` over whole continuation strings. A
tokenizer may merge across the end of the prompt, so the prompt's own tokens are not trusted: ``prompt +
positive`` and ``prompt + negative`` are tokenised whole. Up to their first difference, at token ``c``, both
have the same tokens and therefore the same log-probabilities, which cancel::

    log-odds = sum_{t >= c} log p(pos_t | pos_<t)  -  sum_{t >= c} log p(neg_t | neg_<t)

That is the difference of the log-probabilities of the two whole texts, for any tokenizer. What has to be run
is

- the common tokens ``[:c]`` alone, if neither text goes on for more than one token after them: both
log-probabilities
  are read at the last position;
- one text without its last token, if only that one goes on; the other's token is read on the way;
- both texts without their last tokens otherwise.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from contrans_lens.errors import EvaluationError
from contrans_lens.models import HookedModel, TokenBatch, tokenize
from contrans_lens.texts import EvaluationItem

_SHOWN = 40


@dataclass(frozen=True)
class Read:
    """One log-probability that counts for an item."""

    item: int
    """Which item."""
    position: int
    """Position whose next-token distribution is read."""
    token: int
    """The token looked up there."""
    sign: int
    """+1 for the positive continuation, -1 for the negative one."""


@dataclass
class TokenRow:
    """One sequence to run and what is read from it."""

    tokens: list[int]
    """Token ids, without padding."""
    offsets: tuple[tuple[int, int], ...]
    """Character span of each token in ``text``."""
    text: str
    """The text the tokens are the beginning of."""
    prompt_length: int
    """How many of the tokens belong to the prompt."""
    bos: bool
    """Whether the first token is BOS."""
    reads: list[Read] = field(default_factory=list)
    """What is read from it."""


def plan_items(model: HookedModel, items: Sequence[EvaluationItem]) -> list[TokenRow]:
    """Tokenise items and work out which sequences to run (module docstring). Equal sequences are run once.

    Raises:
        EvaluationError: no items; a continuation of zero length, or two that are the same tokens; an item
            longer than the model's context; continuations that differ in the very first token of a text
            without BOS.
    """
    if not items:
        raise EvaluationError("there are no evaluation items to score.")
    texts = []
    for number, item in enumerate(items):
        for side, text in (("positive", item.positive), ("negative", item.negative)):
            if not text:
                raise EvaluationError(f"{_name(number, item)}: the {side} continuation is empty.")
            texts.append(item.prompt + text)
    batch = tokenize(model, texts, truncate="right")
    rows: dict[tuple[int, tuple[int, ...]], TokenRow] = {}
    for number, item in enumerate(items):
        pair = [full_row(model, batch, texts, 2 * number + side, item.prompt, _name(number, item)) for side in range(2)]
        for row in _rows_of_item(pair[0], pair[1], number, item):
            kept = rows.setdefault((row.prompt_length, tuple(row.tokens)), row)
            if kept is not row:
                kept.reads += row.reads
    return list(rows.values())


def plan_texts(
    model: HookedModel, texts: Sequence[str], max_tokens: int | None, prompt_tokens: int | None = None
) -> tuple[list[TokenRow], list[bool]]:
    """Neutral texts as sequences whose every next token is read; the second list says which were cut.

    The last token is only predicted, so it is not run. ``item`` of the reads is the number of the text. With
    ``prompt_tokens`` the first so many tokens (BOS included) are the text's prompt, and only what follows is read.

    Raises:
        EvaluationError: a text with nothing to predict (one token, or no more than its prompt); a prompt of no tokens.
        TextError: no texts, or an empty one.
    """
    if prompt_tokens is not None and prompt_tokens < 1:
        raise EvaluationError(f"prompt_tokens is {prompt_tokens}; a prompt of one token or more was expected.")
    batch = tokenize(model, list(texts), truncate="right", max_length=max_tokens)
    rows = []
    for number, text in enumerate(texts):
        ids = batch.tokens[number][batch.mask[number]].tolist()
        first = 1 if prompt_tokens is None else prompt_tokens
        if len(ids) <= first:
            after = "" if prompt_tokens is None else f" after a prompt of {prompt_tokens}"
            raise EvaluationError(f"text {number} ({text[:_SHOWN]!r}) has no token to predict{after}; leave it out.")
        reads = [Read(number, position, ids[position + 1], 1) for position in range(first - 1, len(ids) - 1)]
        length = len(ids) - 1 if prompt_tokens is None else prompt_tokens
        rows.append(TokenRow(ids[:-1], batch.offsets[number][:-1], text, length, batch.bos, reads))
    return rows, [cut > 0 for cut in batch.truncated]


def shown_prompt(prompt: str) -> str:
    """The end of a prompt, for messages."""
    return prompt if len(prompt) <= _SHOWN else f"...{prompt[-_SHOWN:]}"


def full_row(
    model: HookedModel, batch: TokenBatch, texts: Sequence[str], index: int, prompt: str, name: str
) -> TokenRow:
    """Prompt and continuation as one row, with nothing read from it yet.

    Args:
        model: the model whose tokens they are.
        batch: the tokens of ``texts``, cut where they are longer than the context.
        texts: prompts with their continuations.
        index: which of them.
        prompt: its prompt.
        name: what it is called in messages.

    Raises:
        EvaluationError: the text is longer than the context, or its continuation has no token.
    """
    if batch.truncated[index]:
        length = int(batch.mask[index].sum()) + batch.truncated[index]
        raise EvaluationError(
            f"{name} has {length} tokens with its continuation; the model's context is "
            f"{model.cfg.n_ctx}. Shorten the prompt."
        )
    offsets = batch.offsets[index]
    # A token that straddles the end of the prompt belongs to the continuation: the prompt alone would not
    # give it.
    prompt_length = sum(stop <= len(prompt) for _, stop in offsets)
    if prompt_length == len(offsets):
        raise EvaluationError(
            f"{name}: the tokenizer makes no token of the continuation {texts[index][len(prompt) :]!r}."
        )
    ids = batch.tokens[index][batch.mask[index]].tolist()
    return TokenRow(ids, offsets, texts[index], prompt_length, batch.bos)


def _name(number: int, item: EvaluationItem) -> str:
    return f"evaluation item {number} ({shown_prompt(item.prompt)!r})"


def _rows_of_item(positive: TokenRow, negative: TokenRow, number: int, item: EvaluationItem) -> list[TokenRow]:
    if positive.tokens == negative.tokens:
        raise EvaluationError(
            f"{_name(number, item)}: the continuations {item.positive!r} and {item.negative!r} are the same "
            "tokens, so nothing tells them apart."
        )
    common = 0
    for one, other in zip(positive.tokens, negative.tokens, strict=False):
        if one != other:
            break
        common += 1
    if common == 0:
        raise EvaluationError(
            f"{_name(number, item)}: the continuations differ in the first token of the text and the model "
            "reads no BOS before it, so there is nothing to predict it from. Give a longer prompt."
        )
    first, second = _cut(positive, common, number, 1), _cut(negative, common, number, -1)
    # What is read at the end of the common tokens can be read on the way through the longer row.
    if len(second.tokens) == common:
        first.reads += second.reads
        return [first]
    if len(first.tokens) == common:
        second.reads += first.reads
        return [second]
    return [first, second]


def _cut(row: TokenRow, common: int, number: int, sign: int) -> TokenRow:
    """The tokens that must be run to read a row's log-probabilities from token ``common`` on."""
    reads = [Read(number, place - 1, row.tokens[place], sign) for place in range(common, len(row.tokens))]
    length = max(common, len(row.tokens) - 1)
    prompt_length = min(row.prompt_length, length)
    return TokenRow(row.tokens[:length], row.offsets[:length], row.text, prompt_length, row.bos, reads)
