from dataclasses import replace
from pathlib import Path

import pytest
import torch

from contrans_lens.errors import ArtifactError, FingerprintMismatchError, HookPointError, TradeoffError
from contrans_lens.evaluation import random_directions
from contrans_lens.interventions import Intervention, save_interventions
from contrans_lens.models import fingerprint
from contrans_lens.pipeline.direction_inputs import (
    at_strength,
    concept_direction,
    random_families,
    random_like,
    saved_cells,
)
from contrans_lens.texts import ContrastSet
from contrans_lens.tradeoff.plan import family_of
from tests.tiny_models import D_MODEL, open_tiny

POINTS = ("blocks.0.hook_resid_post", "blocks.2.hook_resid_post")


def made(point: str = POINTS[0], strength: float = 0.5, **options: object) -> Intervention:
    vector = torch.arange(1.0, D_MODEL + 1)
    return Intervention(point, vector, **{"strength": strength, "residual_norm": 3.0, **options})


def test_saved_interventions_come_back_by_their_labels(tmp_path: Path):
    both = [made(label="my/3"), made(POINTS[1])]
    save_interventions(tmp_path / "first", both)
    made().save(tmp_path / "run" / "intervention")
    found = saved_cells([tmp_path / "first", tmp_path / "run", tmp_path / "run"])
    assert found["my-3"] == tuple(both)
    assert list(found) == ["my-3", "run", "run 2"]
    assert not any(map(family_of, found))


def test_folders_without_interventions_and_other_models_are_refused(tmp_path: Path):
    with pytest.raises(ArtifactError):
        saved_cells([tmp_path])
    made(fingerprint=fingerprint(open_tiny("gpt2"))).save(tmp_path / "other")
    with pytest.raises(FingerprintMismatchError):
        saved_cells([tmp_path / "other"], open_tiny("llama"))


def test_the_strongest_gets_the_strength_and_the_others_their_share():
    cell = at_strength((made(strength=0.5), made(POINTS[1], strength=-2.0)), 1.0)
    assert [each.strength for each in cell] == [0.25, -1.0]
    with pytest.raises(TradeoffError):
        at_strength((made(strength=0.0),), 1.0)


def test_random_draws_have_the_places_norms_and_strengths_of_the_direction():
    cell = (made(), made(POINTS[1], unit="absolute", residual_norm=None))
    draws = random_like(cell, 3, seed=5)
    assert len(draws) == 3
    for draw in draws:
        for own, one in zip(cell, draw, strict=True):
            assert replace(one, vector=own.vector, label=own.label) == own
            assert float(one.vector.norm()) == pytest.approx(float(own.vector.norm()), rel=1e-5)
    vectors = torch.stack([each.vector for draw in draws for each in draw])
    alike = torch.nn.functional.cosine_similarity(vectors[:, None], vectors, dim=2).fill_diagonal_(0).abs()
    assert float(alike.max()) < 0.8
    # The draws of a transplant with the same seed, so that both have the same controls.
    expected = random_directions(D_MODEL, 3, 1.0, 5)
    assert torch.allclose(draws[1][0].direction().float(), expected[1], atol=1e-6)


def test_directions_at_one_place_share_their_controls():
    here, also, there = (made(),), (replace(made(), vector=torch.ones(D_MODEL)),), (made(POINTS[1]),)
    assert list(random_families({"a": here, "b": also}, 2)) == ["random"]
    families = random_families({"a": here, "b": also, "c": there}, 2)
    assert {name: cells[0][0].hook_point for name, cells in families.items()} == {
        "random as a": POINTS[0],
        "random as c": POINTS[1],
    }
    assert random_families({"a": here}, 0) == {}


def test_a_concept_is_read_where_it_is_written(tiny_concept: ContrastSet):
    model = open_tiny("llama")
    texts = [f"the {a} and the {b} went to the {c}" for a in ("cat", "dog") for b in ("he", "she") for c in "abcdef"]
    cell = concept_direction(model, tiny_concept, texts, hook_points=POINTS)
    assert tuple(each.hook_point for each in cell) == POINTS
    assert all(each.strength == 1.0 and float(each.vector.norm()) == pytest.approx(1.0) for each in cell)
    assert all(each.residual_norm > 0 and each.fingerprint == fingerprint(model) for each in cell)
    [prior] = concept_direction(model, tiny_concept, texts)
    assert prior.hook_point == "blocks.2.hook_resid_post"
    with pytest.raises(HookPointError):
        concept_direction(model, tiny_concept, texts, hook_points=["blocks.0.hook_mlp_out"])
    with pytest.raises(HookPointError):
        concept_direction(model, tiny_concept, texts, hook_points=["blocks.77.hook_resid_post"])
