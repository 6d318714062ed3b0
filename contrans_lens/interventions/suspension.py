"""Steering put aside while the model itself is looked at.

A fingerprint is what the model's weights do on fixed tokens. Taken inside a ``steer`` block it would be
that of the steered model, and nested blocks would refuse their own model.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

SUSPENDED: ContextVar[bool] = ContextVar("SUSPENDED", default=False)
"""Whether the hooks of this room let activations pass; they ask at every call."""


@contextmanager
def suspended() -> Iterator[None]:
    """Let every activation pass unchanged while the block lasts, in this thread."""
    token = SUSPENDED.set(True)
    try:
        yield
    finally:
        SUSPENDED.reset(token)
