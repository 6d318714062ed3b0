"""Scores of a Hugging Face model: two-way choices, obedience, residuals, and steering with a plain hook.

Private to the testbed and on purpose independent of the rest of the package: it says whether the family
supports what the package then does.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from contrans_lens.testbed.architecture import blocks

ROWS_AT_ONCE = 64


@dataclass(frozen=True)
class Probe:
    """A prompt and a continuation whose log-probability is wanted."""

    prompt: str
    continuation: str


class Scorer:
    """Runs one model on texts.

    Args:
        model: A model of the family, in float32.
        tokenizer: Its tokenizer, which puts BOS in front.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model = model
        self.tokenizer = tokenizer

    def _padded(self, rows: Sequence[list[int]]) -> Iterator[tuple[list[int], Tensor]]:
        """Right-padded batches of rows of similar length, with the indices of their rows."""
        order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
        for start in range(0, len(order), ROWS_AT_ONCE):
            chosen = order[start : start + ROWS_AT_ONCE]
            ids = torch.full((len(chosen), len(rows[chosen[-1]])), self.tokenizer.pad_token_id)
            for row, index in enumerate(chosen):
                ids[row, : len(rows[index])] = torch.tensor(rows[index])
            yield chosen, ids

    @torch.no_grad()
    def log_probs(self, probes: Sequence[Probe]) -> tuple[Float[Tensor, "probe"], Bool[Tensor, "probe"]]:
        """The log-probability of each whole continuation, and whether each of its tokens is the argmax.

        Causal models with padding on the right need no attention mask: no real token sees a pad.
        """
        prompts: dict[str, list[int]] = {}
        rows: list[list[int]] = []
        row_of: dict[tuple[int, ...], int] = {}
        wanted: list[tuple[int, int, list[int]]] = []
        for probe in probes:
            if probe.prompt not in prompts:
                prompts[probe.prompt] = self.tokenizer(probe.prompt)["input_ids"]
            prompt = prompts[probe.prompt]
            tail = self.tokenizer(probe.continuation, add_special_tokens=False)["input_ids"]
            # The last token of the continuation is never fed: one-token answers to one prompt share a row.
            row = prompt + tail[:-1]
            index = row_of.setdefault(tuple(row), len(rows))
            if index == len(rows):
                rows.append(row)
            wanted.append((index, len(prompt) - 1, tail))
        log_rows: list[Tensor] = [torch.empty(0)] * len(rows)
        start = min(first for _, first, _ in wanted)
        for chosen, ids in self._padded(rows):
            logits = self.model(ids).logits[:, start:].log_softmax(-1)
            for position, index in enumerate(chosen):
                log_rows[index] = logits[position]
        values = torch.zeros(len(wanted))
        greedy = torch.zeros(len(wanted), dtype=torch.bool)
        for number, (index, first, tail) in enumerate(wanted):
            log = log_rows[index][first - start : first - start + len(tail)]
            token_ids = torch.tensor(tail)
            values[number] = log.gather(1, token_ids[:, None]).sum()
            greedy[number] = bool((log.argmax(-1) == token_ids).all())
        return values, greedy

    def choices(self, items: Sequence[dict[str, str]], cue: str = "") -> Float[Tensor, "item"]:
        """P(positive) / (P(positive) + P(negative)) of each item, with a cue in front of its prompt."""
        probes = [Probe(cue + item["prompt"], item[side]) for item in items for side in ("positive", "negative")]
        positive, negative = self.log_probs(probes)[0].view(-1, 2).unbind(1)
        return torch.sigmoid(positive - negative)

    def token_loss(self, texts: Sequence[str]) -> float:
        """Mean negative log-likelihood per token of texts, in nats, BOS not counted."""
        total, count = 0.0, 0
        with torch.no_grad():
            for chosen, ids in self._padded([self.tokenizer(text)["input_ids"] for text in texts]):
                logits = self.model(ids).logits[:, :-1]
                targets = ids[:, 1:].masked_fill(ids[:, 1:] == self.tokenizer.pad_token_id, -100)
                total += nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum").item()
                count += int((targets >= 0).sum())
                del chosen
        return total / count

    @torch.no_grad()
    def last_residuals(self, texts: Sequence[str]) -> Float[Tensor, "text layer d_model"]:
        """The residual stream after every block at the last token of each text."""
        layers = blocks(self.model)
        kept: list[Tensor] = []

        def keep(_module: nn.Module, _inputs: tuple[object, ...], output: Tensor | tuple[Tensor, ...]) -> None:
            kept.append(output if isinstance(output, Tensor) else output[0])

        rows = [self.tokenizer(text)["input_ids"] for text in texts]
        result = torch.empty(len(rows), len(layers), self.model.config.hidden_size)
        handles: list[RemovableHandle] = [layer.register_forward_hook(keep) for layer in layers]
        try:
            for chosen, ids in self._padded(rows):
                kept.clear()
                self.model(ids)
                last = torch.tensor([len(rows[index]) - 1 for index in chosen])
                stacked = torch.stack([output[torch.arange(len(chosen)), last] for output in kept], dim=1)
                result[torch.tensor(chosen)] = stacked
        finally:
            for handle in handles:
                handle.remove()
        return result


@contextmanager
def added(model: PreTrainedModel, layer: int, vector: Float[Tensor, "d_model"]) -> Iterator[None]:
    """Add a vector to the residual stream after one block, at every position, while the context lasts."""

    def add(
        _module: nn.Module, _inputs: tuple[object, ...], output: Tensor | tuple[Tensor, ...]
    ) -> Tensor | tuple[Tensor, ...]:
        return output + vector if isinstance(output, Tensor) else (output[0] + vector, *output[1:])

    handle = blocks(model)[layer].register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()
