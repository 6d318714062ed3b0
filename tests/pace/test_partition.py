import html
import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from contrans_lens.errors import ArtifactError, PaceError
from contrans_lens.pace.partition import ConceptScore, Partition, Partitioner, partition
from tests.pace.dictionaries import random_dictionary

DICTIONARY = random_dictionary(12)
NAMES = DICTIONARY.names


def scored(values, names=NAMES, reason=""):
    """A partitioner that gives these scores, the last concept first: the order must not matter."""
    scores = [ConceptScore(name, value, reason) for name, value in zip(names, values, strict=True)]
    return lambda task, dictionary: scores[::-1]


def made(values=(0.9, -0.5, 0.9, 0.1, 0.0, -1, -0.2, -0.3, -0.4, 1, -0.6, -0.7), **options) -> Partition:
    return partition(DICTIONARY, "remove it", scored(values), **options)


def test_by_default_the_highest_scores_above_zero_are_undesirable_and_ties_go_by_name():
    found = made()
    assert found.undesirable == ("concept 9", "concept 0", "concept 2", "concept 3")
    assert [score.name for score in found.scores] == list(NAMES)
    assert found.dictionary_digest == DICTIONARY.digest
    assert made(most=2).undesirable == ("concept 9", "concept 0")


def test_a_lowest_score_can_be_asked_for():
    assert made(at_least=0.9).undesirable == ("concept 9", "concept 0", "concept 2")
    assert made(at_least=0).undesirable[-1] == "concept 4"
    assert made(at_least=-0.2).undesirable[-1] == "concept 6"
    assert "at least 0.9" in made(at_least=0.9).rule
    assert "above 0" in made().rule


@given(st.lists(st.floats(-1, 1), min_size=12, max_size=12), st.integers(1, 12))
def test_what_is_flagged_scores_at_least_as_high_as_what_is_not(values, most):
    above = sum(value > 0 for value in values)
    if above == 0 or min(above, most) == len(values):
        with pytest.raises(PaceError):
            made(values, most=most)
        return
    found = made(values, most=most)
    by_name = dict(zip(NAMES, values, strict=True))
    flagged = [by_name[name] for name in found.undesirable]
    assert len(flagged) == min(most, above)
    assert flagged == sorted(flagged, reverse=True)
    assert min(flagged) >= max((by_name[name] for name in NAMES if name not in found.undesirable), default=-1)


def test_the_mask_follows_the_dictionary():
    mask = made().mask(DICTIONARY)
    assert mask.dtype == torch.bool
    assert [name for name, flag in zip(NAMES, mask.tolist(), strict=True) if flag] == sorted(made().undesirable)


def test_another_dictionary_is_refused():
    for other in (random_dictionary(12, seed=1), DICTIONARY.subset(NAMES[:6])):
        with pytest.raises(PaceError, match=DICTIONARY.digest[:12]):
            made().mask(other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda scores: scores[1:], "no score for concept 0"),
        (lambda scores: [*scores, ConceptScore("conceit", 0.1)], "unknown concepts conceit"),
        (lambda scores: [*scores, scores[3]], "more than one score for concept 3"),
        (lambda scores: [*scores[:-1], ConceptScore("concept 11", 1.5)], r"concept 11 \(1.5\)"),
        (lambda scores: [*scores[:-1], ConceptScore("concept 11", math.nan)], r"concept 11 \(nan\)"),
        (lambda scores: scores[8:], "and 3 more"),
    ],
)
def test_scores_that_are_missing_extra_repeated_or_out_of_range_are_named(change, message):
    scores = [ConceptScore(name, 0.5) for name in NAMES]
    with pytest.raises(PaceError, match=message):
        partition(DICTIONARY, "t", lambda task, dictionary: change(scores))


def test_flagging_nothing_or_everything_is_refused_with_a_way_out():
    with pytest.raises(PaceError, match=r"concept 0 \(-0\.100\)"):
        made([-0.1 - i / 100 for i in range(12)])
    with pytest.raises(PaceError, match="nothing benign is left"):
        made([0.5] * 12)
    with pytest.raises(PaceError, match="at_least=2"):
        made(at_least=2)
    with pytest.raises(PaceError, match="most=0"):
        made(most=0)


def test_any_callable_is_a_partitioner_and_hears_the_task():
    heard = []

    def judge(task, dictionary):
        heard.append(task)
        return [ConceptScore(name, 1 if name == "concept 5" else -1) for name in dictionary.names]

    assert isinstance(judge, Partitioner)
    assert partition(DICTIONARY, "be kind", judge).undesirable == ("concept 5",)
    assert heard == ["be kind"]


def test_a_correction_by_hand_is_on_record():
    found = made()
    corrected = found.with_undesirable([*found.undesirable[1:], "concept 7"])
    assert corrected.undesirable == ("concept 0", "concept 2", "concept 3", "concept 7")
    assert corrected.scores == found.scores
    assert "added concept 7" in corrected.rule
    assert "removed concept 9" in corrected.rule
    for wrong in (["concept 70"], [], list(NAMES), ["concept 1", "concept 1"], "concept 1"):
        with pytest.raises(PaceError):
            found.with_undesirable(wrong)


def test_a_control_is_as_large_and_shares_no_concept():
    found = made()
    controls = {seed: found.shuffled(seed) for seed in range(20)}
    for seed, control in controls.items():
        assert len(control.undesirable) == len(set(control.undesirable)) == len(found.undesirable)
        assert not set(control.undesirable) & set(found.undesirable)
        assert control == found.shuffled(seed)
        assert control.rule.startswith(f"control (seed {seed})")
    drawn = {name for control in controls.values() for name in control.undesirable}
    assert drawn == set(NAMES) - set(found.undesirable)
    with pytest.raises(PaceError, match="a control needs 7"):
        made(at_least=-0.3).shuffled()


def test_a_saved_partition_comes_back_equal(tmp_path):
    found = made().with_undesirable(["concept 1"])
    path = found.save(tmp_path / "kept" / "partition.json")
    assert Partition.load(path) == Partition.load(path, DICTIONARY) == found
    assert [entry.name for entry in path.parent.iterdir()] == ["partition.json"]
    with pytest.raises(PaceError, match="made for the dictionary"):
        Partition.load(path, random_dictionary(12, seed=1))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"kind": "map"}, ArtifactError),
        ({"schema": 9}, ArtifactError),
        ({"scores": [{"name": "a"}]}, ArtifactError),
        ({"scores": [{"name": "a", "score": "high"}]}, ArtifactError),
        ({"undesirable": ["concept 99"]}, PaceError),
        ({"undesirable": []}, PaceError),
    ],
)
def test_an_edited_file_is_refused(tmp_path, change, error):
    path = made().save(tmp_path / "partition.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(error):
        Partition.load(path)


def test_an_edited_score_out_of_range_is_refused(tmp_path):
    path = made().save(tmp_path / "partition.json")
    body = json.loads(path.read_text())
    body["scores"][4]["score"] = 3
    path.write_text(json.dumps(body))
    with pytest.raises(PaceError, match="concept 4"):
        Partition.load(path)


def test_the_table_shows_the_undesirable_first():
    frame = made().to_frame()
    assert list(frame.columns) == ["concept", "score", "undesirable", "reason"]
    assert frame["concept"].tolist()[:5] == ["concept 9", "concept 0", "concept 2", "concept 3", "concept 4"]
    assert frame["undesirable"].tolist() == [True] * 4 + [False] * 8
    text = str(made())
    assert "4 of 12 concepts are undesirable" in text
    assert " x concept 9" in text
    assert "and 3 more" in text


def test_the_notebook_view_escapes_what_it_shows():
    evil = "<script>alert(1)</script>"
    values = [0.5] + [-0.5] * 11
    found = partition(DICTIONARY, evil, scored(values, reason=evil))
    shown = found._repr_html_()
    assert evil not in shown
    assert shown.count(html.escape(evil)) >= 2
