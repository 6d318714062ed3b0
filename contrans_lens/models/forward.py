"""One forward pass, the same for both model classes, either padding side, and no further than needed."""

import contextlib
from typing import Any, NoReturn

import torch
from jaxtyping import Float, Int
from torch import Tensor

from contrans_lens.errors import ModelError
from contrans_lens.models.hook_points import hooks
from contrans_lens.models.prefix_cache import PrefixCache
from contrans_lens.models.protocol import HookedModel, input_device, is_bridge
from contrans_lens.models.tokens import TokenBatch


class _Stop(Exception):
    """Raised in a hook to end a forward pass; never leaves this module."""


def _stop(activation: Tensor) -> NoReturn:
    raise _Stop


def attention_mask(model: HookedModel, batch: TokenBatch) -> Int[Tensor, "batch pos"] | None:
    """The mask a forward pass must be given, or None where the result does not depend on one.

    Left padding without a mask gives wrong logits in silence. Right padding needs none, because attention is
    causal; HookedTransformer, however, looks for padding by itself when its tokenizer pads on the left, and
    then takes a leading BOS for padding if the two are one token, so it always gets the true mask.
    """
    padded = not bool(batch.mask.all())
    if is_bridge(model):
        needed = padded and batch.padding_side == "left"
    else:
        needed = padded or getattr(model.tokenizer, "padding_side", "right") == "left"
    return batch.mask.long() if needed else None


@torch.no_grad()
def run(
    model: HookedModel, batch: TokenBatch, *, stop_after: str | None = None, cache: PrefixCache | None = None
) -> Float[Tensor, "batch pos vocab"] | None:
    """One forward pass over a batch, without gradients.

    Args:
        model: the model.
        batch: tokens and mask ``[batch, pos]``.
        stop_after: a hook point after which nothing more is computed; hooks there still run. Stopping at the
            last block saves the unembedding, which at a large vocabulary costs the most memory.
        cache: keys and values of what stands before the batch, which must be without padding; those of the batch are
            appended.

    Returns:
        Logits ``[batch, pos, vocab]`` (meaningless at padding), or None if the pass was stopped.

    Raises:
        HookPointError: ``stop_after`` is not a hook point of the model.
        ModelError: the batch is longer than the model's context.
    """
    if batch.tokens.shape[1] > model.cfg.n_ctx:
        raise ModelError(f"the batch has {batch.tokens.shape[1]} positions; the model takes at most {model.cfg.n_ctx}.")
    batch = batch.to(input_device(model))
    arguments: dict[str, Any] = {"attention_mask": attention_mask(model, batch)}
    if cache is not None:
        arguments |= cache.arguments(batch.tokens.shape[1])
    if stop_after is None:
        return model(batch.tokens, return_type="logits", **arguments)
    # Raising works at every hook point of both classes; their stop_at_layer differs at the last layer.
    # Registered last, the stop runs after the hooks that are there already.
    with hooks(model, [(stop_after, _stop)]), contextlib.suppress(_Stop):
        model(batch.tokens, return_type=None, **arguments)
    return None


def logits(model: HookedModel, batch: TokenBatch) -> Float[Tensor, "batch pos vocab"]:
    """Logits of the next token at every position ``[batch, pos, vocab]``; meaningless at padding.

    No gradients are kept.

    Raises:
        ModelError: the batch is longer than the model's context.
    """
    result = run(model, batch)
    assert result is not None  # only a stopped run gives None
    return result
