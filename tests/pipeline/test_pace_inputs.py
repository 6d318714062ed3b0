import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from contrans_lens.errors import ArtifactError, PaceError, TextError
from contrans_lens.pace.dictionary import ConceptDictionary
from contrans_lens.pace.solvers import OMP, ElasticNet, OrthogonalProjection, VectorAddition
from contrans_lens.pipeline.pace_inputs import (
    PartitionChoice,
    mode_reference,
    prompts_reference,
    solver_reference,
)

POINT = "blocks.1.hook_resid_post"


@pytest.fixture
def dictionary() -> ConceptDictionary:
    """Two pairs of concepts that are near to each other, and one apart."""
    rows = torch.tensor([[1, 0.1, 0, 0], [1, -0.1, 0, 0], [0, 0, 1, 0.1], [0, 0, 1, -0.1], [0, 1, 0, 1]])
    atoms = torch.nn.functional.normalize(rows, dim=1)
    return ConceptDictionary(("rude", "harsh", "kind", "polite", "hat"), ("",) * 5, (POINT,), {POINT: atoms})


def test_solvers_have_the_papers_values_unless_others_are_given():
    assert solver_reference("elastic-net") == ElasticNet(0.05, 0.95)
    assert solver_reference("elastic-net", alpha=0.0, tau=0.5) == ElasticNet(0.0, 0.5)
    assert solver_reference("omp") == OMP()
    assert solver_reference("omp", k=7) == OMP(7)
    assert solver_reference("projection") == OrthogonalProjection()
    assert solver_reference("addition", coefficient=-0.1) == VectorAddition(-0.1)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("lasso", {}),
        ("elastic-net", {"k": 3}),
        ("omp", {"alpha": 0.1}),
        ("omp", {"k": 0}),
        ("projection", {"coefficient": 1.0}),
        ("addition", {}),
        ("addition", {"coefficient": 1.0, "tau": 0.5}),
        ("elastic-net", {"tau": 2.0}),
        ("elastic-net", {"alpha": float("nan")}),
    ],
)
def test_solvers_that_make_no_sense_are_refused(kind: str, options: dict):
    with pytest.raises(PaceError):
        solver_reference(kind, **options)


def test_modes_are_known_with_either_dash():
    assert mode_reference("per_prompt") == mode_reference("per-prompt") == "per_prompt"
    assert mode_reference("per-token") == "per_token"
    with pytest.raises(PaceError, match="per_token"):
        mode_reference("per_word")


def test_prompts_keep_their_line_breaks_and_order(tmp_path: Path):
    (tmp_path / "prompts.jsonl").write_text(json.dumps({"text": "one\ntwo:"}) + "\n")
    assert prompts_reference(["first"], tmp_path / "prompts.jsonl") == ["first", "one\ntwo:"]
    for given in ([], [""], ["a", " \n"]):
        with pytest.raises(TextError):
            prompts_reference(given)
    with pytest.raises(TextError):
        prompts_reference(["a"], tmp_path / "none.txt")


def test_named_concepts_are_removed_exactly(dictionary: ConceptDictionary):
    found = PartitionChoice(remove=("kind", "rude", "kind")).partition(dictionary)
    assert found.undesirable == ("kind", "rude")
    assert {each.name: each.score for each in found.scores} == dict.fromkeys(dictionary.names, 0.0) | {
        "kind": 1.0,
        "rude": 1.0,
    }
    assert (found.task, found.rule) == ("remove kind, rude", "named by hand")
    assert found.mask(dictionary).tolist() == [True, False, True, False, False]
    with pytest.raises(PaceError, match="Did you mean 'kind'"):
        PartitionChoice(remove=("kinds",)).partition(dictionary)
    with pytest.raises(PaceError, match="all 5"):
        PartitionChoice(remove=dictionary.names).partition(dictionary)


def test_examples_draw_in_what_is_near_to_them(dictionary: ConceptDictionary):
    found = PartitionChoice(examples=("rude",), at_least=0.8).partition(dictionary)
    assert set(found.undesirable) == {"rude", "harsh"}
    assert found.task == "remove what is like rude"
    assert PartitionChoice(examples=("rude",), most=1, task="mine").partition(dictionary).undesirable == ("rude",)
    against = PartitionChoice(examples=("rude",), counterexamples=("kind",)).partition(dictionary)
    assert {each.name: each.score < 0 for each in against.scores}["polite"]


def test_scores_and_saved_partitions_are_read_from_files(dictionary: ConceptDictionary, tmp_path: Path):
    (tmp_path / "scores.json").write_text(json.dumps({"rude": 0.9, "harsh": 0.2, "kind": -1}))
    choice = PartitionChoice(scores=tmp_path / "scores.json", default_score=0.0)
    found = choice.partition(dictionary)
    assert found.undesirable == ("rude", "harsh")
    assert "scores.json" in found.task
    assert replace(choice, at_least=0.5).partition(dictionary).undesirable == ("rude",)
    with pytest.raises(PaceError, match="no score for polite"):
        replace(choice, default_score=None).partition(dictionary)
    path = found.save(tmp_path / "partition.json")
    assert PartitionChoice(saved=path).partition(dictionary) == found
    with pytest.raises(PaceError, match="made for the dictionary"):
        PartitionChoice(saved=path).partition(dictionary.subset(["rude", "harsh", "kind"]))
    with pytest.raises(ArtifactError):
        PartitionChoice(saved=tmp_path / "none.json").partition(dictionary)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "nothing says"),
        ({"remove": ("a",), "examples": ("b",)}, "--remove and --examples"),
        ({"scores": Path("a"), "saved": Path("b")}, "--scores and --partition"),
        ({"remove": ("a",), "most": 3}, "--most"),
        ({"remove": ("a",), "at_least": 0.0}, "--at-least"),
        ({"scores": Path("a"), "counterexamples": ("b",)}, "--counterexamples"),
        ({"examples": ("a",), "default_score": 0.0}, "--default-score"),
        ({"saved": Path("a"), "task": "b"}, "--task"),
    ],
)
def test_what_is_removed_is_said_in_one_way(options: dict, said: str):
    with pytest.raises(PaceError, match=said):
        PartitionChoice(**options)
