import json
from pathlib import Path

import pytest
import torch

from contrans_lens.artifacts import read_json
from contrans_lens.concepts import ConceptVectors
from contrans_lens.errors import FingerprintMismatchError, SelectionError, TextError
from contrans_lens.evaluation import score_items
from contrans_lens.interventions import Intervention, steer
from contrans_lens.maps import AffineMap
from contrans_lens.models import logits, resid_post, tokenize
from contrans_lens.pipeline import Settings, TransplantResult, transplant
from contrans_lens.pipeline.verdict import DOES_NOT
from contrans_lens.texts import ContrastSet
from tests.tiny_models import open_tiny

ROWS = ["unsteered", "prompt", "random", "random_covariance", "random_source", "shuffled_map", "identity"]
ROWS += ["last_layer", "native", "transplanted"]


def test_every_row_is_there_with_what_the_schema_asks(tiny_result: TransplantResult):
    summary = tiny_result.summary()
    assert [row["name"] for row in summary["rows"]] == ROWS
    for row in summary["rows"]:
        assert {"score", "ci", "effect", "effect_ci", "kl", "perplexity", "n", "strength", "seeds"} <= row.keys()
        assert row["ci"][0] <= row["score"] <= row["ci"][1]
        assert row["kl"] >= 0
        assert row["n"] == len(tiny_result.items)
    for name in ("random", "random_covariance", "random_source", "shuffled_map"):
        row = tiny_result.row(name)
        assert len(row.draws) == len(row.seeds) == 20
        assert row.effect == pytest.approx(sum(row.draws) / 20)
    json.dumps(summary, allow_nan=False)


def test_random_models_do_not_transfer(tiny_result: TransplantResult):
    assert tiny_result.verdict == DOES_NOT


def test_the_unsteered_row_has_no_effect_and_no_damage(tiny_result: TransplantResult):
    row = tiny_result.row("unsteered")
    assert row.effect == 0
    assert row.kl == pytest.approx(0, abs=1e-6)


def test_controls_have_the_norm_of_the_transplanted_vector(tiny_result: TransplantResult):
    strength = tiny_result.row("transplanted").strength
    for name in ("random", "random_covariance", "random_source", "shuffled_map", "identity"):
        assert tiny_result.row(name).strength == pytest.approx(strength)


def test_both_vectors_stay_within_the_damage_budget(tiny_result: TransplantResult):
    budget, most = Settings().kl_budget, Settings().max_strength
    for name in ("native", "transplanted"):
        row = tiny_result.row(name)
        assert row.kl <= budget * 1.03
        assert row.kl >= budget * 0.3 or row.strength == pytest.approx(most)


def test_the_saved_intervention_gives_the_reported_scores(tiny_result: TransplantResult, tmp_path: Path):
    tiny_result.save_artifacts(tmp_path)
    target = open_tiny("llama", kind="bridge")
    loaded = Intervention.load(tmp_path / "intervention", target)
    items = [{k: item[k] for k in ("prompt", "positive", "negative")} for item in tiny_result.items]
    contrast = ContrastSet.from_dict({"name": "x", "positive": ["a"], "negative": ["b"], "evaluation": items})
    for sign, key in ((loaded, "transplanted_plus"), (-loaded, "transplanted_minus")):
        scores = score_items(target, contrast.evaluation, sign)
        reported = torch.tensor([item[key] for item in tiny_result.items], dtype=scores.dtype)
        assert torch.allclose(scores, reported, atol=1e-5)


def test_the_saved_intervention_is_refused_on_another_model(tiny_result: TransplantResult, tmp_path: Path):
    tiny_result.save_artifacts(tmp_path)
    with pytest.raises(FingerprintMismatchError):
        Intervention.load(tmp_path / "intervention", open_tiny("gpt2", kind="bridge"))


def test_the_saved_vector_is_the_source_vector_through_the_linear_part(tiny_result: TransplantResult, tmp_path: Path):
    tiny_result.save_artifacts(tmp_path)
    fitted = AffineMap.load(tmp_path / "map")
    source = ConceptVectors.load(tmp_path / "vectors" / "source")
    moved = ConceptVectors.load(tmp_path / "vectors" / "transplanted")
    assert torch.allclose(fitted.concept(source.vectors), moved.vectors, atol=1e-4)
    assert fitted.source_hook_point == tiny_result.hook_points["source"]


def test_the_result_steers(tiny_result: TransplantResult):
    target = open_tiny("llama", kind="bridge")
    batch = tokenize(target, ["the good cat"])
    plain = logits(target, batch)
    with steer(target, tiny_result.intervention(strength=0.0)):
        assert torch.equal(logits(target, batch), plain)
    with steer(target, tiny_result.intervention()):
        assert not torch.allclose(logits(target, batch), plain)
    assert torch.equal(logits(target, batch), plain)


def test_saving_leaves_what_a_run_must_leave(tiny_result: TransplantResult, tmp_path: Path):
    tiny_result.with_command("contrans-lens transplant ...").save(tmp_path)
    names = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert {"result.json", "reproduce.json", "report.html", "items.json", "strength.png", "layers.png"} <= names
    assert read_json(tmp_path / "result.json")["command"] == "contrans-lens transplant ..."
    assert not [name for name in names if name.endswith(".tmp")]


def test_it_prints(tiny_result: TransplantResult):
    text = str(tiny_result)
    assert "goodness: tiny-gpt2 -> tiny-llama" in text
    assert "verdict: does not transfer" in text
    assert tiny_result.table().loc["native", "n"] == len(tiny_result.items)


def test_given_hook_points_are_used(tiny_concept: ContrastSet):
    model = open_tiny("gpt2", kind="bridge")
    texts = [f"the {a} and {b} saw" for a in ("cat", "dog", "tree", "boat") for b in ("he", "she", "it", "we")]
    pair = f"{resid_post(0)},{resid_post(1)}"
    settings = Settings(layers=pair, strength=0.3, max_neutral_texts=2, curve_draws=2)
    result = transplant(model, model, tiny_concept, texts, neutral=["a b c d e", "one two three"], settings=settings)
    assert result.hook_points == {"source": resid_post(0), "target": resid_post(1), "native": resid_post(1)}
    assert result.layer_table == ()
    assert result.row("native").strength == 0.3


@pytest.mark.parametrize(
    "changes",
    [{"draws": 19}, {"kl_budget": 0.0}, {"layers": "best"}, {"controls_at": "x"}, {"level": 1.0}, {"strength": -1.0}],
)
def test_bad_settings_are_refused(changes: dict[str, object]):
    with pytest.raises(SelectionError):
        Settings(**changes)


def test_too_few_texts_are_refused(tiny_concept: ContrastSet):
    model = open_tiny("gpt2", kind="bridge")
    with pytest.raises(TextError, match="different generic texts"):
        transplant(model, model, tiny_concept, ["a b c"] * 50, neutral=["a b c d"])


def test_a_concept_without_items_is_refused():
    model = open_tiny("gpt2", kind="bridge")
    texts = tuple(f"text number {i} is" for i in range(20))
    bare = ContrastSet("bare", texts[:10], texts[10:])
    with pytest.raises(TextError, match="evaluation items"):
        transplant(model, model, bare, [f"a {i} b" for i in range(30)], neutral=["a b c d"])


def test_a_hook_point_that_does_not_exist_is_named(tiny_concept: ContrastSet):
    model = open_tiny("gpt2", kind="bridge")
    settings = Settings(layers=f"{resid_post(0)},{resid_post(99)}")
    texts = [f"the {a} and {b} saw" for a in ("cat", "dog", "tree", "boat") for b in ("he", "she", "it", "we")]
    with pytest.raises(ValueError, match=r"blocks\.99"):
        transplant(model, model, tiny_concept, texts, neutral=["a b c d e"], settings=settings)
