import json
from pathlib import Path

import numpy as np
import pytest
import torch

from contrans_lens.pace.dictionary import ConceptDictionary
from contrans_lens.texts.stimuli import write_stimuli
from tests.cli.pace_cases import MODEL, POINTS, PROMPTS, WORDS, call, stimuli
from tests.tiny_models import D_MODEL, tiny_folder

pytestmark = pytest.mark.usefixtures("_opened_once")
NAMES = [word for words in WORDS.values() for word in words]


@pytest.fixture
def stimuli_file(tmp_path: Path) -> Path:
    return write_stimuli(tmp_path / "stimuli.jsonl", stimuli())


@pytest.fixture
def foreign(tmp_path: Path) -> list[str]:
    """Atoms of others as columns; the last is the first again."""
    rows = torch.randn(5, D_MODEL, generator=torch.Generator().manual_seed(0))
    rows = torch.cat([rows, -2 * rows[:1]])
    np.save(tmp_path / "atoms.npy", rows.T.contiguous().numpy())
    (tmp_path / "names.txt").write_text("one\ntwo\nthree\nfour\n[/b]five\nagain\n")
    return ["--external", str(tmp_path / "atoms.npy"), "--names", str(tmp_path / "names.txt")]


def test_a_dictionary_is_built_from_stimuli_and_shown(
    monkeypatch: pytest.MonkeyPatch, stimuli_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "out"
    arguments = ["--stimuli", str(stimuli_file), "--hook-point", POINTS[1], "--template", "{stimulus}\\nSo"]
    assert call(monkeypatch, "dictionary", "build", *MODEL, *arguments, "--out", str(out), "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    built = ConceptDictionary.open(out)
    assert list(built.names) == NAMES
    assert built.hook_points == POINTS[1:]
    assert built.template == printed["template"] == "{stimulus}\nSo"
    assert {row["topic"]: tuple(row["concepts"]) for row in printed["topics"]} == WORDS
    assert printed["quality"] == [pytest.approx(float(built.quality.mean()))]
    assert printed["weakest"][0]["quality"] == pytest.approx(float(built.quality.min()))
    for command in (("dictionary", "show"), ("show",)):
        assert call(monkeypatch, *command, str(out), "--json") == 0
        assert json.loads(capsys.readouterr().out) == printed
        assert call(monkeypatch, *command, str(out)) == 0
        shown = capsys.readouterr().out
        assert all(word in shown for word in ("unkindness", "rude, harsh, nasty", "8 of width 128"))


def test_by_default_the_middle_blocks_are_read_with_the_papers_template(
    monkeypatch: pytest.MonkeyPatch, stimuli_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    arguments = ["--stimuli", str(stimuli_file), "--store", str(tmp_path / "store"), "--others", "10", "--seed", "1"]
    assert call(monkeypatch, "dictionary", "build", *MODEL, *arguments, "--out", str(tmp_path / "out")) == 0
    assert "dictionary: " in capsys.readouterr().out
    built = ConceptDictionary.open(tmp_path / "out")
    assert built.template.startswith("Consider the {concept}")
    assert len(built.hook_points) == 3
    assert (built.notes["seed"], built.notes["others_per_concept"]) == (1, 10)
    assert list((tmp_path / "store").iterdir())


def test_a_dictionary_is_built_from_a_plain_list_of_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "words.txt").write_text("honesty\n\ncourage\n  greed \n")
    arguments = ["--concepts", str(tmp_path / "words.txt"), "--frame", "quality", "--sentences", "4"]
    arguments += ["--model", str(tiny_folder("gpt2")), "--out", str(tmp_path / "out"), "--json"]
    arguments += ["--template", "{concept}: {stimulus}"]
    assert call(monkeypatch, "dictionary", "build", *arguments) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["notes"]["n_stimuli"] == 12
    assert list(ConceptDictionary.open(tmp_path / "out").names) == ["honesty", "courage", "greed"]


def test_foreign_atoms_are_read_and_their_duplicates_named(
    monkeypatch: pytest.MonkeyPatch, foreign: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    arguments = ["dictionary", "build", *foreign, "--hook-point", POINTS[0], "--out", str(tmp_path / "out")]
    assert call(monkeypatch, *arguments, "--model", str(tiny_folder("llama")), "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["n_atoms"] == 5
    assert [(row["name"], row["of"]) for row in printed["dropped"]] == [("again", "one")]
    assert printed["model"]["d_model"] == D_MODEL
    assert printed["quality"] is None
    assert call(monkeypatch, *arguments) == 0
    shown = capsys.readouterr().out
    assert "can be searched, but not be used" in shown
    assert "[/b]five" in shown  # a name is nobody's markup
    assert "-1.0000" in shown
    assert call(monkeypatch, "dictionary", "search", str(tmp_path / "out"), "[/b]five", "--most", "2") == 0
    assert call(monkeypatch, *arguments, "--rows") == 2
    assert "[32, 6]" in capsys.readouterr().err


def test_the_nearest_concepts_are_of_the_same_topic(
    monkeypatch: pytest.MonkeyPatch, dictionary_folder: Path, capsys: pytest.CaptureFixture[str]
):
    search = ["dictionary", "search", str(dictionary_folder), "rude", "kind", "--most", "2"]
    assert call(monkeypatch, *search, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["texts"] == []
    near = {row["query"]: {each["concept"] for each in row["concepts"]} for row in found["neighbours"]}
    assert near == {"rude": {"harsh", "nasty"}, "kind": {"polite", "gentle"}}
    assert {row["hook_point"] for row in found["neighbours"]} == {POINTS[1]}
    assert call(monkeypatch, *search, "--unsigned", "--hook-point", POINTS[0], "--hook-point", POINTS[1], "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["hook_point"] for row in found["neighbours"]] == [*POINTS, *POINTS]
    sizes = [[abs(each["cosine"]) for each in row["concepts"]] for row in found["neighbours"]]
    assert all(row == sorted(row, reverse=True) for row in sizes)
    assert call(monkeypatch, *search) == 0
    assert "harsh" in capsys.readouterr().out


def test_the_last_token_of_a_text_is_decomposed(
    monkeypatch: pytest.MonkeyPatch, dictionary_folder: Path, capsys: pytest.CaptureFixture[str]
):
    search = ["dictionary", "search", str(dictionary_folder), *MODEL, "--text", PROMPTS[0]]
    assert call(monkeypatch, *search, "--solver", "omp", "--k", "3", "--most", "2", "--json") == 0
    [row] = json.loads(capsys.readouterr().out)["texts"]
    assert (row["text"], row["hook_point"], row["n_concepts"]) == (PROMPTS[0], POINTS[1], 3)
    assert len(row["concepts"]) == 2
    assert row["concepts"][0]["concept"] in WORDS["unkindness"]
    assert 0 < row["explained"] <= 1
    assert call(monkeypatch, *search, "fox", "--alpha", "0.01", "--most", "1") == 0
    shown = capsys.readouterr().out
    assert "explained" in shown
    assert "more" in shown
    assert "nearest" in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["build", "--out", "OUT", *MODEL], "give one of --stimuli, --concepts, --external"),
        (["build", "--out", "OUT", *MODEL, "--stimuli", "a", "--external", "b"], "--stimuli and --external"),
        (["build", "--out", "OUT", *MODEL, "--stimuli", "none.jsonl"], "none.jsonl"),
        (["build", "--out", "OUT", *MODEL, "--stimuli", "embedded:moon"], "embedded:world"),
        (["build", "--out", "OUT", "--stimuli", "FILE"], "--model says"),
        (["build", "--out", "OUT", *MODEL, "--stimuli", "FILE", "--template", "none"], "no place for the stimulus"),
        (["build", "--out", "OUT", *MODEL, "--stimuli", "FILE", "--names", "a"], "--external"),
        (["build", "--out", "OUT", *MODEL, "--stimuli", "FILE", "--frame", "quality"], "--concepts"),
        (["build", "--out", "OUT", *MODEL, "--stimuli", "FILE", "--hook-point", "blocks.77.hook_resid_post"], "77"),
        (["build", "--out", "OUT", *MODEL, "--concepts", "WORDS"], "--frame"),
        (["build", "--out", "OUT", *MODEL, "--concepts", "WORDS", "--frame", "smell"], "smell"),
        (["build", "--out", "OUT", "--external", "atoms.npy", "--hook-point", "x"], "--names"),
        (["build", "--out", "OUT", "--model", "embedded:none", "--stimuli", "FILE"], "embedded model"),
        (["show", "OUT"], "OUT"),
        (["search", "DICTIONARY"], "nothing is searched for"),
        (["search", "DICTIONARY", "rudeness"], "Did you mean 'rude'"),
        (["search", "DICTIONARY", "rude", "--hook-point", "blocks.0.hook_resid_post"], "no atoms at"),
        (["search", "DICTIONARY", "--text", "a"], "--model"),
        (["search", "DICTIONARY", *MODEL, "--text", ""], "empty"),
        (["search", "DICTIONARY", *MODEL, "--text", "a", "--solver", "projection"], "undesirable"),
        (["search", "DICTIONARY", *MODEL, "--text", "a", "--k", "3"], "--k does not"),
        (["search", "DICTIONARY", *MODEL, "--text", "a", "--solver", "omp", "--alpha", "0.1"], "--alpha does not"),
        (["search", "DICTIONARY", "--model", "embedded:gpt2-source", "--text", "a"], "concept dictionary"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_two(
    monkeypatch: pytest.MonkeyPatch,
    stimuli_file: Path,
    dictionary_folder: Path,
    tmp_path: Path,
    arguments: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
):
    (tmp_path / "words.txt").write_text("honesty\ncourage\n")
    places = {
        "OUT": str(tmp_path / "OUT"),
        "FILE": str(stimuli_file),
        "WORDS": str(tmp_path / "words.txt"),
        "DICTIONARY": str(dictionary_folder),
    }
    assert call(monkeypatch, "dictionary", *(places.get(each, each) for each in arguments)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("contrans-lens: ")
    assert captured.err.count("\n") == 1
    assert said in captured.err
    assert not (tmp_path / "OUT").exists()


def test_a_damaged_dictionary_is_refused(
    monkeypatch: pytest.MonkeyPatch, stimuli_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "out"
    arguments = ["--stimuli", str(stimuli_file), "--hook-point", POINTS[0], "--out", str(out)]
    assert call(monkeypatch, "dictionary", "build", *MODEL, *arguments) == 0
    tensors = next(out.glob("atoms-*"))
    tensors.write_bytes(tensors.read_bytes()[:-8])
    capsys.readouterr()
    for command in (["dictionary", "show"], ["show"]):
        assert call(monkeypatch, *command, str(out)) == 2
        assert "safetensors" in capsys.readouterr().err
