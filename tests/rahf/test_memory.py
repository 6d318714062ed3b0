import gc
import weakref

import pytest
import torch

from contrans_lens.rahf.memory import free_models


class Circle:
    def __init__(self) -> None:
        self.own = self


@pytest.mark.parametrize("card", [True, False])
def test_circles_are_freed_where_there_is_a_card(card: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: card)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    gc.disable()
    try:
        left = weakref.ref(Circle())
        free_models()
        assert (left() is None) == card
    finally:
        gc.enable()
