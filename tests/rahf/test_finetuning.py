"""Step 1 of RAHF: the losses are the paper's, and what is trained is a standard adapter or model."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from contrans_lens.errors import ArtifactError, ModelError, RahfError
from contrans_lens.models.plain import open_plain
from contrans_lens.rahf import finetuning
from contrans_lens.rahf.finetuning import FineTuned, fine_tune
from contrans_lens.rahf.losses import answer_nll
from contrans_lens.rahf.tokens import collate, tokenize_answers
from contrans_lens.rahf.training import LoraSettings, TrainingSettings
from contrans_lens.testbed import SCIT_INSTRUCTIONS, model_path, preference_set
from contrans_lens.texts import Instructions, PreferenceSet
from tests.rahf.small_tunings import INSTRUCTIONS, PAIRS, SHORT, adapter, breaking_off, tune
from tests.tiny_models import hf_tiny, tiny_folder


def hf_nll(prompt: str, answer: str) -> torch.Tensor:
    """The oracle: Hugging Face's own loss, with labels at the answer only."""
    model, tokenizer = hf_tiny("gpt2")
    ids = tokenizer(prompt + answer, return_offsets_mapping=True, add_special_tokens=False)
    labels = [
        token if stop > len(prompt) else -100
        for token, (_, stop) in zip(ids["input_ids"], ids["offset_mapping"], strict=True)
    ]
    bos = tokenizer.bos_token_id
    with torch.no_grad():
        return model(torch.tensor([[bos, *ids["input_ids"]]]), labels=torch.tensor([[-100, *labels]])).loss


@pytest.fixture(scope="module", params=["scit", "preferred", "dispreferred"])
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> FineTuned:
    return tune(tmp_path_factory.mktemp(request.param), method=request.param, validation=PAIRS)


def test_the_answers_of_each_method_are_learnt_under_its_prompt(finished: FineTuned) -> None:
    learnt = {
        "preferred": [(pair.prompt, pair.chosen) for pair in PAIRS],
        "dispreferred": [(pair.prompt, pair.rejected) for pair in PAIRS],
        "scit": [(INSTRUCTIONS.positive + pair.prompt, pair.chosen) for pair in PAIRS]
        + [(INSTRUCTIONS.negative + pair.prompt, pair.rejected) for pair in PAIRS],
    }[finished.method]
    expected = float(torch.stack([hf_nll(prompt, answer) for prompt, answer in learnt]).mean())
    curve = finished.validation_curve
    assert curve is not None
    found = curve.columns["lm"] if finished.method == "scit" else curve.losses
    assert found[0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("epsilon", "weight"), [(0.2, 1.0), (0.0, 0.5), (0.45, 0)])
def test_the_loss_of_scit_is_the_papers(epsilon: float, weight: float, tmp_path: Path) -> None:
    result = tune(
        tmp_path,
        method="scit",
        epsilon=epsilon,
        contrast_weight=weight,
        validation=PAIRS,
        training=replace(SHORT, steps=1),
    )
    lm, contrasts, right = [], [], []
    for pair in PAIRS:
        for answer, own, other in (
            (pair.chosen, INSTRUCTIONS.positive, INSTRUCTIONS.negative),
            (pair.rejected, INSTRUCTIONS.negative, INSTRUCTIONS.positive),
        ):
            match, mismatch = hf_nll(own + pair.prompt, answer), hf_nll(other + pair.prompt, answer)
            a, b = torch.exp(-match), torch.exp(-mismatch)
            contrasts.append(-(1 - epsilon) * torch.log(a / (a + b)) - epsilon * torch.log(b / (a + b)))
            lm.append(match)
            right.append(match < mismatch)
    curve = result.validation_curve
    assert curve is not None
    expected = float(torch.stack(lm).mean()), float(torch.stack(contrasts).mean())
    assert curve.columns["lm"][0] == pytest.approx(expected[0], rel=1e-5)
    assert curve.columns["contrast"][0] == pytest.approx(expected[1], rel=1e-5)
    assert curve.columns["accuracy"][0] == pytest.approx(float(torch.stack(right).float().mean()), abs=1e-6)
    assert curve.losses[0] == pytest.approx(expected[0] + weight * expected[1], rel=1e-5)


def test_the_four_rows_of_a_pair_are_run_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shapes = []

    def seen(logits: Any, batch: Any) -> Any:
        shapes.append(len(batch.ids))
        return answer_nll(logits, batch)

    monkeypatch.setattr(finetuning, "answer_nll", seen)
    tune(tmp_path, method="scit")
    assert shapes == [4 * SHORT.batch_size] * SHORT.steps


def test_curves_fall_and_are_kept(finished: FineTuned) -> None:
    assert finished.curve.steps == (2, 4, 5)
    assert finished.validation_curve is not None
    assert finished.validation_curve.steps == (0, 2, 4, 5)
    assert finished.validation_curve.losses[-1] < 0.97 * finished.validation_curve.losses[0]
    assert tuple(finished.curve.columns) == (("lm", "contrast", "accuracy") if finished.method == "scit" else ())
    assert FineTuned.load(finished.folder) == finished


def test_costs_count_the_rows_of_every_pair(finished: FineTuned) -> None:
    assert finished.cost.block_tokens == 4 * finished.cost.n_tokens
    assert finished.cost.n_trainable == 4 * 2 * (32 + 96)
    tokenizer = hf_tiny("gpt2")[1]
    lengths = [len(tokenizer(pair.prompt)["input_ids"]) for pair in PAIRS]
    rows = 4 if finished.method == "scit" else 1
    assert finished.cost.n_tokens > rows * SHORT.steps * SHORT.batch_size * min(lengths)


def test_the_folder_is_an_adapter_for_plain_peft(finished: FineTuned) -> None:
    names = {path.name for path in finished.folder.iterdir()}
    assert names == {"adapter_config.json", "adapter_model.safetensors", "rahf.json"}
    assert finished.is_adapter
    assert finished.base == str(tiny_folder("gpt2"))
    read: Any = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_folder("gpt2")), finished.folder)
    ids = torch.arange(5, 30)[None]
    with torch.no_grad():
        tuned = read.eval()(ids).logits
        with read.disable_adapter():
            assert not torch.allclose(read(ids).logits, tuned, atol=1e-2)
        merged = read.merge_and_unload()(ids).logits
    assert (merged - tuned).abs().max() < 1e-4


def test_the_same_seed_gives_the_same_bytes(finished: FineTuned, tmp_path: Path) -> None:
    again = tune(tmp_path / "again", method=finished.method, validation=PAIRS)
    assert adapter(again) == adapter(finished)
    assert (again.curve, again.validation_curve) == (finished.curve, finished.validation_curve)
    other = tune(tmp_path / "other", method=finished.method, training=replace(SHORT, seed=1))
    assert adapter(other) != adapter(finished)


@pytest.mark.parametrize("architecture", ["neox", "llama"])
def test_other_architectures_learn(architecture: str, tmp_path: Path) -> None:
    result = fine_tune(
        tiny_folder(architecture), PAIRS, tmp_path, method="preferred", training=SHORT, validation=PAIRS, device="cpu"
    )
    assert result.validation_curve is not None
    assert result.validation_curve.losses[-1] < 0.9 * result.validation_curve.losses[0]


def test_without_lora_the_folder_is_a_whole_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = replace(SHORT, learning_rate=3e-3)
    result = tune(tmp_path / "whole", lora=None, training=settings, validation=PAIRS)
    assert result.validation_curve is not None
    assert result.validation_curve.losses[-1] < 0.9 * result.validation_curve.losses[0]
    assert not result.is_adapter
    assert {path.suffix for path in result.folder.iterdir()} == {".json", ".safetensors"}
    model = AutoModelForCausalLM.from_pretrained(result.folder)
    base, tokenizer = hf_tiny("gpt2")
    assert result.cost.n_trainable == sum(weight.numel() for weight in base.parameters())
    assert model.config.use_cache == base.config.use_cache
    read = AutoTokenizer.from_pretrained(result.folder)
    assert read("The answer is 42.")["input_ids"] == tokenizer("The answer is 42.")["input_ids"]
    assert read.padding_side == tokenizer.padding_side
    assert open_plain(result.folder).bos == open_plain(tiny_folder("gpt2")).bos
    with monkeypatch.context() as patched:
        # Three scorings of the validation pairs in three batches each, and four batches to learn from.
        patched.setattr(finetuning, "answer_nll", breaking_off(3 * 3 + 4))
        with pytest.raises(KeyboardInterrupt):
            tune(tmp_path / "broken", lora=None, training=settings, validation=PAIRS)
    resumed = tune(tmp_path / "broken", lora=None, training=settings, validation=PAIRS)
    name = "model.safetensors"
    assert (resumed.folder / name).read_bytes() == (result.folder / name).read_bytes()


def test_a_base_in_bfloat16_learns_nearly_the_same_with_an_adapter_of_float32(
    finished: FineTuned, tmp_path: Path
) -> None:
    half = tune(tmp_path, method=finished.method, validation=PAIRS, dtype=torch.bfloat16)
    for one, other in ((half.curve, finished.curve), (half.validation_curve, finished.validation_curve)):
        assert one is not None
        assert other is not None
        assert one.losses == pytest.approx(other.losses, rel=2e-2)
    weights = load_file(half.folder / "adapter_model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    with pytest.raises(ArtifactError, match=r"base\.dtype is 'bfloat16' there and 'float32' here"):
        tune(tmp_path, method=finished.method, validation=PAIRS)
    with pytest.raises(RahfError, match=r"dtype=bfloat16 without LoRA"):
        tune(tmp_path / "whole", lora=None, dtype=torch.bfloat16)


def test_answers_may_end_in_eos(tmp_path: Path) -> None:
    found = tune(tmp_path / "eos", end_of_answer=True, validation=PAIRS, training=replace(SHORT, steps=1))
    # GPT-2 writes EOS as a text that its tokenizer reads as one token.
    expected = torch.stack([hf_nll(pair.prompt, pair.chosen + "<|endoftext|>") for pair in PAIRS]).mean()
    assert found.validation_curve is not None
    assert found.validation_curve.losses[0] == pytest.approx(float(expected), rel=1e-5)
    with pytest.raises(ArtifactError, match="end_of_answer is True there and False here"):
        tune(tmp_path / "eos", validation=PAIRS, training=replace(SHORT, steps=1))


def test_what_does_not_fit_is_cut_and_counted(tmp_path: Path) -> None:
    tight = replace(SHORT, max_length=12, max_answer_tokens=5, steps=1)
    tokenizer = hf_tiny("gpt2")[1]
    lengths = [[len(tokenizer(answer)["input_ids"]) for answer in (pair.chosen, pair.rejected)] for pair in PAIRS]
    for method, rows in (("preferred", 1), ("scit", 4)):
        instructions = {"colours": Instructions("a ", "b ")} if method == "scit" else None
        result = tune(tmp_path / method, method=method, training=tight, instructions=instructions)
        read = [length for pair in lengths for length in (pair[:1] if method == "preferred" else pair)]
        assert result.cut_prompts == len(read)
        assert result.cut_answers == sum(length > 5 for length in read)
        assert result.cost.n_tokens == 12 * rows * SHORT.batch_size
    assert tune(tmp_path / "whole").cut_prompts == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "scit", "instructions": None}, "needs instructions"),
        ({"method": "preferred", "instructions": INSTRUCTIONS}, "leave instructions out"),
        ({"method": "scit", "instructions": {"tone": INSTRUCTIONS}}, "no instructions for the topic 'colours'"),
        ({"method": "scit", "epsilon": 1.5}, "epsilon=1.5"),
        ({"method": "scit", "contrast_weight": -1.0}, "contrast_weight=-1.0"),
        ({"training": replace(SHORT, max_length=999)}, "context is 128 tokens"),
        ({"training": replace(SHORT, max_length=2)}, "has no room"),
        ({"lora": LoraSettings(modules=("q_proj",))}, "no module 'q_proj'"),
    ],
)
def test_what_cannot_be_trained_is_refused_and_nothing_is_written(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(RahfError, match=message):
        tune(tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_an_unknown_method_is_refused(tmp_path: Path) -> None:
    # The type checker of the tests refuses other words before the function can.
    with pytest.raises(RahfError, match="method='dpo'; one of 'scit', 'preferred', 'dispreferred'"):
        finetuning._check("dpo", None, 0.2, 1.0)


def test_places_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model folder"):
        fine_tune(tmp_path / "nothing", PAIRS, tmp_path / "out", method="preferred")
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="is a file"):
        tune(tmp_path / "file")
    with pytest.raises(ArtifactError, match="no training's"):
        fine_tune(tiny_folder("gpt2"), PAIRS, tiny_folder("gpt2"), method="preferred", lora=None)


def test_a_rate_that_is_too_high_names_the_step(tmp_path: Path) -> None:
    wild = replace(SHORT, learning_rate=1e30, max_grad_norm=0.0, steps=9)
    with pytest.raises(RahfError, match=r"at step \d+; lower the learning rate \(now 1e\+30\)"):
        tune(tmp_path, training=wild)


def chosen_share(folder: Path | None, pairs: PreferenceSet) -> float:
    """Mean of P(chosen) / (P(chosen) + P(rejected)) under the plain prompt."""
    plain = open_plain(model_path("gpt2-target"), device="cpu")
    model: Any = plain.model if folder is None else PeftModel.from_pretrained(plain.model, folder).eval()
    rows = tokenize_answers(
        plain.tokenizer, pairs.preferences, bos=plain.bos, max_length=plain.context, answers="both"
    ).rows
    batch = collate(rows, plain.pad)
    with torch.no_grad():
        nll = answer_nll(model(input_ids=batch.ids, attention_mask=batch.mask.long()).logits, batch)
    summed = (nll * batch.answer.sum(1)).reshape(-1, 2)
    return float(torch.sigmoid(summed[:, 1] - summed[:, 0]).mean())


def test_the_embedded_target_comes_to_prefer_what_it_is_trained_on(tmp_path: Path) -> None:
    pairs = preference_set("kindness", n=72)
    held_out = pairs.part("validation")
    settings = TrainingSettings(steps=30, batch_size=6, accumulation=1, learning_rate=3e-3)
    assert 0.4 < chosen_share(None, held_out) < 0.6
    for method, low, high in (("preferred", 0.9, 1.0), ("dispreferred", 0.0, 0.1)):
        folder = tmp_path / method
        fine_tune(
            model_path("gpt2-target"), pairs.part("train"), folder, method=method, training=settings, device="cpu"
        )
        assert low <= chosen_share(folder, held_out) <= high


def test_scit_makes_instructions_count_for_more(tmp_path: Path) -> None:
    pairs = preference_set("both", n=48)
    result = fine_tune(
        model_path("gpt2-target"),
        pairs.part("train"),
        tmp_path,
        method="scit",
        instructions=SCIT_INSTRUCTIONS,
        training=TrainingSettings(steps=15, batch_size=4, accumulation=1, learning_rate=3e-3),
        validation=pairs.part("validation").sample(24),
        device="cpu",
    )
    curve = result.validation_curve
    assert curve is not None
    assert curve.columns["contrast"][-1] < curve.columns["contrast"][0] - 0.02
    assert curve.columns["accuracy"][-1] == 1.0
