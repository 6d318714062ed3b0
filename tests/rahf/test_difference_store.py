"""Activity differences on disk: taken up again, refused, saved and read a piece at a time."""

import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from contrans_lens.errors import (
    ArtifactError,
    FingerprintMismatchError,
)
from contrans_lens.models import fingerprint
from contrans_lens.rahf.differences import (
    ActivityDifferences,
    DualContrast,
    ScitContrast,
    capture_differences,
)
from contrans_lens.rahf.reading import ContrastReader
from contrans_lens.residuals import ResidualStore, writer
from contrans_lens.texts import Instructions
from tests.rahf.small_contrasts import INSTRUCTIONS, PAIRS, POINTS, dual, scit, values
from tests.tiny_models import D_MODEL, open_tiny


def test_a_store_is_taken_up_again_with_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "SHARD_BYTES", 4096)
    arguments = {"base": open_tiny(), "answers": "both", "batch_size": 2}
    capture_differences(scit(), PAIRS, store=tmp_path / "whole", **arguments)
    n_shards = len(list((tmp_path / "whole").glob("values/shard-*")))
    assert n_shards > 3
    written = itertools.count(1)
    write = writer.StoreWriter.write

    def killed(*given):
        if next(written) == 3:
            raise KeyboardInterrupt
        write(*given)

    monkeypatch.setattr(writer.StoreWriter, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        capture_differences(scit(), PAIRS, store=tmp_path / "killed", **arguments)
    monkeypatch.setattr(writer.StoreWriter, "write", write)
    with pytest.raises(ArtifactError, match="interrupted"):
        ActivityDifferences.open(tmp_path / "killed")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "killed" / "values").glob("shard-*")}
    assert len(before) == 2
    (tmp_path / "killed" / ".manifest.json.x.tmp").touch()
    capture_differences(scit(), PAIRS, store=tmp_path / "killed", **arguments)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_finished_store_is_opened_without_running_the_models(tmp_path):
    model = open_tiny("gpt2", fresh=True)
    contrast = ScitContrast(model, INSTRUCTIONS)
    found = capture_differences(contrast, PAIRS, store=tmp_path, base=model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("contrans_lens.rahf.reading.ContrastReader.activity", lambda *_: pytest.fail("it was run"))
        again = capture_differences(contrast, PAIRS, store=tmp_path, base=model)
        without = capture_differences(contrast, PAIRS, store=tmp_path)
    assert torch.equal(values(again), values(found))
    assert torch.equal(without.residual_norms(), found.residual_norms())


def test_a_base_may_be_named_later_and_another_one_is_refused(tmp_path):
    assert capture_differences(scit(), PAIRS, store=tmp_path).fingerprint is None
    with pytest.raises(FingerprintMismatchError, match="no base model"):
        ActivityDifferences.open(tmp_path, for_model=fingerprint(open_tiny()))
    found = capture_differences(scit(), PAIRS, store=tmp_path, base=open_tiny())
    assert found.residual_norms() is not None
    with pytest.raises(FingerprintMismatchError):
        capture_differences(scit(), PAIRS, store=tmp_path, base=open_tiny(seed=1))
    with pytest.raises(FingerprintMismatchError):
        ActivityDifferences.open(tmp_path, for_model=fingerprint(open_tiny(seed=1)))
    # SCIT's own model is written down beside the base
    recorded = found.origin.contrast["models"]["model"]
    assert recorded["weights"] == fingerprint(open_tiny()).weights


def test_a_store_of_anything_else_is_refused(tmp_path):
    capture_differences(dual(), PAIRS, POINTS, store=tmp_path)
    good, bad, third = (open_tiny(seed=seed) for seed in (0, 1, 2))
    for contrast in (dual().swapped(), scit(), DualContrast(good, third), DualContrast(third, bad)):
        with pytest.raises(ArtifactError):
            capture_differences(contrast, PAIRS, POINTS, store=tmp_path)
    fewer = replace(PAIRS, preferences=PAIRS.preferences[:4])
    for pairs, points, more in (
        (fewer, POINTS, {}),
        (PAIRS, POINTS[:2], {}),
        (PAIRS, POINTS, {"where": "answer"}),
        (PAIRS, POINTS, {"answers": "rejected"}),
        (PAIRS, POINTS, {"max_answer_tokens": 1}),
        (PAIRS, POINTS, {"dtype": torch.bfloat16}),
    ):
        with pytest.raises(ArtifactError):
            capture_differences(dual(), pairs, points, store=tmp_path, **more)
    shutil.rmtree(tmp_path / "values")  # without them the manifest beside them still knows what they were
    with pytest.raises(ArtifactError, match="other answers"):
        capture_differences(dual(), fewer, POINTS, store=tmp_path)
    capture_differences(dual(), PAIRS, POINTS, store=tmp_path)
    vectors = capture_differences(dual(), PAIRS, POINTS).mean_vectors("v").save(tmp_path.parent / "vectors")
    with pytest.raises(ArtifactError, match="concept_vectors"):
        capture_differences(dual(), PAIRS, POINTS, store=vectors)


def test_other_instructions_are_other_differences(tmp_path):
    capture_differences(scit(), PAIRS, store=tmp_path)
    reworded = INSTRUCTIONS | {"river": Instructions("The answer is no:\n", "No! The answer was never to be had:\n")}
    with pytest.raises(ArtifactError):
        capture_differences(ScitContrast(open_tiny(), reworded), PAIRS, store=tmp_path)


def test_what_is_in_memory_can_be_saved_and_a_capture_takes_it_for_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "SHARD_BYTES", 8192)
    found = capture_differences(scit(), PAIRS, base=open_tiny())
    found.save(tmp_path / "saved")
    opened = ActivityDifferences.open(tmp_path / "saved", for_model=fingerprint(open_tiny()))
    assert torch.equal(values(opened), values(found))
    assert opened.rows == found.rows
    assert opened.groups == found.groups
    assert opened.origin.contrast == found.origin.contrast
    opened.save(tmp_path / "again")
    opened.save(tmp_path / "again")
    assert torch.equal(values(ActivityDifferences.open(tmp_path / "again")), values(found))
    taken = capture_differences(scit(), PAIRS, store=tmp_path / "saved", base=open_tiny())
    assert torch.equal(values(taken), values(found))
    with pytest.raises(ArtifactError):
        capture_differences(dual(), PAIRS).save(tmp_path / "saved")
    assert "in memory" in repr(found)
    assert str(tmp_path) in repr(opened)


def test_damaged_folders_are_refused(tmp_path):
    whole = tmp_path / "whole"
    capture_differences(scit(), PAIRS, store=whole, base=open_tiny())

    def cut(path: Path) -> None:
        path.write_bytes(path.read_bytes()[:-20])

    def flip(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[-3] ^= 64
        path.write_bytes(bytes(data))

    def forget(path: Path) -> None:
        manifest = json.loads(path.read_text())
        del manifest["body"]["groups"]
        path.write_text(json.dumps(manifest))

    damages = (
        (Path.unlink, "manifest.json"),
        (Path.unlink, "values/manifest.json"),
        (forget, "manifest.json"),
        *itertools.product((cut, flip, Path.unlink), ("values/shard-*", "tensors-*")),
    )
    for number, (damage, name) in enumerate(damages):
        folder = shutil.copytree(whole, tmp_path / f"{number}")
        damage(next(folder.glob(name)))
        with pytest.raises(ArtifactError):
            ActivityDifferences.open(folder)
    for number, (_, name) in enumerate(damages):
        if name.startswith("values/shard"):  # finished shards are made anew where they are damaged
            again = capture_differences(scit(), PAIRS, store=tmp_path / f"{number}", base=open_tiny())
            assert torch.equal(values(again), values(ActivityDifferences.open(whole)))
    with pytest.raises(ArtifactError):
        ActivityDifferences.open(tmp_path / "nothing")
    mixed = shutil.copytree(whole, tmp_path / "mixed")
    other = replace(PAIRS, preferences=PAIRS.preferences[:2])
    capture_differences(scit(), other, store=tmp_path / "other")
    shutil.rmtree(mixed / "values")
    shutil.copytree(tmp_path / "other" / "values", mixed / "values")
    with pytest.raises(ArtifactError, match="do not fit"):
        ActivityDifferences.open(mixed)


def test_a_store_is_computed_a_shard_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "SHARD_BYTES", 4096)
    many = replace(PAIRS, preferences=tuple(replace(p, prompt=f"{p.prompt} {n}") for n in range(8) for p in PAIRS))
    held: list[int] = []
    compute = ContrastReader.differences

    def counting(self, rows, advance):
        found = compute(self, rows, advance)
        held.append(found.nbytes)
        return found

    monkeypatch.setattr(ContrastReader, "differences", counting)
    found = capture_differences(scit(), many, POINTS, answers="rejected", store=tmp_path)
    longest = max(len(row.answer) for row in found.rows) * len(POINTS) * D_MODEL * 4
    assert max(held) <= max(4096, longest)
    assert sum(held) == values(found).nbytes > 8 * max(held)


def test_stored_values_stay_on_disk_and_only_what_is_asked_for_is_gathered(tmp_path):
    found = capture_differences(scit(), PAIRS, store=tmp_path)
    assert isinstance(found.values, ResidualStore)
    assert found.values.path == tmp_path / "values"
    taken: list[int] = []
    gather = ResidualStore._gather

    def counting(self, place, layer):
        taken.append(len(place))
        return gather(self, place, layer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ResidualStore, "_gather", counting)
        found.of([2])
        found.norms()
    assert taken[0] == len(found.rows[2].answer)
