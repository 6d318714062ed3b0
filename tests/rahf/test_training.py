"""Trainings are reproducible, resumable, silent, and leave the caller's random numbers alone."""

import contextlib
import json
import logging
import pickle
import random
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers.utils import logging as hf_logging

from contrans_lens.errors import ArtifactError, RahfError
from contrans_lens.rahf.batches import plan_batches
from contrans_lens.rahf.recorder import score
from contrans_lens.rahf.training import (
    Cost,
    LoraSettings,
    LossCurve,
    TrainingRecord,
    TrainingSettings,
    seeded,
    train,
)
from tests.rahf.small_training import (
    ROWS,
    SETTINGS,
    breaking_off,
    nll_loss,
    objective,
    run_into,
    same,
    student,
    trained,
)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return trained(tmp_path_factory.mktemp("unbroken"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"batch_size": 0},
        {"accumulation": 0},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"schedule": "wild"},
        {"warmup_steps": -1},
        {"weight_decay": -0.1},
        {"max_grad_norm": -1.0},
        {"seed": -1},
        {"checkpoint_every": 0},
        {"log_every": 0},
        {"max_length": 0},
        {"max_answer_tokens": 0},
    ],
)
def test_impossible_settings_are_refused_by_name(wrong: dict[str, Any]) -> None:
    # The type checker of the tests knows the schedules, too, and comes first.
    with pytest.raises((RahfError, TypeError), match=next(iter(wrong))):
        TrainingSettings(**wrong)


@pytest.mark.parametrize("wrong", [{"rank": 0}, {"alpha": 0}, {"dropout": 1.0}, {"modules": ()}])
def test_impossible_adapters_are_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(RahfError, match=next(iter(wrong))):
        LoraSettings(**wrong)


def test_the_defaults_are_those_of_the_paper() -> None:
    assert (LoraSettings().rank, LoraSettings().alpha, LoraSettings().dropout) == (8, 16, 0.05)
    given = TrainingSettings()
    assert (given.steps, given.batch_size * given.accumulation, given.learning_rate) == (450, 64, 3e-4)
    assert (given.schedule, given.warmup_steps) == ("constant", 0)


def test_records_survive_json() -> None:
    curve = LossCurve((1, 5), (0.1, 1 / 3), {"lm": (2.0, 1e-9)})
    record = TrainingRecord(curve, None, Cost(1.5, 1.25, 5, 100, 400, 7))
    assert TrainingRecord.from_dict(json.loads(json.dumps(record.to_dict()))) == record
    both = replace(record, validation_curve=curve)
    assert TrainingRecord.from_dict(json.loads(json.dumps(both.to_dict()))) == both
    assert len(curve) == 2


@pytest.mark.parametrize("damage", ["curve", "validation_curve", "cost"])
def test_damaged_records_are_refused(damage: str) -> None:
    whole = TrainingRecord(LossCurve((1,), (0.1,)), None, Cost(1.5, 1.25, 5, 100, 400, 7)).to_dict()
    with pytest.raises(ArtifactError, match="train again"):
        TrainingRecord.from_dict({name: value for name, value in whole.items() if name != damage})
    with pytest.raises(ArtifactError, match="train again"):
        TrainingRecord.from_dict(whole | {damage: {"steps": [1]}})


def test_a_curve_has_one_number_per_point_in_every_column() -> None:
    with pytest.raises(RahfError, match="2 points"):
        LossCurve((1, 2), (0.1, 0.2), {"lm": (0.1,)})


def test_seeded_gives_the_same_numbers_and_gives_back_the_callers() -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    for source in (random, np.random):
        source.seed(1)
    torch.manual_seed(1)
    draw()
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    with seeded(7):
        first = draw()
    with contextlib.suppress(KeyError), seeded(7):
        assert draw() == first
        raise KeyError
    assert random.getstate() == states[0]
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert torch.equal(torch.get_rng_state(), states[2])
    with seeded(8):
        assert draw() != first


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(unbroken: Any, tmp_path: Path) -> None:
    weights, record = trained(tmp_path / "again")
    assert same(weights, unbroken[0])
    assert (record.curve, record.validation_curve) == (unbroken[1].curve, unbroken[1].validation_curve)
    other, _ = trained(tmp_path / "other", replace(SETTINGS, seed=4))
    assert not any(torch.equal(other[name], weights[name]) for name in weights)


# Before the first checkpoint, in the midst of an update; right after one; between points of the curve; near the end.
@pytest.mark.parametrize("batches", [3, 8, 13, 17])
def test_a_run_that_is_broken_off_ends_like_an_unbroken_one(batches: int, unbroken: Any, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, objective=objective(breaking_off(batches)))
    kept = {path.name for path in (tmp_path / "checkpoints").glob("checkpoint-*")}
    assert kept == {f"checkpoint-{step}" for step in (4, 8) if batches >= 2 * step}
    left = 2 * SETTINGS.steps - 2 * max([0, *(step for step in (4, 8) if batches >= 2 * step)])
    weights, record = trained(tmp_path, objective=objective(breaking_off(left)))  # no more batches than are left
    assert same(weights, unbroken[0])
    assert (record.curve, record.validation_curve) == (unbroken[1].curve, unbroken[1].validation_curve)
    assert record.cost.n_tokens == unbroken[1].cost.n_tokens


def test_a_run_that_ended_before_its_commit_is_only_read_back(unbroken: Any, tmp_path: Path) -> None:
    _, first = trained(tmp_path)
    weights, record = trained(tmp_path, objective=objective(breaking_off(0)))
    assert same(weights, unbroken[0])
    assert record.curve == unbroken[1].curve
    assert record.cost.cpu_seconds == pytest.approx(first.cost.cpu_seconds, abs=0.5)


def test_what_a_kill_left_of_a_checkpoint_is_not_taken_up(unbroken: Any, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, objective=objective(breaking_off(17)))
    half = tmp_path / "checkpoints" / "checkpoint-8"
    (half / "progress.json").unlink()
    (half / "optimizer.pt").write_bytes(b"")
    weights, record = trained(tmp_path)
    assert same(weights, unbroken[0])
    assert record.curve == unbroken[1].curve


class _Pickled:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.fixture(scope="module")
def broken_off(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with one checkpoint."""
    folder = tmp_path_factory.mktemp("broken-off")
    with pytest.raises(KeyboardInterrupt):
        trained(folder, objective=objective(breaking_off(8)))
    return folder


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "adapter_model.safetensors"])
@pytest.mark.parametrize("kind", ["pickle", "cut off"])
def test_damaged_checkpoints_are_refused_and_no_pickle_is_run(
    name: str, kind: str, broken_off: Path, tmp_path: Path
) -> None:
    shutil.copytree(broken_off, tmp_path, dirs_exist_ok=True)
    damaged = tmp_path / "checkpoints" / "checkpoint-4" / name
    trace = tmp_path / "checkpoints" / "was-run"
    damaged.write_bytes(pickle.dumps(_Pickled(trace)) if kind == "pickle" else damaged.read_bytes()[:100])
    with pytest.raises(ArtifactError, match=r"checkpoint-4 cannot be read.*Remove it"):
        trained(tmp_path)
    assert not trace.exists()


def test_a_full_disk_is_said_to_be_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(ArtifactError, match=r"cannot be written.*No space left.*Free space"):
        trained(tmp_path)


def test_the_updates_are_those_of_adamw_on_the_mean_over_the_accumulated_batches(tmp_path: Path) -> None:
    weights, record = trained(tmp_path, dropout=0.0, settings=replace(SETTINGS, max_grad_norm=0.7))
    model = student(dropout=0.0)
    learning = [weight for weight in model.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(learning, lr=1e-2, weight_decay=0.0)
    planned = plan_batches([len(row.ids) for row in ROWS], 3, 18, 3)
    losses = []
    for step in range(9):
        for batch in planned[2 * step : 2 * step + 2]:
            loss, _ = nll_loss(model, objective().collate(batch))
            losses.append(loss.item())
            (loss / 2).backward()
        torch.nn.utils.clip_grad_norm_(learning, 0.7)
        optimiser.step()
        optimiser.zero_grad()
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            torch.testing.assert_close(weights[name], weight.detach(), atol=1e-6, rtol=1e-5)
    assert record.curve.steps == (2, 4, 6, 8, 9)
    expected = [np.mean(losses[begin:stop]) for begin, stop in ((0, 4), (4, 8), (8, 12), (12, 16), (16, 18))]
    np.testing.assert_allclose(record.curve.losses, expected, rtol=1e-5)
    shortest = [min(len(ROWS[index].ids) for index in batch) for batch in planned]
    assert record.curve.columns["shortest"][0] == np.mean(shortest[:4])


def test_validation_is_without_dropout_before_at_checkpoints_and_at_the_end(unbroken: Any) -> None:
    curve = unbroken[1].validation_curve
    assert curve.steps == (0, 4, 8, 9)
    # Four examples in batches of three: the mean is over examples, not over batches.
    for batch_size in (3, 1):
        sums = score(student().train(), objective(rows=ROWS[:4]), batch_size, torch.device("cpu"))
        assert curve.losses[0] == pytest.approx(sums["loss"] / 4, rel=1e-5)
    assert curve.losses[-1] != curve.losses[0]


def test_costs_count_real_tokens(unbroken: Any) -> None:
    planned = plan_batches([len(row.ids) for row in ROWS], 3, 18, 3)
    cost = unbroken[1].cost
    assert cost.n_tokens == sum(len(ROWS[index].ids) for batch in planned for index in batch)
    assert cost.block_tokens == 4 * cost.n_tokens
    assert cost.n_trainable == 4 * 2 * (32 + 96)  # blocks x rank x (inputs + outputs of c_attn)
    assert cost.n_steps == 9
    assert cost.cpu_seconds > 0
    assert cost.seconds > 0


def test_schedules_and_warming_up_are_heeded(tmp_path: Path) -> None:
    ended = []
    for schedule, warmup in (("constant", 0), ("constant", 2), ("linear", 0), ("cosine", 2)):
        chosen = replace(SETTINGS, steps=5, accumulation=1, schedule=schedule, warmup_steps=warmup)
        weights, _ = trained(tmp_path / f"{schedule}{warmup}", chosen, validation=None)
        ended.append(torch.cat([weight.flatten() for weight in weights.values()]))
    assert all(not torch.equal(one, other) for n, one in enumerate(ended) for other in ended[:n])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_names_the_step(value: float, tmp_path: Path) -> None:
    asked = []

    def loss(model: Any, batch: Any) -> Any:
        asked.append(model.training)
        found, columns = nll_loss(model, batch)
        return found * (value if sum(asked) > 6 else 1.0), columns

    with pytest.raises(RahfError, match=r"at step 4; lower the learning rate \(now 0\.01\)"):
        trained(tmp_path, objective=objective(loss), validation=None)


def test_nothing_is_said_and_nothing_of_the_callers_is_changed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    model, other = student(), student()
    model.config.use_cache = True
    # Not Python's random numbers: the type checker of the tests draws some, to know which items of a list to look at.
    before = np.random.get_state()[1].copy(), torch.get_rng_state(), hf_logging.get_verbosity()
    hf_logging.set_verbosity_info()
    capfd.readouterr()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            train(model, objective(), SETTINGS, run_into(tmp_path / "whole"), device="cpu")
            broken = objective(breaking_off(2, KeyError))
            with pytest.raises(KeyError):
                train(other, broken, SETTINGS, run_into(tmp_path / "broken"), device="cpu")
        assert hf_logging.get_verbosity() == logging.INFO
    finally:
        hf_logging.set_verbosity(before[2])
    assert model.config.use_cache is True
    assert np.array_equal(np.random.get_state()[1], before[0])
    assert torch.equal(torch.get_rng_state(), before[1])
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_progress_is_shown_when_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained(tmp_path, progress=True)
    assert "training" in capsys.readouterr().out


def test_a_frozen_model_or_an_unknown_device_is_refused(tmp_path: Path) -> None:
    frozen = student().requires_grad_(False)
    with pytest.raises(RahfError, match="requires gradients"):
        train(frozen, objective(), SETTINGS, run_into(tmp_path), device="cpu")
    with pytest.raises(RahfError, match="device='meta'"):
        trained(tmp_path, device="meta")
