import json
import subprocess
import sys

import pytest

from contrans_lens.errors import TextError
from contrans_lens.texts import ContrastSet, EvaluationItem, PromptCue, read_contrast_set


def small(**changes):
    row = {
        "name": "warmth",
        "positive": ["it is warm", "the sun is out"],
        "negative": ["it is cold", "the sun is gone"],
        "evaluation": [{"prompt": "Today it is", "positive": " warm", "negative": " cold", "group": "today"}],
        "prompt": {"positive": "Think of summer.\n", "negative": "Think of winter.\n"},
    }
    return {**row, **changes}


def test_texts_and_labels_run_positives_first():
    contrast = ContrastSet.from_dict(small())
    assert contrast.texts() == ["it is warm", "the sun is out", "it is cold", "the sun is gone"]
    assert contrast.labels() == [True, True, False, False]
    assert len(contrast) == 4
    assert "2 positive" in str(contrast)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"positive": []}, "no positive"),
        ({"negative": []}, "no negative"),
        ({"positive": ["it is warm", "  "]}, "empty"),
        ({"positive": ["it is warm", 3]}, "int"),
        ({"negative": ["it is cold", None]}, "NoneType"),
        ({"positive": "it is warm"}, "list of texts"),
        ({"negative": ["it is cold", "it  is warm "]}, "both sides"),
        ({"paired": True, "negative": ["it is cold"]}, "paired"),
        ({"groups": ["a", "b", "c"]}, "3 entries"),
        ({"groups": {"positive": ["a"], "negative": ["a", "b"]}}, "1 positive groups"),
        ({"groups": {"positive": ["a", "b"], "negative": ["b", "a"]}, "paired": True}, "share their group"),
        ({"groups": 7}, "'groups' is a int"),
        ({"name": " "}, "name"),
        ({"evaluation": ["Today it is"]}, "evaluation"),
        ({"evaluation": [{"prompt": "Today it is", "positive": " warm"}]}, "negative"),
        ({"evaluation": [{"prompt": "x", "positive": " a", "negative": " a"}]}, "same continuation"),
        ({"evaluation": [{"prompt": "x", "positive": " a", "negative": " b", "split": "dev"}]}, "dev"),
        ({"prompt": {"positive": "same", "negative": "same"}}, "cues"),
        ({"prompt": {"positive": "only"}}, "lacks"),
        ({"prompt": "Think of summer."}, "object"),
        ({"postive": ["it is hot"], "positive": None}, "positive"),
    ],
)
def test_a_bad_set_is_refused_with_the_reason(changes, word):
    with pytest.raises(TextError, match=word):
        ContrastSet.from_dict(small(**changes))


@pytest.mark.parametrize(
    ("positives", "word"), [((), "no positive"), (("a", " "), "empty"), (("a", "b"), "both sides")]
)
def test_the_constructor_checks_too(positives, word):
    with pytest.raises(TextError, match=word):
        ContrastSet("letters", positives, ("b",))


def test_a_misspelt_key_is_named():
    row = small()
    row["postive"] = row.pop("positive")
    with pytest.raises(TextError, match=r"lacks \['positive'\]"):
        ContrastSet.from_dict(row)
    row = small()
    row["evalution"] = row.pop("evaluation")
    with pytest.raises(TextError, match="did you mean 'evaluation'"):
        ContrastSet.from_dict(row)


def test_groups_in_each_form_that_a_file_may_give():
    one_a_pair = ContrastSet.from_dict(small(groups=["a", "b"]))
    one_a_text = ContrastSet.from_dict(small(groups=["a", "b", "a", "b"]))
    both_sides = ContrastSet.from_dict(small(groups={"positive": ["a", "b"], "negative": ["a", "b"]}))
    assert one_a_pair == one_a_text == both_sides
    assert one_a_pair.groups() == ("a", "b")


def test_saving_and_reading_gives_the_same_set(tmp_path):
    contrast = ContrastSet.from_dict(small(groups=["ä", "b"], paired=True))
    path = contrast.save(tmp_path / "warmth.json")
    assert read_contrast_set(path) == contrast
    assert read_contrast_set(path).content_hash == contrast.content_hash
    assert json.loads(path.read_text(encoding="utf-8"))["groups"]["positive"] == ["ä", "b"]


def test_every_field_changes_the_hash():
    contrast = ContrastSet.from_dict(small())
    others = [
        small(name="heat"),
        small(positive=["it is warm", "the sun is hot"]),
        small(paired=True),
        small(groups=["a", "b"]),
        small(evaluation=[]),
        small(prompt=None),
    ]
    hashes = {contrast.content_hash, *(ContrastSet.from_dict(row).content_hash for row in others)}
    assert len(hashes) == 1 + len(others)


def test_map_texts_puts_a_frame_around_texts_and_on_request_around_prompts():
    contrast = ContrastSet.from_dict(small())
    framed = contrast.map_texts(lambda text: f"<{text}>")
    assert framed.positives == ("<it is warm>", "<the sun is out>")
    assert framed.evaluation == contrast.evaluation
    prompts = contrast.map_texts(lambda text: f"<{text}>", prompts=True)
    assert prompts.evaluation[0].prompt == "<Today it is>"


def test_pairs_need_a_paired_set():
    assert ContrastSet.from_dict(small(paired=True)).pairs()[0] == ("it is warm", "it is cold")
    with pytest.raises(TextError, match="not paired"):
        ContrastSet.from_dict(small()).pairs()


def test_items_and_cues_survive_a_round_trip():
    item = EvaluationItem("Today it is", " warm", " cold", group="today", split="test")
    assert EvaluationItem.from_dict(item.to_dict()) == item
    cue = PromptCue("Think of summer.", "Think of winter.")
    assert PromptCue.from_dict(cue.to_dict()) == cue


def run_plainly(program):
    """Run a program as users do: in a fresh interpreter, without the tests' type checks."""
    program = f"import sys\nfrom contrans_lens.texts import *\n{program}"
    return subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode


def test_the_room_works_without_torch():
    program = """
load_concept("honesty").split()
cut_texts(generic_texts(50))
sys.exit(any(name in sys.modules for name in ("torch", "transformers", "transformer_lens", "datasets")))
"""
    assert run_plainly(program) == 0


def test_lists_become_tuples_and_other_things_are_refused_without_type_checks_too():
    program = """
contrast = ContrastSet("letters", ["a"], ["b"], positive_groups=["g"], negative_groups=["g"])
assert contrast == ContrastSet("letters", ("a",), ("b",), positive_groups=("g",), negative_groups=("g",))
assert hash(contrast)
for bad in (("a", 3), "a", [None], [["a"]]):
    try:
        ContrastSet("letters", bad, ("b",))
    except ValueError:
        continue
    sys.exit(f"{bad} was taken")
"""
    assert run_plainly(program) == 0


def test_groups_name_what_must_stay_together():
    free = ContrastSet(name="c", positives=("a", "b"), negatives=("x", "y", "z"))
    assert len(set(free.text_groups())) == 5
    paired = ContrastSet(name="c", positives=("a", "b"), negatives=("x", "y"), paired=True)
    assert paired.text_groups() == ["pair 0", "pair 1"] * 2
    named = ContrastSet(
        name="c",
        positives=("a", "b"),
        negatives=("x", "y"),
        positive_groups=("one", ""),
        negative_groups=("one", "two"),
    )
    assert named.text_groups()[0] == named.text_groups()[2] == "one"
    assert len(set(named.text_groups())) == 3
    assert len(named.text_groups()) == len(named.labels())
