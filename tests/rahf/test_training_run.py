"""The folder of a run: one commit point, and no other run's results."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import nn

from contrans_lens.errors import ArtifactError
from contrans_lens.models.plain import open_plain
from contrans_lens.rahf.training_run import TrainingRun, base_identity, read_manifest, save_weights
from tests.rahf.small_training import breaking_off, objective, run_into, student, trained
from tests.tiny_models import hf_tiny, tiny_folder


def test_a_finished_run_has_the_result_and_nothing_of_the_trainer(tmp_path: Path) -> None:
    run = run_into(tmp_path)
    assert run.finished() is None
    assert list(tmp_path.iterdir()) == []
    _, record = trained(tmp_path, commit=True)
    assert {path.name for path in tmp_path.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "rahf.json",
    }
    assert run.finished() == record.to_dict()


def test_another_run_is_refused_with_what_differs(tmp_path: Path) -> None:
    first = TrainingRun(tmp_path, "a_test", {"data": "abc", "training": {"steps": 4, "modules": ("a", "b")}})
    first.begin()
    assert first.finished() is None
    for commit in (False, True):
        if commit:
            first.commit(lambda folder: None, {"answer": 42})
        other = TrainingRun(
            tmp_path, "a_test", {"data": "abc", "training": {"steps": 5, "modules": ("a", "b")}, "alpha": 2}
        )
        with pytest.raises(ArtifactError, match=r"another run: .*training\.steps is 4 there and 5 here") as caught:
            other.finished()
        assert "alpha is None there and 2 here" in str(caught.value)
        assert "data is" not in str(caught.value)
        assert "modules" not in str(caught.value)
    assert first.finished() == {"answer": 42}
    with pytest.raises(ArtifactError, match="'another'"):
        TrainingRun(tmp_path, "another", first.key).finished()


def test_measured_numbers_are_compared_up_to_rounding(tmp_path: Path) -> None:
    def run(*numbers: float, tolerance: float = 1e-3) -> TrainingRun:
        return TrainingRun(tmp_path, "a_test", {"alpha": 1.0}, {"differences": numbers}, tolerance)

    run(2.0, -1e-9).begin()
    assert run(2.0 + 1e-3, 1e-9).finished() is None
    assert run(2.0, 0.1, tolerance=0.1).finished() is None
    for other in (run(2.0, 0.1), run(-2.0, -1e-9), run(2.0)):
        with pytest.raises(ArtifactError, match="another run: differences are other numbers there"):
            other.finished()


def test_a_run_of_other_processes_is_another_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_into(tmp_path).begin()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ArtifactError, match="processes is 1 there and 2 here"):
        run_into(tmp_path).finished()


def test_folders_of_other_things_and_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ArtifactError, match="no training's"):
        run_into(tmp_path).finished()
    with pytest.raises(ArtifactError, match="is a file"):
        run_into(tmp_path / "config.json").finished()


def test_a_disk_that_is_full_at_the_end_keeps_the_checkpoints(tmp_path: Path) -> None:
    trained(tmp_path)

    def full(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(ArtifactError, match=r"No space left.*checkpoints are kept"):
        run_into(tmp_path).commit(full, {})
    assert (tmp_path / "checkpoints" / "checkpoint-9").is_dir()
    with pytest.raises(ArtifactError, match="broken off; call it again"):
        read_manifest(tmp_path, "a_test")
    trained(tmp_path, objective=objective(breaking_off(0)), commit=True)
    assert run_into(tmp_path).finished() is not None


def test_a_kill_between_commit_and_clearing_up_is_cleared_up(tmp_path: Path) -> None:
    trained(tmp_path, commit=True)
    (tmp_path / "checkpoints" / "checkpoint-9").mkdir(parents=True)
    assert run_into(tmp_path).finished() is not None
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("damage", ["cut off", "removed"])
def test_weights_that_are_not_as_they_were_written_are_refused(damage: str, tmp_path: Path) -> None:
    trained(tmp_path, commit=True)
    weights = tmp_path / "adapter_model.safetensors"
    if damage == "removed":
        weights.unlink()
    else:
        weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match="checksum"):
        run_into(tmp_path).finished()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not readable JSON"),
        ("[]", "an object was expected"),
        ('{"kind": "b", "schema": 1}', "'b' run; 'a_test' was expected"),
        ('{"kind": "a_test", "schema": 9}', "schema version 9"),
        ('{"kind": "a_test", "schema": 1, "key": {}}', r"lacks \['body', 'files'\]"),
    ],
)
def test_damaged_manifests_are_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "rahf.json").write_text(text)
    with pytest.raises(ArtifactError, match=message):
        read_manifest(tmp_path, "a_test")


def test_no_manifest_is_said(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="does not exist"):
        read_manifest(tmp_path, "a_test")


def test_the_identity_of_a_base_does_not_depend_on_its_folder_and_sees_one_weight(tmp_path: Path) -> None:
    plain = open_plain(tiny_folder("gpt2"), device="cpu")
    identity = base_identity(plain)
    save_weights(plain.model, plain.place, tmp_path)
    moved = open_plain(tmp_path, device="cpu")
    assert base_identity(moved) == identity
    with torch.no_grad():
        next(moved.model.parameters())[3, 4] += 1e-3
    changed = base_identity(moved)
    assert changed["weights"] != identity["weights"]
    assert changed["tokenizer"] == identity["tokenizer"]
    half = open_plain(tiny_folder("gpt2"), device="cpu", dtype=torch.bfloat16)
    assert base_identity(half)["weights"] != identity["weights"]
    assert base_identity(open_plain(tiny_folder("neox"), device="cpu"))["tokenizer"] != identity["tokenizer"]


def test_adapters_are_saved_for_plain_peft(tmp_path: Path) -> None:
    model = student()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.3)
    save_weights(model, str(tiny_folder("gpt2")), tmp_path)
    base = type(hf_tiny("gpt2")[0]).from_pretrained(tiny_folder("gpt2"))
    read: Any = PeftModel.from_pretrained(base, tmp_path).eval()
    ids = torch.arange(5, 17)[None]
    with torch.no_grad():
        expected = model.eval()(ids).logits
        assert torch.equal(read(ids).logits, expected)
        assert not torch.allclose(expected, hf_tiny("gpt2")[0](ids).logits, atol=1e-2)
    assert isinstance(read, nn.Module)
