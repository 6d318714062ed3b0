import json
import math

import pytest
import torch

from contrans_lens.errors import EvaluationError, TextError
from contrans_lens.evaluation import damage, score_items, weighted_mean_cis
from contrans_lens.evaluation.behaviours import (
    Behaviour,
    Choices,
    Generations,
    LogitShift,
    NeutralText,
    PairedAnswers,
    Words,
)
from contrans_lens.evaluation.fluency import fluency_columns
from contrans_lens.evaluation.lexicon import load_lexicon
from contrans_lens.interventions import Intervention, generate
from contrans_lens.texts import ChoiceItem, EvaluationItem
from tests.tiny_models import D_MODEL, KINDS, N_CTX, TEXTS, open_tiny

POST = "blocks.1.hook_resid_post"
ITEMS = tuple(
    EvaluationItem(prompt, " yes", " no", group)
    for prompt, group in (("The sky is", "a"), ("Once upon a time", "a"), ("No!", "b"), ("He said:", ""))
)
CHOICES = tuple(ChoiceItem(item.prompt, (" yes", " no", " a"), (0,), group=item.group) for item in ITEMS)
PROMPTS = ("The little fox", "Once upon a time there was", "No!")


def add(seed=0, scale=2.0):
    vector = scale * torch.randn(D_MODEL, generator=torch.Generator().manual_seed(seed))
    return (Intervention(POST, vector, unit="absolute"),)


CELLS = [(), add(0), add(1)]


def vowels(prompts, texts):
    """A judge: how many of the letters are vowels, in [-1, 1]."""
    return [2 * sum(letter in "aeiou" for letter in text) / max(len(text), 1) - 1 for text in texts]


ALL = (
    PairedAnswers(ITEMS),
    Choices(CHOICES),
    Words(CHOICES),
    LogitShift(CHOICES),
    NeutralText(TEXTS),
    Generations(PROMPTS, vowels, "vowels", max_new_tokens=5),
)


@pytest.mark.parametrize("behaviour", ALL, ids=lambda each: each.name)
def test_every_behaviour_keeps_the_contract(behaviour):
    model = open_tiny("gpt2", "bridge")
    assert isinstance(behaviour, Behaviour)
    json.dumps(behaviour.to_dict(), allow_nan=False)
    found = behaviour.measure(model, CELLS)
    assert found.groups == behaviour.groups
    assert found.primary == behaviour.primary
    for values in found.columns.values():
        assert values.shape == (len(CELLS), len(behaviour.groups))
        assert bool(values.isfinite().all())
    alone = behaviour.measure(model, CELLS[1:2])
    for name, values in alone.columns.items():
        assert torch.allclose(values[0], found.columns[name][1], atol=2e-4)  # the other cells change nothing
    prefixed = behaviour.with_prefix("He said: ")
    assert prefixed.to_dict() != behaviour.to_dict()
    assert prefixed.measure(model, [()]).column().shape == (1, len(behaviour.groups))
    assert len(found.intervals()) == len(CELLS)
    part = found.of([2])
    assert torch.equal(part.column()[0], found.column()[2])
    with pytest.raises(EvaluationError, match="no column 'x'"):
        found.column("x")


@pytest.mark.parametrize("kind", KINDS)
def test_the_expectation_is_the_tanh_of_half_the_log_odds(kind):
    model = open_tiny("llama", kind)
    found = PairedAnswers(ITEMS).measure(model, CELLS)
    for number, cell in enumerate(CELLS):
        probability = score_items(model, ITEMS, cell)
        assert torch.allclose(found.column("probability")[number], probability, atol=1e-5)
        assert torch.allclose(found.column("expectation")[number], 2 * probability - 1, atol=1e-5)
        assert torch.equal(found.column("accuracy")[number], (probability > 0.5).double())


def test_neutral_text_equals_damage():
    model = open_tiny("gpt2", "bridge")
    found = NeutralText(TEXTS).measure(model, CELLS)
    for number, cell in enumerate(CELLS):
        expected = damage(model, TEXTS, cell)
        assert float(found.means("kl")[number]) == pytest.approx(expected.kl, abs=1e-6)
        assert math.exp(float(found.means("nll")[number])) == pytest.approx(expected.perplexity, rel=1e-4)
        assert float(found.means("tv")[number]) == pytest.approx(expected.tv, abs=1e-5)
        assert float(found.means("top_changed")[number]) == pytest.approx(expected.top_changed, abs=1e-6)
        assert float(found.whole["kl_p95"][number]) == pytest.approx(expected.kl_p95, abs=1e-5)
        interval = found.intervals("kl")[number]
        assert (interval.low, interval.high) == pytest.approx(expected.kl_ci, abs=1e-5)
    apart = found.difference(1, 0, "nll")
    sums = ((found.column("nll")[1] - found.column("nll")[0]) * found.weights)[:, None]
    assert apart == weighted_mean_cis(sums, found.weights)[0]


def test_generations_are_judged_as_they_are_written():
    model = open_tiny("gpt2", "bridge")
    behaviour = Generations(PROMPTS, vowels, "vowels", max_new_tokens=6)
    found = behaviour.measure(model, CELLS)
    for number, cell in enumerate(CELLS):
        written = generate(model, PROMPTS, cell, max_new_tokens=6)
        assert found.column("score")[number].tolist() == pytest.approx(vowels(PROMPTS, written.texts))
        for name, values in fluency_columns(written.texts, written.tokens).items():
            assert torch.equal(found.column(name)[number], values)
    assert float(found.column("kl_first")[0].abs().max()) == pytest.approx(0, abs=1e-5)
    assert float(found.column("kl_along")[1].min()) > 0
    assert float(found.whole["tv_along_p95"][0]) == pytest.approx(0, abs=1e-4)
    sampled = Generations(PROMPTS, vowels, "vowels", max_new_tokens=6, temperature=1.0).measure(model, CELLS)
    assert "kl_first" not in sampled.columns


def test_a_lexicon_is_a_judge():
    lexicon = load_lexicon("sentiment")
    behaviour = Generations(PROMPTS, lexicon, lexicon.name, max_new_tokens=4, groups=("a", "a", "b"))
    found = behaviour.measure(open_tiny("gpt2", "bridge"), CELLS)
    assert found.groups == ("a", "a", "b")
    assert lexicon(PROMPTS, ["so happy and glad", "a sad, sad day", "the table"]) == [1.0, -1.0, 0.0]


@pytest.mark.parametrize(
    ("judge", "message"),
    [
        (lambda prompts, texts: [0.0], "gave 1 scores for 3 texts"),
        (lambda prompts, texts: [0.0, 2.0, 0.0], "scored text 1"),
        (lambda prompts, texts: [float("nan")] * 3, "scored text 0"),
    ],
)
def test_judges_that_do_not_judge_are_named(judge, message):
    with pytest.raises(EvaluationError, match=f"'mine' {message}"):
        Generations(PROMPTS, judge, "mine", max_new_tokens=2).measure(open_tiny("gpt2", "bridge"), [()])


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: PairedAnswers(()), EvaluationError, "no items"),
        (lambda: Words(()), EvaluationError, "no items"),
        (lambda: LogitShift(()), EvaluationError, "no items"),
        (lambda: NeutralText(()), EvaluationError, "no neutral texts"),
        (lambda: Generations((), vowels, "v"), EvaluationError, "no prompts"),
        (lambda: Generations(PROMPTS, vowels, "v", groups=("a",)), EvaluationError, "as many groups"),
        (lambda: EvaluationItem("The sky is", "", " no"), TextError, "empty"),
    ],
)
def test_behaviours_of_nothing_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("behaviour", [PairedAnswers(ITEMS), Choices(CHOICES)])
def test_prompts_that_exceed_the_context_are_named(behaviour):
    with pytest.raises(EvaluationError, match="context is 128"):
        behaviour.with_prefix("No! " * N_CTX).measure(open_tiny("gpt2", "bridge"), [()])


def test_neutral_logits_that_are_not_finite_are_named():
    with pytest.raises(EvaluationError, match="under cell 1 hold NaN"):
        NeutralText(TEXTS).measure(
            open_tiny("gpt2", "bridge"), [(), (Intervention(POST, torch.full((D_MODEL,), 3e38), unit="absolute"),)]
        )
