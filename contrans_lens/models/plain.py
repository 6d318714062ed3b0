"""Plain Hugging Face models: what is trained, by the hook points that their residual streams have in this package.

Training goes through ``transformers`` and ``peft``, which know nothing of hook points. Here the two are brought
together: ``blocks.{l}.hook_resid_post`` is the output of the model's block ``l``, ``blocks.{l}.hook_resid_pre`` its
input, in the basis of a HookedModel that was opened with ``process_weights=False``.
"""

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from contrans_lens.errors import HookPointError, ModelError
from contrans_lens.models.hook_points import resid_post, resid_pre
from contrans_lens.models.sources import default_device, load_config, load_tokenizer, model_place, quiet, reading

_POINT = re.compile(r"^blocks\.(\d+)\.hook_resid_(pre|post)$")


@dataclass(frozen=True, eq=False)
class PlainModel:
    """A Hugging Face model with the token conventions that the HookedModel of the same folder has."""

    model: nn.Module
    """The ``PreTrainedModel``, read anew from disk, so that it may be changed; in evaluation mode."""
    tokenizer: Any
    """Its fast tokenizer."""
    bos: int | None
    """Id of the token that every text begins with; None where texts begin without one."""
    place: str
    """Absolute folder or hub name."""

    @property
    def n_blocks(self) -> int:
        """Number of blocks."""
        return len(blocks(self.model))

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return int(self.config.hidden_size)

    @property
    def config(self) -> Any:
        """The Hugging Face configuration."""
        return self.model.config

    @property
    def context(self) -> int:
        """Most tokens in a text."""
        return int(self.config.max_position_embeddings)

    @property
    def pad(self) -> int:
        """An id to fill padding with; it is masked, so any valid one will do."""
        for value in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id):
            if value is not None and 0 <= value < int(self.config.vocab_size):
                return int(value)
        return 0

    @property
    def device(self) -> torch.device:
        """Where token ids must be."""
        return next(self.model.parameters()).device


def open_plain(
    place: str | Path, *, dtype: torch.dtype = torch.float32, device: str | torch.device | None = None
) -> PlainModel:
    """Open a Hugging Face model for training.

    Args:
        place: hub name or local folder of a causal language model.
        dtype: of the weights.
        device: where it goes; CUDA if there is one and None is given, else the CPU.

    Raises:
        ModelError: nothing is there, it cannot be read, or it has no fast tokenizer.
    """
    from transformers import AutoModelForCausalLM

    where = model_place(place)
    config = load_config(where)
    tokenizer, starts_with_bos = load_tokenizer(where, config, None)
    if tokenizer is None or not tokenizer.is_fast:
        raise ModelError(f"{place} has no fast tokenizer, which training on texts needs; add its tokenizer.json.")
    with quiet(where), reading(where, "the weights"):
        model = AutoModelForCausalLM.from_pretrained(where, dtype=dtype).eval().to(default_device(device))
    return PlainModel(model, tokenizer, tokenizer.bos_token_id if starts_with_bos else None, where)


def blocks(model: nn.Module) -> nn.ModuleList:
    """The blocks of a Hugging Face causal language model, also one that ``peft`` has wrapped.

    Raises:
        ModelError: no list of as many modules as the configuration says was found.
    """
    config: Any = model.config
    wanted = getattr(config, "num_hidden_layers", None)
    found = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) == wanted]
    if not found:
        raise ModelError(
            f"{type(model).__name__} has no list of {wanted or 'its'} blocks; a decoder-only model was expected."
        )
    return found[0]


def place_of(hook_point: str) -> tuple[int, str]:
    """Block and side (``"pre"`` or ``"post"``) of a hook point of the residual stream.

    Raises:
        HookPointError: it is none.
    """
    match = _POINT.match(hook_point)
    if match is None:
        raise HookPointError(
            f"{hook_point!r} is no hook point between blocks; one like '{resid_post(3)}' or '{resid_pre(3)}' was "
            "expected."
        )
    return int(match.group(1)), match.group(2)


def block_count(hook_points: Sequence[str]) -> int:
    """How many blocks have to be run to reach the last of the hook points. Later ones can learn nothing from it.

    Raises:
        HookPointError: one is not between blocks, or there are none.
    """
    if not hook_points:
        raise HookPointError("no hook points were given; name at least one, such as 'blocks.3.hook_resid_post'.")
    return max(layer + (side == "post") for layer, side in map(place_of, hook_points))


def check_residual_points(model: nn.Module, hook_points: Sequence[str]) -> None:
    """Check that a plain model has these points.

    Raises:
        HookPointError: names the first that it lacks.
    """
    n_blocks = len(blocks(model))
    for name in hook_points:
        layer, _ = place_of(name)
        if layer >= n_blocks:
            raise HookPointError(f"the model has no {name!r}: it has {n_blocks} blocks, 0 to {n_blocks - 1}.")


def truncate(model: nn.Module, n_blocks: int) -> None:
    """Take away the blocks above the first ``n_blocks`` and the unembedding, for good.

    Nothing above the last hook point changes what is read there, so that neither its time nor its memory is spent.
    The result of a forward pass is then the normed residual stream instead of logits. Works before ``peft`` wraps the
    model.

    Raises:
        ModelError: the model has fewer blocks.
    """
    layers = blocks(model)
    if not 1 <= n_blocks <= len(layers):
        raise ModelError(f"{n_blocks} blocks were asked of a model that has {len(layers)}.")
    del layers[n_blocks:]
    pretrained: Any = model  # torch types every attribute of a module as a tensor or a module
    pretrained.config.num_hidden_layers = n_blocks
    if getattr(pretrained.config, "layer_types", None):
        pretrained.config.layer_types = pretrained.config.layer_types[:n_blocks]
    pretrained.set_output_embeddings(nn.Identity())


@contextlib.contextmanager
def residual_hooks(
    model: nn.Module, functions: Sequence[tuple[str, Callable[[Tensor], Tensor | None]]]
) -> Iterator[None]:
    """Run functions at points of a plain model's residual stream while the ``with`` block lasts.

    A function gets ``[batch, pos, d_model]`` and returns its replacement or None.

    Raises:
        HookPointError: the model lacks a point; nothing was attached.
    """
    check_residual_points(model, [name for name, _ in functions])
    layers = blocks(model)
    with contextlib.ExitStack() as stack:
        for name, function in functions:
            layer, side = place_of(name)
            attach = layers[layer].register_forward_pre_hook if side == "pre" else layers[layer].register_forward_hook
            handle = attach(_input_hook(function) if side == "pre" else _output_hook(function), with_kwargs=True)
            stack.callback(handle.remove)
        yield


def _input_hook(function: Callable[[Tensor], Tensor | None]) -> Callable[..., Any]:
    def hook(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if inputs:
            changed = function(inputs[0])
            return None if changed is None else ((changed, *inputs[1:]), named)
        changed = function(named["hidden_states"])
        return None if changed is None else (inputs, named | {"hidden_states": changed})

    return hook


def _output_hook(function: Callable[[Tensor], Tensor | None]) -> Callable[..., Any]:
    def hook(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> Any:
        # Blocks give the residual stream alone, or a tuple that begins with it.
        if isinstance(output, tuple):
            changed = function(output[0])
            return None if changed is None else (changed, *output[1:])
        return function(output)

    return hook


def residuals(
    model: nn.Module, ids: Int[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"], hook_points: Sequence[str]
) -> Float[Tensor, "layer batch pos d_model"]:
    """The residual stream at hook points, with gradients where they are switched on.

    Args:
        model: a plain model, whole or truncated, wrapped by ``peft`` or not.
        ids: token ids, padded on the right.
        mask: True at real tokens.
        hook_points: where to read, in the order of the result.

    Raises:
        HookPointError: the model lacks a point.
    """
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[Tensor], None]:
        return lambda activation: found.__setitem__(name, activation)

    with residual_hooks(model, [(name, keep(name)) for name in dict.fromkeys(hook_points)]):
        model(input_ids=ids, attention_mask=mask.long(), use_cache=False)
    return torch.stack([found[name] for name in hook_points])
