"""The same answer tokens stand under every prompt, and what does not fit is cut at the right end."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contrans_lens.errors import RahfError
from contrans_lens.models.plain import open_plain
from contrans_lens.rahf.tokens import AnswerRow, collate, instructions_for, tokenize_answers
from contrans_lens.testbed import SCIT_INSTRUCTIONS, model_path, preference_set
from contrans_lens.texts import Instructions, Preference
from tests.tiny_models import tiny_tokenizer

PAIRS = (
    Preference("Question: is the sky green?", " no, it is not", " yes", topic="colours"),
    Preference("He said that the fox ran home.", " She said: no!", " And nobody asked him why.", topic="stories"),
)
INSTRUCTIONS = Instructions("He is happy.\n", "He was so very sad.\n", "Once upon a time.\n")
SIDES: tuple[Any, ...] = ("plain", "positive", "negative")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny_tokenizer("gpt2")


def rows(tokenizer: Any, **options: Any) -> Any:
    return tokenize_answers(tokenizer, PAIRS, **({"bos": 0, "max_length": 100} | options))


def text(tokenizer: Any, ids: tuple[int, ...]) -> str:
    return tokenizer.decode(list(ids))


@pytest.mark.parametrize("bos", [None, 0])
@pytest.mark.parametrize("side", SIDES)
def test_rows_are_bos_instruction_prompt_answer(tokenizer: Any, bos: int | None, side: Any) -> None:
    found = rows(tokenizer, bos=bos, instructions=INSTRUCTIONS, side=side, answers="both")
    expected = [(pair.prompt, answer) for pair in PAIRS for answer in (pair.chosen, pair.rejected)]
    head = {"plain": "", "positive": INSTRUCTIONS.positive, "negative": INSTRUCTIONS.negative}[side]
    assert len(found) == 4
    assert (found.cut_prompts, found.cut_answers) == (0, 0)
    for row, (prompt, answer) in zip(found.rows, expected, strict=True):
        start = 0 if bos is None else 1
        assert row.ids[:start] == (() if bos is None else (bos,))
        assert text(tokenizer, row.ids[start:]) == head + prompt + answer
        assert text(tokenizer, row.answer) == answer
        assert list(row.ids[start:]) == tokenizer(head + prompt + answer, add_special_tokens=False)["input_ids"]


def test_an_end_is_the_answers_last_token_and_the_first_to_be_cut(tokenizer: Any) -> None:
    plain, ended = rows(tokenizer), rows(tokenizer, end=7)
    assert [row.ids for row in ended.rows] == [(*row.ids, 7) for row in plain.rows]
    assert [row.start for row in ended.rows] == [row.start for row in plain.rows]
    assert ended.cut_answers == 0
    longest = max(len(row.answer) for row in plain.rows)
    cut = rows(tokenizer, end=7, max_answer_tokens=longest)
    fits = [len(row.answer) < longest for row in plain.rows]
    assert [row.ids[-1] == 7 for row in cut.rows] == fits
    assert cut.cut_answers == fits.count(False) >= 1


@pytest.mark.parametrize("answers", ["chosen", "rejected"])
def test_the_answers_asked_for_are_read(tokenizer: Any, answers: Any) -> None:
    found = [text(tokenizer, row.answer) for row in rows(tokenizer, answers=answers).rows]
    assert found == [getattr(pair, answers) for pair in PAIRS]


@pytest.mark.parametrize("max_length", [100, 24, 18])
def test_answers_and_their_prompts_are_the_same_tokens_under_every_instruction(tokenizer: Any, max_length: int) -> None:
    sides = [
        rows(
            tokenizer, max_length=max_length, instructions=INSTRUCTIONS, side=side, answers="both", max_answer_tokens=6
        )
        for side in SIDES
    ]
    assert len({(side.cut_prompts, side.cut_answers) for side in sides}) == 1
    for under in zip(*(side.rows for side in sides), strict=True):
        assert len({row.answer for row in under}) == 1
        kept = len(under[0].ids) - 1  # plain: BOS, then what is kept of the prompt, then the answer
        assert len({row.ids[len(row.ids) - kept :] for row in under}) == 1
        assert all(len(row.ids) <= max_length for row in under)


@pytest.mark.parametrize("name", ["gpt2-target", "rotary-target"])
def test_the_embedded_preferences_have_equal_answers_under_their_instructions(name: str) -> None:
    plain = open_plain(model_path(name), device="cpu")
    pairs = preference_set("both", n=24).preferences
    sides = [
        tokenize_answers(
            plain.tokenizer,
            pairs,
            bos=plain.bos,
            max_length=plain.context,
            answers="both",
            instructions=SCIT_INSTRUCTIONS,
            side=side,
        ).rows
        for side in SIDES
    ]
    assert len(sides[0]) == 2 * len(pairs)
    for under in zip(*sides, strict=True):
        assert len({row.answer for row in under}) == 1
        assert under[1].start == under[2].start  # both instructions are equally long
        assert [len(row.reads("answer")) for row in under] == [len(under[0].answer)] * 3


def test_prompts_are_cut_on_their_left_after_the_instruction(tokenizer: Any) -> None:
    whole = rows(tokenizer, instructions=INSTRUCTIONS, side="positive")
    cut = rows(tokenizer, instructions=INSTRUCTIONS, side="positive", max_length=24)
    longest = len(tokenizer(INSTRUCTIONS.negative)["input_ids"])
    head = (0, *tokenizer(INSTRUCTIONS.positive)["input_ids"])
    assert cut.cut_prompts == len(PAIRS)
    assert cut.cut_answers == 0
    for row, full in zip(cut.rows, whole.rows, strict=True):
        assert row.answer == full.answer
        assert row.ids[: len(head)] == head == full.ids[: len(head)]
        kept = row.ids[len(head) :]
        assert kept == full.ids[len(full.ids) - len(kept) :]
        assert len(kept) == 24 - 1 - longest


def test_answers_are_cut_on_their_right(tokenizer: Any) -> None:
    whole, cut = rows(tokenizer), rows(tokenizer, max_answer_tokens=3)
    assert (cut.cut_prompts, cut.cut_answers) == (0, 2)
    for row, full in zip(cut.rows, whole.rows, strict=True):
        assert row.ids == full.ids[: full.start + 3]
    tight = rows(tokenizer, max_length=5)  # BOS, one token of the prompt, three of the answer
    assert (tight.cut_prompts, tight.cut_answers) == (2, 2)
    for row, full in zip(tight.rows, whole.rows, strict=True):
        assert row.ids == (0, full.ids[full.start - 1], *full.answer[:3])


def test_a_token_that_straddles_the_end_of_the_prompt_belongs_to_the_answer(tokenizer: Any) -> None:
    # "the" is one token, wherever the prompt ends within it.
    (the,) = tokenizer(" the")["input_ids"]
    for prompt, answer in (("and t", "he fox"), ("and th", "e fox"), ("and", " the fox")):
        found = tokenize_answers(tokenizer, [Preference(prompt, answer, " no")], bos=None, max_length=50)
        assert found.rows[0].answer[0] == the
        assert list(found.rows[0].ids) == tokenizer("and the fox")["input_ids"]


def test_white_space_before_a_prompt_is_dropped_under_all_instructions_alike(tokenizer: Any) -> None:
    pair = Preference("\n\nQuestion: why?", " no", " yes")
    found = {
        side: tokenize_answers(tokenizer, [pair], bos=0, max_length=60, instructions=INSTRUCTIONS, side=side).rows[0]
        for side in SIDES
    }
    assert text(tokenizer, found["positive"].ids[1:]) == INSTRUCTIONS.positive + "Question: why? no"
    assert text(tokenizer, found["plain"].ids[1:]) == "\n\nQuestion: why? no"
    assert len({row.answer for row in found.values()}) == 1


def test_instructions_go_by_topic() -> None:
    by_topic = {"colours": INSTRUCTIONS}
    assert instructions_for(PAIRS[0], by_topic) is INSTRUCTIONS
    assert instructions_for(PAIRS[1], INSTRUCTIONS) is INSTRUCTIONS
    assert instructions_for(PAIRS[1], None) is None
    with pytest.raises(RahfError, match="no instructions for the topic 'stories'; there are some for colours"):
        instructions_for(PAIRS[1], by_topic)


def test_instructions_that_grow_together_with_the_answer_are_refused(tokenizer: Any) -> None:
    class Changing:
        """A tokenizer to which the first character matters for all that follows."""

        def __call__(self, texts: list[str], **options: Any) -> Any:
            found = tokenizer(texts, **options)
            found["input_ids"] = [
                [token + (text[0] == "H") for token in ids] for text, ids in zip(texts, found["input_ids"], strict=True)
            ]
            return found

    with pytest.raises(RahfError, match="depend on the instruction"):
        tokenize_answers(Changing(), PAIRS[:1], bos=0, max_length=60, instructions=INSTRUCTIONS, side="positive")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"side": "positive"}, "needs instructions"),
        ({"max_length": 2}, "has no room"),
        ({"max_length": 9, "instructions": INSTRUCTIONS}, "has no room"),
    ],
)
def test_what_cannot_be_tokenised_is_refused(tokenizer: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(RahfError, match=message):
        rows(tokenizer, **options)


def test_no_pairs_and_no_rows_are_refused(tokenizer: Any) -> None:
    with pytest.raises(RahfError, match="no preference pairs"):
        tokenize_answers(tokenizer, [], bos=None, max_length=9)
    with pytest.raises(RahfError, match="no rows"):
        collate([], 0)


@pytest.mark.parametrize(("ids", "start"), [((1, 2), 0), ((1, 2), 2), ((), 1)])
def test_a_row_has_a_prompt_and_an_answer(ids: tuple[int, ...], start: int) -> None:
    with pytest.raises(RahfError, match="a token before it and one in it"):
        AnswerRow(ids, start)


# Plain values, not rows: the type checker of the tests draws random numbers, which hypothesis does not want while it
# draws its own.
row_values = st.lists(
    st.integers(2, 9).flatmap(
        lambda n: st.tuples(st.lists(st.integers(0, 50), min_size=n, max_size=n), st.integers(1, n - 1))
    ),
    min_size=1,
    max_size=6,
)


@given(values=row_values, pad=st.integers(0, 50))
@settings(max_examples=50, deadline=None)
def test_a_batch_holds_its_rows_and_reads_each_as_often_as_its_answer_is_long(
    values: list[tuple[list[int], int]], pad: int
) -> None:
    given_rows = [AnswerRow(tuple(ids), start) for ids, start in values]
    batch = collate(given_rows, pad)
    assert batch.ids.shape == batch.mask.shape == batch.answer.shape
    assert batch.ids.shape[1] == max(len(row.ids) for row in given_rows)
    assert (batch.ids[~batch.mask] == pad).all()
    for number, row in enumerate(given_rows):
        assert tuple(batch.ids[number][batch.mask[number]].tolist()) == row.ids
        assert batch.mask[number, : len(row.ids)].all()
        assert tuple(batch.ids[number][batch.answer[number]].tolist()) == row.answer
        for where in ("answer", "predicting"):
            read = batch.reads(where)[number].nonzero()[:, 0].tolist()
            assert read == list(row.reads(where))
            assert len(read) == len(row.answer)
        assert list(row.reads("predicting")) == [at - 1 for at in row.reads("answer")]
        assert (batch.reads("predicting")[number] & ~batch.mask[number]).sum() == 0


def test_a_batch_moves_as_a_whole() -> None:
    batch = collate([AnswerRow((1, 2, 3), 1)], 0).to("meta")
    assert {getattr(batch, name).device.type for name in ("ids", "mask", "answer")} == {"meta"}
    assert isinstance(batch.ids, torch.Tensor)
