"""What all tests of the room share."""

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def _cheap_collections() -> Iterator[None]:
    """Every training ends with a collection of garbage, which goes through all that was ever imported."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
