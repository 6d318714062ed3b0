"""Whole tasks of lm-evaluation-harness, run by it on our model."""

import json

import pytest
import torch

from contrans_lens.errors import (
    EvaluationError,
    FingerprintMismatchError,
)
from contrans_lens.interventions import (
    save_interventions,
)
from contrans_lens.models import fingerprint
from tests.tiny_models import RAW_KINDS, hf_tiny, open_tiny, tiny_folder

pytest.importorskip("lm_eval")
pytest.importorskip("accelerate")  # lm-eval's own model, the oracle, needs it

from lm_eval import simple_evaluate
from lm_eval.api.registry import get_model
from lm_eval.tasks import TaskManager

from contrans_lens.exports import SteeredLM
from tests.exports.harness_cases import (
    DOCUMENTS,
    addition,
    hooked,
    oracle,
    vector,
    write_tasks,
)

pytestmark = pytest.mark.xdist_group("lm-eval")


@pytest.fixture(scope="module")
def task_manager(tmp_path_factory):
    return TaskManager(include_path=write_tasks(tmp_path_factory.mktemp("tasks")), include_defaults=False)


@pytest.mark.parametrize("kind", RAW_KINDS)
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_tasks_give_the_metrics_of_the_harness(architecture, kind, task_manager):
    tasks = ["tiny_choice", "tiny_writing", "tiny_cloze"] + (["tiny_text"] if architecture == "gpt2" else [])
    lm, theirs = (
        SteeredLM(open_tiny(architecture, kind), addition(), add_bos=architecture == "llama"),
        oracle(architecture),
    )
    how = {"tasks": tasks, "task_manager": task_manager, "bootstrap_iters": 0}
    found = simple_evaluate(lm, **how)
    with hooked(theirs.model, vector()):
        expected = simple_evaluate(theirs, **how)
    for task in tasks:
        numbers = {key: value for key, value in expected["results"][task].items() if isinstance(value, float)}
        assert len(numbers) > 1 or task == "tiny_writing"
        assert {key: found["results"][task][key] for key in numbers} == pytest.approx(numbers, rel=1e-4)
    assert found["config"]["interventions"] == [str(addition())]
    json.dumps(found["config"])


def test_a_choice_task_is_scored_as_by_hand(task_manager):
    hf, tokenizer = hf_tiny("llama")
    right = []
    for document in DOCUMENTS:
        sums = []
        for choice in document["choices"]:
            prompt = tokenizer(document["question"]).input_ids
            ids = torch.tensor([tokenizer(f"{document['question']} {choice}").input_ids])
            with hooked(hf, vector()), torch.no_grad():
                log_p = hf(ids).logits.double().log_softmax(-1)
            sums.append(log_p[0, :-1].gather(1, ids[0, 1:, None])[len(prompt) - 1 :].sum().item())
        right.append(max(range(3), key=sums.__getitem__) == document["gold"])
    lm = SteeredLM(open_tiny("llama", "bridge"), addition())
    found = simple_evaluate(lm, tasks=["tiny_choice"], task_manager=task_manager, bootstrap_iters=0)
    assert [sample["acc"] for sample in found["samples"]["tiny_choice"]] == right
    assert found["results"]["tiny_choice"]["acc,none"] == sum(right) / len(right)


def test_the_harness_opens_it_by_name(tmp_path, task_manager):
    assert get_model("contrans-lens") is SteeredLM
    model = open_tiny("llama", "bridge")
    made = addition(fingerprint=fingerprint(model))
    folder = made.save(tmp_path / "steering")
    how = {"tasks": ["tiny_choice"], "task_manager": task_manager, "bootstrap_iters": 0}
    text = f"pretrained={tiny_folder('llama')},intervention={folder},strength=.5,kind=bridge,dtype=float32"
    found = simple_evaluate("contrans-lens", text, batch_size=2, device="cuda:0", **how)  # its default
    expected = simple_evaluate(SteeredLM(model, made.with_strength(0.5)), **how)
    assert found["results"] == expected["results"]
    assert SteeredLM.create_from_arg_string(text).interventions == (made.with_strength(0.5),)
    lm = SteeredLM.create_from_arg_obj({"pretrained": model, "batch_size": "auto:4"}, {"batch_size": 1, "device": None})
    assert (lm.model, lm.interventions, lm.batch_size) == (model, (), None)
    two = save_interventions(tmp_path / "two", [made, -made])
    for arguments, message in [
        ({"intervention": folder}, "pretrained"),
        ({"pretrained": model, "colour": 1}, "colour"),
        ({"pretrained": model, "intervention": two, "strength": 1.0}, "there are 2"),
        ({"pretrained": tiny_folder("llama"), "dtype": "float31"}, "float31"),
        ({"pretrained": model, "batch_size": "many"}, "many"),
    ]:
        with pytest.raises(EvaluationError, match=message):
            SteeredLM.create_from_arg_obj(arguments)
    other = {"pretrained": open_tiny("llama", "bridge", seed=1), "intervention": folder}
    with pytest.raises(FingerprintMismatchError):
        SteeredLM.create_from_arg_obj(other)
