"""Generation that is the same on both model classes, either padding side, with or without a cache.

The classes' own ``generate`` find the padding by comparing token ids (HookedTransformer takes no mask at
all), which gives wrong text when one token is padding, BOS and EOS at once. The loop here hands both classes
the true mask.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from contrans_lens.errors import ModelError
from contrans_lens.models.forward import attention_mask
from contrans_lens.models.protocol import HookedModel, input_device, is_bridge
from contrans_lens.models.tokens import TokenBatch, pad_id, special_id

Step = Callable[[Tensor, Tensor], Tensor]
"""All tokens and their mask so far ``[batch, pos]`` to the logits of the next token ``[batch, vocab]``."""


@torch.no_grad()
def generate_tokens(
    model: HookedModel,
    batch: TokenBatch,
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    seed: int | None = None,
    use_cache: bool = True,
    stop_at_eos: bool = True,
) -> Int[Tensor, "batch pos_new"]:
    """Continue every row of a batch.

    The rows are padded on the left for this, whichever side they came with. With a cache, hooks see ``[batch,
    pos, d_model]`` once and then ``[batch, 1, d_model]`` per step; without, the whole sequence at every step.

    Args:
        model: the model.
        batch: prompts.
        max_new_tokens: how many tokens at most.
        temperature: 0 takes the most probable token, otherwise logits are divided by it and a token is drawn.
        seed: of the draws; the caller's random state is not touched. None draws anew each time.
        use_cache: keep keys and values between steps (ignored where the model has no cache).
        stop_at_eos: end a row at its first EOS; the rest of the row is EOS.

    Returns:
        The new tokens only, on the CPU; fewer columns than ``max_new_tokens`` if all rows ended before.

    Raises:
        ModelError: the prompt and the new tokens do not fit the context, or a number is out of range.
    """
    _check(model, batch, max_new_tokens, temperature)
    device = input_device(model)
    batch = batch.padded("left").to(device)
    ends = end_ids(model) if stop_at_eos else frozenset()
    stop_ids = torch.tensor(sorted(ends), dtype=torch.long, device=device)
    filler = _filler(model, ends)
    generator = _generator(seed) if temperature > 0 else None
    step = _cached_step(model, batch) if use_cache and _has_cache(model) else _uncached_step(model, batch)
    tokens, mask = batch.tokens, batch.mask
    done = torch.zeros(len(batch), dtype=torch.bool, device=device)
    for _ in range(max_new_tokens):
        chosen = _choose(step(tokens, mask), temperature, generator).to(device)
        chosen = torch.where(done, filler, chosen)
        tokens = torch.cat([tokens, chosen[:, None]], dim=1)
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        done = done | torch.isin(chosen, stop_ids)
        if bool(done.all()):
            break
    return tokens[:, batch.tokens.shape[1] :].cpu()


def until_end(model: HookedModel, row: list[int]) -> tuple[int, ...]:
    """The row up to and with the first token that ends a text: what follows it is filling."""
    ends = end_ids(model)
    end = next((place for place, token in enumerate(row) if token in ends), None)
    return tuple(row) if end is None else tuple(row[: end + 1])


def decode_new(model: HookedModel, prompt: list[int], new: tuple[int, ...]) -> str:
    """Text of the new tokens, with the space that some tokenizers drop when a text begins with it."""
    head = str(model.tokenizer.decode(prompt, skip_special_tokens=True, clean_up_tokenization_spaces=False))
    whole = str(model.tokenizer.decode([*prompt, *new], skip_special_tokens=True, clean_up_tokenization_spaces=False))
    if whole.startswith(head):
        return whole[len(head) :]
    return str(model.tokenizer.decode(list(new), skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _check(model: HookedModel, batch: TokenBatch, max_new_tokens: int, temperature: float) -> None:
    if max_new_tokens < 1:
        raise ModelError(f"max_new_tokens is {max_new_tokens}; at least 1 was expected.")
    if not temperature >= 0:
        raise ModelError(f"temperature is {temperature}; 0 (greedy) or more was expected.")
    needed = batch.tokens.shape[1] + max_new_tokens - 1  # the last new token is never fed back
    if needed > model.cfg.n_ctx:
        raise ModelError(
            f"{batch.tokens.shape[1]} prompt tokens and {max_new_tokens} new ones do not fit the model's "
            f"{model.cfg.n_ctx}; shorten the prompts (tokenize(..., max_length=..., truncate='left')) or "
            "generate less."
        )


def end_ids(model: HookedModel) -> frozenset[int]:
    """The tokens that end a text: EOS, and those of the generation config (chat models have several)."""
    config = getattr(getattr(model, "original_model", None), "generation_config", None)
    listed = getattr(config, "eos_token_id", None)
    found = {special_id(model, "eos"), *(listed if isinstance(listed, list | tuple) else [listed])}
    return frozenset(token for token in found if token is not None and 0 <= token < model.cfg.d_vocab)


def _filler(model: HookedModel, ends: frozenset[int]) -> Int[Tensor, ""]:
    eos = special_id(model, "eos")
    value = eos if eos is not None else min(ends, default=pad_id(model))
    return torch.tensor(value, dtype=torch.long, device=input_device(model))


def _generator(seed: int | None) -> torch.Generator:
    generator = torch.Generator(device="cpu")
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    return generator


def _choose(
    scores: Float[Tensor, "batch vocab"], temperature: float, generator: torch.Generator | None
) -> Int[Tensor, "batch"]:
    if generator is None:
        return scores.argmax(dim=-1)
    # Drawn on the CPU in float64, so that a seed means the same on every device and back end.
    probabilities = (scores.double().cpu() / temperature).softmax(dim=-1)
    return torch.multinomial(probabilities, 1, generator=generator)[:, 0]


def _has_cache(model: HookedModel) -> bool:
    if not is_bridge(model):
        return True
    # Bridges around TransformerLens' own small models, and around recurrent ones, have none.
    return bool(getattr(getattr(model, "adapter", None), "supports_kv_cache", True)) and hasattr(
        getattr(model, "original_model", None), "generation_config"
    )


def _uncached_step(model: HookedModel, batch: TokenBatch) -> Step:
    def step(tokens: Int[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"]) -> Float[Tensor, "batch vocab"]:
        grown = TokenBatch(tokens, mask, batch.bos, "left", batch.offsets, batch.truncated)
        scores = model(tokens, return_type="logits", attention_mask=attention_mask(model, grown))
        return scores[:, -1]

    return step


def _cached_step(model: HookedModel, batch: TokenBatch) -> Step:
    return _bridge_step(model, batch) if is_bridge(model) else _hooked_step(model, batch)


def _hooked_step(model: HookedModel, batch: TokenBatch) -> Step:
    """HookedTransformer keeps the mask inside its cache and wants that of the new tokens only."""
    from transformer_lens import TransformerLensKeyValueCache

    cache = TransformerLensKeyValueCache.init_cache(model.cfg, input_device(model), len(batch))
    seen = 0

    def step(tokens: Int[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"]) -> Float[Tensor, "batch vocab"]:
        nonlocal seen
        new, new_mask = tokens[:, seen:], mask[:, seen:].long()
        seen = tokens.shape[1]
        return model(new, return_type="logits", attention_mask=new_mask, past_kv_cache=cache)[:, -1]

    return step


def _bridge_step(model: HookedModel, batch: TokenBatch) -> Step:
    """A bridge hands the Hugging Face cache through and wants the mask of everything so far."""
    cache = None
    seen = 0
    padded = not bool(batch.mask.all())

    def step(tokens: Int[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"]) -> Float[Tensor, "batch vocab"]:
        nonlocal cache, seen
        new = tokens[:, seen:]
        seen = tokens.shape[1]
        scores, cache = model(
            new,
            return_type="logits_and_cache",
            attention_mask=mask.long() if padded else None,
            past_key_values=cache,
            use_cache=True,
        )
        return scores[:, -1]

    return step
