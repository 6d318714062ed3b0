import json
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contrans_lens.errors import TextError
from contrans_lens.evaluation.lexicon import (
    Lexicon,
    builtin_lexicons,
    emotion_lexicon,
    load_lexicon,
    refusal,
)
from contrans_lens.texts import EMOTIONS

WEATHER = Lexicon(
    "weather",
    positive=("sunny", "warm*", "blue sky", "not bad"),
    negative=("rain", "bad", "can't go out"),
    negations=("not", "never", "*n't"),
)


def score(lexicon, text):
    return lexicon.score([text]).item()


@pytest.mark.parametrize(
    ("text", "hits"),
    [
        ("", (0, 0)),
        ("nothing of the kind", (0, 0)),
        ("Sunny, SUNNY, sunny!", (3, 0)),
        ("unsunny sunnyside rainy train", (0, 0)),
        ("warm warmer warmth lukewarm", (3, 0)),
        ("a blue\n  sky, a bluesky", (1, 0)),
        ("sunny after rain", (1, 1)),
        ("We can’t go out; we CAN'T GO OUT", (0, 2)),
        ("not bad", (1, 0)),  # the longer phrase, and not a negated "bad"
        ("not so bad", (1, 0)),
        ("not sunny", (0, 1)),
        ("it isn’t very warm", (0, 1)),
        ("never not sunny", (1, 0)),  # two negations cancel
        ("not a very nice sunny day", (1, 0)),  # four words before: out of the window
        ("Not now. Sunny later.", (1, 0)),  # another clause
        ("no rain", (0, 1)),  # "no" is not among the negations of this lexicon
    ],
)
def test_phrases_are_counted_as_written(text, hits):
    assert tuple(WEATHER.hits([text])[0].tolist()) == hits


def test_the_score_is_the_balance_of_hits():
    texts = ["sunny", "rain rain", "sunny warm rain", "sunny rain", "", "cloud"]
    found = WEATHER.score(texts)
    assert found.dtype == torch.float64
    assert found.tolist() == pytest.approx([1, -1, 1 / 3, 0, 0, 0])
    assert WEATHER.score([]).shape == (0,)
    assert WEATHER.hits([]).shape == (0, 2)


def test_the_switches_of_a_lexicon():
    plain = {"positive": ("May",), "negative": ("June",), "negations": ("not",)}
    assert score(Lexicon("x", **plain), "may") == 1
    assert score(Lexicon("x", **plain, case_sensitive=True), "may") == 0
    assert score(Lexicon("x", **plain, case_sensitive=True), "May") == 1
    assert score(Lexicon("x", **plain), "not May") == -1
    assert score(Lexicon("x", **plain, negated="drop"), "not May") == 0
    assert score(Lexicon("x", **plain, window=0), "not May") == 1
    assert score(Lexicon("x", **plain, window=1), "not in May") == 1
    near = Lexicon("x", **plain, within=3)
    assert [score(near, text) for text in ("it is May", "it is now May", "May - it is June")] == [1, 0, 1]


WORDS = st.lists(st.sampled_from(["sunny", "rain", "bad", "a", "cloud", "not", "warmer", "."]), max_size=12)


@settings(deadline=None)
@given(WORDS)
def test_scores_are_bounded_and_turn_when_the_sides_are_exchanged(words):
    plain = {"negations": ("not",), "window": 2}
    one = Lexicon("x", ("sunny", "warm*"), ("rain", "bad"), **plain)
    other = Lexicon("x", ("rain", "bad"), ("sunny", "warm*"), **plain)
    text = " ".join(words)
    assert -1 <= score(one, text) <= 1
    assert score(one, text) == -score(other, text)
    assert one.hits([text.upper()]).tolist() == one.hits([text]).tolist() == other.hits([text]).flip(1).tolist()


@settings(deadline=None)
@given(st.lists(st.sampled_from(["sunny", "rain", "cloud", "warmth"]), max_size=10), st.integers(0, 99))
def test_without_negations_the_order_of_words_does_not_matter(words, seed):
    lexicon = Lexicon("x", ("sunny", "warm*"), ("rain",))
    moved = random.Random(seed).sample(words, len(words))
    expected = sum(word in ("sunny", "warmth") for word in words), words.count("rain")
    assert tuple(lexicon.hits([" ".join(moved)])[0].tolist()) == expected


@pytest.mark.parametrize(
    ("row", "word"),
    [
        ({"positive": [], "negative": []}, "no phrases"),
        ({"positive": ["a", " "]}, "empty"),
        ({"positive": ["a", 3]}, "int"),
        ({"positive": "happy"}, "list of phrases"),
        ({"positive": ["*"]}, "found everywhere"),
        ({"positive": ["Good"], "negative": ["good"]}, "both sides"),
        ({"positive": ["good"], "negations": ["not at"]}, "single words"),
        ({"positive": ["good"], "window": -1}, "window=-1"),
        ({"positive": ["good"], "within": 0}, "within=0"),
        ({"positive": ["good"], "within": "ten"}, "'within'.*int"),
        ({"positive": ["good"], "window": True}, "'window'.*int"),
        ({"positive": ["good"], "case_sensitive": 1}, "case_sensitive"),
        ({"positive": ["good"], "negatve": ["bad"]}, "negatve"),
        ({"negative": ["bad"]}, "needs 'positive'"),
        ({"positive": ["good"], "name": " "}, "name of a lexicon"),
        (["good"], "JSON list"),
    ],
)
def test_a_bad_lexicon_file_is_refused_with_path_and_reason(tmp_path, row, word):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(row))
    with pytest.raises(TextError, match=word) as caught:
        load_lexicon(path)
    assert "mine.json" in str(caught.value)


def test_ones_own_lexicon_is_read_with_the_name_of_its_file(tmp_path):
    path = tmp_path / "weather.json"
    row = {
        "positive": list(WEATHER.positive),
        "negative": list(WEATHER.negative),
        "negations": ["not", "never", "*n’t"],
    }
    path.write_text(json.dumps(row), encoding="utf-8")
    assert load_lexicon(path) == WEATHER
    path.write_text("{")
    with pytest.raises(TextError, match=r"weather\.json is not JSON"):
        load_lexicon(str(path))
    with pytest.raises(TextError, match="Built-in: refusal, sentiment"):
        load_lexicon("sentimental")


def test_one_string_is_not_a_list_of_texts():
    for call in (WEATHER.hits, WEATHER.score, refusal):
        with pytest.raises(TextError, match="one string"):
            call("sunny")


def test_the_lexicons_that_ship():
    assert builtin_lexicons() == ("refusal", "sentiment")
    sentiment = load_lexicon("sentiment")
    assert load_lexicon("sentiment") is sentiment
    for side in (sentiment.positive, sentiment.negative):
        assert len(side) == len(set(side)) > 100
        for number, word in enumerate(side):
            assert score(sentiment, f"It was {word} to us.") == (1 if side is sentiment.positive else -1), number
            assert score(sentiment, f"It was not {word} to us.") == (-1 if side is sentiment.positive else 1), number


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I am so happy today.", 1),
        ("I am not happy today.", -1),
        ("This isn’t a good film, it is terrible.", -1),
        ("No, I love it!", 1),
        ("The food was delicious but the waiter was rude.", 0),
        ("The train leaves at noon.", 0),
        ("There was nothing wrong with it.", 1),
    ],
)
def test_sentiment_of_plain_sentences(text, expected):
    assert score(load_lexicon("sentiment"), text) == expected


REFUSALS = [
    "I'm sorry, but I can't help with that.",
    "I’m sorry, but I can’t assist with that request.",
    "I CANNOT provide instructions for this.",
    "Unfortunately, I am unable to do this.",
    "No. I won't help you with that, it would hurt people.",
    "Thank you for asking. That is a serious matter, and I must decline.",
    "  \n I refuse to write that.",
]
ANSWERS = [
    "",
    "Sure! First, you boil the water.",
    "I can help with that.",
    "I can't help but smile when I think of the sea.",
    "Sorry to hear that you are ill. Drink tea and rest.",
    "She cannot provide for her family.",
    "word " * 30 + "I'm sorry, but I can't help with that.",
]


def test_refusals_are_told_from_answers():
    found = refusal([*REFUSALS, *ANSWERS])
    assert found.dtype == torch.float64
    assert found.tolist() == [1.0] * len(REFUSALS) + [-1.0] * len(ANSWERS)
    lexicon = load_lexicon("refusal")
    assert len(lexicon.positive) >= 40
    assert all(refusal([f"Well, {phrase} you."]).item() == 1.0 for phrase in lexicon.positive)
    assert refusal(["Nope.", "Sure"], Lexicon("blunt", ("nope",))).tolist() == [1.0, -1.0]


def test_stories_refuse_nothing(shared_dir):
    from contrans_lens.texts import read_texts

    stories = read_texts(shared_dir / "data/tinystories/stories.jsonl")
    assert (refusal(stories) == 1).sum() <= 2
    found = load_lexicon("sentiment").score(stories)
    assert 0.2 < found.mean() < 0.8  # stories for children: friendly on the whole, and with some trouble


@pytest.mark.parametrize("emotion", EMOTIONS)
def test_every_emotion_has_words_of_its_own(emotion):
    lexicon = emotion_lexicon(emotion)
    assert len(lexicon.positive) >= 20
    assert score(lexicon, f"He felt {emotion}.") == 1
    for other in set(EMOTIONS) - {emotion}:
        assert score(lexicon, f"He felt {other}.") == -1
    assert score(lexicon, f"He felt no {emotion}.") == 0
    with pytest.raises(TextError, match="boredom"):
        emotion_lexicon("boredom")
