import math

import numpy as np
import pytest
import torch

from contrans_lens.errors import EvaluationError, FingerprintMismatchError
from contrans_lens.evaluation import paired_difference_ci
from contrans_lens.interventions import PROMPT
from contrans_lens.models import fingerprint
from tests.tiny_models import open_tiny

pytest.importorskip("lm_eval")
pytest.importorskip("accelerate")

from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

from contrans_lens.exports import SteeredLM, evaluate_tasks
from contrans_lens.exports import tasks as tasks_module
from tests.exports.harness_cases import DOCUMENTS, addition, write_tasks

pytestmark = pytest.mark.xdist_group("lm-eval")

TASKS = ["tiny_text", "tiny_group"]  # the group holds tiny_choice and tiny_cloze
RUNS = {"much": addition(-4.0), "little": addition(0.5), "none": addition().with_strength(0.0)}


@pytest.fixture(scope="module")
def task_manager(tmp_path_factory):
    return TaskManager(include_path=write_tasks(tmp_path_factory.mktemp("tasks")), include_defaults=False)


@pytest.fixture(scope="module")
def table(task_manager):
    found = evaluate_tasks(open_tiny("gpt2", "bridge"), TASKS, RUNS, task_manager=task_manager)
    return found.set_index(["task", "metric", "intervention"]).sort_index()


@pytest.fixture(scope="module")
def samples(task_manager):
    """Documents with their values, from runs of the harness itself."""
    model = open_tiny("gpt2", "bridge")
    how = {"tasks": TASKS, "task_manager": task_manager, "bootstrap_iters": 0}
    return [simple_evaluate(SteeredLM(model, chosen), **how) for chosen in ((), RUNS["much"])]


def test_values_are_those_of_the_harness_side_by_side(table, samples):
    plain, steered = samples
    for task, results in plain["results"].items():
        for key, value in results.items():
            metric, _, chosen = key.partition(",")
            if chosen and not metric.endswith("_stderr"):
                row = table.loc[task, metric, "much"]
                assert (row["unsteered"], row["value"]) == (value, steered["results"][task][key])
                assert row["difference"] == row["value"] - row["unsteered"]
                assert table.loc[task, metric, "unsteered"]["value"] == value
    assert set(table.index.get_level_values("metric")) == {
        *("acc", "acc_norm", "mcc", "perplexity", "word_perplexity", "bits_per_byte")
    }
    assert (table.loc["tiny_text", "word_perplexity", "much"]["difference"]) != 0


def test_differences_of_means_have_paired_intervals(table, samples):
    plain, steered = (
        torch.tensor([sample["acc_norm"] for sample in result["samples"]["tiny_choice"]], dtype=torch.float64)
        for result in samples
    )
    assert not torch.equal(plain, steered)
    expected = paired_difference_ci(steered, plain)
    row = table.loc["tiny_choice", "acc_norm", "much"]
    assert (row["difference"], row["low"], row["high"]) == pytest.approx((expected.value, expected.low, expected.high))
    assert row["n"] == len(DOCUMENTS)


def test_a_group_pools_its_tasks_documents(table, samples):
    plain, steered = (
        torch.tensor(
            [float(each["acc"]) for task in ("tiny_choice", "tiny_cloze") for each in result["samples"][task]],
            dtype=torch.float64,
        )
        for result in samples
    )
    expected = paired_difference_ci(steered, plain)
    row = table.loc["tiny_group", "acc", "much"]
    assert (row["difference"], row["low"], row["high"]) == pytest.approx((expected.value, expected.low, expected.high))
    assert row["n"] == 2 * len(DOCUMENTS)


@pytest.mark.parametrize(
    ("task", "metric", "function"),
    [
        ("tiny_text", "word_perplexity", lambda mean: np.exp(-mean)),
        ("tiny_text", "bits_per_byte", lambda mean: -mean / math.log(2)),
        ("tiny_cloze", "perplexity", lambda mean: np.exp(-mean)),
    ],
)
def test_perplexities_have_intervals_from_resampled_documents(table, samples, task, metric, function):
    pairs = np.array(
        [
            [value if isinstance(value := each[metric], tuple) else (value, 1) for each in run["samples"][task]]
            for run in samples
        ]
    )
    drawn = np.random.default_rng(0).integers(len(DOCUMENTS), size=(20_000, len(DOCUMENTS)))
    sums = pairs[:, drawn].sum(2)  # run, draw, (log-probability, weight)
    plain, steered = function(sums[..., 0] / sums[..., 1])
    row = table.loc[task, metric, "much"]
    # Six documents: the expanded percentiles lie far out, so they are read off the sorted draws there.
    tail = ((steered - plain) <= row["low"]).mean(), ((steered - plain) >= row["high"]).mean()
    assert min(tail) > 0
    assert max(tail) < 0.025
    assert row["low"] < row["difference"] < row["high"]


def test_a_metric_that_is_no_mean_has_no_interval(table):
    row = table.loc["tiny_choice", "mcc", "much"]
    assert row[["low", "high"]].isna().all()
    assert math.isfinite(row["difference"])


def test_pairs_that_are_no_weighted_values_have_no_interval():
    # Such as (gold, predicted): their ratios give the reported values by chance, but the second is no weight.
    steered, plain = (
        [{"doc_hash": str(n), "m": value} for n, value in enumerate(values)]
        for values in ([(1, 1), (3, 3)], [(2, 2), (2, 2)])
    )
    resampling = {"level": 0.95, "n_resamples": 200, "seed": 0}
    assert tasks_module._interval(steered, plain, "m", 1.0, 1.0, resampling) == (None, None)
    assert tasks_module._interval(steered, steered, "m", 1.0, 1.0, resampling) == (0.0, 0.0)
    assert tasks_module._interval(steered, steered, "m", 2.0, 2.0, resampling) == (None, None)
    assert tasks_module._interval(steered, steered[::-1], "m", 1.0, 1.0, resampling) == (None, None)


def test_strength_zero_differs_by_nothing_and_has_no_width(table):
    none = table.xs("none", level="intervention")
    assert (none["difference"] == 0).all()
    known = none.drop(index=("tiny_choice", "mcc"))
    assert (known["low"] == 0).all()
    assert (known["high"] == 0).all()
    plain = table.xs("unsteered", level="intervention")
    assert plain["low"].isna().all()
    assert (plain["value"] == plain["unsteered"]).all()


def test_one_intervention_or_none_and_a_limit(task_manager):
    model = open_tiny("gpt2", "bridge")
    alone = evaluate_tasks(model, "tiny_choice", limit=2, task_manager=task_manager)
    assert set(alone["intervention"]) == {"unsteered"}
    assert set(alone["n"]) == {2}
    single = evaluate_tasks(
        model, "tiny_choice", addition(), limit=2, task_manager=task_manager, lm_options={"add_bos": False}
    )
    several = evaluate_tasks(
        model, ["tiny_choice"], {"both": [addition(), addition(positions=PROMPT)]}, limit=2, task_manager=task_manager
    )
    assert list(single["intervention"].unique()) == ["unsteered", "steered"]
    assert list(several["intervention"].unique()) == ["unsteered", "both"]


def test_tasks_of_ones_own_are_found_by_their_folder(tmp_path, monkeypatch):
    made = []

    def without_defaults(include_path):
        made.append(include_path)
        return TaskManager(include_path=include_path, include_defaults=False)  # those take seconds to list

    monkeypatch.setattr("lm_eval.tasks.TaskManager", without_defaults)
    folder = str(write_tasks(tmp_path))
    found = evaluate_tasks(open_tiny("gpt2", "bridge"), "tiny_cloze", include_path=folder, limit=2)
    assert set(found["task"]) == {"tiny_cloze"}
    assert made == [folder]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tasks": "tiny_nothing"}, "no task tiny_nothing"),
        ({"tasks": []}, "no task"),
        ({"interventions": {"unsteered": ()}}, "'unsteered'"),
        ({"use_cache": "here"}, "use_cache"),
        ({"include_path": "here"}, "include_path"),
    ],
)
def test_bad_input_is_named(arguments, message, task_manager):
    with pytest.raises(EvaluationError, match=message):
        evaluate_tasks(
            open_tiny("gpt2", "bridge"), **{"tasks": "tiny_choice", "task_manager": task_manager} | arguments
        )


def test_what_does_not_fit_is_refused_before_anything_is_run(task_manager, monkeypatch):
    monkeypatch.setattr(tasks_module, "_run", lambda *_, **__: pytest.fail("a task was run"))
    other = addition(fingerprint=fingerprint(open_tiny("gpt2", "bridge", seed=1)))
    with pytest.raises(FingerprintMismatchError):
        evaluate_tasks(
            open_tiny("gpt2", "bridge"), "tiny_choice", {"own": addition(), "other": other}, task_manager=task_manager
        )


def test_runs_on_other_documents_are_not_compared(task_manager, monkeypatch):
    run, limits = tasks_module._run, iter([3, 2])
    monkeypatch.setattr(tasks_module, "_run", lambda lm, names, **how: run(lm, names, **how | {"limit": next(limits)}))
    with pytest.raises(EvaluationError, match="tiny_choice: the run 'steered' was asked other documents"):
        evaluate_tasks(open_tiny("gpt2", "bridge"), "tiny_choice", addition(), task_manager=task_manager)
