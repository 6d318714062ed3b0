"""Steered generation under many cells: prompts and cells are rows of the same batches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from contrans_lens.errors import EvaluationError
from contrans_lens.evaluation.cells import Cell, Cells, CellStack
from contrans_lens.evaluation.passes import add_all
from contrans_lens.interventions import generate
from contrans_lens.models import HookedModel, generate_tokens, tokenize
from contrans_lens.models.generation import decode_new, until_end

_ROWS_AT_ONCE = 64


@dataclass(frozen=True)
class Written:
    """What a model wrote after every prompt under every cell."""

    texts: tuple[tuple[str, ...], ...]
    """By cell and prompt: the continuation, without the prompt and without special tokens."""
    tokens: tuple[tuple[tuple[int, ...], ...], ...]
    """By cell and prompt: the new token ids, up to and with EOS."""
    prompt_tokens: tuple[tuple[int, ...], ...]
    """By prompt: its token ids, BOS included."""


def generate_cells(
    model: HookedModel,
    prompts: Sequence[str],
    cells: Sequence[Cell],
    *,
    max_new_tokens: int = 40,
    temperature: float = 0.0,
    seed: int = 0,
    rows_at_once: int = _ROWS_AT_ONCE,
) -> Written:
    """Continue every prompt under every cell.

    Greedy cells that only add vectors are generated side by side, prompts by cells as rows of one batch, and give what
    :func:`contrans_lens.interventions.generate` gives. Sampled ones are generated cell by cell, each from the same
    seed, so that what a cell writes does not depend on the others.

    Args:
        model: the model.
        prompts: texts to continue.
        cells: what is done to the model; the empty tuple is the unsteered model.
        max_new_tokens: how many tokens to generate at most.
        temperature: 0 is greedy.
        seed: of the sampling.
        rows_at_once: most rows in one batch.

    Raises:
        EvaluationError: no prompts or no cells.
        TextError: a prompt is empty, or too long for the model.
        ModelError: prompt and new tokens do not fit the context.
    """
    if not prompts:
        raise EvaluationError("there are no prompts to continue.")
    checked = Cells(model, cells)
    found: dict[int, list[tuple[str, tuple[int, ...]]]] = {}
    for stack in checked.stacks:
        if temperature == 0 and stack.additions:
            found.update(_side_by_side(model, prompts, stack, max_new_tokens, rows_at_once))
            continue
        for number in stack.numbers:
            made = generate(
                model,
                prompts,
                checked.cells[number],
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                seed=seed,
                batch_size=rows_at_once,
            )
            found[number] = list(zip(made.texts, made.tokens, strict=True))
    written = [found[number] for number in range(len(checked))]
    batch = tokenize(model, list(prompts))
    return Written(
        tuple(tuple(text for text, _ in each) for each in written),
        tuple(tuple(tokens for _, tokens in each) for each in written),
        tuple(tuple(batch.tokens[row][batch.mask[row]].tolist()) for row in range(len(batch))),
    )


def _side_by_side(
    model: HookedModel, prompts: Sequence[str], stack: CellStack, max_new_tokens: int, rows_at_once: int
) -> Iterator[tuple[int, list[tuple[str, tuple[int, ...]]]]]:
    """What each cell of a stack writes; prompts of about one length share a batch."""
    n_prompts = min(len(prompts), max(1, rows_at_once // min(len(stack.numbers), 8)))
    n_cells = max(1, rows_at_once // n_prompts)
    lengths = tokenize(model, list(prompts)).lengths.tolist()
    order = sorted(range(len(prompts)), key=lambda index: lengths[index])
    found: dict[int, dict[int, tuple[str, tuple[int, ...]]]] = {number: {} for number in stack.numbers}
    for start in range(0, len(order), n_prompts):
        chosen = order[start : start + n_prompts]
        batch = tokenize(model, [prompts[index] for index in chosen], padding_side="left")
        for first in range(0, len(stack.numbers), n_cells):
            part = slice(first, first + n_cells)
            numbers = stack.numbers[part]
            rows = batch.rows(list(range(len(chosen))) * len(numbers))
            additions = {name: vectors[part] for name, vectors in stack.additions.items()}
            with torch.inference_mode(), add_all(model, additions, len(chosen)):
                new = generate_tokens(model, rows, max_new_tokens=max_new_tokens).tolist()
            for place, (number, index) in enumerate((n, i) for n in numbers for i in chosen):
                tokens = until_end(model, new[place])
                prompt = rows.tokens[place][rows.mask[place]].tolist()
                found[number][index] = (decode_new(model, prompt, tokens), tokens)
    for number, by_prompt in found.items():
        yield number, [by_prompt[index] for index in range(len(prompts))]
