"""The store: one interface in memory and on disk, and whole whatever happens to the process that writes it."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contrans_lens.errors import ArtifactError, CaptureError, FingerprintMismatchError, HookPointError
from contrans_lens.models import fingerprint, resid_post
from contrans_lens.residuals import (
    MeanOver,
    ResidualStore,
    capture,
    reader,
    shards,
    writer,
)
from tests.tiny_models import TEXTS, open_tiny

TEXTS = [f"{text} {number}" for number in range(6) for text in TEXTS]
ROOT = Path(__file__).parents[2]


@pytest.fixture
def model():
    return open_tiny("gpt2", "bridge")


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch):
    monkeypatch.setattr(writer, "SHARD_BYTES", 2048)  # four examples of 4 layers x 32 values


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def refuse_to_run(monkeypatch):
    def run(*arguments, **options):
        raise AssertionError("the model was run")

    monkeypatch.setattr(reader, "run", run)


def interrupt_after(monkeypatch, n_batches, error):
    """Let so many batches through and raise in the next; returns a way back."""
    original, seen = reader.run, []

    def run(model, batch, **options):
        seen.append(len(batch.tokens))
        if len(seen) > n_batches:
            raise error
        return original(model, batch, **options)

    monkeypatch.setattr(reader, "run", run)
    return lambda: monkeypatch.setattr(reader, "run", original)


def test_disk_and_memory_hold_the_same(model, tmp_path):
    memory, disk = capture(model, TEXTS), capture(model, TEXTS, store=tmp_path / "store")
    assert len(list((tmp_path / "store").glob("shard-*"))) > 3
    torch.testing.assert_close(disk.tensor(), memory.tensor(), atol=1e-6, rtol=1e-6)
    reopened = ResidualStore.open(tmp_path / "store", fingerprint=fingerprint(model))
    for name in ("hook_points", "d_model", "positions", "fingerprint", "text_hash", "truncated", "n_examples"):
        assert getattr(reopened, name) == getattr(memory, name)
    assert torch.equal(reopened.tensor(), disk.tensor())
    assert torch.equal(reopened.text_index, torch.arange(len(TEXTS)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_half_precision_is_for_keeping_only(model, tmp_path, dtype):
    exact = capture(model, TEXTS)
    store = capture(model, TEXTS, store=tmp_path / "store", dtype=dtype)
    assert store.dtype == dtype
    assert store.tensor().dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(store.tensor().float(), exact.tensor().to(dtype).float(), atol=2e-2, rtol=1e-2)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), size=st.integers(1, 30))
def test_views_and_batches_equal_indexing(tmp_path_factory, data, size):
    store = open_shared_store(tmp_path_factory)
    whole = store.tensor()
    indices = data.draw(st.lists(st.integers(-len(TEXTS), len(TEXTS) - 1), max_size=30))
    chosen = store.select(indices)
    assert torch.equal(chosen.tensor(), whole[indices])
    assert torch.equal(chosen.tensor(resid_post(2)), whole[indices, 2])
    batches = list(chosen.batches(size))
    assert all(len(batch) == size for batch in batches[:-1])
    assert torch.equal(torch.cat([whole[:0], *batches]), whole[indices])
    assert len(chosen) == chosen.n_examples == len(indices)


_SHARED = {}


def open_shared_store(tmp_path_factory):
    if "store" not in _SHARED:
        _SHARED["store"] = capture(open_tiny("gpt2", "bridge"), TEXTS, store=tmp_path_factory.mktemp("shared") / "s")
    return _SHARED["store"]


def test_a_view_cannot_change_the_store(tmp_path_factory):
    for store in (open_shared_store(tmp_path_factory), ResidualStore.from_tensor(torch.ones(3, 1, 2), ["a"])):
        before = store.tensor()
        store.tensor().zero_()
        next(store.batches(2)).zero_()
        assert torch.equal(store.tensor(), before)


def test_a_store_refuses_what_it_has_not(tmp_path_factory):
    store = open_shared_store(tmp_path_factory)
    with pytest.raises(HookPointError, match=r"'blocks\.7\.hook_resid_post' was not captured"):
        store.tensor(resid_post(7))
    with pytest.raises(CaptureError, match="within the store's 24 examples"):
        store.select([24])
    with pytest.raises(CaptureError, match="batches of 0"):
        next(store.batches(0))
    with pytest.raises(CaptureError, match="2 hook points were given for residuals of 1 layers"):
        ResidualStore.from_tensor(torch.ones(3, 1, 2), ["a", "b"])


def test_a_finished_store_is_opened_without_running_the_model(model, tmp_path, monkeypatch):
    first = capture(model, TEXTS, store=tmp_path)
    before = contents(tmp_path)
    refuse_to_run(monkeypatch)
    assert torch.equal(capture(model, TEXTS, store=tmp_path).tensor(), first.tensor())
    assert contents(tmp_path) == before


def test_the_same_model_on_the_other_back_end_finds_its_store(tmp_path, monkeypatch):
    first = capture(open_tiny("gpt2", "bridge"), TEXTS, store=tmp_path)
    refuse_to_run(monkeypatch)
    assert torch.equal(capture(open_tiny("gpt2", "bridge"), TEXTS, store=tmp_path).tensor(), first.tensor())


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"texts": TEXTS[:-1]}, "n_texts (24 there, 23 here), text_sha256"),
        ({"texts": TEXTS[::-1]}, "text_sha256"),
        ({"positions": MeanOver()}, "positions"),
        ({"hook_points": [resid_post(0)]}, "hook_points"),
        ({"dtype": torch.float16}, "dtype (float32 there, float16 here)"),
        ({"padding_side": "left"}, "padding_side"),
        ({"model": ("gpt2", 1)}, "the model's weights"),
        ({"model": ("llama", 0)}, "the model's architecture"),
    ],
)
def test_another_capture_is_not_written_over(model, tmp_path, changes, named):
    capture(model, TEXTS, store=tmp_path)
    before = contents(tmp_path)
    arguments = {"texts": TEXTS} | changes
    if "model" in arguments:
        architecture, seed = arguments.pop("model")
        model = open_tiny(architecture, "bridge", seed=seed)
    with pytest.raises(ArtifactError, match="holds another capture") as caught:
        capture(model, store=tmp_path, **arguments)
    assert named in str(caught.value)
    assert contents(tmp_path) == before


def test_opening_for_another_model_is_refused(model, tmp_path):
    capture(model, TEXTS, store=tmp_path)
    with pytest.raises(FingerprintMismatchError, match="the residuals in"):
        ResidualStore.open(tmp_path, fingerprint=fingerprint(open_tiny("gpt2", "bridge", seed=1)))


@pytest.mark.parametrize("n_batches", [0, 1, 5, 11])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_capture_is_taken_up_with_the_same_bytes(model, tmp_path, monkeypatch, n_batches, error):
    capture(model, TEXTS, store=tmp_path / "whole", batch_size=2)
    back = interrupt_after(monkeypatch, n_batches, error())
    with pytest.raises(error):
        capture(model, TEXTS, store=tmp_path / "cut", batch_size=2)
    left = contents(tmp_path / "cut")
    assert not [name for name in left if name.startswith(".")]
    with pytest.raises(ArtifactError, match="was interrupted; run it again"):
        ResidualStore.open(tmp_path / "cut")
    back()
    sizes, original = [], reader.run
    monkeypatch.setattr(reader, "run", lambda model, batch: (sizes.append(len(batch.tokens)), original(model, batch)))
    capture(model, TEXTS, store=tmp_path / "cut", batch_size=2)
    assert sum(sizes) == len(TEXTS) - 4 * (n_batches // 2)  # finished shards of four texts are not run again
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


@pytest.mark.parametrize("leftover", [".shard-00002.safetensors.k2x9.tmp", ".tmpidvQq4"])
def test_what_a_killed_writer_left_is_cleared_away(model, tmp_path, monkeypatch, leftover):
    capture(model, TEXTS, store=tmp_path / "whole", batch_size=2)
    back = interrupt_after(monkeypatch, 5, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        capture(model, TEXTS, store=tmp_path / "cut", batch_size=2)
    (tmp_path / "cut" / leftover).write_bytes(b"half a shard")
    back()
    capture(model, TEXTS, store=tmp_path / "cut", batch_size=2)
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_a_halved_batch_is_remembered_so_that_bytes_do_not_depend_on_interruptions(model, tmp_path, monkeypatch):
    def out_of_memory_above_two(folder, stop_after=10**9):
        original, seen = reader.run, []

        def run(model, batch):
            if len(batch.tokens) > 2:
                raise torch.OutOfMemoryError("no")
            seen.append(1)
            if len(seen) > stop_after:
                raise KeyboardInterrupt
            return original(model, batch)

        monkeypatch.setattr(reader, "run", run)
        try:
            capture(model, TEXTS, store=folder)
        except KeyboardInterrupt:
            pass
        finally:
            monkeypatch.setattr(reader, "run", original)

    out_of_memory_above_two(tmp_path / "whole")
    out_of_memory_above_two(tmp_path / "cut", stop_after=5)
    assert json.loads((tmp_path / "cut" / "manifest.json").read_text())["batch"]["tokens"] < 1024
    out_of_memory_above_two(tmp_path / "cut")
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_killed_at_random_points_and_resumed_gives_the_same_bytes(tmp_path):
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("kill_and_resume.py")), str(tmp_path), "0"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    found = json.loads(done.stdout)
    assert found["same"], found
    assert found["progress"] == sorted(found["progress"])  # nothing finished is lost
    assert any(0 < n < found["n_shards"] for n in found["progress"]), found


def test_a_full_disk_is_an_artifact_error_and_leaves_what_was_finished(model, tmp_path, monkeypatch):
    capture(model, TEXTS, store=tmp_path / "whole", batch_size=2)
    original, written = safetensors.torch.save_file, []

    def fill_up(tensors, filename, metadata=None):
        if len(written) == 3:
            Path(filename).write_bytes(b"half a sha")
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(filename)
        original(tensors, filename, metadata=metadata)

    monkeypatch.setattr(shards.safetensors.torch, "save_file", fill_up)
    with pytest.raises(ArtifactError, match="No space left on device"):
        capture(model, TEXTS, store=tmp_path / "full", batch_size=2)
    monkeypatch.setattr(shards.safetensors.torch, "save_file", original)
    left = contents(tmp_path / "full")
    assert sorted(left) == ["manifest.json", *(f"shard-0000{n}.safetensors" for n in range(3))]
    whole = contents(tmp_path / "whole")
    assert all(left[name] == whole[name] for name in left if name != "manifest.json")
    capture(model, TEXTS, store=tmp_path / "full", batch_size=2)
    assert contents(tmp_path / "full") == whole


def test_a_folder_that_cannot_be_made_is_an_artifact_error(model, tmp_path):
    (tmp_path / "file").write_text("here")
    with pytest.raises(ArtifactError, match="cannot make"):
        capture(model, TEXTS, store=tmp_path / "file" / "store")


@pytest.mark.parametrize("damage", ["truncate", "flip", "delete", "nan", "foreign"])
def test_a_damaged_shard_is_refused_and_made_anew(model, tmp_path, damage):
    capture(model, TEXTS, store=tmp_path)
    whole = contents(tmp_path)
    path = tmp_path / "shard-00002.safetensors"
    data = bytearray(path.read_bytes())
    if damage == "truncate":
        path.write_bytes(data[:-100])
    elif damage == "flip":
        data[-1] ^= 0x40
        path.write_bytes(data)
    elif damage == "delete":
        path.unlink()
    else:
        key = json.loads((tmp_path / "manifest.json").read_text())["key"]
        shard = shards.read_shard(path, key, verify=True)
        residuals = shard.residuals.clone()
        if damage == "nan":
            residuals[0, 0, 0] = float("nan")
        shards.write_shard(path, shards.Shard(residuals, shard.example.clone(), shard.text.clone()),
                           key if damage == "nan" else "another")  # fmt: skip
    with pytest.raises(ArtifactError, match=r"shard-00002\.safetensors.*[Cc]apture"):
        ResidualStore.open(tmp_path)
    capture(model, TEXTS, store=tmp_path)
    assert contents(tmp_path) == whole


def test_manifests_of_other_kinds_and_schemas_are_refused(model, tmp_path):
    with pytest.raises(ArtifactError, match="does not exist"):
        ResidualStore.open(tmp_path)
    capture(model, TEXTS, store=tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    for change, message in (
        ({"schema": 99}, "schema version 99"),
        ({"kind": "map"}, "'map' artifact"),
        ({"n_examples": 99}, "do not hold each of 99 examples once"),
    ):
        (tmp_path / "manifest.json").write_text(json.dumps(manifest | change))
        with pytest.raises(ArtifactError, match=message):
            ResidualStore.open(tmp_path)
    del manifest["n_shards"]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match=r"lacks \['n_shards'\]"):
        ResidualStore.open(tmp_path)
