"""Reader for MMLU (Hendrycks et al. 2021) and for files of its kind: a question, some answers, one right."""

import csv
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from contrans_lens.errors import TextError
from contrans_lens.texts.benchmarks import (
    QUESTION_TEMPLATE,
    Benchmark,
    Problem,
    checked_index,
    checked_texts,
    continuations,
    repeated,
)
from contrans_lens.texts.choices import LETTERED_TEMPLATE, ChoiceItem, lettered
from contrans_lens.texts.files import file_kind, read_file
from contrans_lens.texts.items import checked_text
from contrans_lens.texts.rows import item_rows, named_fields, reading_row
from contrans_lens.texts.templates import Template

_LETTERS = "ABCDEFGHIJ"


def read_mmlu(
    path: Path | str,
    *,
    presentation: Literal["lettered", "continuation"] = "lettered",
    subject: str | None = None,
    template: Template | None = None,
) -> Benchmark:
    """Read questions with one right answer each.

    A csv file has no header and the cells question, answers (two or more), letter of the right answer, as in the
    original release; a first row that begins with ``question`` is a header and is passed over. Rows of json and
    jsonl files have ``question``, ``choices``, ``answer`` (index or letter) and optionally ``subject``.

    A question that gives one answer twice is dropped and listed in ``problems`` as ``"repeated answer"``.

    Args:
        path: the file; ``.gz`` of each kind is read too.
        presentation: ``"lettered"``: answers are listed in the prompt and a letter is chosen; ``"continuation"``: the
            answers themselves are the choices.
        subject: category of rows that name none; default: the file's name without ``_dev``, ``_val`` or ``_test``.
        template: gaps ``{question}`` and ``{answers}`` for lettered answers, else ``{question}``; default:
            :data:`~contrans_lens.texts.choices.LETTERED_TEMPLATE` or
            :data:`~contrans_lens.texts.benchmarks.QUESTION_TEMPLATE`.

    Raises:
        TextError: the file cannot be read, or a row is not a question; with path and row. Or another presentation.
    """
    if presentation not in ("lettered", "continuation"):
        raise TextError(f"presentation={presentation!r}; 'lettered' or 'continuation' was expected.")
    path = Path(path)
    name = path.name.split(".")[0]
    subject = re.sub(r"_(dev|val|test)$", "", name) if subject is None else subject
    items, problems = [], []
    for number, row in enumerate(_csv_questions(path) if file_kind(path) == "csv" else item_rows(path), start=1):
        with reading_row(path, number):
            question, answers, right, category = _question(row)
            twice = repeated(answers)
            if twice is not None:
                problems.append(Problem(number, "repeated answer", twice, dropped=True))
                continue
            plain = Template("{question}") if presentation == "lettered" else template or QUESTION_TEMPLATE
            prompt = plain.fill(question=question)
            item = ChoiceItem(prompt, continuations(prompt, answers), (right,), category=category or subject)
            if presentation == "lettered":
                item = lettered(item, letters=_LETTERS, template=template or LETTERED_TEMPLATE)
            items.append(item)
    return Benchmark(name, tuple(items), tuple(problems))


def _csv_questions(path: Path) -> list[Mapping[str, Any]]:
    """Rows of a csv file without header, as mappings like those of json."""
    try:
        rows = [row for row in csv.reader(io.StringIO(read_file(path), newline=""), strict=True) if row]
    except csv.Error as error:
        raise TextError(f"{path} is not readable as csv: {error}.") from error
    if rows and rows[0][0].strip().lower() == "question":
        rows = rows[1:]
    if not rows:
        raise TextError(f"{path} has no rows; at least one item was expected.")
    return [{"question": row[0], "choices": row[1:-1], "answer": row[-1]} for row in rows]


def _question(row: Any) -> tuple[str, list[str], int, str]:
    """Question, answers, index of the right one, and subject (empty if the row names none)."""
    fields = named_fields(row, ("question", "choices", "answer"))
    question = checked_text(fields["question"], "the question").strip()
    answers = [answer.strip() for answer in checked_texts(fields["choices"], "answer")]
    if not 2 <= len(answers) <= len(_LETTERS):
        raise TextError(f"it has {len(answers)} answers; from 2 to {len(_LETTERS)} were expected, after the question.")
    given = fields["answer"]
    letter = given.strip().upper() if isinstance(given, str) else ""
    if len(letter) == 1 and letter in _LETTERS[: len(answers)]:
        return question, answers, _LETTERS.index(letter), str(fields.get("subject") or "")
    right = checked_index(given, len(answers), f"the answer (no letter of {_LETTERS[: len(answers)]})")
    return question, answers, right, str(fields.get("subject") or "")
