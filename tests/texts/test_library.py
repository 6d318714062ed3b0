import re
from collections import Counter
from difflib import SequenceMatcher

import pytest

from contrans_lens.errors import TextError
from contrans_lens.texts import EMOTION_TEMPLATE, EMOTIONS, builtin_concepts, load_concept

EXPECTED = {*EMOTIONS, "honesty", "sentiment", "politeness", "refusal", "fairness"}


def words(text):
    return len(text.split())


def test_every_promised_concept_ships():
    assert set(builtin_concepts()) == EXPECTED


@pytest.mark.parametrize("name", sorted(EXPECTED))
class TestBuiltin:
    def test_has_enough_pairs_groups_items_and_a_cue(self, name):
        concept = load_concept(name)
        assert concept.name == name
        assert concept.paired
        assert len(concept.positives) >= 40
        groups = Counter(concept.positive_groups)
        assert len(groups) >= 8
        assert max(groups.values()) <= 6
        assert len(concept.evaluation) >= 24
        assert concept.prompt is not None
        assert concept.content_hash == load_concept(name).content_hash

    def test_texts_are_all_different_and_trimmed(self, name):
        texts = load_concept(name).texts()
        assert len(set(texts[: len(texts) // 2])) == len(texts) // 2
        for text in texts:
            assert text == text.strip()
            assert "  " not in text

    def test_pairs_are_matched_in_length_and_end_alike(self, name):
        concept = load_concept(name)
        total = [sum(map(words, side)) for side in (concept.positives, concept.negatives)]
        assert abs(total[0] - total[1]) < 0.05 * sum(total)
        for positive, negative in concept.pairs():
            assert abs(words(positive) - words(negative)) <= 6, (positive, negative)
            # Both are read at the same kind of token: they end in the same words.
            assert positive.split()[-1] == negative.split()[-1], (positive, negative)

    def test_texts_are_not_one_template(self, name):
        concept = load_concept(name)
        openings = Counter(" ".join(text.split()[:5]) for text in concept.positives)
        assert max(openings.values()) <= 4
        first_of_group = dict(zip(concept.positive_groups, concept.positives, strict=True))
        texts = list(first_of_group.values())
        for index, one in enumerate(texts):
            for other in texts[index + 1 :]:
                assert SequenceMatcher(None, one.split(), other.split()).ratio() < 0.5

    def test_items_are_well_formed_and_balanced(self, name):
        items = load_concept(name).evaluation
        assert len({(item.prompt, item.positive, item.negative) for item in items}) == len(items)
        for item in items:
            assert item.prompt == item.prompt.strip()
            for continuation in (item.positive, item.negative):
                assert continuation.startswith(" ") is not item.prompt.endswith('"')
                assert continuation == continuation.rstrip()
                assert words(continuation) <= 6
            assert abs(words(item.positive) - words(item.negative)) <= 1
            # They part early, so that the score does not hang on a shared beginning.
            assert item.positive.split()[:2] != item.negative.split()[:2]

    def test_split_keeps_topics_apart_and_has_items_to_choose_and_to_report(self, name):
        concept = load_concept(name)
        for seed in range(3):
            splits = concept.split(seed=seed)
            assert len(splits.train.positives) >= 20
            assert len(splits.validation.evaluation) >= 12
            assert len(splits.test.evaluation) >= 12
            assert not set(splits.train.positive_groups) & set(splits.test.positive_groups)
        # Evaluation topics are never contrast topics.
        assert not {item.group for item in concept.evaluation} & set(concept.positive_groups)


@pytest.mark.parametrize("emotion", EMOTIONS)
def test_emotions_are_scored_against_each_other_emotion_in_the_papers_template(emotion):
    concept = load_concept(emotion)
    against = Counter(item.negative.strip() for item in concept.evaluation)
    assert set(against) == set(EMOTIONS) - {emotion}
    assert max(against.values()) - min(against.values()) <= 3
    head, tail = EMOTION_TEMPLATE.text.split("{text}")
    for item in concept.evaluation:
        assert item.positive == f" {emotion}"
        assert item.prompt.startswith(head)
        assert item.prompt.endswith(tail)
        scenario = item.prompt.removeprefix(head).removesuffix(tail)
        assert not set(re.findall(r"\w+", scenario.lower())) & set(EMOTIONS)
    # No text names an emotion: the word itself would give the answer away.
    named = re.compile(rf"\b({'|'.join(EMOTIONS)}|happy|sad|angry|afraid|disgusting|surprised)\b", re.IGNORECASE)
    assert not [text for text in concept.texts() if named.search(text)]


def test_honest_answers_are_not_a_matter_of_yes_or_no():
    items = load_concept("honesty").evaluation
    yes = [sum(side.strip().startswith("Yes") for side in sides) for sides in ((i.positive, i.negative) for i in items)]
    honest_yes = sum(item.positive.strip().startswith("Yes") for item in items)
    assert 0.25 <= honest_yes / sum(yes) <= 0.75


def test_load_concept_takes_a_path_and_says_what_it_knows(tmp_path):
    path = load_concept("honesty").save(tmp_path / "mine.json")
    assert load_concept(path) == load_concept("honesty") == load_concept(str(path))
    with pytest.raises(TextError, match="Built-in: anger"):
        load_concept("honestly")
