import csv

import pytest

from contrans_lens.errors import TextError
from contrans_lens.texts import (
    ChoiceItem,
    Problem,
    Template,
    lettered,
    pairs_from_choice_items,
    read_truthfulqa,
    shuffled,
)
from tests.texts.benchmark_files import write_jsonl

COWS = {
    "Type": "Adversarial",
    "Category": "Animals",
    "Question": "What do cows drink?",
    "Best Answer": "Cows drink water",
    "Best Incorrect Answer": "Cows drink milk",
    "Correct Answers": "Water; Cows drink water",
    "Incorrect Answers": "Cows drink milk; Milk; Tea",
    "Source": "https://example.org/a;b",
}


def write_truthfulqa(path, *rows):
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(COWS))
        writer.writeheader()
        writer.writerows({**COWS, **row} for row in rows)
    return path


class TestTruthfulQA:
    def test_a_question_becomes_one_item(self, tmp_path):
        found = read_truthfulqa(write_truthfulqa(tmp_path / "t.csv", {}))
        assert found.items == (
            ChoiceItem(
                "Q: What do cows drink?\nA:",
                (" Water", " Cows drink water", " Cows drink milk", " Milk", " Tea"),
                (0, 1),
                best=1,
                rival=2,
                group="What do cows drink?",
                category="Animals",
            ),
        )
        assert found.problems == ()

    def test_rows_of_json_and_of_the_older_file_without_a_rival(self, tmp_path):
        row = {
            "question": "What do cows drink?",
            "best_answer": "Cows drink water",
            "correct_answers": ["Water", "Cows drink water"],
            "incorrect_answers": ["Cows drink milk", "Milk", "Tea"],
            "category": "Animals",
        }
        [found] = read_truthfulqa(write_jsonl(tmp_path / "t.jsonl.gz", row))
        [full] = read_truthfulqa(write_truthfulqa(tmp_path / "t.csv", {}))
        assert (found.choices, found.correct, found.best, found.rival) == (full.choices, full.correct, 1, None)

    @pytest.mark.parametrize(
        ("changes", "right", "wrong", "problems"),
        [
            (
                {"Correct Answers": "Water; ; Cows drink water;"},
                ["Water", "Cows drink water"],
                ["Cows drink milk", "Milk", "Tea"],
                ["empty answer", "empty answer"],
            ),
            (
                {"Incorrect Answers": "Cows drink milk;Milk; milk.;Cows  drink milk"},
                ["Water", "Cows drink water"],
                ["Cows drink milk", "Milk"],
                ["white space", "repeated answer", "repeated answer"],
            ),
            (
                {"Correct Answers": "Water; Tea"},
                ["Water", "Cows drink water"],
                ["Cows drink milk", "Milk"],
                ["best not listed", "answer on both sides"],
            ),
            (
                {"Incorrect Answers": "Tea; Cows drinks milk."},
                ["Water", "Cows drink water"],
                ["Tea", "Cows drink milk"],
                ["rival spelt differently"],
            ),
            (
                {"Incorrect Answers": "Tea; Cows drink water"},
                ["Water", "Cows drink water"],
                ["Tea", "Cows drink milk"],
                ["rival not listed", "answer on both sides"],
            ),
            (
                {"Correct Answers": "No; they drink water; No; Cows drink water"},
                ["No; they drink water", "No", "Cows drink water"],
                ["Cows drink milk", "Milk", "Tea"],
                ["semicolon in answer"],
            ),
            (
                {"Correct Answers": "No; they drink water; Cows drink water"},
                ["No", "they drink water", "Cows drink water"],
                ["Cows drink milk", "Milk", "Tea"],
                [],
            ),
        ],
    )
    def test_flaws_are_put_right_and_listed(self, tmp_path, changes, right, wrong, problems):
        found = read_truthfulqa(write_truthfulqa(tmp_path / "t.csv", {}, changes))
        item = found.items[1]
        assert [item.choices[at].strip() for at in item.correct] == right
        assert [item.choices[at].strip() for at in item.wrong] == wrong
        assert item.choices[item.best] == " Cows drink water"
        assert item.choices[item.rival] == " Cows drink milk"
        assert [problem.what for problem in found.problems] == problems
        assert {problem.row for problem in found.problems} <= {2}
        assert (len(found), found.dropped) == (2, 0)

    @pytest.mark.parametrize("listed", ["In 1946 it began", "It began in the year 19451", "It never began in 1945"])
    def test_a_different_answer_is_not_taken_for_another_spelling(self, tmp_path, listed):
        row = {"Best Incorrect Answer": "It began in the year 1945", "Incorrect Answers": listed}
        found = read_truthfulqa(write_truthfulqa(tmp_path / "t.csv", row))
        assert found.problem_counts == {"rival not listed": 1}
        assert len(found.items[0].wrong) == 2

    def test_a_question_without_false_answers_is_dropped_and_listed(self, tmp_path):
        row = {"Incorrect Answers": "Cows drink water; ;", "Best Incorrect Answer": ""}
        found = read_truthfulqa(write_truthfulqa(tmp_path / "t.csv", row, {}))
        assert (len(found), found.dropped) == (1, 1)
        assert found.problem_counts == {"empty answer": 2, "answer on both sides": 1, "no incorrect answers": 1}
        assert Problem(1, "no incorrect answers", "What do cows drink?", dropped=True) in found.problems

    @pytest.mark.parametrize(
        ("changes", "word"),
        [
            ({"Question": ""}, r"lacks \['question'\]"),
            ({"Correct Answers": ""}, r"lacks \['correct_answers'\]"),
            ({"Best Answer": " "}, "best answer is empty"),
            ({"Best Incorrect Answer": "Cows drink water."}, "must differ"),
        ],
    )
    def test_a_bad_row_is_named_with_its_file(self, tmp_path, changes, word):
        path = write_truthfulqa(tmp_path / "t.csv", {}, changes)
        with pytest.raises(TextError, match=rf"t\.csv row 2: .*{word}"):
            read_truthfulqa(path)

    def test_the_template_may_be_another_and_letters_may_be_asked_for(self, tmp_path):
        path = write_truthfulqa(tmp_path / "t.csv", {})
        [item] = read_truthfulqa(path, template=Template("{question}\n"))
        assert item.prompt == "What do cows drink?\n"
        assert item.choices[0] == "Water"  # after white space no second one
        assert lettered(item).prompt.startswith(
            "What do cows drink?\nA. Water\nB. Cows drink water\nC. Cows drink milk"
        )

    def test_the_real_file(self, shared_dir):
        path = shared_dir / "data/truthfulqa/TruthfulQA.csv"
        found = read_truthfulqa(path)
        with path.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
        assert len(found) == len(rows) == 790
        assert found.dropped == 0
        assert found.problem_counts == {
            "empty answer": 24,
            "white space": 4,
            "rival spelt differently": 3,
            "repeated answer": 2,
            "answer on both sides": 2,
            "semicolon in answer": 1,
        }
        flawed = {problem.row for problem in found.problems}
        for number, (row, item) in enumerate(zip(rows, found, strict=True), start=1):
            assert item.prompt == f"Q: {row['Question']}\nA:"
            assert item.choices[item.best_index] == f" {row['Best Answer']}"
            assert item.choices[item.rival] == f" {row['Best Incorrect Answer']}"
            if number not in flawed:
                listed = row["Correct Answers"].split(";"), row["Incorrect Answers"].split(";")
                assert list(item.choices) == [f" {answer.strip()}" for side in listed for answer in side]
                assert len(item.correct) == len(listed[0])
        assert len({item.group for item in found}) == 790
        assert len(pairs_from_choice_items(found.items)) == 790

    def test_without_shuffling_the_right_letter_would_nearly_always_be_the_first(self, shared_dir):
        path = shared_dir / "data/truthfulqa/TruthfulQA.csv"
        items = [item for item in read_truthfulqa(path, template=Template("{question}")) if len(item.choices) <= 8]
        assert all(lettered(item).correct[0] == 0 for item in items)
        first = [0 in lettered(shuffled(item)).correct for item in items]
        expected = sum(len(item.correct) / len(item.choices) for item in items)
        assert abs(sum(first) - expected) < 50
