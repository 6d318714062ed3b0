"""Positions against slices and searches in plain Python, on hand-made batches."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contrans_lens.errors import CaptureError
from contrans_lens.models import TokenBatch
from contrans_lens.residuals import (
    CharSpan,
    EachToken,
    LastToken,
    MeanOver,
    RelativeTo,
    TokenEnds,
    positions_from_dict,
)

TEXTS = ["the answer is: yes", "no", "is: it is: so"]


def word_batch(texts, *, side="right", bos=True, cut=None):
    """A batch of one token a word, with the words' characters; token id 0 is BOS, EOS and padding at once."""
    rows = []
    for text in texts:
        spans, at = [(0, 0)] if bos else [], 0
        for word in text.split(" "):
            spans.append((at, at + len(word)))
            at += len(word) + 1
        rows.append(tuple(spans))
    width = max(map(len, rows))
    tokens = torch.zeros(len(rows), width, dtype=torch.int64)
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    for row, spans in enumerate(rows):
        place = slice(0, len(spans)) if side == "right" else slice(width - len(spans), None)
        mask[row, place] = True
        tokens[row, place] = torch.arange(len(spans)) if bos else torch.arange(1, len(spans) + 1)
    return TokenBatch(tokens, mask, bos, side, tuple(rows), cut or (0,) * len(rows))


def read(positions, batch, texts):
    """Token ids read by each example (ids count the tokens of a row)."""
    weights = positions.weights(batch, texts)
    rows = positions.resolve(batch, texts).row
    assert torch.allclose(weights.sum(dim=1), torch.ones(len(weights)))
    assert not (weights[~batch.mask[rows]] != 0).any()
    return [batch.tokens[row][weight > 0].tolist() for row, weight in zip(rows, weights, strict=True)]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("bos", [True, False])
def test_last_token_is_the_last_real_one_whatever_the_padding(side, bos):
    assert read(LastToken(), word_batch(TEXTS, side=side, bos=bos), TEXTS) == [[4], [1], [4]]


@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    start=st.integers(-9, 9),
    stop=st.none() | st.integers(-9, 9),
    side=st.sampled_from(["left", "right"]),
    bos=st.booleans(),
    include=st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_mean_over_takes_the_tokens_of_a_python_slice(lengths, start, stop, side, bos, include):
    texts = [" ".join("w" * n) for n in lengths]
    batch = word_batch(texts, side=side, bos=bos)
    own = [list(range(0 if bos and include else 1, n + 1)) for n in lengths]
    expected = [tokens[start:stop] for tokens in own]
    positions = MeanOver((start, stop), include_bos=include)
    if all(expected):
        assert read(positions, batch, texts) == expected
    else:
        with pytest.raises(CaptureError, match=f"text {expected.index([])} "):
            positions.resolve(batch, texts)


@pytest.mark.parametrize("side", ["left", "right"])
def test_each_token_is_an_example_and_bos_is_left_out(side):
    batch = word_batch(TEXTS, side=side)
    assert read(EachToken(), batch, TEXTS) == [[1], [2], [3], [4], [1], [1], [2], [3], [4]]
    assert EachToken(include_bos=True).resolve(batch, TEXTS).row.tolist() == [0] * 5 + [1] * 2 + [2] * 5
    only_bos = TokenBatch(torch.zeros(1, 1).long(), torch.ones(1, 1).bool(), True, side, (((0, 0),),), (0,))
    with pytest.raises(CaptureError, match="text 10 has no token beside BOS"):
        EachToken().resolve(only_bos, ["x"], 10)


@pytest.mark.parametrize("side", ["left", "right"])
def test_relative_to_counts_from_the_token_of_a_marker(side):
    texts = [TEXTS[0], TEXTS[2]]
    batch = word_batch(texts, side=side)
    assert read(RelativeTo("is:"), batch, texts) == [[3], [3]]
    assert read(RelativeTo("is:", occurrence="first"), batch, texts) == [[3], [1]]
    assert read(RelativeTo("is:", offset=1), batch, texts) == [[4], [4]]
    one = word_batch(texts[:1], side=side)
    assert read(RelativeTo("answer is", edge="start", offset=-1), one, texts[:1]) == [[1]]


def test_relative_to_says_which_text_has_no_marker_or_is_too_short():
    batch = word_batch(TEXTS)
    with pytest.raises(CaptureError, match=r"text 101 has no marker 'is:'"):
        RelativeTo("is:").resolve(batch, TEXTS, 100)
    with pytest.raises(CaptureError, match=r"text 0: offset 2 .* has 5 tokens"):
        RelativeTo("is:", offset=2).resolve(word_batch(TEXTS[:1]), TEXTS[:1])
    with pytest.raises(CaptureError, match="empty marker"):
        RelativeTo("").resolve(batch, TEXTS)


@pytest.mark.parametrize("side", ["left", "right"])
def test_char_span_reads_the_tokens_that_overlap(side):
    batch = word_batch(TEXTS, side=side)
    spans = ((2, 6), (0, 1), (7, 12))  # "e an", "n", " is: "
    assert read(CharSpan(spans), batch, TEXTS) == [[1, 2], [1], [3, 4]]
    assert read(CharSpan(spans, reduce="first"), batch, TEXTS) == [[1], [1], [3]]
    assert read(CharSpan(spans, reduce="last"), batch, TEXTS) == [[2], [1], [4]]
    assert read(CharSpan(((0, 2),)), batch, TEXTS) == [[1], [1], [1]]


def test_char_span_refuses_what_is_not_in_the_text():
    batch = word_batch(TEXTS)
    with pytest.raises(CaptureError, match=r"text 1: characters \(0, 3\) are not a range within its 2"):
        CharSpan(((0, 3),)).resolve(batch, TEXTS)
    with pytest.raises(CaptureError, match="2 ranges and text 2 has none"):
        CharSpan(((0, 1), (0, 1))).resolve(batch, TEXTS)
    with pytest.raises(CaptureError, match=r"no token over characters \(3, 4\)"):
        CharSpan(((3, 4),)).resolve(word_batch(TEXTS[:1]), TEXTS[:1])


def test_char_span_refuses_characters_that_truncation_cut_into():
    whole = word_batch(["the answer is"], bos=False)
    kept = TokenBatch(whole.tokens[:, 1:], whole.mask[:, 1:], False, "right", (whole.offsets[0][1:],), (1,))
    assert read(CharSpan(((4, 10),)), kept, ["the answer is"]) == [[2]]
    with pytest.raises(CaptureError, match="truncation cut into characters"):
        CharSpan(((0, 10),)).resolve(kept, ["the answer is"])
    with pytest.raises(CaptureError, match="1 tokens were cut"):
        CharSpan(((0, 3),)).resolve(kept, ["the answer is"])


@pytest.mark.parametrize("side", ["left", "right"])
def test_token_ends_reads_several_tokens_of_a_text(side):
    batch = word_batch(TEXTS, side=side)
    positions = TokenEnds(((3, 18), (), (10,)))
    assert read(positions, batch, TEXTS) == [[1], [4], [3]]
    assert positions.resolve(batch, TEXTS).row.tolist() == [0, 0, 2]
    with pytest.raises(CaptureError, match="text 0 has no token that ends at character 4"):
        TokenEnds(((4,), (), ())).resolve(batch, TEXTS)


@pytest.mark.parametrize(
    "positions",
    [
        LastToken(),
        MeanOver((-3, None), include_bos=True),
        EachToken(),
        RelativeTo("Answer:", offset=-1, edge="start", occurrence="first"),
        CharSpan(((0, 4), (1, 2)), reduce="last"),
        TokenEnds(((3, 4), ())),
    ],
)
def test_every_position_survives_json(positions):
    assert positions_from_dict(json.loads(json.dumps(positions.to_dict()))) == positions


def test_unknown_or_misshapen_positions_are_refused():
    with pytest.raises(CaptureError, match="unknown position kind 'middle'"):
        positions_from_dict({"kind": "middle"})
    with pytest.raises(CaptureError, match="cannot be read"):
        positions_from_dict({"kind": "last_token", "colour": 1})
