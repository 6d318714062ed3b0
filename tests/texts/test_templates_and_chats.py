import copy

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from contrans_lens.errors import TextError
from contrans_lens.models import tokenize
from contrans_lens.texts import (
    EMOTION_TEMPLATE,
    Template,
    chat_template,
    contrast_from_templates,
    load_concept,
    without_bos,
)
from tests.tiny_models import open_tiny

CHAT = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('no such role') }}{% endif %}"
    "<|{{ m['role'] }}|> {{ m['content'] }} {% endfor %}{% if add_generation_prompt %}<|assistant|> {% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer():
    """A tokenizer that adds BOS by itself, with a chat template that writes it too (as for Llama)."""
    words = [
        "<s>",
        "</s>",
        "<unk>",
        "<|system|>",
        "<|user|>",
        "<|assistant|>",
        "hello",
        "there",
        "be",
        "kind",
        "Sure",
    ]
    core = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    fast = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    fast.add_special_tokens({"additional_special_tokens": ["<|system|>", "<|user|>", "<|assistant|>"]})
    fast.chat_template = CHAT
    return fast


def test_the_chat_template_never_brings_a_second_bos(tokenizer):
    plain = tokenizer.apply_chat_template([{"role": "user", "content": "hello there"}], tokenize=False)
    assert tokenizer(plain)["input_ids"].count(tokenizer.bos_token_id) == 2  # the trap
    text = chat_template(tokenizer, "hello there")
    ids = tokenizer(text)["input_ids"]
    assert ids.count(tokenizer.bos_token_id) == 1
    assert ids == tokenizer.apply_chat_template(
        [{"role": "user", "content": "hello there"}], add_generation_prompt=True, return_dict=False
    )


def test_system_and_the_beginning_of_an_answer(tokenizer):
    text = chat_template(tokenizer, "hello", system="be kind", answer="Sure")
    assert text == "<|system|> be kind <|user|> hello <|assistant|> Sure"
    turns = [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "there"},
        {"role": "user", "content": "hello"},
    ]
    assert chat_template(tokenizer, turns) == "<|user|> hello <|assistant|> there <|user|> hello <|assistant|> "


def test_a_whole_concept_goes_through_a_chat_template(tokenizer):
    concept = load_concept("honesty").map_texts(lambda text: chat_template(tokenizer, text), prompts=True)
    assert all(text.startswith("<|user|>") and text.endswith("<|assistant|> ") for text in concept.texts())
    assert concept.evaluation[0].prompt.startswith("<|user|>")
    assert without_bos(tokenizer, "<s><s>hello") == "hello"


@pytest.mark.parametrize(
    ("messages", "word"),
    [
        ([], "no messages"),
        ([{"role": "user"}], "expected 'role' and 'content'"),
        ([{"role": "wizard", "content": "hello"}], "no such role"),
        ("  ", "empty"),
    ],
)
def test_bad_messages_are_refused(tokenizer, messages, word):
    with pytest.raises(TextError, match=word):
        chat_template(tokenizer, messages)


def test_a_tokenizer_without_chat_template_is_refused(tokenizer):
    tokenizer.chat_template = None
    try:
        with pytest.raises(TextError, match="no chat_template"):
            chat_template(tokenizer, "hello")
    finally:
        tokenizer.chat_template = CHAT


def test_templates_fill_their_gaps_and_keep_braces():
    template = Template("{{x}} {who} met {whom}, and {who} smiled.")
    assert template.fields == ("who", "whom")
    assert template.fill(who="Ann {a}", whom="Bo") == "{x} Ann {a} met Bo, and Ann {a} smiled."
    assert EMOTION_TEMPLATE.fill_all(["You win."]) == ["Scenario: You win.\nThe emotion of the above scenario is"]


@pytest.mark.parametrize("text", ["", "no gap", "{}", "{0}", "{a.b}", "{a!r}", "{a:>3}", "{a", "a}"])
def test_bad_templates_are_refused(text):
    with pytest.raises(TextError):
        Template(text)


def test_missing_and_unknown_values_are_named():
    with pytest.raises(TextError, match=r"missing values: \['who'\], values without a gap: \['when'\]"):
        Template("{who} left.").fill(when="now")
    with pytest.raises(TextError, match="needs exactly one"):
        Template("{a} {b}").fill_all(["x"])


def test_pairs_from_templates_differ_only_in_the_cue_and_are_grouped():
    templates = [
        Template("{name} {cue}. {name} says:", name="says"),
        Template("Ask {name}, who {cue}:", name="ask"),
    ]
    cues = {"cue": [("never lies", "always lies"), ("is frank", "is sly")]}
    people = [{"name": "Ann"}, {"name": "Bo"}, {"name": "Cy"}]
    by_template = contrast_from_templates("honesty", templates, cues, people)
    assert len(by_template.positives) == 12
    assert by_template.pairs()[0] == ("Ann never lies. Ann says:", "Ann always lies. Ann says:")
    assert by_template.groups() == ("says", "ask")
    by_person = contrast_from_templates("honesty", templates, cues, people, group="name")
    for part in by_person.split(seed=1):
        assert len(set(part.positive_groups)) == 1
    with pytest.raises(TextError, match="group="):
        contrast_from_templates("honesty", templates, cues, people, group="town")
    with pytest.raises(TextError, match="equally many"):
        contrast_from_templates("honesty", templates, {"cue": []}, people)


@pytest.mark.parametrize("prepend_bos", [None, True])
def test_a_chat_reaches_the_model_with_one_bos(prepend_bos):
    model = open_tiny("llama")
    tokenizer = copy.copy(model.tokenizer)
    tokenizer.chat_template = CHAT
    batch = tokenize(model, [chat_template(tokenizer, "hello there")], prepend_bos=prepend_bos)
    assert batch.bos
    assert (batch.tokens == tokenizer.bos_token_id).sum() == 1
    assert batch.tokens[0, 0] == tokenizer.bos_token_id
