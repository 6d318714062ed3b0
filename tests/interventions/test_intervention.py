import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contrans_lens.artifacts import save_artifact
from contrans_lens.errors import ArtifactError, FingerprintMismatchError, InterventionError
from contrans_lens.interventions import (
    ALL,
    GENERATED,
    PROMPT,
    Between,
    FromMarker,
    Intervention,
    load_interventions,
    save_interventions,
)
from contrans_lens.models import fingerprint
from tests.tiny_models import RAW_KINDS, open_tiny

HOOK = "blocks.1.hook_resid_post"
ANY_POSITIONS = st.one_of(
    st.sampled_from([ALL, PROMPT, GENERATED, Between(1), Between(2, 5)]),
    st.builds(
        FromMarker,
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
        st.sampled_from(["first", "last"]),
        st.booleans(),
    ),
)


@st.composite
def any_intervention(draw):
    op = draw(st.sampled_from(["add", "project_out", "clamp"]))
    unit = draw(st.sampled_from(["residual_norm", "absolute"]))
    finite = st.floats(-1e6, 1e6, allow_nan=False, width=32)
    vector = draw(st.lists(finite, min_size=1, max_size=6).filter(any))
    return Intervention(
        hook_point=HOOK,
        vector=torch.tensor(vector),
        op=op,
        strength=draw(finite),
        unit=unit,
        residual_norm=draw(st.floats(1e-3, 1e4)) if unit == "residual_norm" else None,
        positions=draw(ANY_POSITIONS),
        value=draw(finite) if op == "clamp" else None,
        label=draw(st.sampled_from(["", "honesty"])),
    )


@settings(max_examples=60)
@given(any_intervention())
def test_description_and_vector_give_the_same_intervention_back(intervention):
    described = json.loads(json.dumps(intervention.to_dict()))
    again = Intervention.from_dict(described, intervention.vector)
    assert again == intervention
    assert hash(again) == hash(intervention)
    assert str(again) == str(intervention)


@settings(max_examples=15)
@given(st.lists(any_intervention(), min_size=1, max_size=3))
def test_saved_interventions_load_the_same_and_in_order(tmp_path_factory, interventions):
    folder = tmp_path_factory.mktemp("saved")
    save_interventions(folder, interventions)
    assert load_interventions(folder) == interventions


@pytest.mark.parametrize(
    "change",
    [
        {"hook_point": "blocks.2.hook_resid_post"},
        {"vector": torch.tensor([1.0, 2.0])},
        {"strength": 0.25},
        {"residual_norm": 2.0},
        {"positions": PROMPT},
        {"label": "other"},
    ],
)
def test_interventions_that_differ_in_one_field_are_not_equal(change):
    fields = {"hook_point": HOOK, "vector": torch.tensor([1.0, 0.0]), "residual_norm": 1.0}
    assert Intervention(**fields) == Intervention(**fields)
    assert Intervention(**fields) != Intervention(**(fields | change))


def test_the_vector_is_a_copy():
    vector = torch.ones(3)
    intervention = Intervention(HOOK, vector, residual_norm=1.0)
    vector.zero_()
    assert torch.equal(intervention.vector, torch.ones(3))


def test_minus_is_the_opposite_addition():
    intervention = Intervention(HOOK, torch.randn(5), strength=0.3, residual_norm=7.0)
    assert torch.equal((-intervention).delta(), -intervention.delta())
    assert intervention.with_strength(0.6).strength == 0.6


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_the_direction_has_length_one_however_small_or_large_the_vector(scale):
    intervention = Intervention(HOOK, scale * torch.tensor([3.0, -4.0]), residual_norm=1.0)
    torch.testing.assert_close(
        intervention.direction(), torch.tensor([0.6, -0.8], dtype=torch.float64), atol=1e-7, rtol=0
    )


def test_it_prints_what_it_does():
    steering = Intervention(
        HOOK,
        torch.ones(2),
        strength=0.4,
        residual_norm=12.5,
        positions=FromMarker("Answer:"),
        label="honesty",
    )
    assert str(steering).startswith("honesty: add +0.4 x residual norm 12.5 at blocks.1.hook_resid_post")
    assert "marker='Answer:'" in str(steering)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vector": torch.tensor([1.0, math.nan])}, "NaN or infinity"),
        ({"vector": torch.tensor([1.0, -math.inf])}, "NaN or infinity"),
        ({"vector": torch.zeros(2)}, "no direction"),
        ({"vector": torch.zeros(2), "op": "project_out"}, "no direction"),
        ({"strength": math.nan}, "strength is nan"),
        ({"strength": math.inf}, "strength is inf"),
        ({"residual_norm": None}, "residual norm needs"),
        ({"residual_norm": 0.0}, "residual norm needs"),
        ({"residual_norm": -1.0}, "residual norm needs"),
        ({"residual_norm": math.nan}, "residual_norm is nan"),
        ({"op": "clamp"}, "value="),
        ({"op": "clamp", "value": math.nan}, "value is nan"),
        ({"value": 1.0}, "value="),
    ],
)
def test_what_no_intervention_may_be_is_refused(change, message):
    with pytest.raises(InterventionError, match=message):
        Intervention(**({"hook_point": HOOK, "vector": torch.ones(2), "residual_norm": 1.0} | change))


@pytest.mark.parametrize("strength", [-2.5, 0.0, 3.0])
def test_negative_and_zero_strengths_are_allowed(strength):
    assert Intervention(HOOK, torch.ones(2), strength=strength, residual_norm=1.0).strength == strength


def test_a_zero_vector_may_be_added_absolutely_and_does_nothing():
    assert Intervention(HOOK, torch.zeros(2), unit="absolute").is_neutral


def test_delta_is_for_additions_only():
    with pytest.raises(InterventionError, match="project_out"):
        Intervention(HOOK, torch.ones(2), "project_out").delta()


def test_saving_nothing_is_refused(tmp_path):
    with pytest.raises(InterventionError, match="no intervention"):
        save_interventions(tmp_path / "none", [])


def test_one_cannot_be_loaded_where_there_are_several(tmp_path):
    one = Intervention(HOOK, torch.ones(2), residual_norm=1.0)
    save_interventions(tmp_path, [one, -one])
    with pytest.raises(ArtifactError, match="holds 2"):
        Intervention.load(tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda body: body["interventions"][0].update(op="explode"),
        lambda body: body["interventions"][0].update(strength=None),
        lambda body: body["interventions"][0].pop("unit"),
        lambda body: body["interventions"][0].update(surplus=1),
        lambda body: body["interventions"][0].update(positions={"kind": "nowhere"}),
        lambda body: body["interventions"][0].update(positions={"kind": "between"}),
        lambda body: body["interventions"][0].update(fingerprint={"name": "x"}),
        lambda body: body["interventions"].append({}),
        lambda body: body.update(interventions="none"),
    ],
)
def test_an_altered_manifest_is_an_artifact_error(tmp_path, damage):
    Intervention(HOOK, torch.ones(2), residual_norm=1.0).save(tmp_path)
    manifest = tmp_path / "manifest.json"
    value = json.loads(manifest.read_text())
    damage(value["body"])
    manifest.write_text(json.dumps(value))
    with pytest.raises(ArtifactError):
        Intervention.load(tmp_path)


def test_another_kind_of_artifact_is_refused(tmp_path):
    save_artifact(tmp_path, "concept_vectors", {"vector.0": torch.ones(2)}, {"interventions": []})
    with pytest.raises(ArtifactError, match="concept_vectors"):
        Intervention.load(tmp_path)


def test_a_truncated_tensor_file_is_refused(tmp_path):
    Intervention(HOOK, torch.ones(2), residual_norm=1.0).save(tmp_path)
    tensors = next(tmp_path.glob("tensors-*.safetensors"))
    tensors.write_bytes(tensors.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match="checksum"):
        Intervention.load(tmp_path)


@pytest.mark.parametrize("kind", RAW_KINDS)
def test_it_loads_on_every_back_end_of_its_model_and_on_no_other_model(tmp_path, kind):
    made_on = open_tiny("gpt2", RAW_KINDS[0])
    saved = Intervention(HOOK, torch.ones(32), residual_norm=1.0, fingerprint=fingerprint(made_on))
    saved.save(tmp_path)
    assert Intervention.load(tmp_path, open_tiny("gpt2", kind)) == saved
    with pytest.raises(FingerprintMismatchError):
        Intervention.load(tmp_path, open_tiny("llama", kind))


def test_the_same_intervention_can_be_saved_twice(tmp_path):
    one = Intervention("blocks.0.hook_resid_post", torch.ones(4), unit="absolute")
    save_interventions(tmp_path, [one, one])
    assert load_interventions(tmp_path) == [one, one]
