"""What an intervention does to a residual stream, on plain tensors.

With ``R`` the activation ``[batch, pos, d_model]``, ``v`` the vector, ``u = v / ||v||`` its direction,
``s`` the strength and ``n`` the residual norm (1 for absolute units)::

    add            R' = R + s n u          (units of the residual norm)
                   R' = R + s v            (absolute)
    project out    R' = R - s (R.u) u
    clamp          R' = R + s (c n - R.u) u

The activation is never changed in place: autograd and other hooks may hold it.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from contrans_lens.errors import InterventionError

Operation = Callable[[Tensor], Tensor]
"""An activation ``[batch, pos, d_model]`` to a new one."""


def move_component(
    activation: Float[Tensor, "batch pos d"], direction: Float[Tensor, " d"], target: float, strength: float
) -> Float[Tensor, "batch pos d"]:
    """Move the component along a unit direction towards a value: ``R' = R + s (target - R.u) u``.

    With strength 1 the component becomes ``target`` exactly, up to rounding; with target 0 it is projected
    out. The arithmetic is in the direction's dtype (at least float32) and rounded once, to the
    activation's.
    """
    wide = activation.to(direction.dtype)
    component = (wide @ direction).unsqueeze(-1)
    return (wide + strength * (target - component) * direction).to(activation.dtype)


class AddVector:
    """``R' = R + delta``, with the vector brought to the activation's dtype and device once."""

    def __init__(self, delta: Float[Tensor, " d"]) -> None:
        self._exact = delta
        self._ready: Tensor | None = None

    def __call__(self, activation: Tensor) -> Tensor:
        """Return the activation plus the vector."""
        ready = self._ready
        if ready is None or ready.dtype != activation.dtype or ready.device != activation.device:
            check_width(activation, self._exact.shape[0])
            ready = self._ready = prepared(self._exact, activation.device, activation.dtype)
        return activation + ready


class MoveComponent:
    """:func:`move_component` with the direction brought to the activation's device once."""

    def __init__(self, direction: Float[Tensor, " d"], target: float, strength: float) -> None:
        self._exact = direction
        self._target = target
        self._strength = strength
        self._ready: Tensor | None = None

    def __call__(self, activation: Tensor) -> Tensor:
        """Return the activation with its component moved."""
        ready = self._ready
        # A component summed in bfloat16 is off by parts in a hundred: float32 is the narrowest that is used.
        dtype = torch.promote_types(activation.dtype, torch.float32)
        if ready is None or ready.dtype != dtype or ready.device != activation.device:
            check_width(activation, self._exact.shape[0])
            ready = self._ready = prepared(self._exact, activation.device, dtype)
        return move_component(activation, ready, self._target, self._strength)


def prepared(exact: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """A tensor on a device, in a dtype, that any later pass can use.

    ``HookedTransformer.generate`` runs in inference mode, and what is made there cannot take part in a backward pass.
    """
    with torch.inference_mode(False):
        return exact.to(device, dtype)


def check_width(activation: Tensor, width: int) -> None:
    """Check that an activation is ``[batch, pos, width]``.

    Without this a vector of ``d_head`` would broadcast over ``[batch, pos, head, d_head]`` in silence.

    Raises:
        InterventionError: it has another shape.
    """
    if activation.ndim != 3 or activation.shape[-1] != width:
        raise InterventionError(
            f"the vector has width {width}, but the hook point's activation has shape "
            f"{tuple(activation.shape)}; [batch, pos, {width}] is expected. Choose a hook point of that width, "
            "such as hook_resid_post."
        )
