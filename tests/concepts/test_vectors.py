"""Concept vectors as values: arithmetic, selection, refinement, saving."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from contrans_lens.concepts import (
    ConceptVectors,
    estimate_concept,
    remove_component,
    remove_variance,
    scale_to_residual,
    shrink,
)
from contrans_lens.errors import ArtifactError, ConceptError, FingerprintMismatchError, HookPointError
from contrans_lens.models import Fingerprint
from contrans_lens.residuals import MomentsFitter

HOOKS = ("blocks.0.hook_resid_post", "blocks.1.hook_resid_post")
MODEL = Fingerprint("tiny", "Tiny", 2, 3, 50, "00000000", "raw", "float32", "tok")
OTHER = replace(MODEL, weights="11111111")


def concept(values=((1.0, 2.0, 2.0), (0.0, 3.0, 4.0)), name="joy", **fields) -> ConceptVectors:
    given = {"fingerprint": MODEL, "residual_norms": torch.tensor([10.0, 20.0])} | fields
    return ConceptVectors(name, torch.tensor(values), HOOKS, **given)


def test_arithmetic_by_hand():
    joy, fear = concept(), concept(((1.0, 0.0, 0.0), (1.0, 1.0, 1.0)), "fear")
    assert torch.equal((joy - fear).vectors, joy.vectors - fear.vectors)
    assert torch.equal((joy + fear).vectors, joy.vectors + fear.vectors)
    assert torch.equal((0.5 * joy).vectors, joy.vectors / 2)
    assert torch.equal((joy * 2).vectors, (2 * joy).vectors)
    assert torch.equal((joy / 4).vectors, joy.vectors / 4)
    assert torch.equal((-joy).vectors, -joy.vectors)
    mixed = 0.5 * joy - fear
    assert mixed.name == "(0.5 joy - fear)"
    assert (mixed.fingerprint, mixed.hook_points) == (MODEL, HOOKS)
    assert torch.equal(mixed.residual_norms, joy.residual_norms)


def test_quality_does_not_outlive_a_change():
    states = torch.randn(8, 2, 3), torch.randn(8, 2, 3) + 1
    measured = estimate_concept(*states, HOOKS, held_out=states)
    assert measured.quality
    for changed in (measured + measured, 2 * measured, -measured, measured.normalised()):
        assert changed.quality == ()


def test_other_streams_do_not_add():
    joy = concept()
    with pytest.raises(FingerprintMismatchError, match="joy"):
        joy + concept(fingerprint=OTHER)
    with pytest.raises(ConceptError, match="different hook points"):
        joy - concept().select(HOOKS[::-1])
    with pytest.raises(ConceptError, match="divided by zero"):
        joy / 0


def test_looking_up_and_selecting():
    joy = concept()
    assert torch.equal(joy.at(HOOKS[1]), joy.vectors[1])
    assert joy.residual_norm_at(HOOKS[0]) == 10
    turned = joy.select(HOOKS[::-1])
    assert torch.equal(turned.at(HOOKS[0]), joy.at(HOOKS[0]))
    assert turned.residual_norm_at(HOOKS[0]) == 10
    with pytest.raises(HookPointError, match=r"no vector at 'blocks\.9"):
        joy.at("blocks.9.hook_resid_post")
    with pytest.raises(ConceptError, match="no residual norms"):
        concept(residual_norms=None).residual_norm_at(HOOKS[0])


def test_normalising_and_scaling():
    joy = concept()
    assert torch.allclose(joy.normalised().vectors.norm(dim=1), torch.ones(2))
    scaled = scale_to_residual(joy, 0.5)
    assert torch.allclose(scaled.vectors.norm(dim=1), torch.tensor([5.0, 10.0]))
    assert torch.allclose(torch.cosine_similarity(scaled.vectors, joy.vectors), torch.ones(2))
    flat = concept(((0.0, 0.0, 0.0), (1.0, 0.0, 0.0)))
    with pytest.raises(ConceptError, match=r"zero vector at blocks\.0\.hook_resid_post;"):
        flat.normalised()
    with pytest.raises(ConceptError, match="no residual norms"):
        scale_to_residual(concept(residual_norms=None))


def test_removed_components_are_gone_and_the_rest_is_kept():
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(4, 2, 3, generator=generator)
    joy, fear = (ConceptVectors(str(k), values[k], HOOKS) for k in range(2))
    left = remove_component(joy, fear)
    assert torch.allclose((left.vectors * fear.vectors).sum(1), torch.zeros(2), atol=1e-6)
    unit = fear.vectors / fear.vectors.norm(dim=1, keepdim=True)
    assert torch.allclose(left.vectors, joy.vectors - (joy.vectors * unit).sum(1, keepdim=True) * unit, atol=1e-6)
    twice = remove_component(joy, [fear, 3 * fear])  # the same direction twice counts once
    assert torch.allclose(twice.vectors, left.vectors, atol=1e-6)
    with pytest.raises(ConceptError, match="nothing is left"):
        remove_component(joy, -2 * joy)
    with pytest.raises(ConceptError, match="at least one"):
        remove_component(joy, [])
    with pytest.raises(FingerprintMismatchError):
        remove_component(concept(), concept(fingerprint=OTHER))


def test_generic_variance_is_removed_where_it_is_largest():
    covariance = torch.stack([torch.diag(torch.tensor([1.0, 9.0, 4.0])), torch.diag(torch.tensor([9.0, 4.0, 1.0]))])
    names = (HOOKS[1], HOOKS[0])
    moments = SimpleNamespace(hook_points=names, covariance=covariance.flip(0), fingerprint=MODEL)
    left = remove_variance(concept(), moments, 1)
    assert torch.allclose(left.vectors, torch.tensor([[1.0, 0.0, 2.0], [0.0, 3.0, 4.0]]), atol=1e-6)
    two = remove_variance(concept(), moments, 2)
    assert torch.allclose(two.vectors, torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 4.0]]), atol=1e-6)
    states = torch.randn(50, 2, 3) * torch.tensor([1.0, 1.0, 30.0])
    captured = MomentsFitter(HOOKS).update(states).fit(fingerprint=MODEL)
    assert remove_variance(concept(), captured).vectors[:, 2].abs().max() < 0.2
    with pytest.raises(ConceptError, match="between 1 and 2"):
        remove_variance(concept(), moments, 3)
    bare = SimpleNamespace(hook_points=names, covariance=None, fingerprint=None)
    with pytest.raises(ConceptError, match="no covariance"):
        remove_variance(concept(), bare)
    partial = SimpleNamespace(hook_points=HOOKS[:1], covariance=covariance[:1], fingerprint=MODEL)
    with pytest.raises(ConceptError, match=r"nothing at blocks\.1"):
        remove_variance(concept(), partial)
    foreign = SimpleNamespace(hook_points=HOOKS, covariance=covariance, fingerprint=OTHER)
    with pytest.raises(FingerprintMismatchError):
        remove_variance(concept(), foreign)


def test_shrinking_turns_noise_down_and_leaves_signal():
    generator = torch.Generator().manual_seed(0)
    positives = torch.randn(50, 2, 400, generator=generator)
    negatives = torch.randn(50, 2, 400, generator=generator)
    positives[:, 1, :40] += 6
    states = estimate_concept(positives, negatives, HOOKS)
    by_layer = shrink(states, positives, negatives)
    kept = by_layer.vectors.norm(dim=1) / states.vectors.norm(dim=1)
    assert kept[0] < 0.2
    assert kept[1] > 0.98
    by_coordinate = shrink(states, positives, negatives, by="coordinate")
    truth = torch.zeros(400)
    truth[:40] = 6
    assert (by_coordinate.vectors[1] - truth).norm() < (states.vectors[1] - truth).norm()
    noise = positives.var(0) / 2 + negatives.var(0) / 2
    expected = (1 - noise[0].sum() * (2 / 50) / states.vectors[0].square().sum()).clamp_min(0)
    assert kept[0].item() == pytest.approx(expected.item(), abs=1e-5)
    with pytest.raises(ConceptError, match="choose 'layer'"):
        shrink(states, positives, negatives, by="model")
    with pytest.raises(ConceptError, match="at least 2"):
        shrink(states, positives[:1], negatives)


def test_saved_vectors_come_back(tmp_path):
    states = torch.randn(8, 2, 3), torch.randn(8, 2, 3) + 1
    made = estimate_concept(*states, HOOKS, name="joy", held_out=states, fingerprint=MODEL)
    made.save(tmp_path / "joy")
    back = ConceptVectors.load(tmp_path / "joy", for_model=MODEL)
    assert torch.equal(back.vectors, made.vectors)
    assert torch.equal(back.residual_norms, made.residual_norms)
    for name in ("name", "hook_points", "method", "fingerprint", "quality"):
        assert getattr(back, name) == getattr(made, name)


def test_another_model_is_refused(tmp_path):
    concept().save(tmp_path / "joy")
    with pytest.raises(FingerprintMismatchError, match="joy"):
        ConceptVectors.load(tmp_path / "joy", for_model=OTHER)
    with pytest.raises(FingerprintMismatchError, match="process_weights"):
        ConceptVectors.load(tmp_path / "joy", for_model=replace(MODEL, processing="folded+centred"))
    concept(fingerprint=None, residual_norms=None).save(tmp_path / "bare")
    assert ConceptVectors.load(tmp_path / "bare").residual_norms is None
    with pytest.raises(FingerprintMismatchError, match="records no model"):
        ConceptVectors.load(tmp_path / "bare", for_model=MODEL)


def test_damaged_artifacts_are_refused(tmp_path):
    concept().save(tmp_path / "joy")
    tensors = next((tmp_path / "joy").glob("*.safetensors"))
    tensors.write_bytes(tensors.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match="truncated"):
        ConceptVectors.load(tmp_path / "joy")
    with pytest.raises(ArtifactError, match="does not exist"):
        ConceptVectors.load(tmp_path / "nothing")


def test_impossible_vectors_are_refused():
    with pytest.raises(ConceptError, match="as many different hook points"):
        ConceptVectors("joy", torch.zeros(2, 3), HOOKS[:1])
    with pytest.raises(ConceptError, match="NaN"):
        concept(((1.0, float("nan"), 0.0), (1.0, 1.0, 1.0)))
    with pytest.raises(ConceptError, match="residual norms for 2"):
        concept(residual_norms=torch.ones(3))
