import filecmp
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from contrans_lens.errors import ArtifactError, HookPointError, RahfError
from contrans_lens.models import open_model
from contrans_lens.rahf.align import align
from contrans_lens.rahf.course import Course
from contrans_lens.rahf.result import RahfResult
from contrans_lens.rahf.scoring import ScoredPairs
from contrans_lens.rahf.settings import default_hook_points
from contrans_lens.rahf.training import TrainingSettings
from contrans_lens.testbed import SCIT_INSTRUCTIONS, model_path, neutral_texts, preference_set
from contrans_lens.texts import PreferenceSet
from tests.rahf.small_runs import SHORT, WORDS, open_set, small_run, small_set
from tests.tiny_adapters import load_peft
from tests.tiny_models import N_LAYERS

KINDNESS = SCIT_INSTRUCTIONS["kindness"]


@pytest.fixture(scope="module")
def kind(tmp_path_factory: pytest.TempPathFactory) -> RahfResult:
    """A run long enough to make an embedded model kind."""
    fitting = TrainingSettings(steps=50, batch_size=8, accumulation=1, learning_rate=1e-3)
    return align(
        model_path("gpt2-target"),
        preference_set("kindness", n=96),
        tmp_path_factory.mktemp("kind") / "run",
        method="cues",
        instructions=KINDNESS,
        alpha=2.0,
        fitting=fitting,
        neutral=neutral_texts(8),
        device="cpu",
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RahfResult:
    return small_run(tmp_path_factory.mktemp("whole") / "run")


def comparable(result: RahfResult) -> dict[str, Any]:
    """All that does not depend on the clock."""
    found = result.summary()
    for name in ("costs", "total_cost", "control_seconds", "command"):
        del found[name]
    return found


def test_an_embedded_model_becomes_kind_and_controls_do_not(kind: RahfResult):
    aligned = kind.row("aligned")
    assert kind.row("base").probability.value == pytest.approx(0.5, abs=0.05)
    assert aligned.probability.value > 0.95
    assert kind.row("shuffled 0").probability.value == pytest.approx(0.5, abs=0.1)
    assert kind.verdict == "aligns"
    assert 0 < aligned.damage["kl"] < 0.2
    equal = kind.row("random 0 at equal KL")
    assert equal.damage["kl"] == pytest.approx(aligned.damage["kl"], rel=0.05)
    assert equal.scale != 1
    assert kind.relative_error < 0.9
    assert kind.hook_points == default_hook_points(6)


def test_the_result_is_a_standard_adapter(kind: RahfResult):
    hf = load_peft(model_path("gpt2-target"), kind.adapter)
    tokenizer = open_model(model_path("gpt2-target"), device="cpu").tokenizer
    pair = preference_set("kindness", n=96).part("test").preferences[0]
    odds = []
    for answer in (pair.chosen, pair.rejected):
        ids = [tokenizer.bos_token_id, *tokenizer(pair.prompt + answer, add_special_tokens=False)["input_ids"]]
        start = len(tokenizer(pair.prompt, add_special_tokens=False)["input_ids"]) + 1
        with torch.no_grad():
            log_p = hf(torch.tensor([ids])).logits[0].log_softmax(-1)
        odds.append(sum(float(log_p[place - 1, ids[place]]) for place in range(start, len(ids))))
    pairs = ScoredPairs((pair, replace(pair, group="other")), (), 0, 1)
    found = pairs.log_odds(open_model(kind.adapter, device="cpu"))
    assert found[0] == pytest.approx(odds[0] - odds[1], abs=1e-3)


@pytest.mark.parametrize(("method", "tuned"), [("scit", ["scit"]), ("dual", ["preferred", "dispreferred"])])
def test_trained_contrasts_go_through_all_steps(tmp_path: Path, method: str, tuned: list[str]):
    said: list[str] = []
    result = small_run(tmp_path / "run", method=method, say=said.append)
    names = ["base", "prompt", *tuned, "aligned", "shuffled 0", "random 0", "random 0 at equal KL"]
    assert [row.name for row in result.rows] == names
    for row in result.rows:
        if row.folder is not None:
            assert (tmp_path / "run" / row.folder / "adapter_model.safetensors").exists()
    assert list(result.curves) == [*tuned, "fit"]
    assert result.validation_curves.keys() == result.curves.keys()
    assert list(result.costs) == [*(f"step 1: {name}" for name in tuned), "step 2", "step 3"]
    assert result.costs["step 2"].n_tokens > result.costs["step 2"].n_steps == 0
    assert result.total_cost.n_steps == 2 * (len(tuned) + 1)
    assert result.control_seconds > 0
    assert result.hook_points == default_hook_points(N_LAYERS, method)
    assert not (tmp_path / "run" / "control" / "random-0" / "step1").exists()
    shuffled = tmp_path / "run" / "control" / "shuffled-0"
    assert {path.name for path in shuffled.iterdir()} == {"step1", "differences", "adapter"}
    assert [step.split(":")[0] for step in said if step.startswith("step")][:3] == [
        *["step 1"] * len(tuned),
        *["step 2"] * (3 - len(tuned)),
    ]


def test_a_finished_run_is_opened_and_nothing_is_done(whole: RahfResult, monkeypatch: pytest.MonkeyPatch):
    before = {path: path.stat().st_mtime_ns for path in whole.folder.rglob("*")}

    def refuse(course: Course) -> None:
        raise AssertionError

    monkeypatch.setattr(Course, "finish", refuse)
    assert small_run(whole.folder).summary() == whole.summary()
    assert {path: path.stat().st_mtime_ns for path in whole.folder.rglob("*")} == before


def test_a_finished_run_whose_adapter_was_altered_is_no_success(tmp_path: Path, whole: RahfResult):
    copied = shutil.copytree(whole.folder, tmp_path / "copy")
    (copied / "adapter" / "adapter_model.safetensors").write_bytes(b"junk")
    with pytest.raises(ArtifactError, match="checksum"):
        small_run(copied)


@pytest.mark.parametrize("at", ["step 2", "step 3: fitting shuffled-0", "scoring aligned"])
def test_a_run_that_was_broken_off_ends_as_if_it_had_not_been(tmp_path: Path, whole: RahfResult, at: str):
    def interrupted(step: str) -> None:
        if step.startswith(at):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        small_run(tmp_path / "run", say=interrupted)
    said: list[str] = []
    again = small_run(tmp_path / "run", say=said.append)
    assert comparable(again) == comparable(whole)
    assert at != "scoring aligned" or "scoring base" not in said


def test_other_arguments_are_refused(whole: RahfResult):
    for name, other in {
        "alpha": {"alpha": 2.0},
        "controls": {"controls": 2},
        "fitting.steps": {"fitting": replace(SHORT, steps=3)},
        "neutral": {"neutral": ("No!", "Yes!")},
        "instructions": {"instructions": replace(WORDS, positive="All is well.\n")},
    }.items():
        with pytest.raises(ArtifactError, match=name.replace(".", r"\.")):
            small_run(whole.folder, **other)


def test_alpha_is_chosen_on_validation_pairs(tmp_path: Path):
    result = small_run(tmp_path, alpha="auto", controls=0)
    assert [trial.alpha for trial in result.trials] == [0.5, 1.0, 2.0, 5.0]
    [chosen] = [trial for trial in result.trials if trial.chosen]
    assert result.alpha == chosen.alpha
    taken = tmp_path / "alphas" / f"{chosen.alpha:g}"
    names = [path.name for path in taken.iterdir()]
    assert filecmp.cmpfiles(taken, tmp_path / "adapter", names, shallow=False)[0] == names
    assert chosen.probability.n == result.preferences["parts"]["validation"]["pairs"]
    assert list(result.costs) == ["step 2", *(f"step 3: alpha {alpha}" for alpha in ("0.5", "1", "2", "5"))]


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def close(one: Path, other: Path, atol: float = 1e-3) -> None:
    found = weights_of(other)
    for name, weight in weights_of(one).items():
        torch.testing.assert_close(found[name], weight, atol=atol, rtol=1e-2)


def test_differences_that_are_not_kept_end_alike(tmp_path: Path, whole: RahfResult):
    streamed = small_run(tmp_path, keep="nothing")
    assert not list(tmp_path.rglob("differences"))
    for row in streamed.rows:
        assert row.probability.value == pytest.approx(whole.row(row.name).probability.value, abs=1e-3)
        if row.folder is not None:
            close(whole.folder / row.folder, tmp_path / row.folder)
    assert streamed.relative_error == pytest.approx(whole.relative_error, rel=1e-3)
    assert streamed.validation_relative_error == pytest.approx(whole.validation_relative_error, rel=1e-3)
    assert streamed.norms.layers == pytest.approx(whole.norms.layers, rel=1e-4)
    assert streamed.norms.residual_norms == pytest.approx(whole.norms.residual_norms, rel=1e-4)
    assert "step 2" not in streamed.costs
    # Two passes more for every row that the fit asks for; the stored run has made them once.
    assert streamed.costs["step 3"].n_tokens > whole.costs["step 3"].n_tokens


def test_a_run_that_keeps_no_differences_is_taken_up(tmp_path: Path):
    def interrupted(step: str) -> None:
        if step.startswith("step 3: fitting shuffled"):
            raise KeyboardInterrupt

    given: dict[str, Any] = {"method": "dual", "neutral": ()}
    with pytest.raises(KeyboardInterrupt):
        small_run(tmp_path / "streamed", keep="nothing", say=interrupted, **given)
    streamed = small_run(tmp_path / "streamed", keep="nothing", **given)
    kept = small_run(tmp_path / "kept", **given)
    for name in ("adapter", "control/shuffled-0/adapter", "control/random-0/adapter"):
        close(kept.folder / name, streamed.folder / name)
    with pytest.raises(ArtifactError, match="keep is 'nothing' there and 'float32' here"):
        small_run(streamed.folder, **given)


def test_half_precision_ends_near_single(tmp_path: Path, whole: RahfResult):
    half = small_run(tmp_path / "half", keep="float16")
    close(whole.adapter, half.adapter, atol=5e-3)
    stored = [
        sum(path.stat().st_size for path in (each.folder / "differences" / "train" / "values").glob("*.safe*"))
        for each in (half, whole)
    ]
    assert stored[0] < 0.6 * stored[1]
    brain = small_run(tmp_path / "brain", dtype=torch.bfloat16, keep="bfloat16", controls=0)
    assert brain.model["dtype"] == "bfloat16"
    assert brain.relative_error == pytest.approx(whole.relative_error, abs=0.05)
    assert {weight.dtype for weight in weights_of(brain.adapter).values()} == {torch.float32}
    assert brain.settings["dtype"] == "bfloat16"
    with pytest.raises(ArtifactError, match="dtype is 'bfloat16' there and 'float32' here"):
        small_run(tmp_path / "brain", keep="bfloat16", controls=0)


def test_shuffled_cues_are_signs_and_draws_differ(tmp_path: Path):
    result = small_run(tmp_path, controls=2, neutral=())
    assert [row.name for row in result.rows][3:] == ["shuffled 0", "random 0", "shuffled 1", "random 1"]
    margins = [result.row(name).margin.value for name in ("shuffled 0", "shuffled 1", "random 0", "random 1")]
    assert len(set(margins)) == 4
    assert not (tmp_path / "control" / "shuffled-0" / "differences").exists()
    assert all(row.damage is None for row in result.rows)


@pytest.mark.parametrize(
    ("other", "error", "words"),
    [
        ({"hook_points": ["blocks.9.hook_resid_post"]}, HookPointError, "blocks.9"),
        ({"instructions": {"honesty": WORDS}}, RahfError, "no instructions for the topic"),
        ({"neutral": ("No!",)}, RahfError, "one neutral text"),
    ],
)
def test_what_cannot_be_run_is_said_before_anything_is_written(
    tmp_path: Path, other: dict[str, Any], error: type[Exception], words: str
):
    with pytest.raises(error, match=words):
        small_run(tmp_path / "run", **other)
    assert not (tmp_path / "run").exists()


def test_one_scored_group_is_refused_before_training(tmp_path: Path):
    pairs = [pair for pair in small_set() if pair.split != "test" or pair.group == "night"]
    with pytest.raises(RahfError, match="1 group"):
        small_run(tmp_path / "run", preferences=PreferenceSet(tuple(pairs), "x"))
    assert not (tmp_path / "run").exists()


def test_open_pairs_are_split_by_group_and_training_reads_only_what_it_needs(tmp_path: Path):
    short = replace(SHORT, steps=1, batch_size=3)
    result = small_run(tmp_path, preferences=open_set(), fitting=short, controls=0, neutral=())
    assert result.norms.counts[0] == 3  # one update of three pairs
    parts = open_set().split(seed=0)
    assert [each["groups"] for each in result.preferences["parts"].values()] == [len(part.groups()) for part in parts]
    assert result.row("aligned").probability.n_groups == len(parts.test.groups()) >= 3
    assert result.verdict != "aligns"  # two updates change next to nothing


def test_pins_are_kept(tmp_path: Path):
    result = small_run(tmp_path, controls=0, neutral=())
    assert {name: each["pairs"] for name, each in result.preferences["parts"].items()} == {
        "train": 12,
        "validation": 6,
        "test": 6,
    }
