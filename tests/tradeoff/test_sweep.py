import filecmp
import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from contrans_lens.errors import ArtifactError, EvaluationError, FingerprintMismatchError, HookPointError, TradeoffError
from contrans_lens.evaluation.behaviours import NeutralText, PairedAnswers
from contrans_lens.models import fingerprint
from contrans_lens.tradeoff import LocalExecutor, RayExecutor, SweepPlan, SweepResult, direction, strength_grid, sweep
from contrans_lens.tradeoff.executors import Work
from contrans_lens.tradeoff.plan import family_of
from tests.tiny_models import D_MODEL, RAW_KINDS, open_tiny, tiny_folder
from tests.tradeoff.sweeping import FIRST, PAIRS, SECOND, one_by_one, small_plan, unit

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def model():
    return open_tiny("llama", "bridge")


@pytest.fixture(scope="module")
def result(model):
    return sweep(model, small_plan(model), name="tiny")


@pytest.mark.parametrize("kind", RAW_KINDS)
def test_a_sweep_equals_single_measurements(kind):
    opened = open_tiny("gpt2", kind)
    plan = small_plan(opened, strengths_per_unit=None)
    found = sweep(opened, plan)
    for (name, behaviour, column), values in one_by_one(opened, plan).items():
        mine = found.measurement(name, behaviour).column(column)
        assert torch.allclose(mine, values, atol=2e-4), (name, behaviour, column)


def test_logit_shifts_are_left_out_for_control_draws(result):
    shifts = [name for name in result.plan["behaviours"] if name.endswith("shift")]
    assert len(shifts) == 2
    assert all(("one", name) in result.measured and ("random/0", name) not in result.measured for name in shifts)


def test_units_of_any_size_give_the_same(model, result):
    whole = sweep(model, small_plan(model, strengths_per_unit=None))
    for key, found in result.measured.items():
        for column, values in found.columns.items():
            assert torch.allclose(values, whole.measured[key].columns[column], atol=2e-4)


def test_strength_zero_is_the_unsteered_model_to_the_bit(model, result):
    middle = result.strengths.index(0.0)
    for behaviour in ("mood", "facts"):
        rows = [result.measurement(name, behaviour).column()[middle] for name in result.plan["directions"]]
        assert all(torch.equal(rows[0], row) for row in rows)


def test_curves_are_means_over_items_and_over_tokens(result):
    neutral = result.measurement("one", "neutral")
    assert torch.allclose(result.curve("one", "neutral", "nll").mean, neutral.means("nll"))
    assert torch.equal(result.curve("one", "mood").values, result.measurement("one", "mood").column("expectation"))
    assert result.directions == ["one", "two layers"]
    assert result.families == {"random": ["random/0", "random/1"]}
    table = result.table().set_index(["direction", "behaviour", "column", "strength"])
    row = table.loc[("one", "neutral", "kl", result.strengths[-1])]
    assert row["mean"] == pytest.approx(float(neutral.means("kl")[-1]))
    assert row["low"] < row["mean"] < row["high"]


def test_saved_sweeps_load_again(result, tmp_path):
    result.save(tmp_path / "a")
    again = SweepResult.load(tmp_path / "a")
    assert again.plan == result.plan
    assert again.model == result.model
    for key, found in result.measured.items():
        other = again.measured[key]
        assert (other.groups, other.primary) == (found.groups, found.primary)
        assert all(torch.equal(other.columns[name], values) for name, values in found.columns.items())
        assert all(torch.equal(other.whole[name], values) for name, values in found.whole.items())
    again.save(tmp_path / "b")
    assert same_bytes(tmp_path / "a", tmp_path / "b")
    [tensors] = (tmp_path / "a/values").glob("tensors-*")
    tensors.write_bytes(tensors.read_bytes()[:-8])
    with pytest.raises(ArtifactError, match="checksum"):
        SweepResult.load(tmp_path / "a")


def same_bytes(one, other):
    """Whether two folders hold the same files with the same bytes."""
    names = [sorted(str(path.relative_to(side)) for path in side.rglob("*") if path.is_file()) for side in (one, other)]
    return names[0] == names[1] and filecmp.cmpfiles(one, other, names[0], shallow=False)[0] == names[0]


def test_a_killed_sweep_goes_on_and_ends_with_the_same_bytes(tmp_path):
    folder = tiny_folder("llama")
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

    def start(side):
        command = [sys.executable, "-m", "tests.tradeoff.sweeping", str(folder), str(side / "units"), str(side / "out")]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment)

    for after in (1, 3):  # killed twice, the second time further on
        process = start(killed)
        for number, _line in enumerate(process.stdout, start=1):
            if number == after:
                process.send_signal(signal.SIGKILL)
                break
        assert process.wait() == -signal.SIGKILL
        assert not (killed / "out").exists()
    output, _ = start(killed).communicate()
    again = output.splitlines()
    assert "units were finished before" in again[0]
    finished = int(again[0].split()[0])
    assert finished >= 3
    total = int(again[0].split()[2])
    assert len(again) - 1 == total - finished  # nothing is computed twice
    start(undisturbed).communicate()
    assert same_bytes(undisturbed / "out", killed / "out")


def test_an_interrupted_sweep_keeps_what_was_finished(model, tmp_path):
    class Stops(LocalExecutor):
        def run(self, work, units):
            for number, done in enumerate(super().run(work, units)):
                if number == 2:
                    raise KeyboardInterrupt
                yield done

    plan = small_plan(model)
    with pytest.raises(KeyboardInterrupt):
        sweep(model, plan, work=tmp_path, executor=Stops())
    lines = []
    sweep(model, plan, work=tmp_path, say=lines.append)
    assert lines[0].startswith("2 of ")
    assert "left" in lines[1]
    assert lines[-1].startswith(f"unit {len(list(plan.units()))} of")
    lines.clear()
    sweep(model, plan, work=tmp_path, say=lines.append)
    assert len(lines) == 1  # everything was there


def test_kept_units_of_another_model_or_plan_are_not_taken(model, tmp_path):
    plan = small_plan(model)
    sweep(model, plan, work=tmp_path)
    lines = []
    changed = SweepPlan(plan.directions, (PairedAnswers(PAIRS[:-1], "mood"),), plan.strengths, 3)
    sweep(model, changed, work=tmp_path, say=lines.append)
    assert not any("before" in line for line in lines)
    lines.clear()
    other = open_tiny("llama", "bridge", seed=1)
    bare = {name: cell for name, cell in plan.directions.items() if name != "one"}
    sweep(other, SweepPlan(bare, plan.behaviours, plan.strengths, 3), work=tmp_path, say=lines.append)
    assert not any("before" in line for line in lines)


def test_a_damaged_unit_is_named(model, tmp_path):
    plan = small_plan(model)
    sweep(model, plan, work=tmp_path)
    broken = next(tmp_path.rglob("tensors-*"))
    broken.write_bytes(b"nothing")
    with pytest.raises(ArtifactError, match="checksum"):
        sweep(model, plan, work=tmp_path)


@pytest.mark.xdist_group("ray")
def test_ray_gives_the_same_as_here(tmp_path):
    pytest.importorskip("ray")
    folder = tiny_folder("llama")
    model = open_tiny("llama", "bridge")
    plan = small_plan(model)
    here = sweep(folder, plan, opening={"kind": "bridge"}, name="tiny")
    lines = []
    with RayExecutor(cpus=1) as cluster:
        there = sweep(
            folder, plan, opening={"kind": "bridge"}, name="tiny", executor=cluster, work=tmp_path, say=lines.append
        )
        with pytest.raises(TradeoffError, match="live model cannot travel"):
            sweep(model, plan, executor=cluster)
        wrong = SweepPlan({"x": direction("blocks.9.hook_resid_post", unit(0))}, plan.behaviours[:1], plan.strengths)
        with pytest.raises(HookPointError, match=r"blocks\.9"):
            sweep(folder, wrong, opening={"kind": "bridge"}, executor=cluster)
    assert there.model == here.model
    for key, found in here.measured.items():
        assert all(torch.equal(there.measured[key].columns[name], values) for name, values in found.columns.items())
    lines.clear()
    sweep(folder, plan, opening={"kind": "bridge"}, name="tiny", work=tmp_path, say=lines.append)
    assert len(lines) == 1  # units of the cluster are units


def test_ray_that_is_not_installed_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(TradeoffError, match=r"contrans-lens\[ray\]"):
        RayExecutor()


def test_the_model_is_opened_once(monkeypatch):
    opened = []
    model = open_tiny("llama", "bridge")
    monkeypatch.setattr(Work, "open", lambda self: opened.append(1) or model)
    sweep(tiny_folder("llama"), small_plan(model))
    assert opened == [1]


def test_the_grid_is_symmetric_holds_zero_and_is_dense_near_it():
    grid = strength_grid(2.0, 4)
    assert grid[4] == 0
    assert list(grid) == [-each for each in reversed(grid)]
    assert grid[-1] == 2.0
    gaps = [b - a for a, b in itertools.pairwise(grid[4:])]
    assert gaps == sorted(gaps)
    with pytest.raises(TradeoffError, match="is none"):
        strength_grid(0.0)


def test_families_are_told_by_their_names():
    assert family_of("random/3") == "random"
    assert family_of("a/b") is None
    assert family_of("native") is None


GOOD = {"v": direction(FIRST, unit(0))}
MOOD = (PairedAnswers(PAIRS, "mood"),)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((GOOD, MOOD, (0.0, 1.0, 2.0)), "one sign only"),
        ((GOOD, MOOD, (-2.0, -1.0, 0.0)), "one sign only"),
        ((GOOD, MOOD, (-1.0, 1.0)), "leave out 0"),
        ((GOOD, MOOD, (-1.0, 0.0, 2.0)), "not symmetric"),
        ((GOOD, MOOD, (-1.0, 0.0, 0.0, 1.0)), "ascend"),
        ((GOOD, MOOD, (-1.0, 0.0, float("nan"))), "finite"),
        (({}, MOOD, (-1.0, 0.0, 1.0)), "at least one direction"),
        ((GOOD, (), (-1.0, 0.0, 1.0)), "at least one direction"),
        ((GOOD, MOOD * 2, (-1.0, 0.0, 1.0)), "different names"),
        (({"v": ()}, MOOD, (-1.0, 0.0, 1.0)), "'v' does nothing"),
        ((GOOD, MOOD, (-1.0, 0.0, 1.0), 0), "strengths_per_unit"),
        ((GOOD, MOOD, (-1.0, 0.0, 1.0), None, None, {"alignment": "x"}), "alignment=x|got"),
    ],
)
def test_plans_that_cannot_be_swept_are_refused(arguments, message):
    with pytest.raises(TradeoffError, match=message):
        SweepPlan(*arguments)


def test_bad_input_on_the_model_is_named(model):
    strengths = (-1.0, 0.0, 1.0)
    long = (PairedAnswers((PAIRS[0], type(PAIRS[0])("No! " * 200, " happy", " sad")), "mood"),)
    with pytest.raises(EvaluationError, match=r"item 1 .*context is 128"):
        sweep(model, SweepPlan(GOOD, long, strengths))
    huge = {"v": direction(SECOND, torch.ones(D_MODEL), residual_norm=3e38)}
    with pytest.raises(EvaluationError, match="NaN or infinity"):
        sweep(model, SweepPlan(huge, (NeutralText(("the fox ran home", "No! No!")),), (-1e5, 0.0, 1e5)))
    other = {"v": direction(FIRST, unit(0), fingerprint=fingerprint(open_tiny("gpt2", "bridge")))}
    with pytest.raises(FingerprintMismatchError):
        sweep(model, SweepPlan(other, MOOD, strengths))
