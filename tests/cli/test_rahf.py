import json
from pathlib import Path
from typing import Any

import pytest

from contrans_lens.models import open_model
from contrans_lens.rahf.result import RahfResult
from tests.cli.pace_cases import call
from tests.rahf.small_runs import NEUTRAL, small_set
from tests.tiny_models import tiny_folder

FEW = ["--steps", "2", "--fit-steps", "2", "--batch-size", "4", "--accumulation", "1", "--device", "cpu"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    rows = [pair.to_dict() for pair in small_set()]
    rows.append(rows[0] | {"rejected": rows[0]["chosen"]})
    (folder / "feelings.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "neutral.txt").write_text("".join(f"{text}\n" for text in NEUTRAL))
    return folder


@pytest.fixture
def arguments(files: Path, tmp_path: Path) -> list[str]:
    given = ["rahf", "--base", str(tiny_folder("gpt2")), "--preferences", str(files / "feelings.jsonl")]
    return [*given, "--out", str(tmp_path / "out"), *FEW]


def test_a_file_of_pairs_goes_all_the_way(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], files: Path, tmp_path: Path, capsys: Any
):
    words = ["--positive", "All is happy.\\n", "--negative", "All is sad.\\n", "--neutral", str(files / "neutral.txt")]
    words += ["--keep", "float16"]
    assert call(monkeypatch, *arguments, *words, "--alpha", "1", "--rank", "2", "--json") == 0
    streams = capsys.readouterr()
    printed = json.loads(streams.out)
    assert "feelings.jsonl (triples): 25 read, 24 kept" in streams.err
    assert "1 dropped: equal answers (line 25)" in streams.err
    assert printed["preferences"]["report"]["dropped"] == {"equal answers": 1}
    assert printed == json.loads((tmp_path / "out" / "result.json").read_text())
    assert printed["command"].startswith("contrans-lens rahf --base")
    assert printed["instructions"] == {"": {"positive": "All is happy.\n", "negative": "All is sad.\n"}}
    assert (printed["settings"]["lora"]["rank"], printed["settings"]["lora"]["alpha"]) == (2, 4)
    assert printed["settings"]["tuning"]["steps"] == printed["settings"]["fitting"]["steps"] == 2
    assert printed["settings"]["fitting"]["learning_rate"] == 3e-4
    assert (printed["settings"]["keep"], printed["settings"]["dtype"]) == ("float16", "float32")
    assert [row["name"] for row in printed["rows"]][:4] == ["base", "prompt", "scit", "aligned"]
    assert (tmp_path / "out" / "report.html").exists()
    # The same command again opens what is there, and what was asked for otherwise is refused.
    assert call(monkeypatch, *arguments, *words, "--alpha", "1", "--rank", "2") == 0
    shown = capsys.readouterr().out
    assert str(tmp_path / "out" / "adapter") in shown
    assert "aligned" in shown
    assert call(monkeypatch, "show", str(tmp_path / "out")) == 0
    again = capsys.readouterr().out
    assert again.strip() in shown
    assert call(monkeypatch, *arguments, *words, "--alpha", "2", "--rank", "2") == 2
    assert "alpha is 1.0 there and 2.0 here" in capsys.readouterr().err
    assert RahfResult.load(tmp_path / "out").command == printed["command"]


def test_the_adapter_is_a_model_for_other_commands(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], tmp_path: Path, capsys: Any
):
    fast = ["--method", "cues", "--controls", "0", "--fit-learning-rate", "0.1", "--alpha", "5", "--fit-steps", "8"]
    fast += ["--keep", "nothing"]
    assert call(monkeypatch, *arguments, *fast) == 0
    adapter = tmp_path / "out" / "adapter"
    assert not (tmp_path / "out" / "differences").exists()
    capsys.readouterr()
    for folder in (adapter, tiny_folder("gpt2")):
        asked = ["generate", "--model", str(folder), "--prompt", "Why is it that", "--max-new-tokens", "6", "--json"]
        assert call(monkeypatch, *asked) == 0
    text = capsys.readouterr().out
    first, second = (json.loads(part)["generations"] for part in text.replace("}\n{", "}\n\0{").split("\0"))
    assert [row["prompt"] for row in (*first, *second)] == ["Why is it that"] * 2
    assert first[0]["text"] != second[0]["text"]
    assert open_model(adapter, device="cpu").cfg.n_layers == 4
    measured = ["evaluate", "--model", str(adapter), "--behaviour", "answers:embedded:kindness", "--limit", "4"]
    assert call(monkeypatch, *measured, "--out", str(tmp_path / "measured")) == 0
    capsys.readouterr()
    assert call(monkeypatch, "show", str(adapter)) == 0
    assert "adapter_model.safetensors" in capsys.readouterr().out
    refused = ["generate", "--model", str(adapter), "--prompt", "a", "--strength", "1"]
    assert call(monkeypatch, *refused) == 2
    assert "give --intervention" in capsys.readouterr().err


def test_embedded_names_bring_their_own_words_and_settings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any
):
    given = ["rahf", "--base", "embedded:gpt2-target", "--preferences", "embedded:kindness", "--limit", "8"]
    given += ["--method", "cues", "--fit-steps", "2", "--controls", "0", "--device", "cpu", "--json"]
    assert call(monkeypatch, *given, "--out", str(tmp_path)) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["instructions"][""]["positive"] == "Everyone here is kind.\n"
    assert printed["settings"]["tuning"]["learning_rate"] == 1e-3
    assert printed["preferences"]["parts"]["train"]["pairs"] == 8
    assert [trial["alpha"] for trial in printed["trials"]] == [0.5, 1.0, 2.0, 5.0]
    assert printed["rows"][-1]["damage"]["n_texts"] == 48
    assert printed["verdict"] != "aligns"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (["--method", "ppo"], "--method is 'ppo'; choose one of scit, dual, cues"),
        (["--where", "there"], "--where is 'there'"),
        (["--keep", "double"], "--keep is 'double'; choose one of float32, float16, bfloat16, nothing"),
        (["--dtype", "float16"], "--dtype is 'float16'; choose one of float32, bfloat16"),
        (["--alpha", "much"], "--alpha"),
        (["--positive", "Good."], "belong together"),
        (["--preferences", "embedded:beauty"], "embedded:kindness"),
        (["--preferences", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--hook-point", "blocks.7.hook_resid_post"], "blocks.7"),
        (["--neutral", "nowhere.txt"], "nowhere.txt"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], tmp_path: Path, wrong: list[str], words: str, capsys: Any
):
    assert call(monkeypatch, *arguments, *wrong) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()
