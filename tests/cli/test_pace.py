import json
from pathlib import Path

import pytest

from contrans_lens.pace.dictionary import ConceptDictionary
from contrans_lens.pace.partition import Partition
from tests.cli.pace_cases import MODEL, POINTS, PROMPTS, WORDS, call

pytestmark = pytest.mark.usefixtures("_opened_once")
PROMPT = [*("--prompt", PROMPTS[0]), *("--prompt", PROMPTS[1])]
SHORT = ["--max-new-tokens", "4", "--json"]


@pytest.fixture
def pace(dictionary_folder: Path) -> list[str]:
    return ["pace", *MODEL, "--dictionary", str(dictionary_folder)]


def ran(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    """The printed result of a run that worked."""
    assert call(monkeypatch, *arguments, *SHORT) == 0
    return json.loads(capsys.readouterr().out)


def test_rude_replies_become_kind_and_everything_is_saved(
    monkeypatch: pytest.MonkeyPatch, pace: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "neutral.txt").write_text("The clerk has two cups and a hat.\nThe road is round and the mill is big.\n")
    arguments = [*pace, *PROMPT, "--examples", "rude", "--at-least", "0.5", "--task", "less unkindness"]
    arguments += ["--neutral", str(tmp_path / "neutral.txt"), "--controls", "2", "--out", str(tmp_path / "out")]
    printed = ran(monkeypatch, capsys, *arguments)
    assert printed == json.loads((tmp_path / "out" / "result.json").read_text())
    assert printed["command"].startswith("contrans-lens pace --model embedded:gpt2-target --dictionary")
    assert set(printed["undesirable"]) == set(WORDS["unkindness"])
    assert printed["task"] == "less unkindness"
    assert [row["name"] for row in printed["damages"]] == ["less unkindness", "control 0", "control 1"]
    assert [row["hook_point"] for row in printed["removals"]] == list(POINTS)
    for row, prompt in zip(printed["texts"], PROMPTS, strict=True):
        assert row["prompt"] == prompt
        assert row["plain"].split()[0] in ("Nonsense,", "Never,", "Rubbish,", "No,", "Enough,", "Fool,")
        assert row["edited"].split()[0] not in ("Nonsense,", "Never,", "Rubbish,", "No,", "Enough,", "Fool,")
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files >= {"report.html", "audit.png", "partition.png", "partition.json", "texts.csv", "concepts.csv"}
    assert call(monkeypatch, "show", str(tmp_path / "out")) == 0
    shown = capsys.readouterr().out
    assert repr(printed["texts"][0]["edited"]) in shown
    assert "control 1" in shown
    assert "rude" in shown


def test_what_is_printed_for_people_names_the_weak_points(
    monkeypatch: pytest.MonkeyPatch, pace: list[str], capsys: pytest.CaptureFixture[str]
):
    assert call(monkeypatch, *pace, *PROMPT, "--remove", "rude", "--remove", "fox", "--max-new-tokens", "3") == 0
    shown = capsys.readouterr().out
    assert "undesirable (named by hand): rude, fox" in shown
    assert "beware: Damage was not measured" in shown
    assert "report:" not in shown


def test_exactly_the_named_concepts_are_removed_where_it_is_said(
    monkeypatch: pytest.MonkeyPatch, pace: list[str], capsys: pytest.CaptureFixture[str]
):
    arguments = [*pace, *PROMPT, "--remove", "nasty", "--remove", "rude", "--remove", "nasty", "--controls", "0"]
    printed = ran(monkeypatch, capsys, *arguments, "--hook-point", POINTS[1], "--mode", "per-token")
    assert printed["undesirable"] == ["nasty", "rude"]
    assert printed["task"] == "remove nasty, rude"
    [removal] = printed["removals"]
    assert (removal["hook_point"], removal["mode"], removal["strength"]) == (POINTS[1], "per_token", 1.0)
    [point] = printed["points"]
    assert {name for name, *_ in point["concepts"]} <= {"nasty", "rude"}
    assert point["tokens"] > len(PROMPTS)
    assert set(printed["texts"][0]) == {"prompt", "plain", "edited"}
    nothing = ran(monkeypatch, capsys, *arguments, "--strength", "0")
    assert all(row["plain"] == row["edited"] for row in nothing["texts"])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--solver", "omp", "--k", "3"], {"kind": "omp", "k": 3, "tolerance": 0.0}),
        (["--alpha", "0.2", "--tau", "0.5"], {"kind": "elastic_net", "alpha": 0.2, "tau": 0.5}),
        (["--solver", "projection"], {"kind": "orthogonal_projection"}),
        (["--solver", "addition", "--coefficient", "0.1"], {"kind": "vector_addition", "coefficient": 0.1}),
    ],
)
def test_every_solver_can_be_asked_for(
    monkeypatch: pytest.MonkeyPatch,
    pace: list[str],
    given: list[str],
    expected: dict,
    capsys: pytest.CaptureFixture[str],
):
    printed = ran(monkeypatch, capsys, *pace, *PROMPT[:2], "--remove", "rude", *given)
    assert {json.dumps(row["solver"]) for row in printed["removals"]} == {json.dumps(expected)}
    assert all(point["tokens"] for point in printed["points"])


def test_a_saved_partition_can_be_corrected_and_used_again(
    monkeypatch: pytest.MonkeyPatch,
    pace: list[str],
    dictionary_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    (tmp_path / "scores.csv").write_text("name,score,reason\nrude,0.9,it is\nkind,-1,it is not\n")
    scored = [*pace, *PROMPT[:2], "--scores", str(tmp_path / "scores.csv"), "--default-score", "0"]
    printed = ran(monkeypatch, capsys, *scored, "--out", str(tmp_path / "out"))
    assert printed["undesirable"] == ["rude"]
    saved = Partition.load(tmp_path / "out" / "partition.json", ConceptDictionary.open(dictionary_folder))
    by_hand = saved.with_undesirable(["rude", "harsh"]).save(tmp_path / "mine.json")
    again = ran(monkeypatch, capsys, *pace, *PROMPT[:2], "--partition", str(by_hand))
    assert again["undesirable"] == ["rude", "harsh"]
    assert again["task"] == printed["task"]


def test_prompts_come_from_a_file_too(
    monkeypatch: pytest.MonkeyPatch, pace: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    lines = [json.dumps({"text": prompt}) for prompt in PROMPTS]
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines))
    given = ["--prompts", str(tmp_path / "prompts.jsonl"), "--prompt", "The boy said:"]
    printed = ran(monkeypatch, capsys, *pace, *given, "--remove", "rude", "--controls", "0")
    assert [row["prompt"] for row in printed["texts"]] == ["The boy said:", *PROMPTS]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([*PROMPT], "nothing says what is to be removed"),
        ([*PROMPT, "--remove", "rude", "--examples", "rude"], "--remove and --examples"),
        ([*PROMPT, "--remove", "rude", "--scores", "none.csv"], "--remove and --scores"),
        ([*PROMPT, "--remove", "rudeness"], "Did you mean 'rude'"),
        ([*PROMPT, "--examples", "rudeness"], "Did you mean 'rude'"),
        ([*PROMPT, "--examples", "rude", "--counterexamples", "rude"], "both example and counterexample"),
        ([*PROMPT, "--examples", "rude", "--at-least", "3"], "[-1, 1]"),
        ([*PROMPT, "--examples", "rude", "--most", "0"], "most=0"),
        ([*PROMPT, "--remove", "rude", "--most", "3"], "--most goes with"),
        ([*PROMPT, "--scores", "none.csv"], "none.csv"),
        ([*PROMPT, "--partition", "none.json"], "none.json"),
        ([*PROMPT, *(each for words in WORDS.values() for word in words for each in ("--remove", word))], "all 8"),
        (["--remove", "rude"], "--prompt TEXT"),
        (["--remove", "rude", "--prompt", " "], "prompt 1 is empty"),
        (["--remove", "rude", "--prompts", "none.txt"], "none.txt"),
        (["--remove", "rude", "--prompt", "a " * 3000], "token"),
        ([*PROMPT, "--remove", "rude", "--mode", "sometimes"], "sometimes"),
        ([*PROMPT, "--remove", "rude", "--solver", "lasso"], "lasso"),
        ([*PROMPT, "--remove", "rude", "--k", "3"], "--k does not belong"),
        ([*PROMPT, "--remove", "rude", "--solver", "addition"], "--coefficient"),
        ([*PROMPT, "--remove", "rude", "--alpha", "-1"], "alpha"),
        ([*PROMPT, "--remove", "rude", "--strength", "nan"], "strength"),
        ([*PROMPT, "--remove", "rude", "--hook-point", "blocks.0.hook_resid_post"], "no atoms at"),
        ([*PROMPT, "--remove", "rude", "--neutral", "none.txt"], "none.txt"),
        ([*PROMPT, "--remove", "rude", "--kind", "strange"], "strange"),
        ([*PROMPT, "--remove", "rude", "--model", "embedded:rotary-target"], "another model"),
        ([*PROMPT, "--remove", "rude", "--dictionary", "nowhere"], "nowhere"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_two(
    monkeypatch: pytest.MonkeyPatch,
    pace: list[str],
    tmp_path: Path,
    arguments: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
):
    assert call(monkeypatch, *pace, *arguments, "--out", str(tmp_path / "out")) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("contrans-lens: ")
    assert captured.err.count("\n") == 1
    assert said in captured.err
    assert not (tmp_path / "out").exists()


def test_ctrl_c_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch, pace: list[str], capsys: pytest.CaptureFixture[str]
):
    from contrans_lens.pace import run

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "remove_concepts", interrupted)
    assert call(monkeypatch, *pace, *PROMPT, "--remove", "rude") == 130
    assert "interrupted" in capsys.readouterr().err
