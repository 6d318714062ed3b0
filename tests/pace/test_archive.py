import json

import pytest
import torch

from contrans_lens.errors import ArtifactError, FingerprintMismatchError, PaceError
from contrans_lens.interventions import PROMPT, save_interventions
from contrans_lens.models import fingerprint
from contrans_lens.pace.archive import load_edits, load_removals, save_removals
from contrans_lens.pace.removal import removals, removed_at
from contrans_lens.pace.solvers import OMP, OrthogonalProjection
from tests.interventions.cases import HOOK, LATER, addition
from tests.pace.removing import SOLVER, UNWANTED, dictionary
from tests.tiny_models import D_MODEL, KINDS, open_tiny


@pytest.mark.parametrize("solver", [SOLVER, OMP(5), OrthogonalProjection()])
def test_what_is_loaded_removes_the_same(tmp_path, solver):
    model = open_tiny("gpt2", KINDS[0])
    made = removals(
        dictionary(fingerprint=fingerprint(model)),
        UNWANTED,
        solver=solver,
        mode="per_token",
        strength=0.7,
        label="calm",
    )
    loaded = load_removals(save_removals(tmp_path / "calm", made), model)
    z = torch.randn(5, D_MODEL, generator=torch.Generator().manual_seed(0))
    for one, other in zip(made, loaded, strict=True):
        assert torch.equal(removed_at(one, z), removed_at(other, z))
        assert one.to_key() == other.to_key()
        assert (other.label, other.fingerprint) == ("calm", one.fingerprint)
    assert [each.hook_point for each in load_edits(tmp_path / "calm")] == [HOOK, LATER]


def test_atoms_that_are_shared_are_written_once(tmp_path):
    (own,) = removals(dictionary(), UNWANTED, [HOOK], solver=SOLVER)
    save_removals(tmp_path, [own, own.with_strength(2.0)])
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert [name for name in manifest["tensors"] if name.startswith("atoms")] == ["atoms.0"]
    first, second = load_removals(tmp_path)
    assert first.prepared is second.prepared


def test_edits_of_either_kind_are_loaded_by_their_manifest(tmp_path):
    save_interventions(tmp_path, [addition(PROMPT)])
    assert load_edits(tmp_path) == (addition(PROMPT),)


def test_removals_of_another_model_are_refused(tmp_path):
    made = removals(dictionary(fingerprint=fingerprint(open_tiny("gpt2", KINDS[0]))), UNWANTED, solver=SOLVER)
    save_removals(tmp_path, made)
    with pytest.raises(FingerprintMismatchError):
        load_removals(tmp_path, open_tiny("llama", KINDS[0]))


def test_what_is_no_removal_is_refused(tmp_path):
    with pytest.raises(PaceError, match="no removal"):
        save_removals(tmp_path / "none", [])
    save_removals(tmp_path / "cut", removals(dictionary(), UNWANTED, solver=SOLVER))
    manifest = tmp_path / "cut" / "manifest.json"
    described = json.loads(manifest.read_text())
    described["body"]["removals"][0]["solver"] = {"kind": "magic"}
    manifest.write_text(json.dumps(described))
    with pytest.raises(ArtifactError, match="magic"):
        load_removals(tmp_path / "cut")
    described["body"]["removals"] = []
    manifest.write_text(json.dumps(described))
    with pytest.raises(ArtifactError, match="no removals"):
        load_removals(tmp_path / "cut")
    next((tmp_path / "cut").glob("*.safetensors")).write_bytes(b"half")
    with pytest.raises(ArtifactError, match="checksum"):
        load_removals(tmp_path / "cut")
