import gzip
import json

import pytest
import torch

from contrans_lens.errors import HookPointError, PaceError
from contrans_lens.pace.dictionary import ConceptDictionary
from contrans_lens.pace.partition import ConceptScore, Partitioner, partition
from contrans_lens.pace.scorers import Judge, ScoreFile, SimilarityScorer
from tests.pace.dictionaries import HOOK_POINTS, random_dictionary

NAMES = ("kind", "polite", "rude", "harsh", "stone")
SCORES = {"kind": -1.0, "polite": -0.5, "rude": 1.0, "harsh": 0.75, "stone": 0.0}


def plane(*degrees, second=None) -> ConceptDictionary:
    """Atoms in a plane, at angles; at the second hook point at others."""
    layers = {}
    for hook_point, angles in zip(HOOK_POINTS, (degrees, second or degrees), strict=True):
        turned = torch.deg2rad(torch.tensor(angles, dtype=torch.float32))
        layers[hook_point] = torch.stack((turned.cos(), turned.sin()), 1)
    return ConceptDictionary(NAMES, ("",) * 5, HOOK_POINTS, layers)


WORDS = plane(180, 150, 0, 30, 90)


def written(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def as_file(tmp_path, ending, scores=SCORES):
    rows = [{"name": name, "score": score, "reason": f"about {name}"} for name, score in scores.items()]
    texts = {
        "list.json": json.dumps(rows),
        "names.json": json.dumps(scores),
        "full.json": json.dumps({row["name"]: {"score": row["score"], "reason": row["reason"]} for row in rows}),
        "rows.jsonl": "\n\n".join(json.dumps(row) for row in rows),
        "rows.csv": "name,score,reason\n" + "\n".join(f'{r["name"]},{r["score"]},"about {r["name"]}"' for r in rows),
    }
    return written(tmp_path, ending, texts[ending])


@pytest.mark.parametrize("ending", ["list.json", "names.json", "full.json", "rows.jsonl", "rows.csv"])
def test_every_kind_of_file_gives_the_same_scores(tmp_path, ending):
    found = ScoreFile(as_file(tmp_path, ending))("t", WORDS)
    assert {score.name: score.score for score in found} == SCORES
    if ending != "names.json":
        assert {score.reason for score in found} == {f"about {name}" for name in NAMES}
    assert partition(WORDS, "t", ScoreFile(as_file(tmp_path, ending))).undesirable == ("rude", "harsh")


def test_names_that_the_dictionary_lacks_are_told_with_close_ones(tmp_path):
    path = as_file(tmp_path, "names.json", SCORES | {"ruder": 1.0})
    with pytest.raises(PaceError, match=r"ruder \(did you mean rude"):
        ScoreFile(path)("t", WORDS)


def test_missing_names_are_told_or_given_a_default(tmp_path):
    path = as_file(tmp_path, "names.json", {"rude": 1.0, "harsh": 0.5})
    with pytest.raises(PaceError, match="no score for kind, polite, stone"):
        ScoreFile(path)("t", WORDS)
    found = {score.name: score for score in ScoreFile(path, default=-0.25)("t", WORDS)}
    assert (found["stone"].score, found["stone"].reason) == (-0.25, "default: not in the file")
    assert found["rude"].score == 1.0


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", '{"name": "kind", "score": "high"}', "not a number"),
        ("a.jsonl", '{"name": "kind"}', "entry 1"),
        ("a.jsonl", '{"name": "kind", ', "cannot be read"),
        ("a.json", "3", "entry 1"),
        ("a.json", '{"kind": null}', "entry 1"),
        ("a.csv", "concept,value\nkind,1", "entry 1"),
        ("a.txt", "kind 1", "none of them"),
    ],
)
def test_files_that_are_no_scores_are_refused(tmp_path, name, text, message):
    with pytest.raises(PaceError, match=message):
        ScoreFile(written(tmp_path, name, text))("t", WORDS)


def test_a_missing_file_and_a_repeated_name_are_refused(tmp_path):
    with pytest.raises(PaceError, match="cannot be read"):
        ScoreFile(tmp_path / "none.json")("t", WORDS)
    rows = [{"name": name, "score": 0.5} for name in (*NAMES, "rude")]
    with pytest.raises(PaceError, match="more than one score for rude"):
        partition(WORDS, "t", ScoreFile(written(tmp_path, "twice.json", json.dumps(rows))))


def by_name(scorer, dictionary=WORDS):
    return {score.name: score.score for score in scorer("t", dictionary)}


def test_similarity_is_the_cosine_with_the_example():
    found = by_name(SimilarityScorer(["rude"], centred=False))
    expected = {"kind": -1.0, "polite": -(3**0.5) / 2, "rude": 1.0, "harsh": 3**0.5 / 2, "stone": 0.0}
    assert found == pytest.approx(expected, abs=1e-6)


def test_several_examples_are_taken_together_or_each_alone():
    both = by_name(SimilarityScorer(["rude", "stone"], centred=False))
    assert both["harsh"] == pytest.approx(torch.deg2rad(torch.tensor(15.0)).cos().item(), abs=1e-6)
    nearest = by_name(SimilarityScorer(["rude", "stone"], centred=False, combine="max"))
    assert nearest["harsh"] == pytest.approx(3**0.5 / 2, abs=1e-6)
    assert nearest["rude"] == nearest["stone"] == pytest.approx(1.0, abs=1e-6)


def test_counterexamples_are_taken_away():
    found = by_name(SimilarityScorer(["rude"], ["kind"], centred=False))
    assert found == pytest.approx(by_name(SimilarityScorer(["rude"], centred=False)), abs=1e-6)  # kind is -rude
    found = by_name(SimilarityScorer(["rude"], ["stone"], centred=False))
    assert found["stone"] == pytest.approx(-0.5, abs=1e-6)
    assert found["harsh"] == pytest.approx((3**0.5 / 2 - 0.5) / 2, abs=1e-6)


def test_a_direction_that_all_atoms_share_counts_for_nothing():
    shared = torch.zeros(5, 3)
    shared[:, 2] = 20
    layers = {}
    for hook_point in HOOK_POINTS:
        flat = torch.nn.functional.pad(WORDS.at(hook_point), (0, 1))
        layers[hook_point] = torch.nn.functional.normalize(flat + shared, dim=1)
    moved = ConceptDictionary(NAMES, ("",) * 5, HOOK_POINTS, layers)
    assert min(by_name(SimilarityScorer(["rude"], centred=False), moved).values()) > 0.99
    centred = by_name(SimilarityScorer(["rude"]), moved)
    assert centred == pytest.approx(by_name(SimilarityScorer(["rude"])), abs=1e-3)
    assert centred["kind"] < -0.5 < 0.5 < centred["harsh"]


def test_scores_are_the_mean_over_the_hook_points_asked_for():
    two = plane(180, 150, 0, 30, 90, second=(180, 150, 0, 90, 30))
    alone = [by_name(SimilarityScorer(["rude"], hook_points=[name]), two) for name in HOOK_POINTS]
    both = by_name(SimilarityScorer(["rude"]), two)
    assert both == pytest.approx({name: (alone[0][name] + alone[1][name]) / 2 for name in NAMES}, abs=1e-6)
    assert alone[0]["harsh"] > both["harsh"] > alone[1]["harsh"]


def test_the_reason_names_the_nearest_example():
    reasons = {s.name: s.reason for s in SimilarityScorer(["rude"], ["stone"], centred=False)("t", WORDS)}
    assert reasons["harsh"] == "cosine +0.87 with 'rude'"
    assert reasons["kind"] == "cosine -1.00 with 'rude'"


def test_scores_stay_in_range_in_a_large_random_dictionary():
    dictionary = random_dictionary(200, 16)
    for combine in ("mean", "max"):
        found = SimilarityScorer(["concept 1", "concept 2"], ["concept 3"], combine=combine)("t", dictionary)
        assert max(abs(score.score) for score in found) <= 1
        assert max(found, key=lambda score: score.score).name in ("concept 1", "concept 2")


def test_impossible_questions_are_refused():
    for wrong in (
        {"examples": []},
        {"examples": "rude"},
        {"examples": ["rude"], "counterexamples": ["rude"]},
        {"examples": ["rude"], "combine": "median"},
        {"examples": ["rude"], "hook_points": []},
    ):
        with pytest.raises(PaceError):
            SimilarityScorer(**wrong)
    with pytest.raises(PaceError, match="rude"):
        SimilarityScorer(["ruder"])("t", WORDS)
    with pytest.raises(HookPointError):
        SimilarityScorer(["rude"], hook_points=["blocks.9.hook_resid_post"])("t", WORDS)


def test_a_judge_is_asked_about_every_concept():
    asked = []

    def judge(task, name):
        asked.append((task, name))
        return (0.5, "because") if name == "rude" else -1

    found = Judge(judge)("be kind", WORDS)
    assert asked == [("be kind", name) for name in NAMES]
    assert found[2] == ConceptScore("rude", 0.5, "because")
    assert found[0] == ConceptScore("kind", -1)
    assert partition(WORDS, "be kind", Judge(judge)).undesirable == ("rude",)
    assert all(isinstance(each, Partitioner) for each in (Judge(judge), ScoreFile("x.json"), SimilarityScorer(["a"])))


@pytest.mark.parametrize("answer", ["very", None, True, (0.5, 3), (1, "a", "b")])
def test_an_answer_that_is_no_score_is_refused(answer):
    with pytest.raises(PaceError, match="kind"):
        Judge(lambda task, name: answer)("t", WORDS)


def test_a_score_file_is_read_as_the_other_files_are(tmp_path):
    rows = [{"name": name, "score": 0.5, "reason": "one\u2028two"} for name in WORDS.names]
    text = "\ufeff" + "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (tmp_path / "scores.jsonl.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
    found = ScoreFile(tmp_path / "scores.jsonl.gz")("t", WORDS)
    assert [(each.name, each.reason) for each in found] == [(name, "one\u2028two") for name in WORDS.names]
