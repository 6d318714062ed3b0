import json
import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contrans_lens import artifacts
from contrans_lens.artifacts import load_artifact, read_manifest, require_writable, save_artifact, write_json
from contrans_lens.errors import ArtifactError


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save_artifact(tmp_path / "thing", "thing", {"a": torch.arange(6.0).reshape(2, 3)}, {"note": "é"})


def test_round_trip_keeps_tensors_and_body(saved: Path):
    artifact = load_artifact(saved, "thing")
    assert torch.equal(artifact.tensors["a"], torch.arange(6.0).reshape(2, 3))
    assert artifact.body == {"note": "é"}
    assert "torch" in artifact.versions


def test_saving_again_replaces_and_leaves_no_stale_file(saved: Path):
    save_artifact(saved, "thing", {"a": torch.ones(2)}, {})
    assert len(list(saved.glob("tensors-*"))) == 1
    assert torch.equal(load_artifact(saved).tensors["a"], torch.ones(2))


def test_another_kind_is_refused(saved: Path):
    with pytest.raises(ArtifactError, match="'other' was expected"):
        load_artifact(saved, "other")


def test_another_schema_is_refused(saved: Path):
    manifest = json.loads((saved / "manifest.json").read_text())
    (saved / "manifest.json").write_text(json.dumps(manifest | {"schema": 99}))
    with pytest.raises(ArtifactError, match="schema version 99"):
        read_manifest(saved)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(min_value=0, max_value=95))
def test_any_truncation_is_refused(tmp_path: Path, cut: int):
    folder = save_artifact(tmp_path / "t", "thing", {"a": torch.arange(6.0)}, {})
    tensor_file = next(folder.glob("tensors-*"))
    data = tensor_file.read_bytes()
    tensor_file.write_bytes(data[: len(data) * cut // 100])
    with pytest.raises(ArtifactError, match="truncated"):
        load_artifact(folder)


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", '{"schema": 1}', "\udcff"])
def test_a_broken_manifest_is_refused(saved: Path, text: str):
    (saved / "manifest.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ArtifactError):
        load_artifact(saved)


def test_a_missing_folder_is_named(tmp_path: Path):
    with pytest.raises(ArtifactError, match="nowhere"):
        load_artifact(tmp_path / "nowhere")


def test_non_finite_values_are_neither_saved_nor_loaded(saved: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ArtifactError, match="NaN or infinity"):
        save_artifact(saved, "thing", {"a": torch.tensor([float("nan")])}, {})
    assert load_artifact(saved).body == {"note": "é"}, "the older artifact must survive a refused save"
    monkeypatch.setattr(torch, "isfinite", lambda value: torch.ones_like(value, dtype=torch.bool))
    save_artifact(saved, "thing", {"a": torch.tensor([float("inf")])}, {})
    monkeypatch.undo()
    with pytest.raises(ArtifactError, match="NaN or infinity"):
        load_artifact(saved)


def test_a_manifest_that_is_not_json_leaves_the_older_artifact(saved: Path):
    with pytest.raises(ArtifactError, match="JSON"):
        save_artifact(saved, "thing", {"a": torch.zeros(1)}, {"bad": float("nan")})
    assert torch.equal(load_artifact(saved).tensors["a"], torch.arange(6.0).reshape(2, 3))
    assert len(list(saved.glob("tensors-*"))) == 1


def test_a_full_disk_leaves_the_older_artifact(saved: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ArtifactError, match="No space left"):
        save_artifact(saved, "thing", {"a": torch.zeros(1)}, {})
    monkeypatch.undo()
    assert load_artifact(saved).body == {"note": "é"}
    assert not list(saved.glob(".*tmp"))


def test_ctrl_c_while_writing_leaves_no_temporary_file(tmp_path: Path):
    target = tmp_path / "x.json"
    write_json(target, {"old": 1})

    def interrupted_write() -> None:
        with artifacts.atomic_write(target) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted_write()
    assert json.loads(target.read_text()) == {"old": 1}
    assert list(tmp_path.iterdir()) == [target]


def test_an_artifact_of_another_kind_is_not_overwritten(tmp_path):
    save_artifact(tmp_path / "one", "first", {"x": torch.ones(2)}, {})
    save_artifact(tmp_path / "one", "first", {"x": torch.zeros(2)}, {})
    with pytest.raises(ArtifactError, match="'first' artifact"):
        save_artifact(tmp_path / "one", "second", {"y": torch.ones(2)}, {})
    assert load_artifact(tmp_path / "one", "first").tensors["x"].tolist() == [0, 0]


def test_a_folder_that_cannot_be_written_is_noticed_beforehand(tmp_path):
    require_writable(tmp_path / "not" / "yet")
    assert not (tmp_path / "not").exists()
    (tmp_path / "file").write_text("x")
    for place in ("file", "file/below"):
        with pytest.raises(ArtifactError, match="is a file"):
            require_writable(tmp_path / place)


def test_a_file_given_for_a_folder_is_said_to_be_one(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ArtifactError, match="is a file, and a folder"):
        load_artifact(tmp_path / "file")
