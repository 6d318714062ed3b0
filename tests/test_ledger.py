from pathlib import Path

import pytest
import torch

from contrans_lens.errors import ArtifactError
from contrans_lens.ledger import Ledger


class Counter:
    """A stage that counts how often it was computed."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> dict[str, torch.Tensor]:
        self.calls += 1
        return {"numbers": torch.arange(3.0)}


def test_a_finished_stage_is_not_computed_again(tmp_path: Path):
    stage = Counter()
    ledger = Ledger(tmp_path, {"seed": 0})
    first = ledger.recall("states", stage)
    again = Ledger(tmp_path, {"seed": 0}).recall("states", stage)
    assert stage.calls == 1
    assert torch.equal(first["numbers"], again["numbers"])


def test_what_decides_the_content_tells_stages_apart(tmp_path: Path):
    stage = Counter()
    Ledger(tmp_path, {"seed": 0}).recall("states", stage)
    Ledger(tmp_path, {"seed": 1}).recall("states", stage)
    Ledger(tmp_path, {"seed": 0}).with_key(model="other").recall("states", stage)
    Ledger(tmp_path, {"seed": 0}).recall("cells", stage)
    assert stage.calls == 4


def test_without_a_folder_everything_is_computed():
    stage = Counter()
    ledger = Ledger(None, {})
    ledger.recall("states", stage)
    ledger.recall("states", stage)
    assert stage.calls == 2


def test_a_stage_that_fails_leaves_nothing(tmp_path: Path):
    def stopped() -> dict[str, torch.Tensor]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Ledger(tmp_path, {}).recall("states", stopped)
    stage = Counter()
    Ledger(tmp_path, {}).recall("states", stage)
    assert stage.calls == 1


def test_a_damaged_stage_is_named(tmp_path: Path):
    Ledger(tmp_path, {}).recall("states", Counter())
    [tensors] = tmp_path.glob("*/*.safetensors")
    tensors.write_bytes(tensors.read_bytes()[:-4])
    with pytest.raises(ArtifactError):
        Ledger(tmp_path, {}).recall("states", Counter())
