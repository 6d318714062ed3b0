import contextlib
import functools
import io
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from contrans_lens import cli, models
from contrans_lens.interventions import Intervention
from contrans_lens.models import HookedModel, fingerprint, open_model
from contrans_lens.testbed import model_path
from contrans_lens.tradeoff import LocalExecutor
from contrans_lens.tradeoff.result import SweepResult
from tests.tiny_models import open_tiny

MODEL = ["--model", "embedded:gpt2-target"]
NEUTRAL = "Anna has two books.\nThe cat is on the table.\nCount up: one two three four.\n"
HOOK_POINT = "blocks.1.hook_resid_post"


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run the command line in this process and return its exit code."""
    monkeypatch.setattr(sys, "argv", ["contrans-lens", *arguments])
    try:
        cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@functools.cache
def opened(reference: str | Path, **opening: str | bool | None) -> HookedModel:
    """A model as it is opened, once for all tests."""
    return open_model(reference, **opening)


@pytest.fixture(scope="module", autouse=True)
def _opened_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "open_model", opened)
        yield


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two interventions on the embedded model, and one on another model."""
    folder = tmp_path_factory.mktemp("interventions")
    model = opened(model_path("gpt2-target"))
    vectors = torch.randn(2, model.cfg.d_model, generator=torch.Generator().manual_seed(0))
    for name, vector in zip(("one", "two"), vectors, strict=True):
        made = Intervention(HOOK_POINT, vector, strength=0.5, residual_norm=8.0, fingerprint=fingerprint(model))
        made.save(folder / name)
    other = open_tiny("llama")
    vector = torch.ones(other.cfg.d_model)
    Intervention(HOOK_POINT, vector, residual_norm=1.0, fingerprint=fingerprint(other)).save(folder / "other")
    return folder


@pytest.fixture(scope="module")
def short_neutral(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    path = tmp_path_factory.mktemp("texts") / "neutral.txt"
    path.write_text(NEUTRAL)
    return ["--neutral", str(path)]


@dataclass(frozen=True)
class Swept:
    """A sweep that was run from the command line."""

    out: Path
    printed: str
    arguments: list[str]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, short_neutral: list[str]) -> Swept:
    """A concept, read in the embedded model and swept."""
    out = tmp_path_factory.mktemp("swept")
    arguments = ["sweep", *MODEL, "--concept", "embedded:honesty", "--texts", "embedded:map", *short_neutral]
    arguments += ["--hook-point", HOOK_POINT, "--points", "2", "--draws", "2", "--limit", "6", "--json"]
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        assert call(patch, *arguments, "--out", str(out)) == 0
    return Swept(out, printed.getvalue(), arguments)


def test_a_concept_is_swept_from_the_command_line(
    monkeypatch: pytest.MonkeyPatch, swept: Swept, capsys: pytest.CaptureFixture[str]
):
    printed = json.loads(swept.printed)
    assert printed == json.loads((swept.out / "result.json").read_text())
    assert printed["schema"] == "contrans-lens/tradeoff/1"
    assert printed["command"].startswith("contrans-lens sweep --model embedded:gpt2-target")
    assert printed["plan"]["roles"] == {"alignment": "honesty"}
    assert printed["directions"]["honesty"]["alignment"]["slope0"]["value"] > 0.2
    assert {"report.html", "curves.csv", "alignment.png", "damage.png"} <= {path.name for path in swept.out.iterdir()}
    result = SweepResult.load(swept.out)
    assert result.strengths == pytest.approx((-1, -(0.5**1.5), 0, 0.5**1.5, 1))
    assert result.families == {"random": ["random/0", "random/1"]}
    assert call(monkeypatch, "show", str(swept.out)) == 0
    shown = capsys.readouterr().out
    assert "slope at 0" in shown
    assert printed["directions"]["honesty"]["claim"] in shown


def test_a_sweep_that_was_interrupted_goes_on_and_ends_with_the_same_bytes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, swept: Swept, capsys: pytest.CaptureFixture[str]
):
    n_units = len(list((swept.out / "units").iterdir()))
    arguments = [*swept.arguments, "--out", str(tmp_path)]
    run = LocalExecutor.run
    computed: list[str] = []

    def interrupted(self: LocalExecutor, work: object, units: list) -> Iterator:
        for number, done in enumerate(run(self, work, units)):
            if number == 4:
                raise KeyboardInterrupt
            yield done

    def counted(self: LocalExecutor, work: object, units: list) -> Iterator:
        for done in run(self, work, units):
            computed.append(done.unit.stage)
            yield done

    monkeypatch.setattr(LocalExecutor, "run", interrupted)
    assert call(monkeypatch, *arguments) == 130
    assert "interrupted" in capsys.readouterr().err
    assert not (tmp_path / "result.json").exists()
    monkeypatch.setattr(LocalExecutor, "run", counted)
    assert call(monkeypatch, *arguments) == 0
    assert len(computed) == n_units - 4
    for name in ("result.json", "curves.csv", "report.html"):  # the command tells the folder, all else is the same
        assert (tmp_path / name).read_text().replace(str(tmp_path), str(swept.out)) == (swept.out / name).read_text()


@pytest.mark.xdist_group("ray")
def test_workers_of_a_cluster_give_the_same_curves(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, swept: Swept):
    pytest.importorskip("ray")
    assert call(monkeypatch, *swept.arguments, "--ray", "--out", str(tmp_path)) == 0
    assert (tmp_path / "curves.csv").read_bytes() == (swept.out / "curves.csv").read_bytes()


def test_a_sweep_with_a_cost_and_strengths_given_one_by_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, saved: Path, short_neutral: list[str]
):
    arguments = ["sweep", *MODEL, "--intervention", str(saved / "one"), *short_neutral, "--out", str(tmp_path / "out")]
    arguments += ["--alignment", "answers:embedded:honesty", "--limit", "6"]
    given = ["--strengths", "-1,-0.5,0,0.5,1", "--draws", "0", "--work", str(tmp_path / "work")]
    given += ["--helpfulness", "choices:embedded:capability", "--helpfulness-column", "p_mean"]
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("Anna has\nThe cat is\n")
    given += ["--also", f"generate:{prompts}@sentiment", "--max-new-tokens", "3"]
    assert call(monkeypatch, *arguments, *given) == 0
    result = SweepResult.load(tmp_path / "out")
    assert result.strengths == (-1, -0.5, 0, 0.5, 1)
    assert result.plan["roles"] == {"alignment": "honesty", "helpfulness": "capability"}
    shifts = {"honesty shift", "capability shift"}
    assert set(result.plan["behaviours"]) == {"honesty", "capability", "neutral", "prompts sentiment", *shifts}
    assert result.curve("one", "capability").name == "capability (p_mean) under one"
    assert list((tmp_path / "work").iterdir())
    assert not (tmp_path / "out" / "units").exists()


def test_methods_are_compared_from_the_command_line(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    saved: Path,
    short_neutral: list[str],
    capsys: pytest.CaptureFixture[str],
):
    out = tmp_path / "out"
    arguments = ["evaluate", *MODEL, "--intervention", str(saved / "one"), "--intervention", str(saved / "two")]
    arguments += ["--behaviour", "answers:embedded:honesty", "--behaviour", "choices:embedded:capability"]
    arguments += [*short_neutral, "--strength", "0.2", "--draws", "2", "--limit", "6", "--out", str(out)]
    assert call(monkeypatch, *arguments, "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((out / "result.json").read_text())
    assert printed["schema"] == "contrans-lens/comparison/1"
    assert {row["method"] for row in printed["rows"]} == {"unsteered", "one", "two", "random", "prompt"}
    assert {row["behaviour"] for row in printed["rows"]} == {"honesty", "capability"}
    assert printed["budget"] is None
    assert {"report.html", "comparison.csv", "effects.png"} <= {path.name for path in out.iterdir()}
    assert printed["reference"] == "one"
    assert call(monkeypatch, "show", str(out)) == 0
    assert "compared with one" in capsys.readouterr().out


def test_the_unsteered_model_is_measured_alone_and_beside_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, short_neutral: list[str], capsys: pytest.CaptureFixture[str]
):
    arguments = ["evaluate", *MODEL, *short_neutral, "--behaviour", "choices:embedded:capability", "--limit", "4"]
    assert call(monkeypatch, *arguments, "--out", str(tmp_path / "alone"), "--json") == 0
    alone = json.loads(capsys.readouterr().out)
    assert {row["method"] for row in alone["rows"]} == {"unsteered"}
    assert {path.name for path in (tmp_path / "alone").iterdir()} == {
        "result.json",
        "comparison.csv",
        "report.html",
        "values",
    }
    [value] = [row["plus"]["value"] for row in alone["rows"] if row["is_primary"]]
    assert call(monkeypatch, "show", str(tmp_path / "alone")) == 0
    assert f"unsteered {value:.3f}" in capsys.readouterr().out
    words = [*arguments, "--behaviour", "answers:embedded:honesty", "--out", str(tmp_path / "words")]
    assert call(monkeypatch, *words) == 0
    printed = capsys.readouterr().out
    assert f"value {value:+.3f}" in printed  # words before the prompt change nothing without them
    summary = json.loads((tmp_path / "words" / "result.json").read_text())
    assert {row["method"] for row in summary["rows"]} == {"unsteered", "prompt"}
    assert summary["reference"] == "unsteered"
    assert (tmp_path / "words" / "effects.png").exists()
    assert not (tmp_path / "words" / "differences.png").exists()


def test_a_budget_sets_the_strengths(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, saved: Path, short_neutral: list[str]
):
    arguments = ["evaluate", *MODEL, "--intervention", str(saved / "one"), *short_neutral, "--kl-budget", "0.02"]
    arguments += ["--behaviour", "answers:embedded:honesty", "--draws", "0", "--limit", "4", "--out", str(tmp_path)]
    assert call(monkeypatch, *arguments) == 0
    summary = json.loads((tmp_path / "result.json").read_text())
    [damage] = [row for row in summary["damages"] if row["method"] == "one"]
    assert 0.005 < damage["kl"] <= 0.021


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--alignment", "honesty"], "names no behaviour"),
        (["--alignment", "moods:x.json"], "names no behaviour"),
        (["--alignment", "choices:nowhere.json"], "nowhere.json does not exist"),
        (["--alignment", "answers:embedded:nobody"], "nobody"),
        (["--alignment", "mmlu:nowhere.csv@sideways"], "sideways"),
        (["--alignment", "generate:prompts.txt"], "names no judge"),
        ([], "give --alignment"),
        (["--alignment", "answers:embedded:honesty", "--strengths", "0,1"], "one sign only"),
        (["--alignment", "answers:embedded:honesty", "--strengths", "a,b"], "numbers with commas"),
        (["--alignment", "answers:embedded:honesty", "--hook-point", "blocks.0.hook_resid_post"], "have their own"),
    ],
)
def test_what_cannot_be_swept_is_one_line_and_exit_code_two(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    saved: Path,
    short_neutral: list[str],
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
):
    wrong = ["sweep", *MODEL, "--intervention", str(saved / "one"), *short_neutral, *arguments]
    assert call(monkeypatch, *wrong, "--limit", "4", "--out", str(tmp_path / "out")) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out" / "result.json").exists()


def test_a_sweep_needs_something_to_write(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert call(monkeypatch, "sweep", *MODEL, "--alignment", "answers:embedded:honesty", "--out", str(tmp_path)) == 2
    assert "nothing would be written" in capsys.readouterr().err


def test_items_longer_than_the_context_are_refused(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    saved: Path,
    short_neutral: list[str],
    capsys: pytest.CaptureFixture[str],
):
    long = tmp_path / "long.jsonl"
    row = {"prompt": "one two three " * 400, "choices": [" four", " five"], "correct": [0]}
    long.write_text("\n".join(json.dumps({**row, "prompt": f"{i} {row['prompt']}"}) for i in range(3)))
    arguments = ["sweep", *MODEL, "--intervention", str(saved / "one"), *short_neutral, "--points", "2", "--draws", "0"]
    assert call(monkeypatch, *arguments, "--alignment", f"choices:{long}", "--out", str(tmp_path / "out")) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--strength", "1", "--kl-budget", "0.1"], "one of them"),
        (["--strength", "1"], "nothing would be written"),
        (["--kl-budget", "0.1"], "nothing would be written"),
        (["--hook-point", HOOK_POINT], "where a concept is written"),
        (["--concept", "embedded:honesty"], "no strength yet"),
        (["--intervention", "other"], "belongs to another"),
    ],
)
def test_what_cannot_be_compared_is_one_line_and_exit_code_two(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    saved: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
):
    given = [str(saved / each) if each == "other" else each for each in arguments]
    wrong = ["evaluate", *MODEL, "--behaviour", "answers:embedded:honesty", *given, "--out", str(tmp_path)]
    assert call(monkeypatch, *wrong) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
