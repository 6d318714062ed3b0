import json
import random
from collections import Counter, defaultdict
from itertools import chain, pairwise

import pytest

from contrans_lens.errors import TestbedError as UnknownConceptError
from contrans_lens.testbed import concept, concept_names, map_texts, neutral_texts
from contrans_lens.testbed.documents import FULL, WEAK, DocumentGenerator
from contrans_lens.testbed.phrases import IMPLICIT_CUES, OTHER_QUESTIONS
from contrans_lens.testbed.world import (
    EMOTIONS,
    EVENTS,
    SOURCE_PART,
    TEST_BLOCKS,
    THINGS,
    VALIDATION_BLOCKS,
    build_world,
)

UNSEEN_LANDS = tuple(land.name for land in build_world().lands if land.block in VALIDATION_BLOCKS + TEST_BLOCKS)
UNSEEN_EVENTS = EVENTS[SOURCE_PART.stop :]
UNSEEN_THINGS = tuple(f"for a {thing}." for thing in THINGS[SOURCE_PART.stop :])
UNSEEN = UNSEEN_LANDS + UNSEEN_EVENTS + UNSEEN_THINGS


def documents(knowledge, count, seed):
    stream = DocumentGenerator(build_world(), knowledge).stream(random.Random(seed))
    return [next(stream) for _ in range(count)]


def mentions(texts, phrases):
    return [phrase for phrase in phrases if any(phrase in text for text in texts)]


@pytest.mark.parametrize("name", concept_names())
def test_concept_files_are_json_and_complete(name):
    file = concept(name)
    assert json.loads(json.dumps(file)) == file
    assert file["name"] == name
    assert file["paired"]
    assert len(file["positive"]) == len(file["negative"])
    assert [len(file["groups"][side]) for side in ("positive", "negative")] == [len(file["positive"])] * 2
    assert len(set(file["positive"])) > 1
    assert not set(file["positive"]) & set(file["negative"])
    assert set(file["prompt"]) == {"positive", "negative"}


@pytest.mark.parametrize("name", concept_names())
def test_concepts_are_deterministic_and_wording_follows_the_seed(name):
    assert concept(name) == concept(name)
    assert concept(name, seed=1)["positive"] != concept(name)["positive"]
    assert concept(name, seed=1)["evaluation"] == concept(name)["evaluation"]


@pytest.mark.parametrize("name", concept_names())
def test_contrast_texts_name_nothing_that_the_sources_never_saw(name):
    file = concept(name)
    assert mentions(file["positive"] + file["negative"], UNSEEN) == []


@pytest.mark.parametrize("name", concept_names())
def test_every_evaluation_prompt_is_about_something_no_source_saw(name):
    for item in concept(name)["evaluation"]:
        assert mentions([item["prompt"]], UNSEEN), item["prompt"]


@pytest.mark.parametrize("name", concept_names())
def test_splits_do_not_share_groups(name):
    groups = defaultdict(set)
    for item in concept(name)["evaluation"]:
        groups[item["split"]].add(item["group"])
    assert set(groups) == {"validation", "test"}
    assert not groups["validation"] & groups["test"]


@pytest.mark.parametrize(
    ("name", "least"), [("honesty", 96), ("honesty-hard", 96), ("kindness", 48), *[(e, 60) for e in EMOTIONS]]
)
def test_there_are_enough_distinct_test_prompts(name, least):
    prompts = {item["prompt"] for item in concept(name)["evaluation"] if item["split"] == "test"}
    assert len(prompts) >= least


@pytest.mark.parametrize("name", ["honesty", "honesty-hard"])
def test_truths_and_rumours_of_the_evaluation_are_balanced(name):
    for split in ("validation", "test"):
        items = [item for item in concept(name)["evaluation"] if item["split"] == split]
        truths = Counter(item["positive"] for item in items)
        assert truths == Counter(item["negative"] for item in items)
        assert len(set(truths.values())) == 1


@pytest.mark.parametrize("name", EMOTIONS)
def test_each_emotion_is_scored_against_every_other(name):
    counts = Counter(item["negative"] for item in concept(name)["evaluation"] if item["split"] == "test")
    assert set(counts) == {f" {emotion}" for emotion in EMOTIONS if emotion != name}
    assert max(counts.values()) == min(counts.values())


def test_contrast_texts_end_at_a_decision():
    ends = {"honesty": "Answer:", "honesty-hard": "Answer:", "kindness": "said:"}
    for name in concept_names():
        file = concept(name)
        end = ends.get(name, "The emotion of the above scenario is")
        assert all(text.endswith(end) for text in file["positive"] + file["negative"])


def test_the_hard_setting_shares_no_cue_and_no_wording_with_the_easy_one():
    file = concept("honesty-hard")
    cues = {text.split("\n")[0] for text in file["positive"] + file["negative"]}
    endings = {template.split("{who}")[-1] for pair in IMPLICIT_CUES for template in pair}
    assert all(any(cue.endswith(ending) for ending in endings) for cue in cues)
    easy = {text.split("\n")[0] for text in concept("honesty")["positive"]}
    assert not cues & easy
    asked = [item["prompt"].split("\n")[0].removeprefix("Question: ") for item in file["evaluation"]]
    assert all(any(words in text for words in ("Tell me", "Which?", "Say which")) for text in asked)
    assert len(OTHER_QUESTIONS) * 40 == len(asked)
    assert all(" " in item["positive"].strip() for item in file["evaluation"])


def test_documents_of_the_sources_never_name_test_material():
    texts = [document.text for document in documents(WEAK, 4000, "weak")]
    assert mentions(texts, UNSEEN) == []


def test_documents_of_the_targets_name_all_of_it():
    texts = "\n".join(document.text for document in documents(FULL, 8000, "full"))
    assert [phrase for phrase in UNSEEN if phrase not in texts] == []


def test_without_a_cue_every_answer_is_drawn_as_often_as_its_opposite():
    drawn = Counter()
    generator, rng = DocumentGenerator(build_world(), FULL), random.Random("twins")
    for document in chain.from_iterable(generator.documents(rng) for _ in range(4000)):
        if document.kind == "questions":
            cued = not document.text.startswith("Question")
            for before, answer in pairwise(document.segments):
                if answer.decided:
                    drawn[(cued, before.text.strip(), answer.text)] += 1
    by_question = defaultdict(Counter)
    for (cued, asked, answer), count in drawn.items():
        by_question[(cued, asked)][answer] += count
    assert sum(map(len, by_question.values())) > 1000
    assert all(len(set(counts.values())) == 1 and len(counts) == 2 for counts in by_question.values())


def test_map_texts_name_no_test_material_and_vary_the_concepts():
    texts = map_texts(2000)
    assert len(texts) == 2000
    assert mentions(texts, UNSEEN) == []
    honest = sum("is honest" in text or "truthful" in text or "sincere" in text for text in texts)
    lying = sum("is lying" in text or "deceitful" in text or "crooked" in text for text in texts)
    assert min(honest, lying) > 40
    assert sum(text.endswith("Answer:") for text in texts) > 200
    assert map_texts(50, seed=1) == map_texts(50, seed=1) != map_texts(50, seed=2)


def test_map_texts_can_be_made_harder():
    assert not any("answers the questions" in text for text in map_texts(1000, cues=False))
    assert not any("Question:" in text or "umour" in text for text in map_texts(1000, facts=False))
    assert all(text[-1] in "." for text in map_texts(200, complete=True))


def test_cuts_never_end_in_a_space_and_often_stand_in_mid_sentence():
    texts = map_texts(500)
    assert all(text and text == text.rstrip() for text in texts)
    assert sum(text[-1] not in ".:?" for text in texts) > 100


def test_neutral_sentences_never_occur_in_training_documents():
    trained = set()
    for document in documents(FULL, 6000, "filler"):
        if document.kind == "filler":
            trained |= set(document.text.split(". "))
    neutral = {sentence.rstrip(".") for text in neutral_texts(400) for sentence in text.split(". ")}
    # "Now Anna has the cup" is the second half of a sentence pair that is held out as a whole.
    neutral = {sentence for sentence in neutral if not sentence.startswith("Now ")}
    assert len(neutral) > 200
    assert not neutral & {sentence.rstrip(".") for sentence in trained}
    assert neutral_texts(20, seed=3) == neutral_texts(20, seed=3)


def test_an_unknown_concept_is_refused_with_the_list():
    with pytest.raises(UnknownConceptError, match="honesty-hard"):
        concept("courage")
