"""Texts to token ids, the same way for every model class, with nothing cut or added in silence.

TransformerLens' own ``to_tokens`` truncates without a word, rebuilds tokenizers, and finds padding by
comparing ids, which fails when one token is BOS, EOS and padding at once (GPT-2). Here the mask is made from
the lengths.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from contrans_lens.errors import ModelError, TextError
from contrans_lens.models.protocol import HookedModel

PaddingSide = Literal["left", "right"]
Truncate = Literal["error", "left", "right"]
Span = tuple[int, int]


@dataclass(frozen=True)
class TokenBatch:
    """Token ids of several texts in one rectangle, and which of them are real."""

    tokens: Int[Tensor, "batch pos"]
    """Token ids; where ``mask`` is False, padding."""
    mask: Bool[Tensor, "batch pos"]
    """True at real tokens, BOS included."""
    bos: bool
    """Whether each row starts with BOS."""
    padding_side: PaddingSide
    offsets: tuple[tuple[Span, ...], ...]
    """Per row, for each real token, the characters ``[start, stop)`` of the text it came from; ``(0, 0)`` for
    a BOS that was added."""
    truncated: tuple[int, ...]
    """Per row, how many tokens were cut away; 0 where the text is whole."""

    def __len__(self) -> int:
        return self.tokens.shape[0]

    @property
    def lengths(self) -> Int[Tensor, "batch"]:
        """Number of real tokens in each row."""
        return self.mask.sum(dim=1)

    def to(self, device: str | torch.device) -> "TokenBatch":
        """The same batch on another device."""
        return replace(self, tokens=self.tokens.to(device), mask=self.mask.to(device))

    def padded(self, side: PaddingSide) -> "TokenBatch":
        """The same rows with their padding on the given side; the batch itself where nothing has to move."""
        if side == self.padding_side or bool(self.mask.all()):
            return self if side == self.padding_side else replace(self, padding_side=side)
        # A stable sort on the mask moves the padding to one end and keeps the order of the real tokens.
        order = self.mask.to(torch.int8).argsort(dim=1, stable=True, descending=side == "right")
        return replace(self, tokens=self.tokens.gather(1, order), mask=self.mask.gather(1, order), padding_side=side)

    def rows(self, indices: Sequence[int]) -> "TokenBatch":
        """Some of the rows, in the order given, without columns that are padding in all of them."""
        chosen = torch.as_tensor(list(indices), dtype=torch.long, device=self.tokens.device)
        tokens, mask = self.tokens[chosen], self.mask[chosen]
        width = int(mask.sum(dim=1).max()) if len(chosen) else 0
        columns = slice(None, width) if self.padding_side == "right" else slice(tokens.shape[1] - width, None)
        return replace(
            self,
            tokens=tokens[:, columns],
            mask=mask[:, columns],
            offsets=tuple(self.offsets[index] for index in indices),
            truncated=tuple(self.truncated[index] for index in indices),
        )


def tokenize(
    model: HookedModel,
    texts: Sequence[str],
    *,
    padding_side: PaddingSide = "right",
    max_length: int | None = None,
    prepend_bos: bool | None = None,
    truncate: Truncate = "error",
) -> TokenBatch:
    """Tokenise texts for a model.

    BOS is never there twice: a text that begins with it already (as chat templates write it) gets no second
    one. An EOS or other suffix that the tokenizer would append is left out.

    Args:
        model: the model; its tokenizer, context length and BOS convention are used.
        texts: the texts.
        padding_side: where shorter rows are padded.
        max_length: most tokens in a row, BOS included; the model's context length if None.
        prepend_bos: whether rows start with BOS; None is the model's own convention
            (``cfg.default_prepend_bos``).
        truncate: what to do with a longer text: refuse it, or cut it at its ``"left"`` (the end stays, which
            is what reading at the last token needs) or ``"right"``. BOS stays in either case.

    Returns:
        A :class:`TokenBatch` with tokens and mask ``[batch, pos]`` on the CPU.

    Raises:
        TextError: no texts, a text without tokens, one longer than allowed with ``truncate="error"``, BOS
            written twice, or BOS written in some texts only.
        ModelError: the model has no tokenizer, or no BOS token although one was asked for.
    """
    if isinstance(texts, str):
        raise TextError("texts is a single string; give a list of strings.")
    if not texts:
        raise TextError("there are no texts to tokenise.")
    tokenizer = model_tokenizer(model)
    bos = special_id(model, "bos")
    wanted = _wants_bos(model, bos, prepend_bos)
    limit = _limit(model, max_length)
    ids, spans = _encode(tokenizer, texts)
    rows = [
        _fit_row(text, number, row, span, bos, wanted, limit, truncate)
        for number, (text, row, span) in enumerate(zip(texts, ids, spans, strict=True))
    ]
    starts = {bool(row) and row[0] == bos for row, _, _ in rows}
    if len(starts) > 1:
        raise TextError("some texts begin with the BOS token and others do not; write it in all of them or in none.")
    return _pad(rows, pad_id(model), padding_side, bos=starts.pop())


def model_tokenizer(model: HookedModel) -> Any:
    """The model's tokenizer.

    Raises:
        ModelError: it has none.
    """
    if model.tokenizer is None:
        raise ModelError("the model has no tokenizer; open it with open_model(..., tokenizer=...).")
    return model.tokenizer


def special_id(model: HookedModel, role: Literal["bos", "eos", "pad"]) -> int | None:
    """The id of a special token, or None where the model has none.

    TransformerLens gives a tokenizer without EOS the text ``<|endoftext|>`` for one, whose id is then the
    unknown token's or outside the model's vocabulary: that is none.
    """
    tokenizer = model.tokenizer
    value = getattr(tokenizer, f"{role}_token_id", None)
    if value is None or not 0 <= value < model.cfg.d_vocab:
        return None
    return value if tokenizer.convert_ids_to_tokens(value) == getattr(tokenizer, f"{role}_token") else None


def pad_id(model: HookedModel) -> int:
    """An id to fill padding with: the pad token, else EOS, else 0. It is masked, so any valid id will do."""
    for value in (special_id(model, "pad"), special_id(model, "eos")):
        if value is not None:
            return value
    return 0


def _wants_bos(model: HookedModel, bos: int | None, prepend_bos: bool | None) -> bool:
    if prepend_bos is None:
        return bos is not None and bool(getattr(model.cfg, "default_prepend_bos", True))
    if prepend_bos and bos is None:
        raise ModelError("prepend_bos=True, but the model's tokenizer has no BOS token; use prepend_bos=False.")
    return prepend_bos


def _limit(model: HookedModel, max_length: int | None) -> int:
    context = int(model.cfg.n_ctx)
    if max_length is None:
        return context
    if not 1 <= max_length <= context:
        raise TextError(f"max_length is {max_length}; the model takes 1 to {context} tokens.")
    return max_length


def _encode(tokenizer: Any, texts: Sequence[str]) -> tuple[list[list[int]], list[list[Span]]]:
    """Token ids and character spans of all texts, in one call that Rust spreads over the cores."""
    for number, text in enumerate(texts):
        if not text:
            raise TextError(f"text {number} is empty.")
    if not tokenizer.is_fast:
        raise ModelError(
            f"{type(tokenizer).__name__} cannot tell which characters a token came from; open the model with "
            "a fast tokenizer (open_model(..., tokenizer=AutoTokenizer.from_pretrained(..., use_fast=True)))."
        )
    # The tokenizers' own verbose warning about texts longer than the model is replaced by our error.
    encoded = tokenizer(
        list(texts),
        add_special_tokens=False,
        padding=False,
        truncation=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        return_offsets_mapping=True,
        verbose=False,
    )
    return encoded["input_ids"], encoded["offset_mapping"]


def _fit_row(
    text: str,
    number: int,
    ids: list[int],
    spans: list[Span],
    bos: int | None,
    wanted: bool,
    limit: int,
    truncate: Truncate,
) -> tuple[list[int], list[Span], int]:
    """One row: BOS where wanted, cut to the limit. Returns ids, spans and the number of tokens cut."""
    head, head_spans = ids[:0], spans[:0]
    if bos is not None and ids[:2] == [bos, bos]:
        raise TextError(f"text {number} begins with the BOS token twice: {text[:40]!r}. Write it once or not at all.")
    if bos is not None and ids[:1] == [bos]:
        head, head_spans, ids, spans = ids[:1], spans[:1], ids[1:], spans[1:]
    elif wanted and bos is not None:
        head, head_spans = [bos], [(0, 0)]
    if not ids and not head:
        raise TextError(f"text {number} has no tokens: {text[:40]!r}.")
    room = limit - len(head)
    cut = max(0, len(ids) - room)
    if cut and truncate == "error":
        raise TextError(
            f"text {number} has {len(ids) + len(head)} tokens and at most {limit} fit: {text[:40]!r}... "
            "Shorten it, or pass truncate='left' (keeps its end) or truncate='right' (keeps its beginning)."
        )
    if cut:
        kept = slice(cut, None) if truncate == "left" else slice(None, room)
        ids, spans = ids[kept], spans[kept]
    return head + ids, head_spans + [(int(start), int(stop)) for start, stop in spans], cut


def _pad(
    rows: list[tuple[list[int], list[Span], int]], pad: int, padding_side: PaddingSide, *, bos: bool
) -> TokenBatch:
    width = max(len(row) for row, _, _ in rows)
    tokens = torch.full((len(rows), width), pad, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.bool)
    for index, (row, _, _) in enumerate(rows):
        place = slice(None, len(row)) if padding_side == "right" else slice(width - len(row), None)
        tokens[index, place] = torch.tensor(row, dtype=torch.long)
        mask[index, place] = True
    return TokenBatch(
        tokens,
        mask,
        bos=bos,
        padding_side=padding_side,
        offsets=tuple(tuple(spans) for _, spans, _ in rows),
        truncated=tuple(cut for _, _, cut in rows),
    )
