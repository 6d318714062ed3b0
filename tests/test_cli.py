import json
import sys
from pathlib import Path

import pytest

from contrans_lens import cli
from contrans_lens.pipeline import TransplantResult
from contrans_lens.texts import ContrastSet
from tests.tiny_models import tiny_folder


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run the command line in this process and return its exit code."""
    monkeypatch.setattr(sys, "argv", ["contrans-lens", *arguments])
    try:
        cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.fixture
def run_folder(tiny_result: TransplantResult, tmp_path: Path) -> Path:
    return tiny_result.with_command("contrans-lens transplant ...").save(tmp_path / "run")


@pytest.fixture
def transplant_arguments(tiny_concept: ContrastSet, tmp_path: Path) -> list[str]:
    concept = tiny_concept.save(tmp_path / "goodness.json")
    texts = tmp_path / "texts.txt"
    lines = [f"the {a} and {b} saw the {c} with" for a in ("cat", "dog") for b in ("he", "she") for c in "abcdefgh"]
    texts.write_text("\n".join(lines))
    models = ["--source", str(tiny_folder("gpt2")), "--target", str(tiny_folder("llama"))]
    return ["transplant", *models, "--concept", str(concept), "--texts", str(texts), "--layers", "three-quarters"]


def test_transplant_leaves_a_result_that_the_same_command_makes_again(
    monkeypatch: pytest.MonkeyPatch, transplant_arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    first, second = tmp_path / "first", tmp_path / "second"
    assert call(monkeypatch, *transplant_arguments, "--out", str(first), "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert call(monkeypatch, *transplant_arguments, "--out", str(second)) == 0
    results = [json.loads((out / "result.json").read_text()) for out in (first, second)]
    assert printed == results[0]
    assert results[0]["command"].startswith("contrans-lens transplant --source")
    assert (first / "report.html").exists()
    for volatile in ("seconds", "peak_memory_mb", "command"):
        assert results[0].pop(volatile) is not None
        results[1].pop(volatile)
    assert results[0] == results[1]


def test_bad_input_is_one_line_and_exit_code_two(
    monkeypatch: pytest.MonkeyPatch, transplant_arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    wrong = [*transplant_arguments, "--out", str(tmp_path / "out"), "--concept", str(tmp_path / "none.json")]
    assert call(monkeypatch, *wrong) == 2
    error = capsys.readouterr().err
    assert "none.json" in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_an_unknown_kind_is_refused(monkeypatch: pytest.MonkeyPatch, run_folder: Path):
    folder = str(tiny_folder("llama"))
    arguments = ["generate", "--model", folder, "--intervention", str(run_folder), "--prompt", "a", "--kind", "x"]
    assert call(monkeypatch, *arguments) == 2


def test_ctrl_c_exits_with_130(monkeypatch: pytest.MonkeyPatch):
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "app", interrupted)
    assert call(monkeypatch) == 130


def test_generate_shows_both_sides(
    monkeypatch: pytest.MonkeyPatch, run_folder: Path, capsys: pytest.CaptureFixture[str]
):
    arguments = ["generate", "--model", str(tiny_folder("llama")), "--intervention", str(run_folder)]
    arguments += ["--prompt", "the cat", "--max-new-tokens", "5", "--json"]
    assert call(monkeypatch, *arguments, "--strength", "0") == 0
    [row] = json.loads(capsys.readouterr().out)["generations"]
    assert row["steered"] == row["unsteered"]
    assert call(monkeypatch, *arguments, "--strength", "20") == 0
    [row] = json.loads(capsys.readouterr().out)["generations"]
    assert row["steered"] != row["unsteered"]


def test_generate_refuses_the_wrong_model(
    monkeypatch: pytest.MonkeyPatch, run_folder: Path, capsys: pytest.CaptureFixture[str]
):
    arguments = ["generate", "--model", str(tiny_folder("gpt2")), "--intervention", str(run_folder), "--prompt", "a"]
    assert call(monkeypatch, *arguments) == 2
    assert "belongs to another" in capsys.readouterr().err


@pytest.mark.parametrize("part", [".", "map", "vectors/native", "intervention"])
def test_show_reads_runs_and_artifacts(
    monkeypatch: pytest.MonkeyPatch, run_folder: Path, part: str, capsys: pytest.CaptureFixture[str]
):
    assert call(monkeypatch, "show", str(run_folder / part), "--json") == 0
    assert "schema" in json.loads(capsys.readouterr().out)
    assert call(monkeypatch, "show", str(run_folder / part)) == 0


def test_show_refuses_a_damaged_artifact(monkeypatch: pytest.MonkeyPatch, run_folder: Path):
    tensors = next((run_folder / "map").glob("tensors-*"))
    tensors.write_bytes(tensors.read_bytes()[:-8])
    assert call(monkeypatch, "show", str(run_folder / "map")) == 2


def test_layers_leaves_a_report_and_goes_on_where_it_was_stopped(
    monkeypatch: pytest.MonkeyPatch, transplant_arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    arguments = ["layers", *transplant_arguments[1:-2], "--shortlist", "1", "--out", str(tmp_path / "out")]
    assert call(monkeypatch, *arguments, "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    first = (tmp_path / "out" / "result.json").read_bytes()
    assert printed == json.loads(first)
    assert printed["command"].startswith("contrans-lens layers --source")
    assert list((tmp_path / "out" / "stages").glob("cells-*"))
    assert call(monkeypatch, *arguments, "--json") == 0
    assert (tmp_path / "out" / "result.json").read_bytes() == first
    assert call(monkeypatch, "show", str(tmp_path / "out")) == 0
    shown = capsys.readouterr().out
    assert "three quarters" in shown


def test_layers_refuses_what_cannot_be_measured(
    monkeypatch: pytest.MonkeyPatch, transplant_arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    wrong = ["layers", *transplant_arguments[1:-2], "--draws", "5", "--out", str(tmp_path / "out")]
    assert call(monkeypatch, *wrong) == 2
    assert "at least 19" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
