"""Reader for TruthfulQA (Lin et al. 2022): questions with several true and several false answers."""

import re
from pathlib import Path
from typing import Any

from contrans_lens.errors import TextError
from contrans_lens.texts.benchmarks import Benchmark, Problem, checked_texts, continuations
from contrans_lens.texts.choices import ChoiceItem
from contrans_lens.texts.items import checked_text, same_text
from contrans_lens.texts.rows import item_rows, named_fields, reading_row
from contrans_lens.texts.templates import Template

TRUTHFULQA_TEMPLATE = Template("Q: {question}\nA:", name="TruthfulQA")
"""The prompt of a question; its answers are continuations."""

_REQUIRED = ("question", "best_answer", "correct_answers", "incorrect_answers")


def read_truthfulqa(path: Path | str, *, template: Template = TRUTHFULQA_TEMPLATE) -> Benchmark:
    """Read ``TruthfulQA.csv``, or json or jsonl rows with the same columns.

    Columns are ``Question``, ``Best Answer``, ``Correct Answers`` and ``Incorrect Answers``, and optionally ``Best
    Incorrect Answer`` and ``Category`` (case does not matter, ``_`` is as good as a space). Answers are separated by
    semicolons, or are lists.

    Choices are the true answers, then the false ones, each in the file's order. ``best`` is the best answer, ``rival``
    the best incorrect one, if the file names it; the group is the question. MC1, MC2 and MC0 follow from these.

    What is put right, and listed in ``problems``:

    - ``"white space"``: runs of it become one space;
    - ``"empty answer"``: a semicolon at the end, or two in a row;
    - ``"semicolon in answer"``: a repeated answer that goes on in lower case (``No; the evidence ...``) is one answer;
    - ``"repeated answer"``: only the first is kept;
    - ``"answer on both sides"``: left out on both, or on the other side only if it is the best answer or the rival;
    - ``"best spelt differently"``, ``"rival spelt differently"``: the cell's own spelling takes its place;
    - ``"best not listed"``, ``"rival not listed"``: put at the end of its side;
    - ``"no incorrect answers"`` are left: the question is dropped.

    Args:
        path: the file; ``.gz`` of each kind is read too.
        template: one gap ``{question}``. For :func:`~contrans_lens.texts.lettered` take ``Template("{question}")``.

    Raises:
        TextError: the file cannot be read, or a row lacks a question or its answers; with path and row.
    """
    path = Path(path)
    items, problems = [], []
    for number, row in enumerate(item_rows(path), start=1):
        with reading_row(path, number):
            item, flaws = _read_row(row, template)
        problems += [Problem(number, what, detail, item is None) for what, detail in flaws]
        items += [item] if item is not None else []
    return Benchmark("TruthfulQA", tuple(items), tuple(problems))


def _read_row(row: Any, template: Template) -> tuple[ChoiceItem | None, list[tuple[str, str]]]:
    """One question (None if it cannot be asked) and its flaws, each its kind and the text it is about."""
    named = {str(key).strip().lower().replace(" ", "_"): value for key, value in named_fields(row, ()).items()}
    row = named_fields(named, _REQUIRED)
    question = same_text(checked_text(row["question"], "the question"))
    flaws: list[tuple[str, str]] = []
    best = same_text(checked_text(row["best_answer"], "the best answer"))
    rival = row.get("best_incorrect_answer") or None
    right = _with_answer(_answers(row["correct_answers"], flaws), best, "best", flaws)
    wrong = _answers(row["incorrect_answers"], flaws)
    if rival is not None:
        rival = same_text(checked_text(rival, "the best incorrect answer"))
        wrong = _with_answer(wrong, rival, "rival", flaws)
    right, wrong = _apart(right, wrong, best, rival, flaws)
    if not wrong:
        return None, [*flaws, ("no incorrect answers", question)]
    prompt = template.fill(question=question)
    item = ChoiceItem(
        prompt,
        continuations(prompt, right + wrong),
        tuple(range(len(right))),
        right.index(best),
        None if rival is None else len(right) + wrong.index(rival),
        group=question,
        category=str(row.get("category") or ""),
    )
    return item, flaws


def _answers(cell: Any, flaws: list[tuple[str, str]]) -> list[str]:
    """The different answers of one side."""
    pieces = cell.split(";") if isinstance(cell, str) else checked_texts(cell, "the answers")
    flaws += [("white space", piece.strip()) for piece in pieces if same_text(piece) != piece.strip()]
    pieces = [same_text(piece) for piece in pieces]
    flaws += [("empty answer", str(cell)[-40:])] * pieces.count("")
    pieces = [piece for piece in pieces if piece]
    keys = [_key(piece) for piece in pieces]
    answers: dict[str, str] = {}
    at = 0
    while at < len(pieces):
        answer, at = pieces[at], at + 1
        # The file does not quote its separator. "No; the evidence ..." shows itself: "No" is there a second time.
        goes_on = at < len(pieces) and pieces[at][0].islower() and keys.count(keys[at]) == 1
        if goes_on and keys.count(keys[at - 1]) > 1:
            answer, at = f"{answer}; {pieces[at]}", at + 1
            flaws.append(("semicolon in answer", answer))
        if _key(answer) in answers:
            flaws.append(("repeated answer", answer))
        answers.setdefault(_key(answer), answer)
    return list(answers.values())


def _apart(
    right: list[str], wrong: list[str], best: str, rival: str | None, flaws: list[tuple[str, str]]
) -> tuple[list[str], list[str]]:
    """Both sides without the answers that stand on both: nobody can say whether these are true."""
    if rival is not None and _key(best) == _key(rival):
        raise TextError(f"the best answer and the best incorrect answer are both {best!r}; they must differ.")
    shared = {_key(answer) for answer in right} & {_key(answer) for answer in wrong}
    flaws += [("answer on both sides", answer) for answer in right if _key(answer) in shared]
    right = [answer for answer in right if _key(answer) not in shared or answer == best]
    wrong = [answer for answer in wrong if _key(answer) not in shared or answer == rival]
    return right, wrong


def _with_answer(side: list[str], named: str, role: str, flaws: list[tuple[str, str]]) -> list[str]:
    """A side of which ``named`` is certainly a member, in its own spelling."""
    if named in side:
        return side
    for at, answer in enumerate(side):
        if _alike(named, answer):
            flaws.append((f"{role} spelt differently", f"{answer} | {named}"))
            return [*side[:at], named, *side[at + 1 :]]
    flaws.append((f"{role} not listed", named))
    return [*side, named]


def _alike(one: str, other: str) -> bool:
    """Whether two answers have the same words, up to punctuation and endings of two letters (consume, consumes)."""
    words = [re.findall(r"\w+", answer.casefold()) for answer in (one, other)]
    if len(words[0]) != len(words[1]):
        return False
    for pair in zip(*words, strict=True):
        short, long = sorted(pair, key=len)
        if short != long and not (long.startswith(short) and len(long) - len(short) <= 2 and long.isalpha()):
            return False
    return True


def _key(answer: str) -> str:
    """The form under which two answers count as the same: case, white space and a final full stop do not matter."""
    return same_text(answer).rstrip(".").casefold()
