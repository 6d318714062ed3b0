"""Properties of matching answer tokens of two tokenizers."""

import dataclasses
from itertools import accumulate

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from contrans_lens.errors import RahfError
from contrans_lens.models.plain import open_plain
from contrans_lens.rahf.alignment import AlignedAnswers, Spelling, align_answers, match_tokens
from contrans_lens.rahf.tokens import tokenize_answers
from contrans_lens.texts import Preference, PreferenceSet
from tests.rahf.small_contrasts import PAIRS
from tests.tiny_models import N_CTX, open_tiny, tiny_folder, tiny_tokenizer

WHERES = ("answer", "predicting")
stops = st.lists(st.integers(1, 4), min_size=1, max_size=8).map(lambda steps: [3 + stop for stop in accumulate(steps)])
"""Tokens of an answer that begins at character 3."""
sharing = st.lists(st.integers(0, 3), min_size=1, max_size=8).map(
    lambda steps: [4 + stop for stop in accumulate(steps)]
)
"""The same, where tokens may be parts of one character."""


def byte_spelling(bos: int | None = None) -> Spelling:
    """A tokenizer without a single merge."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({piece: number for number, piece in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return Spelling(transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer), bos, 256, 8)


def merged_spelling() -> Spelling:
    return Spelling(tiny_tokenizer("gpt2"), None, N_CTX, 32)


def rows_of(spelling: Spelling, pairs: PreferenceSet = PAIRS, **options):
    limits = {"bos": spelling.bos, "max_length": spelling.context} | options
    return tokenize_answers(spelling.tokenizer, pairs.preferences, **limits).rows


def aligned(source: Spelling, target: Spelling, where="answer", cut: int | None = None, **options) -> AlignedAnswers:
    answers = options.get("answers", "chosen")
    rows = rows_of(source, max_answer_tokens=cut, answers=answers)
    return align_answers(PAIRS, rows, source, target, where=where, **options)


@pytest.mark.parametrize(
    ("source", "target", "answer", "predicting"),
    [
        # fox|es. and foxes|.: "foxes" ends inside "es."; what predicts "." has to do without "es".
        ([6, 9], [8, 9], (1, 1), (0, 1)),
        ([8, 9], [6, 9], (0, 1), (0, 0)),
        # f|o|x|. and fox|.
        ([4, 5, 6, 7], [6, 7], (2, 3), (0, 3)),
        ([6, 7], [4, 5, 6, 7], (0, 0, 0, 1), (0, 0, 0, 1)),
        # The source has no token for the white space that the answer ends with.
        ([6], [6, 8], (0, 0), (0, 0)),
        # A letter with the first byte of an accented one, then its second byte; and each byte for itself.
        ([5, 5], [4, 5, 5], (0, 0, 1), (0, 0, 1)),
        # One character in three parts and in two, after a letter.
        ([4, 5, 5, 5], [4, 5, 5], (0, 2, 3), (0, 1, 2)),
        ([4, 5, 5], [4, 5, 5, 5], (0, 1, 1, 2), (0, 1, 2, 2)),
    ],
)
def test_match_tokens_by_hand(source, target, answer, predicting):
    assert match_tokens(source, target, 3, "answer") == answer
    assert match_tokens(source, target, 3, "predicting") == predicting


@given(sharing)
def test_a_tokenizer_is_matched_with_itself_token_by_token(own):
    for where in WHERES:
        assert match_tokens(own, own, 3, where) == tuple(range(len(own)))


@given(stops, stops)
def test_partners_cover_the_last_or_the_first_character(source, target):
    begins = [3, *target]

    def covering(character: int) -> int:
        """The source's token over a character; its last one beyond the end."""
        return next((index for index, stop in enumerate(source) if character < stop), len(source) - 1)

    assert match_tokens(source, target, 3, "answer") == tuple(covering(stop - 1) for stop in target)
    found = match_tokens(source, target, 3, "predicting")
    assert found == tuple(covering(begin) for begin in begins[: len(target)])
    assert found[0] == 0


@given(sharing, sharing)
def test_partners_exist_and_never_go_back(source, target):
    for where in WHERES:
        found = match_tokens(source, target, 3, where)
        assert list(found) == sorted(found)
        assert 0 <= found[0] <= found[-1] < len(source)


@pytest.mark.parametrize("where", WHERES)
@pytest.mark.parametrize("answers", ["chosen", "both"])
def test_one_tokenizer_gives_the_rows_back(where, answers):
    own = merged_spelling()
    found = aligned(own, own, where, answers=answers)
    assert found.rows == rows_of(own, answers=answers)
    assert found.partners.tolist() == [offset for row in found.rows for offset in range(len(row.answer))]
    assert (found.unmatched, found.cut_answers) == (0, 0)


def test_bytes_are_counted_right_through_real_tokenizers():
    source, target = byte_spelling(bos=7), merged_spelling()
    lengths = [[len(target.tokenizer.convert_ids_to_tokens(token)) for token in row.answer] for row in rows_of(target)]
    assert max(map(max, lengths)) > 1
    ends = [list(accumulate(row)) for row in lengths]
    by_answer = [end - 1 for row in ends for end in row]
    assert aligned(source, target, "answer").partners.tolist() == by_answer
    begins = [begin for row in ends for begin in [0, *row[:-1]]]
    assert aligned(source, target, "predicting").partners.tolist() == begins
    # The other way: every byte of a token has that token.
    whole = [index for row in lengths for index, length in enumerate(row) for _ in range(length)]
    for where in WHERES:
        assert aligned(target, source, where).partners.tolist() == whole


def test_characters_in_several_tokens_are_matched_in_full():
    pairs = PreferenceSet((Preference("naïve é:", " café 漢字.", " no"),), "accents")
    source, target = byte_spelling(), merged_spelling()
    found = align_answers(pairs, rows_of(source, pairs), source, target, where="answer")
    assert found.partners[-1] == len(" café 漢字.".encode()) - 1
    n_tokens = len(target.tokenizer(" café 漢字.")["input_ids"])
    assert len(found.partners) == len(set(found.partners.tolist())) == n_tokens


@pytest.mark.parametrize("where", WHERES)
def test_tokens_without_a_partner_are_left_out_at_the_end(where):
    source, target = byte_spelling(), merged_spelling()
    whole, cut = aligned(source, target, where), aligned(source, target, where, cut=4)
    left_out = 0
    pieces = whole.partners.split([len(row.answer) for row in whole.rows])
    for full, row, partners in zip(whole.rows, cut.rows, pieces, strict=True):
        n_read = int((partners < 4).sum())
        assert row == dataclasses.replace(full, ids=full.ids[: full.start + n_read])
        left_out += len(full.answer) - n_read
    assert cut.unmatched == left_out > 0
    assert cut.partners.tolist() == [index for index in whole.partners.tolist() if index < 4]


def test_the_target_has_limits_of_its_own():
    own = merged_spelling()
    found = aligned(own, own, max_answer_tokens=2)
    assert {len(row.answer) for row in found.rows} <= {1, 2}
    assert found.cut_answers == sum(len(row.answer) > 2 for row in rows_of(own)) > 0
    assert found.unmatched == 0
    assert [row.answer for row in found.rows] == [row.answer[:2] for row in rows_of(own)]


def test_prompts_that_the_source_cut_are_recognised():
    own = merged_spelling()
    longest = max(len(row.ids) for row in rows_of(own))
    rows = rows_of(own, max_length=longest - 2)
    assert rows != rows_of(own)
    found = align_answers(PAIRS, rows, own, own, where="answer")
    assert [row.answer for row in found.rows] == [row.answer for row in rows]


def test_more_pairs_than_are_tokenised_at_once():
    own = merged_spelling()
    many = PreferenceSet(tuple(PAIRS.preferences) * 60, "many")
    rows = rows_of(own, many)
    found = align_answers(many, rows, own, byte_spelling(), where="answer")
    single = aligned(own, byte_spelling())
    assert found.rows == single.rows * 60
    assert torch.equal(found.partners, single.partners.repeat(60))


def test_refuses_what_was_not_read():
    own, other = merged_spelling(), byte_spelling()
    rows = rows_of(own)
    turned = PreferenceSet(tuple(reversed(PAIRS.preferences)), "turned")
    with pytest.raises(RahfError, match="row 0 of the source's differences holds other tokens"):
        align_answers(turned, rows, own, own, where="answer")
    asked = [*PAIRS.preferences[:-1], dataclasses.replace(PAIRS.preferences[-1], prompt="The day was")]
    with pytest.raises(RahfError, match="row 4"):
        align_answers(PreferenceSet(tuple(asked), "asked"), rows, own, own, where="answer")
    with pytest.raises(RahfError, match="the model that read them"):
        align_answers(PAIRS, rows, other, own, where="answer")
    with pytest.raises(RahfError, match="holds other tokens"):
        align_answers(PAIRS, rows, own, own, where="answer", answers="rejected")
    with pytest.raises(RahfError, match="give 10 rows with answers='both'"):
        align_answers(PAIRS, rows, own, own, where="answer", answers="both")
    with pytest.raises(RahfError, match="max_length is 300"):
        align_answers(PAIRS, rows, own, own, where="answer", max_length=300)


def test_refuses_an_answer_of_which_nothing_was_read():
    with pytest.raises(RahfError, match="row 0 was cut to 1 tokens, before the end of the target's first"):
        aligned(byte_spelling(), merged_spelling(), cut=1)
    # What predicts the first token is always there.
    assert len(aligned(byte_spelling(), merged_spelling(), "predicting", cut=1).rows) == len(PAIRS)


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "qwen2"])
def test_hooked_and_plain_models_spell_alike(architecture):
    plain = open_plain(tiny_folder(architecture))
    hooked = open_tiny(architecture)
    rows = [rows_of(Spelling.of(model)) for model in (plain, hooked)]
    assert rows[0] == rows[1]
    assert {(each.context, each.d_model) for each in map(Spelling.of, (plain, hooked))} == {(N_CTX, 32)}
