import csv
import gzip
import json

import pytest

from contrans_lens.errors import TextError
from contrans_lens.texts import (
    Columns,
    contrast_set_from_dataset,
    contrast_set_from_rows,
    read_contrast_set,
    read_repe_emotions,
    read_texts,
    texts_from_dataset,
)

LABELLED = [
    {"text": "it is warm", "label": 1, "group": "a"},
    {"text": "it is cold", "label": 0, "group": "a"},
    {"text": "the sun is out", "label": True, "group": "b"},
    {"text": "the sun is gone", "label": "negative", "group": "b"},
]
PAIRS = [
    {"positive": "it is warm", "negative": "it is cold", "group": "a"},
    {"positive": "the sun is out", "negative": "the sun is gone", "group": "b"},
]


def write_jsonl(path, rows):
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n\n", encoding="utf-8")
    return path


def write_csv(path, rows):
    with path.open("w", encoding="utf-8-sig", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.mark.parametrize("rows", [LABELLED, PAIRS])
@pytest.mark.parametrize("ending", ["jsonl", "csv", "json", "jsonl.gz"])
def test_the_same_set_comes_from_every_kind_of_file(tmp_path, rows, ending):
    path = tmp_path / f"warmth.{ending}"
    if ending == "jsonl":
        write_jsonl(path, rows)
    elif ending == "csv":
        write_csv(path, rows)
    elif ending == "json":
        path.write_text(json.dumps(rows))
    else:
        path.write_bytes(gzip.compress("\n".join(json.dumps(row) for row in rows).encode()))
    contrast = read_contrast_set(path)
    assert contrast.name == "warmth"
    assert contrast.positives == ("it is warm", "the sun is out")
    assert contrast.negatives == ("it is cold", "the sun is gone")
    assert contrast.positive_groups == ("a", "b") == contrast.negative_groups
    assert contrast.paired is (rows is PAIRS)


def test_a_concept_file_may_come_as_jsonl_rows(tmp_path):
    item = {
        "prompt": "Today it is",
        "positive": " warm",
        "negative": " cold",
        "group": "today",
        "split": "test",
    }
    cue = {"positive": "Think of summer.", "negative": "Think of winter."}
    path = write_jsonl(tmp_path / "rows.jsonl", [{"name": "warmth"}, *PAIRS, item, {"prompt": cue}])
    contrast = read_contrast_set(path)
    assert (contrast.name, contrast.paired, len(contrast.positives)) == ("warmth", True, 2)
    assert contrast.evaluation[0].to_dict() == item
    assert contrast.prompt.to_dict() == cue
    whole = write_jsonl(tmp_path / "whole.jsonl", [contrast.to_dict()])
    assert read_contrast_set(whole) == contrast


def test_text_with_line_separators_inside_json_stays_one_row(tmp_path):
    path = write_jsonl(tmp_path / "t.jsonl", [{"text": "one\u2028two\nthree"}])
    assert read_texts(path) == ["one\u2028two\nthree"]


def test_csv_cells_may_hold_line_breaks_and_quotes(tmp_path):
    rows = [{"text": 'He said "no".\nThen he left.', "label": "1"}, {"text": "a, b", "label": "0"}]
    contrast = read_contrast_set(write_csv(tmp_path / "t.csv", rows))
    assert contrast.positives == ('He said "no".\nThen he left.',)
    assert contrast.negatives == ("a, b",)


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("a.json", '{"name": "x", "positive": ["a"]', "not JSON"),
        ("a.json", "3", "JSON int"),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"text":', "line 2"),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"text": "b"}', "row 2.*label"),
        ("a.jsonl", '{"text": "a", "label": "maybe"}', "maybe"),
        ("a.jsonl", '{"text": 7, "label": 1}', "int"),
        ("a.jsonl", '["a"]', "expected an object"),
        ("a.jsonl", '{"sentence": "a", "label": 1}', "columns=Columns"),
        ("a.csv", "text,label\na,1\n", "no negative"),
        ("a.txt", "a", "should end in"),
        ("a.csv", b"text,label\n\xff\xfe,1\n", "UTF-8"),
        ("a.jsonl.gz", b"not packed", "cannot be read"),
    ],
)
def test_a_bad_file_is_refused_with_its_path_and_the_reason(tmp_path, name, content, word):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(TextError, match=word) as caught:
        read_contrast_set(path)
    assert name in str(caught.value)


def test_a_missing_file_is_refused(tmp_path):
    for read in (read_contrast_set, read_texts):
        with pytest.raises(TextError, match="does not exist"):
            read(tmp_path / "nowhere.jsonl")


def test_texts_labelled_both_ways_are_refused_or_dropped():
    rows = [*LABELLED, {"text": "it  is cold", "label": 1}]
    with pytest.raises(TextError, match="both sides"):
        contrast_set_from_rows(rows, "warmth")
    contrast = contrast_set_from_rows(rows, "warmth", conflicts="drop")
    assert contrast.negatives == ("the sun is gone",)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "first text\n\n  second text \n"),
        ("a.jsonl", '{"text": "first text"}\n{"text": "second text"}\n'),
        ("a.csv", "id,text\n1,first text\n2,second text\n"),
        ("a.json", '["first text", "second text"]'),
        ("b.json", '{"texts": ["first text", "second text"]}'),
    ],
)
def test_a_corpus_reads_the_same_from_every_kind_of_file(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    assert read_texts(tmp_path / name) == ["first text", "second text"]


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("a.txt", "\n \n", "no texts"),
        ("a.jsonl", '{"body": "a"}', "has no 'text'"),
        ("a.jsonl", '{"text": 3}', "string was expected"),
    ],
)
def test_a_bad_corpus_is_refused(tmp_path, name, content, word):
    (tmp_path / name).write_text(content)
    with pytest.raises(TextError, match=word):
        read_texts(tmp_path / name)


def test_hugging_face_datasets_are_read_by_rows():
    datasets = pytest.importorskip("datasets")
    columns = Columns(text="sentence", label="sentiment")
    table = datasets.Dataset.from_dict(
        {"sentence": ["it is warm", "it is cold"], "sentiment": [1, 0], "idx": [0, 1]},
        features=datasets.Features(
            {
                "sentence": datasets.Value("string"),
                "sentiment": datasets.ClassLabel(names=["negative", "positive"]),
                "idx": datasets.Value("int64"),
            }
        ),
    )
    contrast = contrast_set_from_dataset(table, "warmth", columns=columns)
    assert (contrast.positives, contrast.negatives) == (("it is warm",), ("it is cold",))
    streamed = contrast_set_from_dataset(table.to_iterable_dataset(), "warmth", columns=columns)
    assert streamed == contrast
    assert texts_from_dataset(table, "sentence") == ["it is warm", "it is cold"]
    with pytest.raises(TextError, match="train"):
        contrast_set_from_dataset(datasets.DatasetDict({"train": table}), "warmth")
    with pytest.raises(TextError, match="Hugging Face dataset"):
        texts_from_dataset("imdb")


def test_real_facts_are_read_from_csv(shared_dir):
    path = shared_dir / "data/repe/facts/facts_true_false.csv"
    with pytest.raises(TextError, match="Nile"):
        read_contrast_set(path, columns=Columns(text="statement"))  # one statement stands there as true and as false
    facts = read_contrast_set(path, name="truth", columns=Columns(text="statement"), conflicts="drop")
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    nile = "The Nile River is the longest river in the world."
    assert list(facts.positives) == [r["statement"] for r in rows if r["label"] == "1" and r["statement"] != nile]
    assert not set(facts.split().train.positives) & set(facts.split().test.positives)


def test_real_emotion_scenarios_are_read_by_emotion(shared_dir):
    folder = shared_dir / "data/repe/emotions"
    scenarios = read_repe_emotions(folder)
    assert list(scenarios) == ["happiness", "sadness", "anger", "fear", "disgust", "surprise"]
    for emotion, sentences in scenarios.items():
        raw = json.loads((folder / f"{emotion}.json").read_text(encoding="utf-8"))
        assert set(sentences) == {sentence.strip() for sentence in raw}
        assert len(sentences) > 190


def test_an_emotion_folder_that_lacks_a_file_is_refused(tmp_path):
    (tmp_path / "happiness.json").write_text('["You win."]')
    with pytest.raises(TextError, match=r"no sadness\.json"):
        read_repe_emotions(tmp_path)
    (tmp_path / "sadness.json").write_text('{"a": 1}')
    with pytest.raises(TextError, match="not a list"):
        read_repe_emotions(tmp_path)


def test_real_stories_are_a_corpus(shared_dir):
    stories = read_texts(shared_dir / "data/tinystories/stories.jsonl")
    assert len(stories) == 896
    assert all(story.strip() for story in stories)
