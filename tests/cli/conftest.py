from collections.abc import Iterator
from pathlib import Path

import pytest

from contrans_lens import models
from tests.cli.pace_cases import opened, save_dictionary


@pytest.fixture(scope="session")
def dictionary_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dictionary of eight concepts on an embedded model."""
    return save_dictionary(tmp_path_factory.mktemp("dictionary"))


@pytest.fixture
def _opened_once() -> Iterator[None]:
    """Commands open each model once for all tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "open_model", opened)
        yield
