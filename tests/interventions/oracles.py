"""Independent references: steering by Hugging Face forward hooks, one text at a time, without a cache."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from tests.tiny_models import hf_tiny

Change = Callable[[Tensor], Tensor]
"""A residual ``[1, pos, d_model]`` of one unpadded text to the steered one."""


def hf_blocks(hf):
    """The blocks of any of the supported architectures."""
    for path in ("transformer.h", "gpt_neox.layers", "model.layers"):
        part = hf
        for name in path.split("."):
            part = getattr(part, name, None)
        if part is not None:
            return part
    raise AssertionError(f"no blocks in {type(hf).__name__}")


@contextmanager
def hf_hooks(hf, changes: dict[int, Change]) -> Iterator[None]:
    """Change the output of whole blocks, as a user of plain Hugging Face would."""

    def make(change):
        def hook(module, inputs, output):
            if isinstance(output, tuple):
                return (change(output[0]), *output[1:])
            return change(output)

        return hook

    handles = [hf_blocks(hf)[layer].register_forward_hook(make(change)) for layer, change in changes.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def hf_logits(architecture: str, ids: list[int], changes: dict[int, Change]) -> Tensor:
    """Logits ``[pos, vocab]`` of one text."""
    hf, _ = hf_tiny(architecture)
    with hf_hooks(hf, changes):
        return hf(torch.tensor([ids])).logits[0]


@torch.no_grad()
def hf_greedy(
    architecture: str, ids: list[int], changes: dict[int, Change], n: int, vocab: int | None = None
) -> list[int]:
    """``n`` greedy tokens after one text, by running everything again at each step."""
    grown = list(ids)
    for _ in range(n):
        grown.append(int(hf_logits(architecture, grown, changes)[-1].argmax()))
    return grown[len(ids) :]


@functools.cache
def hf_greedy_added(
    architecture: str, ids: tuple[int, ...], delta: tuple[float, ...], start: int, stop: int | None, n: int
) -> tuple[int, ...]:
    """The same for one addition after block 1, remembered: every kind of model is compared with it."""
    return tuple(hf_greedy(architecture, list(ids), {1: adding(torch.tensor(delta), start, stop)}, n))


def adding(delta: Tensor, start: int = 0, stop: int | None = None) -> Change:
    """Add a vector at the positions ``[start, stop)``."""

    def change(residual: Tensor) -> Tensor:
        steered = residual.clone()
        steered[:, start:stop] += delta
        return steered

    return change
