"""Memory of models that are done with, for runs that open one large model after another."""

import gc

import torch


def free_models() -> None:
    """Give back the card's memory of hooked models that nobody holds any more.

    They are made of references in circles, so that they stay until Python looks for such, which it does by counting
    objects, not bytes. Without a card nothing is done: it takes a while, and main memory is not as short.
    """
    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()
