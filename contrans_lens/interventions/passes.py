"""Which absolute columns a forward pass holds, found out by watching the model.

A hook sees an activation and nothing else: ``[batch, prompt, d]`` at first, ``[batch, 1, d]`` for each
cached step, ``[batch, prompt + 1, d]`` for an uncached one. What says where these columns stand (the length
of the KV cache, the attention mask, the token ids) reaches the model as arguments, which are read here
without touching them.

Two places are watched, since ``HookedTransformer.generate`` calls ``forward`` past every module hook of the
model itself: its ``embed`` (token ids) and the first steered block (cache and mask); for a TransformerBridge
the Hugging Face module below it (all three).
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from contrans_lens.errors import InterventionError
from contrans_lens.interventions.positions import PromptRows
from contrans_lens.interventions.suspension import SUSPENDED
from contrans_lens.models import HookedModel, TokenBatch, layer_of


@dataclass(frozen=True)
class ForwardPass:
    """One forward pass and where it stands in its sequence."""

    index: int
    """Number of the pass since the watch began."""
    sequence: int
    """Number of the sequence it belongs to: a prompt and the steps that continue it."""
    prompt: PromptRows
    """The first pass of that sequence."""
    start: int
    """Absolute column of the first token that this pass holds."""
    width: int
    """Number of columns that this pass holds."""
    attention_mask: Tensor | None
    """The mask that the model was given from column 0 to the end of this pass, on its device."""
    splits_prompt: bool
    """Whether several columns were fed onto a filled cache, so that they may be prompt or generated."""

    @property
    def size(self) -> int:
        """Number of rows."""
        return self.prompt.size

    def mask(self) -> Bool[Tensor, "batch total"]:
        """Real tokens from column 0 to the end of this pass, on the CPU; what follows the prompt is real."""
        if self.attention_mask is not None:
            return self.attention_mask.bool().cpu()
        total = self.start + self.width
        later = torch.ones(self.size, max(0, total - self.prompt.width), dtype=torch.bool)
        return torch.cat([self.prompt.mask, later], dim=1)[:, :total]


class SequenceTracker:
    """Turns what is seen of each pass into a :class:`ForwardPass`.

    A pass on a filled cache continues the sequence. So does an uncached pass whose tokens are those of the
    pass before and one more. Every other pass begins a sequence, and is its prompt.
    """

    def __init__(
        self,
        *,
        batch: TokenBatch | None = None,
        texts: tuple[str, ...] | None = None,
        lengths: tuple[int, ...] | None = None,
        decode: Callable[[list[int]], str] | None = None,
    ) -> None:
        self._batch = batch
        self._texts = texts
        self._lengths = lengths
        self._decode = decode
        self._prompt: PromptRows | None = None
        self._tokens: Tensor | None = None
        self._total = 0
        self._passes = 0
        self._sequences = 0
        self.current: ForwardPass | None = None

    def observe(self, tokens: Tensor | None, size: int, width: int, past: int, mask: Tensor | None) -> None:
        """Note one pass.

        Args:
            tokens: ids ``[batch, width]`` (or ``[batch, 1]``, the last ones) where they were seen.
            size: number of rows.
            width: number of columns fed.
            past: number of columns in the cache.
            mask: attention mask ``[batch, past + width]`` where one was given.

        Raises:
            InterventionError: the cache was filled out of sight, or the rows are not those of the given
                batch.
        """
        if SUSPENDED.get():
            return
        prompt = self._prompt
        if past > 0:
            if prompt is None or prompt.size != size or past > self._total:
                raise InterventionError(
                    f"the model continues from a cache of {past} columns and {size} rows that was filled outside "
                    "this steer() block, so its positions are unknown. Run the prompt inside the block."
                )
        elif prompt is None or not self._continues(tokens, size, width):
            prompt = self._prompt = self._begin(tokens, size, width, mask)
            self._sequences += 1
        if past == 0:
            self._tokens = tokens if tokens is None or tokens.shape[1] == width else self._extended(tokens)
        self._total = past + width
        self.current = ForwardPass(
            index=self._passes,
            sequence=self._sequences - 1,
            prompt=prompt,
            start=past,
            width=width,
            # Where the batch is known its own mask counts: the model may be given none, or one of nothing but ones.
            attention_mask=mask if self._batch is None and _fits(mask, size, self._total) else None,
            splits_prompt=past > 0 and width > 1,
        )
        self._passes += 1

    def _begin(self, tokens: Tensor | None, size: int, width: int, mask: Tensor | None) -> PromptRows:
        batch = self._batch
        if batch is not None and (size, width) != tuple(batch.tokens.shape):
            raise InterventionError(
                f"the model is run on {size} rows of {width} tokens, but steer() was given a batch of "
                f"{tuple(batch.tokens.shape)}. Run that batch, or leave batch= out."
            )
        if self._lengths is not None and len(self._lengths) != size:
            raise InterventionError(f"prompt_lengths has {len(self._lengths)} entries, but {size} rows are run.")
        if batch is not None:
            real = batch.mask.cpu()
        elif mask is not None and _fits(mask, size, width):
            real = mask.bool().cpu()
        else:
            real = torch.ones(size, width, dtype=torch.bool)
        seen = None if tokens is None or tokens.shape[1] != width else tokens.cpu()
        return PromptRows(
            tokens=seen,
            mask=real,
            decode=self._decode,
            texts=self._texts,
            offsets=None if batch is None else batch.offsets,
            lengths=self._lengths,
        )

    def _continues(self, tokens: Tensor | None, size: int, width: int) -> bool:
        last = self._tokens
        if tokens is None or last is None or last.shape[0] != size or last.shape[1] + 1 != width:
            return False
        if tokens.shape[1] == 1 != width:  # HookedTransformer embeds only the new token
            return True
        return torch.equal(tokens[:, :-1].to(last.device), last)

    def _extended(self, tokens: Tensor) -> Tensor | None:
        return None if self._tokens is None else torch.cat([self._tokens, tokens.to(self._tokens.device)], dim=1)


@contextmanager
def watch(model: HookedModel, tracker: SequenceTracker, hook_points: list[str]) -> Iterator[None]:
    """Tell ``tracker`` of every forward pass while the context lasts; the watching hooks are always removed.

    Raises:
        InterventionError: a hook point stands in no block, so that its pass cannot be told.
        HookPointError: a hook point's name has no block number.
    """
    first = min(layer_of(name) for name in hook_points)
    with ExitStack() as stack:
        if hasattr(model, "original_model"):
            _watch_bridge(model, tracker, stack)
        else:
            _watch_hooked(model, tracker, first, stack)
        yield


def _watch_bridge(model: Any, tracker: SequenceTracker, stack: ExitStack) -> None:
    def before(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tokens = kwargs.get("input_ids", args[0] if args else None)
        fed = tokens if tokens is not None else kwargs.get("inputs_embeds")
        if fed is None:
            return
        size, width = fed.shape[:2]
        mask = _plain_mask(kwargs.get("attention_mask"))
        past = _cached_columns(kwargs.get("past_key_values"))
        tracker.observe(tokens, size, width, past, mask)

    stack.callback(model.original_model.register_forward_pre_hook(before, with_kwargs=True).remove)


def _watch_hooked(model: Any, tracker: SequenceTracker, first: int, stack: ExitStack) -> None:
    embedded: list[Int[Tensor, "batch pos"]] = []

    def before_embedding(_module: nn.Module, args: tuple[Any, ...]) -> None:
        embedded[:] = [args[0]]

    def before_block(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        residual = args[0] if args else kwargs["resid_pre"]
        size, width = residual.shape[:2]
        entry = kwargs.get("past_kv_cache_entry")
        past = 0 if entry is None else int(entry.past_keys.shape[1])
        tokens = embedded.pop() if embedded else None
        if tokens is not None and (tokens.shape[0] != size or tokens.shape[1] not in (1, width)):
            tokens = None
        tracker.observe(tokens, size, width, past, _plain_mask(kwargs.get("attention_mask")))

    stack.callback(model.embed.register_forward_pre_hook(before_embedding).remove)
    stack.callback(model.blocks[first].register_forward_pre_hook(before_block, with_kwargs=True).remove)


def _plain_mask(mask: Any) -> Tensor | None:
    """The attention mask if it is one value per token; a four-dimensional one says nothing about padding."""
    return mask if isinstance(mask, Tensor) and mask.ndim == 2 else None


def _fits(mask: Tensor | None, size: int, total: int) -> bool:
    return mask is not None and tuple(mask.shape) == (size, total)


def _cached_columns(cache: Any) -> int:
    """Number of columns in a Hugging Face cache of any kind."""
    if cache is None:
        return 0
    if hasattr(cache, "get_seq_length"):
        return int(cache.get_seq_length())
    return int(cache[0][0].shape[-2]) if len(cache) else 0
