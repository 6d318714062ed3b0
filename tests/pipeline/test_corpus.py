import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contrans_lens.errors import TextError
from contrans_lens.pipeline import Settings, build_corpus

STORIES = [f"Number {i} was a fox who ran over the hill and came home late. It slept." for i in range(60)]


@settings(max_examples=30, deadline=None)
@given(n=st.integers(min_value=15, max_value=60), most=st.integers(min_value=1, max_value=20))
def test_no_text_fits_a_map_and_measures_damage(n: int, most: int):
    corpus = build_corpus(STORIES[:n], None, Settings(max_neutral_texts=most))
    assert 1 <= len(corpus.neutral_texts) <= most
    for neutral in corpus.neutral_texts:
        assert not any(neutral.startswith(text) for text in corpus.map_texts)


def test_whole_texts_are_cut_and_open_ones_are_kept():
    open_ended = [f"the capital of land {i} is" for i in range(20)]
    corpus = build_corpus(STORIES[:20] + open_ended, ["a b c."], Settings())
    assert set(open_ended) <= set(corpus.map_texts)
    assert not any(text.endswith(".") for text in corpus.map_texts)
    assert corpus.neutral_texts == ("a b c.",)


def test_the_number_of_texts_is_bounded():
    corpus = build_corpus(STORIES, None, Settings(max_map_texts=25))
    assert len(corpus.map_texts) <= 25


def test_without_texts_the_shipped_corpus_is_used():
    corpus = build_corpus(None, None, Settings(max_map_texts=100))
    assert len(corpus.map_texts) >= 50


def test_too_few_texts_for_both_roles_are_refused():
    with pytest.raises(TextError, match="too few"):
        build_corpus(["one text only"], None, Settings())
