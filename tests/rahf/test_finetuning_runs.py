"""Fine-tuning runs: broken off and taken up, opened when finished, and refused where they are others."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from contrans_lens.errors import ArtifactError
from contrans_lens.rahf import finetuning
from contrans_lens.rahf.finetuning import FineTuned, fine_tune
from contrans_lens.rahf.training import LoraSettings
from tests.rahf.small_tunings import LORA, PAIRS, SHORT, adapter, breaking_off, tune
from tests.tiny_models import tiny_folder


@pytest.mark.parametrize("after", [1, 4])
def test_a_run_that_is_broken_off_ends_like_an_unbroken_one(
    after: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    unbroken = tune(tmp_path / "unbroken", method="scit")
    with monkeypatch.context() as patched:
        patched.setattr(finetuning, "answer_nll", breaking_off(after))
        with pytest.raises(KeyboardInterrupt):
            tune(tmp_path / "broken", method="scit")
    with pytest.raises(ArtifactError, match="broken off; call it again"):
        FineTuned.load(tmp_path / "broken")
    with pytest.raises(ArtifactError, match="method is 'scit' there and 'preferred' here"):
        tune(tmp_path / "broken")
    resumed = tune(tmp_path / "broken", method="scit")
    assert adapter(resumed) == adapter(unbroken)
    assert replace(resumed, folder=unbroken.folder, cost=unbroken.cost) == unbroken
    assert not (resumed.folder / "checkpoints").exists()


def test_a_finished_run_is_opened_without_training(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first = tune(tmp_path)
    monkeypatch.setattr(finetuning, "train", None)
    assert tune(tmp_path) == first


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"training": replace(SHORT, steps=6)}, "training.steps is 5 there and 6 here"),
        ({"lora": LoraSettings(rank=3, alpha=8)}, "lora.rank is 2 there and 3 here"),
        ({"lora": None}, "lora is"),
        ({"preferences": PAIRS.swapped()}, "data is"),
        ({"validation": PAIRS}, "validation is None there"),
        ({"method": "scit"}, "method is 'preferred' there"),
    ],
)
def test_another_run_is_refused_with_what_differs(
    change: dict[str, Any], what: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp() / "one-finished-run"
    first = tune(folder)
    with pytest.raises(ArtifactError, match=what):
        tune(folder, **change)
    assert FineTuned.load(folder) == first


def test_another_base_is_refused_and_the_same_one_elsewhere_is_not(tmp_path: Path) -> None:
    first = tune(tmp_path / "out")
    options: dict[str, Any] = {"method": "preferred", "lora": LORA, "training": SHORT, "device": "cpu"}
    with pytest.raises(ArtifactError, match=r"base\.architecture is 'GPT2LMHeadModel' there"):
        fine_tune(tiny_folder("llama"), PAIRS, tmp_path / "out", **options)
    with pytest.raises(ArtifactError, match=r"base\.weights"):
        fine_tune(tiny_folder("gpt2", 1), PAIRS, tmp_path / "out", **options)
    moved = tmp_path / "moved"
    moved.mkdir()
    for path in tiny_folder("gpt2").iterdir():
        (moved / path.name).write_bytes(path.read_bytes())
    assert fine_tune(moved, PAIRS, tmp_path / "out", **options) == first
