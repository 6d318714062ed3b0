import math

import pytest
import torch

from contrans_lens.errors import EvaluationError
from contrans_lens.evaluation.behaviours import Choices, Words, read_choices
from contrans_lens.evaluation.behaviours.choice_reading import ChoicePlan
from contrans_lens.interventions import Intervention
from contrans_lens.texts import ChoiceItem
from tests.evaluation.behaviours.oracles import HuggingFace
from tests.tiny_models import D_MODEL, HF_KINDS, N_CTX, PARITY_ARCHITECTURES, RAW_KINDS, open_tiny

ITEMS = (
    ChoiceItem("The sky is", (" green", " grass", " a girl in the garden"), (0,), rival=1),
    ChoiceItem(
        "Once upon a time there was", (" a girl", " a man", " a girl who liked to sing"), (0, 2), best=2, rival=1
    ),
    ChoiceItem("Is the sky green? Answer:", (" yes", " no", " 4", " 7", " n"), (1,), rival=0, group="sky"),
    ChoiceItem("No!", (" Ne", " Never", " Nobody asked him why"), (1, 2), rival=0, group="sky"),
)
MERGING = ChoiceItem("Every day the man felt hap", ("py", "less", "py and sad"), (0,))
POST = "blocks.1.hook_resid_post"


def vector(seed=0, scale=2.0):
    return scale * torch.randn(D_MODEL, generator=torch.Generator().manual_seed(seed))


def added(seed=0):
    return (Intervention(POST, vector(seed), unit="absolute"),)


@pytest.mark.parametrize("kind", HF_KINDS)
@pytest.mark.parametrize("architecture", PARITY_ARCHITECTURES)
def test_choices_are_read_as_hugging_face_reads_them(architecture, kind):
    model = open_tiny(architecture, kind)
    reading = read_choices(model, ITEMS)
    hf = HuggingFace(architecture, model)
    for number, item in enumerate(ITEMS):
        for choice, text in enumerate(item.choices):
            log_p, first, n_tokens, greedy = hf.of_choice(item.prompt, text)
            assert float(reading.log_p[0, number, choice]) == pytest.approx(log_p, abs=1e-4)
            assert float(reading.first_log_p[0, number, choice]) == pytest.approx(first, abs=1e-4)
            assert int(reading.n_tokens[number, choice]) == n_tokens
            assert bool(reading.greedy[0, number, choice]) == greedy
        top = int(hf.log_p(hf.ids(item.prompt))[-1].argmax())
        starts = {hf.ids(item.prompt + text)[len(hf.ids(item.prompt))] for text in item.choices}
        assert bool(reading.on_format[0, number]) == (top in starts)


@pytest.mark.parametrize("kind", RAW_KINDS)
def test_steered_choices_equal_a_hugging_face_forward_hook(kind):
    model = open_tiny("llama", kind)
    reading = read_choices(model, ITEMS, [(), added(0), added(1)])
    for cell, steering in enumerate((None, vector(0), vector(1))):
        hf = HuggingFace("llama", model, vector=steering)
        for number, item in enumerate(ITEMS):
            for choice, text in enumerate(item.choices):
                expected = hf.of_choice(item.prompt, text)[0]
                assert float(reading.log_p[cell, number, choice]) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("architecture", PARITY_ARCHITECTURES)
def test_choices_that_merge_with_the_prompt_are_compared_as_whole_texts(architecture):
    model = open_tiny(architecture, "bridge")
    hf = HuggingFace(architecture, model)
    whole = torch.tensor([hf.of_text(MERGING.prompt + choice) for choice in MERGING.choices])
    measured = Choices((MERGING,)).measure(model, [()])
    assert float(measured.column("mc2")) == pytest.approx(float(whole.softmax(0)[0]), abs=1e-5)


def by_hand(hf, item, normalise):
    """The columns by their definitions, one text at a time."""
    read = [hf.of_choice(item.prompt, choice) for choice in item.choices]
    lengths = {
        "none": lambda j: 1,
        "tokens": lambda j: read[j][2],
        "characters": lambda j: len(item.choices[j].strip()),
    }
    scores = [read[j][0] / lengths[normalise](j) for j in range(len(read))]
    best, wrong = item.best_index, [j for j in range(len(read)) if j not in item.correct]
    total = sum(math.exp(score) for score in scores)
    return {
        "p_mean": sum(math.exp(read[j][0]) for j in item.correct),
        "p_restricted": sum(math.exp(scores[j]) for j in item.correct) / total,
        "mc2": sum(math.exp(scores[j]) for j in item.correct) / total,
        "mc1": float(all(scores[best] > scores[j] for j in wrong)),
        "mc0": float(scores[best] > scores[item.rival]),
        "accuracy": float(max(range(len(read)), key=lambda j: scores[j]) in item.correct),
    }


@pytest.mark.parametrize("normalise", ["none", "tokens", "characters"])
@pytest.mark.parametrize("architecture", ["gpt2", "qwen3"])
def test_columns_equal_their_definitions(architecture, normalise):
    model = open_tiny(architecture, "bridge")
    measured = Choices(ITEMS, normalise=normalise).measure(model, [(), added()])
    for cell, steering in enumerate((None, vector())):
        hf = HuggingFace(architecture, model, vector=steering)
        for number, item in enumerate(ITEMS):
            for name, value in by_hand(hf, item, normalise).items():
                assert float(measured.column(name)[cell, number]) == pytest.approx(value, abs=1e-4), name
    assert measured.groups == ("", "", "sky", "sky")


def test_mc0_needs_a_rival_in_every_item():
    model = open_tiny("gpt2", "bridge")
    assert "mc0" not in Choices((*ITEMS, MERGING)).measure(model, [()]).columns


def test_words_by_greedy_decoding_and_among_the_offered_words():
    model = open_tiny("gpt2", "bridge")
    hf = HuggingFace("gpt2", model)
    prompt, greedy = next(
        (prompt, word)
        for person in ("old man", "girl", "fox", "man", "cold water", "garden", "little girl", "river")
        for prompt in [f"Scenario: the {person} ran home\nThe emotion of the above scenario is"]
        for word in [hf.tokenizer.decode([int(hf.log_p(hf.ids(prompt))[-1].argmax())])]
        if len(hf.ids(prompt + word)) == len(hf.ids(prompt)) + 1 and hf.ids(prompt + word)[:-1] == hf.ids(prompt)
    )
    words = (greedy, " sad", " happy")
    items = tuple(ChoiceItem(prompt, words, (index,)) for index in range(3))
    measured = Words(items).measure(model, [()])
    assert measured.column("token_accuracy")[0].tolist() == [1.0, 0.0, 0.0]
    read = torch.tensor([hf.of_choice(prompt, word)[0] for word in words])
    expected = torch.nn.functional.one_hot(read.argmax(), 3).double()
    assert torch.equal(measured.column("logit_accuracy")[0], expected)
    assert torch.allclose(measured.column("p_restricted")[0].float(), read.softmax(0), atol=1e-5)
    assert measured.column("format_failure")[0].tolist() == [0.0, 0.0, 0.0]
    first = torch.tensor([hf.of_choice(prompt, word)[1] for word in words])
    by_first = Words(items, reading="first").measure(model, [()])
    assert torch.allclose(by_first.column("p_restricted")[0].float(), first.softmax(0), atol=1e-5)
    assert torch.allclose(by_first.column("p_mean")[0].float(), first.exp(), atol=1e-5)


def test_words_that_begin_alike_cannot_be_told_by_their_first_tokens():
    item = ChoiceItem("Once upon a time there was", (" a girl", " a man"), (0,))
    model = open_tiny("gpt2", "bridge")
    assert 0 < float(Words((item,)).measure(model, [()]).column("p_restricted")) < 1
    with pytest.raises(EvaluationError, match=r"item 0 .*begin with the same token"):
        Words((item,), reading="first").measure(model, [()])


def test_one_letter_answers_of_a_prompt_are_one_row():
    model = open_tiny("gpt2", "bridge")
    letters = ChoiceItem("Is the sky green?\nAnswer: ", ("A", "B", "C", "D"), (2,))
    assert len(ChoicePlan(model, [letters, letters]).rows) == 1
    mixed = ChoiceItem("Is the sky green?\nAnswer: ", ("A", "B or more"), (1,))
    assert len(ChoicePlan(model, [mixed]).rows) == 1  # the short answer is read on the way to the long one


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ((), "no items"),
        ((ChoiceItem("No!" * N_CTX, (" yes", " no"), (0,)),), "choice item 0 .*context is 128"),
    ],
)
def test_bad_items_are_named(items, message):
    with pytest.raises(EvaluationError, match=message):
        Choices(items).measure(open_tiny("gpt2", "bridge"), [()])


def test_logits_that_are_not_finite_are_named():
    with pytest.raises(EvaluationError, match=r"item 0 .* under cell 1"):
        Choices(ITEMS).measure(
            open_tiny("gpt2", "bridge"),
            [(), (Intervention(POST, torch.full((D_MODEL,), 3e38), unit="absolute"),)],
        )


def test_prefix_is_put_before_every_prompt():
    model = open_tiny("gpt2", "bridge")
    asked = Choices(ITEMS).with_prefix("He said: ")
    direct = Choices(tuple(ChoiceItem("He said: " + i.prompt, i.choices, i.correct, i.best, i.rival) for i in ITEMS))
    assert torch.equal(asked.measure(model, [()]).column(), direct.measure(model, [()]).column())
    assert asked.to_dict() != Choices(ITEMS).to_dict()
