"""Choice items: a prompt with several continuations, of which some are right; and what is done with them.

An :class:`~contrans_lens.texts.EvaluationItem` asks which of two continuations shows a concept. A
:class:`ChoiceItem` asks which of many are right: a question of a benchmark, or the word that names an emotion.
"""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from contrans_lens.errors import TextError
from contrans_lens.texts.items import PARTS, EvaluationItem, checked_text, same_text
from contrans_lens.texts.rows import item_rows, named_fields, reading_row
from contrans_lens.texts.templates import EMOTION_TEMPLATE, Template

LETTERED_TEMPLATE = Template("{question}\n{answers}\nAnswer:", name="lettered answers")
"""How :func:`lettered` lays out a question and its answers, one a line."""
OPTION_TEMPLATE = Template("{letter}. {answer}", name="one lettered answer")
"""How :func:`lettered` writes one answer."""


@dataclass(frozen=True)
class ChoiceItem:
    """One prompt with two or more continuations, at least one right and at least one wrong.

    Raises:
        TextError: a text is empty or not a string, two choices are equal, an index points at no choice or at one of
            the wrong kind, there is nothing right or nothing wrong, or the split is unknown.
    """

    prompt: str
    """What the model reads; it ends where the model is about to act. Choices bring their own leading space."""
    choices: tuple[str, ...]
    """The continuations, two or more, all different."""
    correct: tuple[int, ...]
    """Which choices are right: at least one, not all of them."""
    best: int | None = None
    """The right choice that counts alone (MC1, MC0); None stands for the first of ``correct``."""
    rival: int | None = None
    """The wrong choice that counts alone (MC0); None where there is none."""
    group: str = ""
    """Items of one group never straddle a split and are resampled together. Empty: its own group."""
    split: str | None = None
    """``"train"``, ``"validation"`` or ``"test"`` pins the item and its group there; None leaves it open."""
    category: str = ""
    """A heading for tables, such as ``"Misconceptions"``."""

    def __post_init__(self) -> None:
        checked_text(self.prompt, "the prompt of a choice item")
        object.__setattr__(self, "choices", _as_tuple(self.choices, "choices"))
        object.__setattr__(self, "correct", _as_tuple(self.correct, "correct"))
        _check_choices(self.choices)
        _check_indices(self)
        for field in ("group", "category"):
            if not isinstance(getattr(self, field), str):
                raise TextError(f"the {field} of a choice item is {getattr(self, field)!r}; a string was expected.")
        if self.split is not None and self.split not in PARTS:
            raise TextError(f"the split of a choice item is {self.split!r}; expected one of {PARTS} or none.")

    @property
    def best_index(self) -> int:
        """The right choice that counts alone: ``best``, or the first of ``correct``."""
        return self.correct[0] if self.best is None else self.best

    @property
    def wrong(self) -> tuple[int, ...]:
        """Indices of the choices that are not right, in order."""
        return tuple(index for index in range(len(self.choices)) if index not in self.correct)

    def to_dict(self) -> dict[str, Any]:
        """The item as a JSON object; what is empty or left open is left out."""
        row: dict[str, Any] = {"prompt": self.prompt, "choices": list(self.choices), "correct": list(self.correct)}
        optional = {"best": self.best, "rival": self.rival, "split": self.split}
        row |= {key: value for key, value in optional.items() if value is not None}
        return row | {key: value for key, value in {"group": self.group, "category": self.category}.items() if value}

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> "ChoiceItem":
        """Read what :meth:`to_dict` gives; ``correct`` may also be one index.

        Raises:
            TextError: a key is missing, or a value is not what it should be.
        """
        missing = [key for key in ("prompt", "choices", "correct") if key not in row]
        if missing:
            raise TextError(f"a choice item lacks {missing}; it has {sorted(map(str, row))}.")
        correct = row["correct"]
        return cls(
            row["prompt"],
            _as_tuple(row["choices"], "choices"),
            (correct,) if isinstance(correct, int) else _as_tuple(correct, "correct"),
            row.get("best"),
            row.get("rival"),
            row.get("group") or "",
            row.get("split") or None,
            row.get("category") or "",
        )


def read_choice_items(path: Path | str) -> list[ChoiceItem]:
    """Read choice items from ``.jsonl``, ``.json`` (a list) or ``.csv`` rows, or ``.gz`` of these.

    Rows have the keys of :meth:`ChoiceItem.to_dict`. In a csv file the cells of ``choices`` and ``correct`` hold
    JSON lists (``correct`` may be one index), and those of ``best`` and ``rival`` numbers.

    Raises:
        TextError: the file is missing, of another kind, has no rows, or a row is not an item; with path and row
            number (the first row of data is 1).
    """
    path = Path(path)
    items = []
    for number, row in enumerate(item_rows(path), start=1):
        with reading_row(path, number):
            items.append(_item_of_row(named_fields(row, ("prompt", "choices", "correct"))))
    return items


def choice_items_from_pairs(items: Sequence[EvaluationItem]) -> list[ChoiceItem]:
    """Evaluation items as choice items: the positive continuation is right, the negative one is its rival."""
    return [
        ChoiceItem(item.prompt, (item.positive, item.negative), (0,), 0, 1, item.group, item.split) for item in items
    ]


def pairs_from_choice_items(items: Sequence[ChoiceItem]) -> list[EvaluationItem]:
    """Choice items as evaluation items: the best choice against the rival.

    Raises:
        TextError: an item has no rival; it is named.
    """
    pairs = []
    for number, item in enumerate(items):
        if item.rival is None:
            raise TextError(f"item {number} ({item.prompt[-40:]!r}) has no rival; a pair needs one wrong choice named.")
        pairs.append(
            EvaluationItem(item.prompt, item.choices[item.best_index], item.choices[item.rival], item.group, item.split)
        )
    return pairs


def lettered(
    item: ChoiceItem,
    *,
    letters: str = "ABCDEFGH",
    template: Template = LETTERED_TEMPLATE,
    option: Template = OPTION_TEMPLATE,
) -> ChoiceItem:
    """The same question with its answers listed in the prompt, so that a letter is the answer.

    The order of the answers is kept, and with it ``correct``, ``best`` and ``rival``. Where a file lists right answers
    first, :func:`shuffled` should come before, or "A" would always be right. The item's prompt is the question:
    one that already ends in "Answer:" or "A:" is better read with a template without it.

    Args:
        item: the question with its answers as choices.
        letters: one for each answer; more letters than answers are fine.
        template: gaps ``{question}`` and ``{answers}``.
        option: gaps ``{letter}`` and ``{answer}``; one line of the answers.

    Returns:
        An item with the choices ``" A"``, ``" B"``, ...

    Raises:
        TextError: more answers than letters, a letter twice or blank, or a template with other gaps.
    """
    if len(set(letters)) < len(letters) or any(letter.isspace() for letter in letters):
        raise TextError(f"letters={letters!r} must be different and not white space.")
    if len(item.choices) > len(letters):
        raise TextError(
            f"{item.prompt[-40:]!r} has {len(item.choices)} answers for {len(letters)} letters ({letters}); give more "
            "letters or fewer answers."
        )
    used = letters[: len(item.choices)]
    lines = [
        option.fill(letter=letter, answer=answer.strip()) for letter, answer in zip(used, item.choices, strict=True)
    ]
    prompt = template.fill(question=item.prompt.rstrip(), answers="\n".join(lines))
    return replace(item, prompt=prompt, choices=tuple(f" {letter}" for letter in used))


def shuffled(item: ChoiceItem, *, seed: int = 0) -> ChoiceItem:
    """The same item with its choices in another order, decided by the seed and the item's own texts."""
    order = list(range(len(item.choices)))
    random.Random(f"{seed}\n{item.prompt}\n{item.choices}").shuffle(order)
    place = {old: new for new, old in enumerate(order)}
    return replace(
        item,
        choices=tuple(item.choices[old] for old in order),
        correct=tuple(place[old] for old in item.correct),
        best=None if item.best is None else place[item.best],
        rival=None if item.rival is None else place[item.rival],
    )


def with_prefix(item: ChoiceItem, text: str) -> ChoiceItem:
    """The item with a text right before its prompt: a system line, or the cue of the prompt-only control.

    Raises:
        TextError: the text is not a string.
    """
    if not isinstance(text, str):
        raise TextError(f"the prefix is a {type(text).__name__}: {text!r}. A string was expected.")
    return replace(item, prompt=text + item.prompt)


def with_examples(
    items: Sequence[ChoiceItem], examples: Sequence[ChoiceItem], *, header: str = "", separator: str = "\n\n"
) -> list[ChoiceItem]:
    """Items with answered examples in front (few-shot): each example is its prompt and its best choice.

    Args:
        items: what is asked.
        examples: questions of the same layout, answered; none of them among the items.
        header: stands first, e.g. what the questions are about; nothing if empty.
        separator: between header, examples and the question.

    Raises:
        TextError: an example asks what an item asks, so that the answer would stand in the prompt.
    """
    asked = {same_text(item.prompt) for item in items}
    leaked = [example.prompt for example in examples if same_text(example.prompt) in asked]
    if leaked:
        raise TextError(
            f"{len(leaked)} example(s) are items too, e.g. {leaked[0][:60]!r}; their answers would stand in the "
            "prompt. Take examples from another split."
        )
    shots = [example.prompt + example.choices[example.best_index] for example in examples]
    front = "".join(part + separator for part in ([header] if header else []) + shots)
    return [with_prefix(item, front) for item in items]


def word_items(
    scenarios: Mapping[str, Sequence[str]],
    words: Sequence[str] | None = None,
    *,
    template: Template = EMOTION_TEMPLATE,
) -> list[ChoiceItem]:
    r"""Items whose choices are single words: the emotion protocol of ConTrans (Dong et al. 2025, section 4).

    A scenario of one emotion becomes ``Scenario: <text>\nThe emotion of the above scenario is``, and the choices are
    the names of all emotions, each with a space before it. A scenario that stands under two words gives two items of
    one group.

    Args:
        scenarios: texts by the word that is right for them, e.g. from
            :func:`~contrans_lens.texts.read_repe_emotions`.
        words: the choices, in order; default: the keys of ``scenarios``.
        template: one gap for the text.

    Returns:
        Items in the order of ``scenarios``, with the word as category and the text as group.

    Raises:
        TextError: fewer than two words, a word twice, a key that is not among the words, or no scenarios.
    """
    words = tuple(scenarios) if words is None else tuple(words)
    unknown = sorted(set(scenarios) - set(words))
    if unknown:
        raise TextError(f"there are scenarios for {unknown}, which are not among the words {list(words)}.")
    choices = tuple(f" {checked_text(word, 'a word').strip()}" for word in words)
    items = [
        ChoiceItem(prompt, choices, (words.index(word),), group=same_text(text), category=word)
        for word, texts in scenarios.items()
        for text, prompt in zip(texts, template.fill_all(texts), strict=True)
    ]
    if not items:
        raise TextError("there are no scenarios; give at least one text under one word.")
    return items


def _item_of_row(row: Mapping[str, Any]) -> ChoiceItem:
    """An item from a row, whose lists and numbers may be written as JSON in cells."""
    parsed = dict(row)
    for key in ("choices", "correct", "best", "rival"):
        if isinstance(parsed.get(key), str):
            try:
                parsed[key] = json.loads(parsed[key])
            except json.JSONDecodeError as error:
                raise TextError(f'{key!r} is {parsed[key]!r}; JSON was expected, e.g. [" yes", " no"].') from error
    return ChoiceItem.from_dict(parsed)


def _as_tuple(value: object, what: str) -> tuple[Any, ...]:
    """A list or tuple as a tuple."""
    if not isinstance(value, list | tuple):
        raise TextError(f"{what!r} of a choice item is {value!r}; a list was expected.")
    return tuple(value)


def _check_choices(choices: tuple[Any, ...]) -> None:
    """Refuse fewer than two choices, blank ones and equal ones."""
    if len(choices) < 2:
        raise TextError(f"a choice item has {len(choices)} choice(s): {choices}; give at least two.")
    for index, choice in enumerate(choices):
        checked_text(choice, f"choice {index} of a choice item")
    if len(set(choices)) < len(choices):
        twice = next(choice for choice in choices if choices.count(choice) > 1)
        raise TextError(f"the choice {twice!r} stands twice in one choice item; the choices must differ.")


def _check_indices(item: ChoiceItem) -> None:
    """Refuse indices that point at no choice, or at one of the wrong kind."""
    n = len(item.choices)
    named = [("correct", index) for index in item.correct]
    named += [(role, index) for role, index in (("best", item.best), ("rival", item.rival)) if index is not None]
    for role, index in named:
        if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < n:
            raise TextError(f"{role!r} of a choice item holds {index!r}; an index from 0 to {n - 1} was expected.")
    if len(set(item.correct)) < len(item.correct):
        raise TextError(f"'correct' of a choice item is {item.correct}; name each choice once.")
    if not 0 < len(item.correct) < n:
        raise TextError(
            f"{len(item.correct)} of {n} choices are right; at least one must be right and at least one wrong."
        )
    if item.best is not None and item.best not in item.correct:
        raise TextError(f"the best choice {item.best} is not among the right ones {item.correct}.")
    if item.rival is not None and item.rival in item.correct:
        raise TextError(f"the rival {item.rival} is among the right choices {item.correct}; it must be a wrong one.")
