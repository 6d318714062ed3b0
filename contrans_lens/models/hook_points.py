"""Hook points by name, and functions attached to them for as long as a ``with`` block lasts."""

import contextlib
import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

from torch import Tensor, nn

from contrans_lens.errors import HookPointError
from contrans_lens.models.protocol import HookedModel

HookFunction = Callable[[Tensor], Tensor | None]
"""Gets the activation; returns its replacement, or None to leave it as it is."""

_BLOCK = re.compile(r"^blocks\.(\d+)\.")
_RESIDUAL = re.compile(r"^blocks\.\d+\.hook_resid_(pre|mid|post)$")


def resid_pre(layer: int) -> str:
    """Name of the residual stream before block ``layer``."""
    return f"blocks.{layer}.hook_resid_pre"


def resid_post(layer: int) -> str:
    """Name of the residual stream after block ``layer``.

    This is ``hidden_states[layer + 1]`` of Hugging Face, except that the last entry there is after the final
    norm and this is before it.
    """
    return f"blocks.{layer}.hook_resid_post"


def residual_hook_points(
    model: HookedModel, site: Literal["resid_pre", "resid_mid", "resid_post"] = "resid_post"
) -> list[str]:
    """The residual stream's hook points, one per layer, first layer first.

    Raises:
        HookPointError: the model has no such site (``resid_mid`` does not exist in parallel blocks such as
            NeoX).
    """
    names = [f"blocks.{layer}.hook_{site}" for layer in range(model.cfg.n_layers)]
    check_hook_points(model, names)
    return names


def layer_of(hook_point: str) -> int:
    """The block number in a hook point's name.

    Raises:
        HookPointError: the name is not inside a block, e.g. ``"hook_embed"``.
    """
    match = _BLOCK.match(hook_point)
    if match is None:
        raise HookPointError(
            f"the hook point '{hook_point}' names no block; a name such as '{resid_post(3)}' was expected."
        )
    return int(match.group(1))


def check_hook_points(model: HookedModel, names: Sequence[str]) -> None:
    """Check that every name is a hook point of the model.

    Raises:
        HookPointError: names the first one that is not, and those that resemble it.
    """
    _find(model, names)


def _find(model: HookedModel, names: Sequence[str]) -> list[nn.Module]:
    """The modules behind the names.

    A Bridge makes its ``hook_dict`` anew at every access, which at many layers takes as long as a short forward
    pass; the residual stream's points, the ones asked for at every batch, are therefore looked up one by one.
    """
    look_up = getattr(model, "get_hook_point", None)
    known: Mapping[str, nn.Module] | None = None
    found: list[nn.Module] = []
    for name in names:
        point = look_up(name) if look_up is not None and _RESIDUAL.match(name) else None
        if point is None:
            known = model.hook_dict if known is None else known
            if name not in known:
                raise _no_such_point(model, name, list(known))
            point = known[name]
        found.append(point)
    return found


def _no_such_point(model: HookedModel, name: str, known: list[str]) -> HookPointError:
    near = difflib.get_close_matches(name, known, n=3)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    return HookPointError(
        f"the model has no hook point '{name}'.{hint} It has {model.cfg.n_layers} layers "
        f"(blocks.0 to blocks.{model.cfg.n_layers - 1}); see model.hook_dict for every name."
    )


@contextlib.contextmanager
def hooks(
    model: HookedModel, functions: Mapping[str, HookFunction] | Sequence[tuple[str, HookFunction]]
) -> Iterator[None]:
    """Run functions at hook points while the ``with`` block lasts.

    Afterwards they are gone, whatever happened inside. They see forward passes and every step of generation,
    and leave other hooks of the model alone. Several functions at one hook point run in the order given.

    Args:
        model: the model.
        functions: by hook point, or pairs when one hook point gets several. A function gets the activation
            ``[batch, pos, ...]`` and returns its replacement or None.

    Raises:
        HookPointError: a name is not a hook point of the model; nothing was attached.
    """
    pairs = list(functions.items()) if isinstance(functions, Mapping) else list(functions)
    points = _find(model, [name for name, _ in pairs])
    with contextlib.ExitStack() as stack:
        for point, (_, function) in zip(points, pairs, strict=True):
            handle = point.register_forward_hook(_forward_hook(function))
            stack.callback(handle.remove)
        yield


def _forward_hook(function: HookFunction) -> Callable[[nn.Module, Any, Tensor], Tensor | None]:
    def hook(module: nn.Module, inputs: Any, output: Tensor) -> Tensor | None:
        return function(output)

    return hook
