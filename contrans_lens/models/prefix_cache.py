"""Keys and values of a common beginning, kept for passes that are fanned out from one row to many at some block."""

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from contrans_lens.models.protocol import HookedModel, input_device, is_bridge, parameter_dtype


class PrefixCache:
    """A KV cache of either model class in which the first blocks hold one row and the others many.

    The first pass fills it with the beginnings (:meth:`arguments`), :meth:`select` says which beginning every row of
    the second pass continues, and the second pass reads it. The model is fed one row of tokens both times; a hook
    before block ``layer`` makes many rows of it, so that only the blocks from there on see many.
    """

    def __init__(self, model: HookedModel, layer: int, n_rows: int) -> None:
        """Make an empty cache.

        Args:
            model: the model; one without a KV cache fails or ignores it, which a trial shows.
            layer: the first block that sees ``n_rows`` rows.
            n_rows: how many rows the first pass has there.
        """
        self._layer = layer
        self._bridge = is_bridge(model)
        self._cache: Any = _bridge_cache() if self._bridge else _hooked_cache(model, layer, n_rows)

    def arguments(self, width: int) -> dict[str, Any]:
        """Keyword arguments for a forward pass on ``width`` new tokens that reads the cache and appends to it."""
        if self._bridge:
            return {"past_key_values": self._cache, "use_cache": True}
        mask = torch.ones(1, width, dtype=torch.long, device=self._cache.previous_attention_mask.device)
        return {"past_kv_cache": self._cache, "attention_mask": mask}

    def select(self, rows: Int[Tensor, " row"]) -> None:
        """Let row ``i`` of the next pass continue row ``rows[i]`` of the last one."""
        if self._bridge:
            for layer in self._cache.layers[self._layer :]:
                layer.batch_select_indices(rows.to(layer.keys.device))
            return
        for entry in self._cache.entries[self._layer :]:
            chosen = rows.to(entry.past_keys.device)
            entry.past_keys, entry.past_values = entry.past_keys[chosen], entry.past_values[chosen]


def _bridge_cache() -> Any:
    from transformers import DynamicCache

    return DynamicCache()


def _hooked_cache(model: HookedModel, layer: int, n_rows: int) -> Any:
    from transformer_lens import TransformerLensKeyValueCache

    cache = TransformerLensKeyValueCache.init_cache(model.cfg, input_device(model), 1)
    for number, entry in enumerate(cache.entries):
        size = 1 if number < layer else n_rows
        empty = entry.past_keys.expand(size, -1, -1, -1).to(parameter_dtype(model))
        entry.past_keys = entry.past_values = empty
    return cache
