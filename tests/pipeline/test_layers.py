import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from contrans_lens.errors import LayerError, SelectionError
from contrans_lens.models import open_model
from contrans_lens.pipeline import LayerSettings, Settings, select_layers, transplant
from contrans_lens.pipeline.demo import thinned
from contrans_lens.selection import LayerReport
from contrans_lens.testbed import concept, map_texts, model_path, neutral_texts
from contrans_lens.testbed.variants import rotated
from contrans_lens.texts import ContrastSet
from tests.tiny_models import open_tiny

TEXTS = [
    f"{a} {b} went to {c} and"
    for a in ("the cat", "a dog", "she")
    for b in ("never", "then", "often")
    for c in ("the house", "a tree", "the road", "him")
]
NEUTRAL = ["one two three four five six", "the dogs run and the birds sing", "a house and a tree"]
QUICK = LayerSettings(
    transplant=Settings(max_neutral_texts=3),
    n_permutations=19,
    n_folds=3,
    metrics=("cka", "mutual_knn"),
    measure="survey",
)


def select(tiny_concept: ContrastSet, settings: LayerSettings = QUICK, **more: object) -> LayerReport:
    return select_layers(
        open_tiny("gpt2", kind="bridge"),
        open_tiny("llama", kind="bridge"),
        tiny_concept,
        TEXTS,
        neutral=NEUTRAL,
        settings=settings,
        names=("tiny-gpt2", "tiny-llama"),
        **more,
    )


@pytest.fixture(scope="module")
def report(tiny_concept: ContrastSet) -> LayerReport:
    """A selection between two random models: every part runs."""
    return select(tiny_concept)


def test_every_pair_has_its_evidence_and_the_prior_is_always_shown(report: LayerReport):
    table = report.table()
    assert len(table) == len(report.source_hook_points) * len(report.target_hook_points)
    assert {"cka", "mutual_knn", "affine_r2", "carried_r2", "concept_cosine", "source_auroc", "effect"} <= set(table)
    assert table["three_quarters"].sum() == 1
    assert report.prior in report.shortlist
    assert report.test_prior is not None
    assert report.test_prior.pair == report.prior


def test_nothing_is_written_at_the_last_layer(report: LayerReport):
    last = report.target_hook_points[-1]
    assert all(cell.target != last for cell in (*report.cells, *report.native))
    assert len(report.cells) == len(report.source_hook_points) * (len(report.target_hook_points) - 1)


def test_the_best_pair_is_the_best_of_those_with_controls(report: LayerReport):
    controlled = [cell for cell in report.cells if cell.controls]
    assert {cell.pair for cell in controlled} == set(report.shortlist)
    assert report.best == max(controlled, key=lambda cell: cell.effect).pair
    assert all(len(draws) == QUICK.draws for cell in controlled for draws in cell.controls.values())


def test_between_random_models_no_pair_works_and_the_reason_is_a_gate(report: LayerReport):
    assert report.pair is None
    assert [gate.name for gate in report.gates] == ["readable", "carried", "causal", "confirmed"]
    failed = next(gate for gate in report.gates if not gate.passed)
    assert f"not {failed.name}" in report.reason
    assert "no pair works" in str(report)


def test_the_report_is_json_and_says_what_foretold_the_effect(report: LayerReport):
    summary = json.loads(json.dumps(report.summary(), allow_nan=False))
    assert summary["chosen"] is None
    assert {each["name"] for each in summary["predictors"]} >= {"reach", "agreement", "echo", "cka"}
    needs = {each["name"]: each["needs_target_labels"] for each in summary["predictors"]}
    assert needs["concept_cosine"]
    assert needs["agreement"]
    assert not needs["reach"]
    assert not needs["echo"]
    assert not needs["source_auroc"]


def test_it_saves_figures_table_and_report(report: LayerReport, tmp_path: Path):
    report.with_command("contrans-lens layers ...").save(tmp_path)
    for name in ("result.json", "pairs.csv", "report.html", "probes.png", "effects.png", "similarity.png"):
        assert (tmp_path / name).stat().st_size > 500
    page = (tmp_path / "report.html").read_text()
    assert "No\npair of layers works." in page
    assert "contrans-lens layers ..." in page
    assert 'src="http' not in page


def test_a_stopped_run_goes_on_and_ends_in_the_same_bytes(
    tiny_concept: ContrastSet, report: LayerReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def stop(step: str) -> None:
        if step.startswith("scoring"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        select(tiny_concept, work=tmp_path, say=stop)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("a finished stage was computed again")

    monkeypatch.setattr("contrans_lens.pipeline.reading.read_states", never)
    monkeypatch.setattr("contrans_lens.pipeline.reading.read_contrasts", never)
    again = select(tiny_concept, work=tmp_path)
    assert json.dumps(again.summary()) == json.dumps(report.summary())


def test_stages_of_other_settings_are_not_taken(tiny_concept: ContrastSet, report: LayerReport, tmp_path: Path):
    select(tiny_concept, work=tmp_path)
    other = replace(QUICK, transplant=replace(QUICK.transplant, kl_budget=0.2))
    found = select(tiny_concept, other, work=tmp_path)
    assert [cell.strength for cell in found.cells] != [cell.strength for cell in report.cells]


def test_a_shortlist_writes_less_than_a_survey(tiny_concept: ContrastSet):
    found = select(tiny_concept, replace(QUICK, measure="shortlist", shortlist=1, response_prompts=0))
    assert len(found.cells) == len(found.shortlist) <= 2
    assert "reach" not in {each.name for each in found.evidence}


def test_a_model_with_itself_is_all_alike(tiny_concept: ContrastSet):
    model = open_tiny("gpt2", kind="bridge")
    found = select_layers(model, model, tiny_concept, TEXTS, neutral=NEUTRAL, settings=QUICK)
    assert torch.allclose(found.similarity["cka"].values.diagonal(), torch.ones(1, dtype=torch.float64), atol=1e-9)


def test_layers_auto_gives_the_transplant_its_layers(tiny_concept: ContrastSet):
    settings = Settings(layers="auto", max_neutral_texts=3, curve_draws=0)
    models = open_tiny("gpt2", kind="bridge"), open_tiny("llama", kind="bridge")
    found = transplant(*models, tiny_concept, TEXTS, neutral=NEUTRAL, settings=settings)
    assert found.layer_report is not None
    assert (found.hook_points["source"], found.hook_points["target"]) == found.layer_report.best
    assert found.verdict == "does not transfer"
    assert len(found.layer_table) == len(found.layer_report.cells)
    assert found.summary()["layer_report"]["gates"]


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> LayerReport:
    """From a trained model to its own rotated copy."""
    source = model_path("rotary-source")
    target = rotated(source, tmp_path_factory.mktemp("planted") / "rotated")
    settings = LayerSettings(
        transplant=Settings(max_neutral_texts=4), shortlist=3, n_permutations=99, response_prompts=0, metrics=("cka",)
    )
    return select_layers(
        open_model(source),
        open_model(target),
        thinned(ContrastSet.from_dict(concept("kindness", seed=0)), 16),
        map_texts(400, seed=0),
        neutral=neutral_texts(4, seed=0),
        settings=settings,
    )


def test_a_planted_concept_is_found(planted: LayerReport):
    assert planted.works, planted.reason
    assert planted.test is not None
    assert planted.test_native is not None
    assert planted.test.effect > 0.8 * planted.test_native.effect
    assert torch.allclose(planted.similarity["cka"].values.diagonal(), torch.ones(1, dtype=torch.float64), atol=1e-4)
    assert float(planted.similarity["concept_cosine"].values.diagonal().min()) > 0.98


def test_a_shuffled_concept_is_not_readable(tiny_concept: ContrastSet):
    # Every other pair changes sides, so the words say nothing of the label.
    pairs = list(zip(tiny_concept.positives, tiny_concept.negatives, strict=True))
    turned = [pair[::-1] if i % 2 else pair for i, pair in enumerate(pairs)]
    shuffled = replace(tiny_concept, positives=tuple(p for p, _ in turned), negatives=tuple(n for _, n in turned))
    found = select(shuffled)
    assert not found.works
    assert not found.gates[0].passed


@pytest.mark.parametrize(
    "wrong",
    [
        {"measure": "some"},
        {"shortlist": 0},
        {"alpha": 0.0},
        {"draws": 10},
        {"n_permutations": 5},
        {"n_folds": 2},
        {"max_similarity_texts": 3},
        {"response_prompts": -1},
    ],
)
def test_settings_that_cannot_be_run_with_are_refused(wrong: dict[str, object]):
    with pytest.raises(SelectionError):
        LayerSettings(**wrong)


def test_too_few_contrasts_for_the_folds_are_refused(tiny_concept: ContrastSet):
    few = replace(tiny_concept, positives=tiny_concept.positives[:5], negatives=tiny_concept.negatives[:5])
    with pytest.raises(LayerError):
        select(few, replace(QUICK, n_folds=5))


def test_a_target_of_one_layer_is_refused(tiny_concept: ContrastSet, tmp_path: Path):
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    from tests.tiny_models import tiny_folder

    folder = tiny_folder("gpt2")
    config = GPT2Config.from_pretrained(folder)
    config.n_layer = 1
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path)
    with pytest.raises(SelectionError, match="one layer"):
        select_layers(
            open_tiny("gpt2", kind="bridge"), open_model(tmp_path), tiny_concept, TEXTS, neutral=NEUTRAL, settings=QUICK
        )
