import pytest

from contrans_lens.errors import TextError
from contrans_lens.texts import (
    ChoiceItem,
    Problem,
    Template,
    read_mmlu,
)
from tests.texts.benchmark_files import write, write_jsonl


class TestMMLU:
    ROWS = (
        ("Which gas, if any, do plants take in?", "Oxygen", "Carbon dioxide", "Neon", "None", "B"),
        ('A note says "C,\nthen D". What is it?', "aa", "AA", "Aa", "aA", "D"),
    )

    def csv_text(self, *rows):
        return "".join(",".join('"' + cell.replace('"', '""') + '"' for cell in row) + "\r\n" for row in rows)

    def test_csv_without_a_header_as_in_the_release(self, tmp_path):
        found = read_mmlu(write(tmp_path / "plant_biology_test.csv", self.csv_text(*self.ROWS)))
        assert found.items[0] == ChoiceItem(
            "Which gas, if any, do plants take in?\nA. Oxygen\nB. Carbon dioxide\nC. Neon\nD. None\nAnswer:",
            (" A", " B", " C", " D"),
            (1,),
            category="plant_biology",
        )
        assert found.items[1].prompt.startswith('A note says "C,\nthen D". What is it?\nA. aa\n')
        assert found.items[1].correct == (3,)
        assert found.name == "plant_biology_test"

    def test_a_header_is_passed_over(self, tmp_path):
        header = ("question", "A", "B", "C", "D", "answer")
        plain = read_mmlu(write(tmp_path / "x.csv", self.csv_text(*self.ROWS)))
        headed = read_mmlu(write(tmp_path / "x.csv.gz", self.csv_text(header, *self.ROWS)))
        assert plain == headed

    @pytest.mark.parametrize("answer", [2, "2", "C", " c "])
    def test_answers_as_continuations_from_rows_with_names(self, tmp_path, answer):
        row = {"question": "How many?", "choices": ["One", "Two", "Three"], "answer": answer, "subject": "counting"}
        found = read_mmlu(write_jsonl(tmp_path / "x.jsonl", row), presentation="continuation")
        assert found.items == (
            ChoiceItem("Question: How many?\nAnswer:", (" One", " Two", " Three"), (2,), category="counting"),
        )

    def test_a_template_for_each_presentation(self, tmp_path):
        path = write(tmp_path / "x.csv", self.csv_text(self.ROWS[0]))
        letters = read_mmlu(path, template=Template("{question}\n\n{answers}\n="), subject="plants").items[0]
        assert letters.prompt.endswith("take in?\n\nA. Oxygen\nB. Carbon dioxide\nC. Neon\nD. None\n=")
        assert letters.category == "plants"
        plain = read_mmlu(path, presentation="continuation", template=Template("{question} It is")).items[0]
        assert plain.prompt == "Which gas, if any, do plants take in? It is"
        with pytest.raises(TextError, match=r"row 1: .*without a gap"):
            read_mmlu(path, template=Template("{question}"))

    @pytest.mark.parametrize("presentation", ["lettered", "continuation"])
    def test_a_question_with_the_same_answer_twice_is_dropped_and_listed(self, tmp_path, presentation):
        rows = [*self.ROWS, ("Which?", "one", "two ", "two", "three", "A")]
        found = read_mmlu(write(tmp_path / "x.csv", self.csv_text(*rows)), presentation=presentation)
        assert (len(found), found.problems) == (2, (Problem(3, "repeated answer", "two", dropped=True),))

    @pytest.mark.parametrize(
        ("row", "word"),
        [
            ({"question": "Which?", "choices": ["a", "b"], "answer": 2}, "from 0 to 1"),
            ({"question": "Which?", "choices": ["a", "b"], "answer": "C"}, "no letter of AB"),
            ({"question": "Which?", "choices": ["a", "b"], "answer": True}, "is True"),
            ({"question": "Which?", "choices": ["a", "b"], "answer": 0.5}, "is 0.5"),
            ({"question": "Which?", "choices": ["a"], "answer": 0}, "has 1 answers"),
            ({"question": "Which?", "choices": ["a", " "], "answer": 0}, "answer 1 is empty"),
            ({"question": "Which?", "choices": "ab", "answer": 0}, "list of texts"),
            ({"question": " ", "choices": ["a", "b"], "answer": 0}, "question is empty"),
            ({"question": "Which?", "choices": ["a", "b"]}, r"lacks \['answer'\]"),
        ],
    )
    def test_a_bad_row_is_named_with_its_file(self, tmp_path, row, word):
        good = {"question": "Which?", "choices": ["a", "b"], "answer": 0}
        with pytest.raises(TextError, match=rf"x\.jsonl row 2: .*{word}"):
            read_mmlu(write_jsonl(tmp_path / "x.jsonl", good, row))

    @pytest.mark.parametrize(
        ("text", "word"),
        [("Which?,a,b,E\n", "row 1: .*no letter of AB"), ("Which?,a\n", "row 1: .*0 answers"), ("\n\n", "no rows")],
    )
    def test_a_bad_csv_file_is_refused(self, tmp_path, text, word):
        with pytest.raises(TextError, match=word):
            read_mmlu(write(tmp_path / "x.csv", text))
