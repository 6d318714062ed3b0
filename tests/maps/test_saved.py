"""Maps on disk: the same numbers back, other models refused."""

from dataclasses import replace

import pytest
import torch

from contrans_lens.errors import ArtifactError, FingerprintMismatchError
from contrans_lens.maps import AffineMap, AutoencoderMap, fit_autoencoder, fit_map
from contrans_lens.models import Fingerprint


def model(name="a", d_model=3, weights="00000000"):
    return Fingerprint(name, "Tiny", 2, d_model, 50, weights, "raw", "float32", "tok")


SOURCE, TARGET = model(), model("b", 4, "11111111")
NAMES = {"source_fingerprint": SOURCE, "target_fingerprint": TARGET}
HOOKS = {"source_hook_point": "blocks.0.hook_resid_post", "target_hook_point": "blocks.1.hook_resid_post"}


def states():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(30, 3, generator=generator), torch.randn(30, 4, generator=generator)


@pytest.mark.parametrize("method", ["ridge", "ols", "reduced_rank", "procrustes", "identity"])
def test_a_map_comes_back_as_it_was(tmp_path, method):
    x, y = states()
    made = fit_map(x, y, method=method, held_out=(x, y), concept=(x[0], y[0]), **NAMES, **HOOKS)
    made.save(tmp_path / "map")
    back = AffineMap.load(tmp_path / "map", for_source=SOURCE, for_target=TARGET)
    assert torch.equal(back.weight, made.weight)
    assert torch.equal(back.bias, made.bias)
    for name in ("source_hook_point", "target_hook_point", "method", "ridge", "rank", "diagnostics"):
        assert getattr(back, name) == getattr(made, name)
    assert (back.source_fingerprint, back.target_fingerprint) == (SOURCE, TARGET)


def test_another_model_on_either_side_is_refused(tmp_path):
    x, y = states()
    fit_map(x, y, **NAMES).save(tmp_path / "map")
    with pytest.raises(FingerprintMismatchError, match="source"):
        AffineMap.load(tmp_path / "map", for_source=TARGET)
    with pytest.raises(FingerprintMismatchError, match="target"):
        AffineMap.load(tmp_path / "map", for_target=SOURCE)
    with pytest.raises(FingerprintMismatchError, match="process_weights"):
        AffineMap.load(tmp_path / "map", for_source=replace(SOURCE, processing="folded+centred"))


def test_a_map_without_models_cannot_be_vouched_for(tmp_path):
    x, y = states()
    fit_map(x, y).save(tmp_path / "map")
    assert AffineMap.load(tmp_path / "map").source_fingerprint is None
    with pytest.raises(FingerprintMismatchError, match="records no model"):
        AffineMap.load(tmp_path / "map", for_source=SOURCE)


def test_other_kinds_and_truncated_files_are_refused(tmp_path):
    x, y = states()
    fit_autoencoder(x, y, epochs=1).save(tmp_path / "other")
    with pytest.raises(ArtifactError, match="affine_map"):
        AffineMap.load(tmp_path / "other")
    fit_map(x, y).save(tmp_path / "map")
    tensors = next((tmp_path / "map").glob("*.safetensors"))
    tensors.write_bytes(tensors.read_bytes()[:-4])
    with pytest.raises(ArtifactError, match="truncated"):
        AffineMap.load(tmp_path / "map")


def test_a_map_that_is_not_finite_is_not_saved(tmp_path):
    x, y = states()
    broken = replace(fit_map(x, y), bias=torch.full((4,), torch.nan))
    with pytest.raises(ArtifactError, match="bias"):
        broken.save(tmp_path / "map")


def test_an_autoencoder_comes_back_as_it_was(tmp_path):
    x, y = states()
    made = fit_autoencoder(x, y, epochs=3, **NAMES, **HOOKS)
    made.save(tmp_path / "map")
    back = AutoencoderMap.load(tmp_path / "map", for_source=SOURCE, for_target=TARGET)
    assert torch.equal(back(x), made(x))
    assert back.validation_losses == made.validation_losses
    with pytest.raises(FingerprintMismatchError):
        AutoencoderMap.load(tmp_path / "map", for_source=TARGET)
