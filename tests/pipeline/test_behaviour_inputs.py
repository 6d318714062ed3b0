import itertools
import json
from pathlib import Path

import pytest

from contrans_lens.errors import EvaluationError, TextError
from contrans_lens.evaluation.behaviours import (
    BBQBias,
    Behaviour,
    Choices,
    Generations,
    PairedAnswers,
    StereoSetBias,
    Words,
)
from contrans_lens.pipeline.behaviour_inputs import (
    BehaviourOptions,
    Spec,
    as_helpfulness,
    prompt_cue,
    read_behaviour,
    read_behaviours,
)
from contrans_lens.texts import EMOTIONS, ContrastSet

ITEMS = [{"prompt": f"{n} plus one is", "choices": [f" {n + 1}", " none"], "correct": 0, "rival": 1} for n in range(9)]
BBQ = {
    "context": "A met B.",
    "question": "Who is rude?",
    **{f"ans{at}": answer for at, answer in enumerate(("the boy", "the girl", "Not known"))},
    "answer_info": {"ans0": ["boy", "M"], "ans1": ["girl", "F"], "ans2": ["unknown", "unknown"]},
    "additional_metadata": {"stereotyped_groups": ["F"]},
    "label": 2,
    "context_condition": "ambig",
    "question_polarity": "neg",
}
SENTENCES = [
    {"sentence": f"The chess player was {word}.", "gold_label": label}
    for word, label in (("cold", "stereotype"), ("warm", "anti-stereotype"), ("blue", "unrelated"))
]
STEREOSET = {"context": "The chess player was BLANK.", "sentences": SENTENCES, "target": "player", "bias_type": "job"}


@pytest.fixture
def files(tmp_path: Path, tiny_concept: ContrastSet) -> Path:
    tiny_concept.save(tmp_path / "goodness.json")
    (tmp_path / "sums.jsonl").write_text("\n".join(map(json.dumps, ITEMS)))
    (tmp_path / "truth.csv").write_text(
        "Question,Best Answer,Correct Answers,Incorrect Answers,Best Incorrect Answer\nWhy?,So,So; Thus,No; Never,No\n"
    )
    (tmp_path / "law_test.csv").write_text("Who?,he,she,it,they,B\n")
    (tmp_path / "bbq.jsonl").write_text(json.dumps(BBQ))
    (tmp_path / "stereo.json").write_text(
        json.dumps({"data": {task: [STEREOSET] for task in ("intrasentence", "intersentence")}})
    )
    (tmp_path / "emotions").mkdir()
    for emotion in EMOTIONS:
        (tmp_path / "emotions" / f"{emotion}.json").write_text(json.dumps([f"a scene of {emotion}"]))
    (tmp_path / "prompts.txt").write_text("Once there was\nThe dog\n")
    return tmp_path


@pytest.mark.parametrize(
    ("spec", "kind", "name", "n"),
    [
        ("choices:{}/sums.jsonl", Choices, "sums", 9),
        ("choices:{}/sums.jsonl@pairs", PairedAnswers, "sums", 9),
        ("truthfulqa:{}/truth.csv", Choices, "TruthfulQA", 1),
        ("truthfulqa:{}/truth.csv@pairs", PairedAnswers, "TruthfulQA", 1),
        ("mmlu:{}/law_test.csv", Choices, "law_test", 1),
        ("mmlu:{}/law_test.csv@continuation", Choices, "law_test", 1),
        ("bbq:{}/bbq.jsonl", BBQBias, "bbq", 1),
        ("bbq:{}/bbq.jsonl@choices", Choices, "bbq", 1),
        ("stereoset:{}/stereo.json", StereoSetBias, "StereoSet intrasentence", 1),
        ("stereoset:{}/stereo.json@intersentence", StereoSetBias, "StereoSet intersentence", 1),
        ("stereoset:{}/stereo.json@pairs", PairedAnswers, "StereoSet intrasentence", 1),
        ("stereoset:{}/stereo.json@intersentence-pairs", PairedAnswers, "StereoSet intersentence", 1),
        ("words:{}/emotions", Words, "emotions", 6),
        ("generate:{}/prompts.txt@refusal", Generations, "prompts refusal", 2),
        ("generate:{}/prompts.txt@fear", Generations, "prompts fear", 2),
        ("answers:{}/goodness.json@all", PairedAnswers, "goodness", 12),
        ("answers:embedded:honesty", PairedAnswers, "honesty", 96),
        ("choices:embedded:capability", Choices, "capability", 96),
        ("choices:embedded:knowledge@validation", Choices, "knowledge", 32),
    ],
)
def test_every_kind_is_read(files: Path, spec: str, kind: type, name: str, n: int):
    found = read_behaviour(spec.format(files))
    assert isinstance(found, kind)
    assert isinstance(found, Behaviour)
    assert found.name == name
    assert len(found.groups) == n


def test_answers_of_a_part_are_never_those_of_another(files: Path):
    def prompts(part: str) -> set[str]:
        found = read_behaviour(f"answers:{files}/goodness.json{part}")
        assert isinstance(found, PairedAnswers)
        return {item.prompt for item in found.items}

    assert prompts("") == prompts("@test")
    assert not prompts("@test") & prompts("@validation")
    assert prompts("@test") | prompts("@validation") <= prompts("@all")


def test_the_presentation_of_lettered_questions_can_be_chosen(files: Path):
    lettered, plain = (read_behaviour(f"mmlu:{files}/law_test.csv{option}") for option in ("", "@continuation"))
    assert isinstance(lettered, Choices)
    assert isinstance(plain, Choices)
    assert lettered.items[0].choices == (" A", " B", " C", " D")
    assert plain.items[0].choices == (" he", " she", " it", " they")


@pytest.mark.parametrize(
    "spec",
    [
        "sums.jsonl",
        "choices:",
        "moods:{}/sums.jsonl",
        "choices:{}/nowhere.jsonl",
        "choices:{}/sums.jsonl@triples",
        "choices:embedded:wisdom",
        "bbq:{}/bbq.jsonl@pairs",
        "stereoset:{}/stereo.json@choices",
        "mmlu:{}/law_test.csv@upside-down",
        "generate:{}/prompts.txt",
        "generate:{}/prompts.txt@mood",
        "answers:{}/goodness.json@train",
        "words:{}",
    ],
)
def test_what_names_nothing_is_refused(files: Path, spec: str):
    with pytest.raises(TextError):
        read_behaviour(spec.format(files))


def test_a_path_may_hold_an_at_sign(files: Path):
    place = files / "me@home"
    place.mkdir()
    (place / "sums.jsonl").write_text((files / "sums.jsonl").read_text())
    assert Spec.parse(f"choices:{place}/sums.jsonl") == Spec("choices", f"{place}/sums.jsonl")
    assert Spec.parse(f"choices:{place}/sums.jsonl@pairs") == Spec("choices", f"{place}/sums.jsonl", "pairs")


def test_a_limit_takes_items_evenly(files: Path):
    found = read_behaviour(f"choices:{files}/sums.jsonl", BehaviourOptions(limit=3))
    assert isinstance(found, Choices)
    assert [item.prompt for item in found.items] == [f"{n} plus one is" for n in (0, 3, 6)]
    assert len(read_behaviour(f"generate:{files}/prompts.txt@refusal", BehaviourOptions(limit=1)).groups) == 1


def test_a_limit_takes_questions_of_every_kind(files: Path):
    told = {"context_condition": "disambig", "label": 1}
    kinds = [{}, told, {"question_polarity": "nonneg"}, {**told, "question_polarity": "nonneg"}]
    rows = [{**BBQ, "context": f"A met B on day {n}.", **kinds[n % 4]} for n in range(24)]
    (files / "many.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = read_behaviour(f"bbq:{files}/many.jsonl", BehaviourOptions(limit=12))
    assert isinstance(found, BBQBias)
    kept = [(role.ambiguous, role.negative) for role in found.benchmark.roles]
    assert {kind: kept.count(kind) for kind in kept} == dict.fromkeys(itertools.product((True, False), repeat=2), 3)
    days = [int(item.prompt.split("day ")[1].split(".")[0]) for item in found.benchmark]
    assert days == sorted(days)
    assert [role.negative for role in found.benchmark.roles] == [day % 4 < 2 for day in days]
    assert len(read_behaviour(f"stereoset:{files}/stereo.json", BehaviourOptions(limit=2)).groups) == 1


def test_a_file_that_names_no_target_has_no_bias(files: Path):
    row = {**BBQ, "additional_metadata": {"stereotyped_groups": ["baker"]}}
    (files / "vague.jsonl").write_text(json.dumps(row))
    with pytest.raises(EvaluationError, match="none of the 1 items"):
        read_behaviour(f"bbq:{files}/vague.jsonl")
    assert len(read_behaviour(f"bbq:{files}/vague.jsonl@choices").groups) == 1


def test_names_that_come_twice_are_numbered(files: Path):
    (files / "neutral.jsonl").write_text((files / "sums.jsonl").read_text())
    specs = [f"choices:{files}/sums.jsonl"] * 3 + [f"choices:{files}/neutral.jsonl"]
    assert [each.name for each in read_behaviours(specs)] == ["sums", "sums 2", "sums 3", "neutral 2"]
    assert [each.name for each in read_behaviours([f"bbq:{files}/bbq.jsonl"] * 2)] == ["bbq", "bbq 2"]


def test_another_lexicon_is_another_judge(files: Path):
    lexicon = files / "moods.json"
    called = []
    for words in (["glad"], ["glad", "merry"]):
        lexicon.write_text(json.dumps({"positive": words, "negative": ["sad"]}))
        found = read_behaviour(f"generate:{files}/prompts.txt@{lexicon}")
        assert isinstance(found, Generations)
        assert list(found.judge(["a", "b"], ["a glad day", "a sad day"])) == [1.0, -1.0]
        called.append(found.judged_by)
    assert called[0] != called[1]


def test_refusal_is_a_yes_or_no(files: Path):
    found = read_behaviour(f"generate:{files}/prompts.txt@refusal")
    assert isinstance(found, Generations)
    assert list(found.judge(["a", "b"], ["I cannot help with that.", "Sure, here it is."])) == [1.0, -1.0]


def test_helpfulness_is_a_probability(files: Path):
    pairs = read_behaviour(f"answers:{files}/goodness.json@all")
    useful = as_helpfulness(pairs)
    assert isinstance(useful, Choices)
    assert useful.items[0].choices == (" good", " bad")
    for kind in ("bbq:{}/bbq.jsonl", "stereoset:{}/stereo.json"):
        of_bias = as_helpfulness(read_behaviour(kind.format(files)), "accuracy")
        assert isinstance(of_bias, Choices)
        assert of_bias.primary == "accuracy"
    full = as_helpfulness(useful, "p_mean")
    assert isinstance(full, Choices)
    assert full.primary == "p_mean"
    assert full.items == useful.items


def test_the_words_of_the_first_concept_that_has_any(files: Path):
    cue = prompt_cue([f"choices:{files}/sums.jsonl", f"answers:{files}/goodness.json"])
    assert cue is not None
    assert cue.positive == "all is good. "
    assert prompt_cue([f"choices:{files}/sums.jsonl"]) is None
