import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contrans_lens.errors import TextError
from contrans_lens.texts import cut_before, cut_texts, generic_texts

SENTENCES = st.lists(
    st.text(alphabet="ab c.d!", min_size=1, max_size=60).filter(lambda text: bool(text.strip())),
    min_size=1,
    max_size=8,
)


@settings(max_examples=80, deadline=None)
@given(SENTENCES, st.integers(1, 4), st.integers(0, 99))
def test_a_cut_is_a_head_that_ends_in_mid_sentence(texts, min_words, seed):
    try:
        pieces = cut_texts(texts, seed=seed, min_words=min_words)
    except TextError:
        return
    assert pieces == cut_texts(texts, seed=seed, min_words=min_words)
    assert len(set(pieces)) == len(pieces) <= len(texts)
    for piece in pieces:
        assert len(piece.split()) >= min_words
        assert not piece.endswith((".", "!", " "))
        # The head of some text, and that text goes on after a space.
        assert any(re.match(re.escape(piece) + r"\s+\S", text.lstrip()) for text in texts)


def test_many_pieces_use_every_text_before_any_twice():
    texts = [f"text {k} has a good number of words in it, and then it ends." for k in range(10)]
    pieces = cut_texts(texts, 25, seed=1)
    heads = [piece.split()[1] for piece in pieces]
    assert len(set(pieces)) == 25
    assert sorted(heads[:10]) == sorted(map(str, range(10))) == sorted(heads[10:20])
    assert cut_texts(texts, 25, seed=2) != pieces


def test_the_paper_takes_two_to_four_words_off():
    texts = [f"number {k} stands at the head of this sentence, which ends here." for k in range(40)]
    taken = {len(texts[0].split()) - len(piece.split()) for piece in cut_texts(texts, removed=(2, 4))}
    assert taken == {2, 3, 4}


def test_long_texts_are_cut_to_pieces_that_begin_at_a_sentence():
    text = " ".join(f"Sentence {k} goes on for a while and stops." for k in range(30))
    pieces = cut_texts([text], 60, max_words=12, min_words=3)
    assert all(piece.startswith("Sentence ") and 3 <= len(piece.split()) <= 12 for piece in pieces)
    assert len({piece.split()[1] for piece in pieces}) > 15


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"texts": ["Two words."]}, "can be cut"),
        ({"texts": ["one two three four five six."], "n": 50}, "different pieces"),
        ({"texts": ["one two three four five six."], "min_words": 0}, "min_words"),
        ({"texts": ["one two three four five six."], "n": 0}, "n=0"),
        ({"texts": ["one two three four five six.", " "]}, "text 1"),
    ],
)
def test_cuts_that_cannot_be_made_are_refused(arguments, word):
    with pytest.raises(TextError, match=word):
        cut_texts(**arguments)


def test_cut_before_ends_where_the_decision_falls():
    text = "Q: One and one? Answer: two. Q: Two and two? Answer: four."
    assert cut_before([text], "Answer:") == ["Q: One and one? Answer: two. Q: Two and two? Answer:"]
    assert cut_before([text], "Answer:", occurrence="first") == ["Q: One and one? Answer:"]
    assert cut_before([text], "Answer:", keep_marker=False) == ["Q: One and one? Answer: two. Q: Two and two?"]
    assert cut_before([text, "nothing"], "Answer:", missing="drop") == cut_before([text], "Answer:")
    with pytest.raises(TextError, match="text 1 has no marker"):
        cut_before([text, "nothing"], "Answer:")
    with pytest.raises(TextError, match="none of 1"):
        cut_before(["nothing"], "Answer:", missing="drop")
    with pytest.raises(TextError, match="stands before"):
        cut_before(["Answer: four"], "Answer:", keep_marker=False)


def test_generic_texts_are_many_different_and_decided_by_the_seed():
    texts = generic_texts(2000, seed=0)
    assert len(set(texts)) == 2000
    assert generic_texts(300, seed=0) == texts[:300]
    assert len(set(generic_texts(300, seed=1)) & set(texts[:300])) < 15
    # Varied: the commonest opening pair of words stands at the head of few texts.
    openings = [" ".join(text.split()[:2]) for text in texts]
    assert max(openings.count(opening) for opening in set(openings)) < 0.12 * len(texts)
    assert len({word for text in texts for word in re.findall(r"[a-z]+", text.lower())}) > 1000


def test_generic_texts_are_clean_sentences():
    for text in generic_texts(1500, seed=4):
        assert "{" not in text
        assert "}" not in text
        assert "  " not in text
        assert text[0].isupper() or text[0] == '"'
        assert text[-1] in '."'
        assert not re.search(r"\b[Aa] [aeio]", text), text


def test_generic_texts_can_be_cut_for_a_map():
    assert len(cut_texts(generic_texts(800), 2000)) == 2000
    with pytest.raises(TextError, match="at least one"):
        generic_texts(0)
