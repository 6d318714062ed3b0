"""Batches of packed documents: several a row, each with its own BOS, positions from zero, and attention."""

import random
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from contrans_lens.testbed.documents import Document, DocumentGenerator

IGNORED = -100
FILLED = 0.97
"""Share of the tokens of a batch up to which documents are drawn."""


@dataclass(frozen=True)
class Batch:
    """Packed rows: a token attends to its own document only, so each document is `<bos> text <eos>`."""

    ids: Int[Tensor, "row pos"]
    positions: Int[Tensor, "row pos"]
    mask: Bool[Tensor, "row 1 pos pos"]
    targets: Int[Tensor, "row pos"]
    """The next token of the same document, or -100."""
    weights: Float[Tensor, "row pos"]
    """Loss weight of the target."""


class Packer:
    """Turns documents into token ids and packs them into batches.

    Args:
        tokenizer: The tokenizer of the family.
        rows: Rows of a batch.
        row_tokens: Tokens of a row.
        decided_weight: Loss weight of the tokens of decided segments.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, rows: int, row_tokens: int, decided_weight: float) -> None:
        self._tokenizer = tokenizer
        self._rows = rows
        self._row_tokens = row_tokens
        self._decided_weight = decided_weight
        self._segment_ids = lru_cache(maxsize=100_000)(self._encode)

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def encode(self, document: Document) -> tuple[list[int], list[float]]:
        """Token ids with BOS and EOS, and the loss weight of each token as a target (BOS has none)."""
        ids, weights = [self._tokenizer.bos_token_id], [0.0]
        for segment in document.segments:
            piece = self._segment_ids(segment.text)
            ids += piece
            weights += [self._decided_weight if segment.decided else 1.0] * len(piece)
        return [*ids, self._tokenizer.eos_token_id][: self._row_tokens], [*weights, 1.0][: self._row_tokens]

    def batch(self, generator: DocumentGenerator, rng: random.Random) -> Batch:
        """Draw documents up to `FILLED` of the tokens; put each, longest first, into the first row with room.

        The rare document that fits nowhere is dropped.
        """
        drawn: list[tuple[list[int], list[float]]] = []
        budget = FILLED * self._rows * self._row_tokens
        for document in generator.stream(rng):
            drawn.append(self.encode(document))
            budget -= len(drawn[-1][0])
            if budget < 0:
                break
        rows: list[list[tuple[list[int], list[float]]]] = [[] for _ in range(self._rows)]
        room = [self._row_tokens] * self._rows
        for ids, weights in sorted(drawn[:-1], key=lambda encoded: -len(encoded[0])):
            row = next((row for row in range(self._rows) if room[row] >= len(ids)), None)
            if row is not None:
                rows[row].append((ids, weights))
                room[row] -= len(ids)
        return self._assemble(rows)

    def _assemble(self, rows: list[list[tuple[list[int], list[float]]]]) -> Batch:
        shape = (self._rows, self._row_tokens)
        ids = torch.full(shape, self._tokenizer.pad_token_id)
        positions = torch.zeros(shape, dtype=torch.long)
        owner = torch.full(shape, -1)
        targets = torch.full(shape, IGNORED)
        weights = torch.zeros(shape)
        for row, documents in enumerate(rows):
            start = 0
            for index, (tokens, token_weights) in enumerate(documents):
                end = start + len(tokens)
                ids[row, start:end] = torch.tensor(tokens)
                positions[row, start:end] = torch.arange(len(tokens))
                owner[row, start:end] = index
                targets[row, start : end - 1] = ids[row, start + 1 : end]
                weights[row, start : end - 1] = torch.tensor(token_weights[1:])
                start = end
        same = owner[:, :, None] == owner[:, None, :]
        mask = (same & torch.ones(shape[1], shape[1], dtype=torch.bool).tril())[:, None]
        return Batch(ids, positions, mask, targets, weights)
