import pytest

from contrans_lens.errors import TextError
from contrans_lens.texts import GENERAL_INSTRUCTIONS, Instructions

SIDES = ("positive", "negative", "neutral")


def test_the_same_text_follows_every_instruction():
    for prompt in ("\n\nHuman: Hello\n\nAssistant:", "Question: What?\nAnswer:"):
        rests = {
            GENERAL_INSTRUCTIONS.before(prompt, side).removeprefix(getattr(GENERAL_INSTRUCTIONS, side))
            for side in SIDES
        }
        assert rests == {prompt.lstrip()}


def test_the_layout_of_hh_rlhf_is_kept():
    prompt = "\n\nHuman: Hello\n\nAssistant:"
    assert GENERAL_INSTRUCTIONS.before(prompt, "positive") == GENERAL_INSTRUCTIONS.positive.rstrip() + prompt


def test_without_a_neutral_instruction_the_prompt_stays_as_it_is():
    both = Instructions("Be good.\n", "Be bad.\n")
    assert both.before("\n\nHuman: a", "neutral") == "\n\nHuman: a"
    assert both.before("a", "negative") == "Be bad.\na"


@pytest.mark.parametrize(
    ("given", "word"),
    [
        (("Be good.\n", "Be bad. "), "same separator"),
        (("Be good.\n", "Be bad.\n", "Be."), "same separator"),
        (("Be good.", "Be good."), "must differ"),
        (("Be good.", " "), "empty"),
    ],
)
def test_instructions_that_differ_in_their_ends_alone_are_refused(given, word):
    with pytest.raises(TextError, match=word):
        Instructions(*given)


def test_general_instructions_have_as_many_words_and_marks():
    shapes = set()
    for side in SIDES:
        text = getattr(GENERAL_INSTRUCTIONS, side)
        shapes.add((len(text.split()), *(text.count(mark) for mark in ",.:\n")))
    assert shapes == {(13, 2, 2, 1, 2)}
