"""Pairs across tokenizers: both members stand for the text up to the same character."""

from dataclasses import replace

import pytest
import torch

from contrans_lens.errors import CaptureError
from contrans_lens.models import TokenBatch, resid_post, tokenize
from contrans_lens.residuals import CharSpan, LastToken, MeanOver, PairedResiduals, TokenEnds, capture, capture_pair
from contrans_lens.residuals.pairs import _same_places, _shared_ends
from tests.tiny_models import TEXTS, open_tiny

TEXTS = list(TEXTS)


@pytest.fixture
def models():
    return open_tiny("gpt2", "bridge"), open_tiny("llama", "bridge")


def batch_of(rows, truncated=None):
    """A right-padded batch without BOS from the characters of each token."""
    width = max(map(len, rows))
    mask = torch.tensor([[i < len(row) for i in range(width)] for row in rows])
    return TokenBatch(mask.long(), mask, False, "right", tuple(map(tuple, rows)), truncated or (0,) * len(rows))


def test_text_ends_are_paired_whatever_the_tokens(models):
    source, target = models
    pair = capture_pair(source, target, TEXTS)
    assert pair.coverage == 1.0
    assert torch.equal(pair.text_index, torch.arange(4))
    torch.testing.assert_close(pair.source.tensor(), capture(source, TEXTS).tensor(), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(pair.target.tensor(), capture(target, TEXTS).tensor(), atol=1e-6, rtol=1e-6)


def test_texts_whose_end_one_model_cannot_see_are_left_out_and_counted(models):
    text = "one two three"
    whole = [(0, 3), (3, 7), (7, 13)]
    cut = [(0, 3), (3, 7)]  # truncated on the right
    kept, positions, coverage = _same_places(
        iter([(0, [text] * 3, batch_of([whole, whole, cut]), batch_of([whole, cut, whole]))]), LastToken()
    )
    assert (kept, positions, coverage) == ([0], LastToken(), 1 / 3)


def test_white_space_at_the_end_is_no_difference():
    kept, _, coverage = _same_places(
        iter([(5, ["ab "], batch_of([[(0, 2), (2, 3)]]), batch_of([[(0, 2)]]))]), LastToken()
    )
    assert (kept, coverage) == ([5], 1.0)


@pytest.mark.parametrize(("reduce", "expected"), [("mean", [0, 1]), ("last", [0, 1, 2]), ("first", [0, 1, 3])])
def test_spans_are_paired_where_the_tokenizers_agree_about_them(reduce, expected):
    text = "one two three"
    source = batch_of([[(0, 3), (3, 7), (7, 13)]] * 3 + [[(0, 3), (3, 5), (5, 13)]])
    target = batch_of(
        [
            [(0, 3), (4, 7), (8, 13)],  # white space belongs to other tokens: no difference
            [(0, 3), (3, 7), (7, 13)],
            [(0, 2), (2, 5), (5, 7), (7, 13)],  # begins in another word, ends at the same character
            [(0, 3), (3, 5), (5, 6), (6, 13)],  # only the first token is the same
        ]
    )
    if reduce != "first":
        target = replace(target, offsets=(*target.offsets[:3], ((0, 3), (3, 5), (5, 9), (9, 13))))
    kept, positions, coverage = _same_places(iter([(0, [text] * 4, source, target)]), CharSpan(((4, 7),) * 4, reduce))
    assert kept == expected
    assert coverage == len(expected) / 4
    assert positions.spans == ((4, 7),) * len(expected)


def test_token_ends_are_the_shared_ones_without_first_tokens():
    source = batch_of([[(0, 3), (3, 5), (5, 7), (7, 13)], [(0, 3), (3, 5)]])
    target = batch_of([[(0, 2), (2, 3), (3, 7), (7, 13)], [(0, 5)]])
    kept, positions, coverage = _shared_ends(iter([(0, ["x" * 13, "x" * 5], source, target)]), None, 0)
    assert kept == [0]
    assert positions == TokenEnds(((7, 13),))
    assert coverage == 2 / 4  # of the source's ends 5, 7, 13 and 5


def test_pairs_at_token_ends_stand_for_the_same_prefix(models):
    source, target = models
    pair = capture_pair(source, target, TEXTS, pairing="token_ends")
    assert 0 < pair.coverage <= 1
    ends = [(text, end) for text, ends in enumerate(pair.source.positions.ends) for end in ends]
    assert pair.text_index.tolist() == [text for text, _ in ends]
    assert len(ends) == pair.n_examples > len(TEXTS)
    for index in (0, len(ends) // 2, len(ends) - 1):
        text, end = ends[index]
        for store, model in ((pair.source, source), (pair.target, target)):
            # A causal model's residual at a token is that of the text cut after it, where the cut keeps the tokens.
            whole, prefix = (tokenize(model, [value]) for value in (TEXTS[text], TEXTS[text][:end]))
            length = prefix.tokens.shape[1]
            if torch.equal(whole.tokens[:, :length], prefix.tokens):
                expected = capture(model, [TEXTS[text][:end]]).tensor()[0]
                torch.testing.assert_close(store.tensor()[index], expected, atol=1e-5, rtol=1e-5)


def test_at_most_so_many_token_ends_are_drawn_from_a_text_by_the_seed(models):
    source, target = models
    drawn = [
        capture_pair(source, target, TEXTS, pairing="token_ends", per_text=2, seed=seed).source.positions
        for seed in (0, 0, 1)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    assert all(1 <= len(ends) <= 2 for ends in drawn[0].ends)


def test_hook_points_stores_and_selection_go_through(models, tmp_path):
    source, target = models
    pair = capture_pair(
        source, target, TEXTS, source_hook_points=[resid_post(1)], target_hook_points=[resid_post(2)], store=tmp_path
    )
    assert pair.source.hook_points == (resid_post(1),)
    assert pair.target.hook_points == (resid_post(2),)
    assert {path.name for path in tmp_path.iterdir()} == {"source", "target"}
    some = pair.select([2, 0])
    assert torch.equal(some.source.tensor(), pair.source.tensor()[[2, 0]])
    assert torch.equal(some.target.tensor(), pair.target.tensor()[[2, 0]])
    assert some.text_index.tolist() == [2, 0]


def test_span_pairing_keeps_the_spans_of_the_kept_texts(models):
    source, target = models
    texts = [*TEXTS, "The little girl ran."]
    spans = tuple((0, len(text)) for text in texts)
    pair = capture_pair(source, target, texts, pairing=CharSpan(spans))
    assert pair.coverage == 1.0
    expected = capture(target, texts, positions=MeanOver()).tensor()
    torch.testing.assert_close(pair.target.tensor(), expected, atol=1e-5, rtol=1e-5)


def test_nothing_to_pair_is_an_error(models):
    with pytest.raises(CaptureError, match="no text could be read at the same place"):
        capture_pair(*models, ["ab"], pairing=CharSpan(((5, 9),)))


def test_stores_captured_in_turn_are_paired(models):
    source, target = (capture(model, TEXTS) for model in models)
    pair = PairedResiduals.from_stores(source, target)
    assert (pair.coverage, pair.n_examples) == (1.0, 4)
    with pytest.raises(CaptureError, match="different texts"):
        PairedResiduals.from_stores(source, capture(models[1], TEXTS[::-1]))
    with pytest.raises(CaptureError, match="may fall on different characters"):
        PairedResiduals.from_stores(*(capture(model, TEXTS, positions=MeanOver()) for model in models))
    with pytest.warns(UserWarning, match="too long"):
        cut = [capture(model, TEXTS, max_length=14, truncate="left") for model in models]
    with pytest.raises(CaptureError, match="truncated"):
        PairedResiduals.from_stores(*cut)
