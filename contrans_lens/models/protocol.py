"""The type that the whole package is written against, and what can be asked of any model of that type."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import nn


@runtime_checkable
class HookedModel(Protocol):
    """A language model whose activations have names: HookedTransformer and TransformerBridge both are one.

    TransformerLens' own protocol exists in 4.x only and lacks ``generate``, hence this one. The members are
    what the two classes share; everything else (tokenisation, stopping, masks, cached generation) differs
    between them and goes through the functions of this room.
    """

    @property
    def cfg(self) -> Any:
        """The configuration: ``n_layers``, ``d_model``, ``d_vocab``, ``n_ctx``."""
        ...

    @property
    def tokenizer(self) -> Any:
        """The Hugging Face tokenizer, or None."""
        ...

    # ``isinstance`` reads every property, and a Bridge makes this one anew each time (1 to 20 ms). It is therefore
    # seen by type checkers only; ``run_with_cache`` tells a hooked model from others at run time.
    if TYPE_CHECKING:

        @property
        def hook_dict(self) -> Mapping[str, nn.Module]:
            """Every hook point by name; a module that passes its input through."""
            ...

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Forward pass on token ids ``[batch, pos]``."""
        ...

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """The class's own generation; :func:`generate_tokens` is the one that is the same on both."""
        ...

    def run_with_cache(self, *args: Any, **kwargs: Any) -> Any:
        """Forward pass that keeps activations; :func:`hooks` takes what is needed without keeping the rest."""
        ...

    def parameters(self) -> Any:
        """The weights."""
        ...


def parameter_dtype(model: HookedModel) -> torch.dtype:
    """The floating-point type the weights are stored in, read from a weight (``cfg.dtype`` can lie)."""
    for parameter in model.parameters():
        if parameter.is_floating_point():
            return parameter.dtype
    return torch.get_default_dtype()


def input_device(model: HookedModel) -> torch.device:
    """The device that token ids must be on: that of the first weight, which is the embedding's."""
    for parameter in model.parameters():
        if parameter.device.type != "meta":
            return parameter.device
    return torch.device("cpu")


def is_bridge(model: HookedModel) -> bool:
    """Whether it is a TransformerBridge; only they wrap an ``original_model``."""
    return hasattr(model, "original_model")
