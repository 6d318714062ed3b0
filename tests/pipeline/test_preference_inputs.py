import json
from pathlib import Path

import pytest

from contrans_lens.errors import RahfError, TextError
from contrans_lens.pipeline.preference_inputs import (
    alpha_reference,
    instructions_reference,
    names_reference,
    preferences_reference,
    training_reference,
)
from contrans_lens.rahf.training import TrainingSettings
from contrans_lens.testbed import SCIT_INSTRUCTIONS, preference_set
from contrans_lens.texts import GENERAL_INSTRUCTIONS, Instructions

ROWS = [{"prompt": f"Why {number}?", "chosen": " good", "rejected": " bad"} for number in range(6)]


@pytest.fixture
def triples(tmp_path: Path) -> Path:
    lines = [*map(json.dumps, ROWS), json.dumps(ROWS[0] | {"rejected": " "})]
    (tmp_path / "triples.jsonl").write_text("\n".join(lines))
    return tmp_path / "triples.jsonl"


def test_files_are_read_with_a_report(triples: Path):
    found = preferences_reference(str(triples))
    assert (len(found), found.name, found.report.dropped) == (6, "triples", {"empty answer": 1})
    drawn = [preferences_reference(str(triples), limit=3, seed=seed) for seed in (0, 0, 1)]
    assert [len(each) for each in drawn] == [3, 3, 3]
    assert drawn[0] == drawn[1] != drawn[2]


def test_embedded_sets_have_names():
    assert preferences_reference("embedded:honesty", seed=2) == preference_set("honesty", seed=2)
    limited = preferences_reference("embedded:both", limit=36)
    assert limited == preference_set("both", n=36)
    assert preferences_reference("embedded:kindness", limit=10_000) == preference_set("kindness")
    with pytest.raises(TextError, match="embedded:kindness, embedded:honesty, embedded:both"):
        preferences_reference("embedded:beauty")


def test_instructions_fit_the_preferences_unless_others_are_given():
    assert instructions_reference("embedded:kindness") == SCIT_INSTRUCTIONS["kindness"]
    assert instructions_reference("embedded:both") == dict(SCIT_INSTRUCTIONS)
    assert instructions_reference("hh.jsonl") == GENERAL_INSTRUCTIONS
    assert instructions_reference("embedded:kindness", "Good.", "Bad.") == Instructions("Good.\n\n", "Bad.\n\n")
    assert instructions_reference("x", "Good.\\n", "Bad.\\n") == Instructions("Good.\n", "Bad.\n")


def test_instructions_come_from_a_file_too(tmp_path: Path):
    path = tmp_path / "words.json"
    one = {"positive": "Good.\n", "negative": "Bad.\n"}
    path.write_text(json.dumps(one))
    assert instructions_reference("x", path=path) == Instructions(**one)
    path.write_text(json.dumps({"kindness": one}))
    assert instructions_reference("x", path=path) == {"kindness": Instructions(**one)}


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"positive": "Good.\\n"}', '{"a": {"positive": 1}}'])
def test_files_without_instructions_are_refused(tmp_path: Path, content: str):
    (tmp_path / "words.json").write_text(content)
    with pytest.raises(TextError, match=r"words\.json"):
        instructions_reference("x", path=tmp_path / "words.json")


def test_halves_and_doubles_of_instructions_are_refused(tmp_path: Path):
    with pytest.raises(RahfError, match="belong together"):
        instructions_reference("x", positive="Good.")
    with pytest.raises(RahfError, match="one of the two"):
        instructions_reference("x", "Good.", "Bad.", tmp_path / "words.json")


def test_alpha_is_a_number_or_auto():
    assert alpha_reference("auto") == "auto"
    assert alpha_reference("-0.5") == -0.5
    for wrong in ("0", "nan", "inf", "much"):
        with pytest.raises(RahfError, match="--alpha"):
            alpha_reference(wrong)


def test_names_are_known_or_refused():
    assert names_reference("dual", "mse", "answer", "both")["method"] == "dual"
    for place in range(4):
        names = ["scit", "norm", "predicting", "chosen"]
        names[place] = "x"
        with pytest.raises(RahfError, match=f"--{('method', 'loss', 'where', 'answers')[place]} is 'x'"):
            names_reference(*names)


def test_embedded_models_are_trained_for_shorter():
    assert training_reference("gpt2", steps=None) == TrainingSettings()
    short = training_reference("embedded:gpt2-target", steps=None, batch_size=4)
    assert (short.steps, short.accumulation, short.learning_rate, short.batch_size) == (100, 1, 1e-3, 4)
    with pytest.raises(RahfError, match="steps"):
        training_reference("gpt2", steps=0)
