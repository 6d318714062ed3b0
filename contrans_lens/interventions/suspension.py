"""Steering put aside while the model itself is looked at.

A fingerprint is what the model's weights do on fixed tokens. Taken inside a ``steer`` block it would be
that of the steered model, and nested blocks would refuse their own model.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from contrans_lens.models import Fingerprint, HookedModel, fingerprint

SUSPENDED: ContextVar[bool] = ContextVar("SUSPENDED", default=False)
"""Whether the hooks of this room let activations pass; they ask at every call."""


def require_model(known: Fingerprint | None, model: HookedModel, what: str) -> None:
    """Check that something was made for this model and weight processing, looking at the model as it is unsteered.

    Args:
        known: fingerprint of the model it was made for; None fits every model.
        model: the model it is to be used on.
        what: what it is, for the message.

    Raises:
        FingerprintMismatchError: it was made on another model; the message says what differs.
    """
    if known is not None:
        with suspended():
            found = fingerprint(model)
        known.require(found, what)


@contextmanager
def suspended() -> Iterator[None]:
    """Let every activation pass unchanged while the block lasts, in this thread."""
    token = SUSPENDED.set(True)
    try:
        yield
    finally:
        SUSPENDED.reset(token)
