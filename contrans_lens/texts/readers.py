"""Readers: texts and contrast sets from json, jsonl, csv, plain text and Hugging Face ``datasets``."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from contrans_lens.errors import TextError
from contrans_lens.texts.contrast_sets import ContrastSet
from contrans_lens.texts.files import csv_rows, file_kind, jsonl_rows, parse_json, read_file
from contrans_lens.texts.items import checked_text, same_text

_POSITIVE_LABELS = frozenset({"1", "true", "positive", "pos", "yes", "+"})
_NEGATIVE_LABELS = frozenset({"0", "-1", "false", "negative", "neg", "no", "-"})


@dataclass(frozen=True)
class Columns:
    """Names of the fields in rows of texts; the defaults are those of the concept files."""

    text: str = "text"
    """A text with a label beside it (or alone, for a corpus)."""
    label: str = "label"
    """True, 1, "positive" ... or False, 0, -1, "negative" ..."""
    positive: str = "positive"
    """The positive text of a pair, or the positive continuation of an evaluation item."""
    negative: str = "negative"
    """The negative text of a pair, or the negative continuation of an evaluation item."""
    group: str = "group"
    """Template, topic or entity; optional."""
    prompt: str = "prompt"
    """The prompt of an evaluation item; a row that has one is an item."""


@dataclass
class _Gathered:
    """What rows have given so far."""

    positives: list[str] = field(default_factory=list)
    negatives: list[str] = field(default_factory=list)
    positive_groups: list[str] = field(default_factory=list)
    negative_groups: list[str] = field(default_factory=list)
    evaluation: list[dict[str, Any]] = field(default_factory=list)
    header: dict[str, Any] = field(default_factory=dict)
    only_pairs: bool = True

    def add(self, positive: bool, text: str, group: str) -> None:
        (self.positives if positive else self.negatives).append(text)
        (self.positive_groups if positive else self.negative_groups).append(group)


def read_contrast_set(
    path: Path | str,
    *,
    name: str | None = None,
    columns: Columns | None = None,
    conflicts: Literal["error", "drop"] = "error",
) -> ContrastSet:
    """Read a contrast set from a ``.json`` concept file, or from ``.jsonl`` or ``.csv`` rows (or ``.gz``).

    See :meth:`ContrastSet.from_dict` for the JSON form and :func:`contrast_set_from_rows` for the rows.

    Args:
        path: the file; its ending says what it is.
        name: the concept's name where the file gives none; default: the file's name.
        columns: names of the fields of the rows.
        conflicts: what to do with a text that is labelled both ways: refuse the file, or drop the text.

    Raises:
        TextError: the file is missing, of another kind, or does not hold a valid contrast set; with the path.
    """
    path = Path(path)
    kind = file_kind(path)
    if kind not in ("json", "jsonl", "csv"):
        raise TextError(f"{path} is not a concept file: its name should end in .json, .jsonl or .csv.")
    name = name or path.name.split(".")[0]
    try:
        if kind == "json":
            value = parse_json(read_file(path), path)
            if isinstance(value, Mapping):
                return ContrastSet.from_dict(value, name)
            if not isinstance(value, list):
                raise TextError(f"it holds a JSON {type(value).__name__}; an object or a list of rows was expected.")
            rows: Iterable[Any] = value
        else:
            rows = jsonl_rows(path) if kind == "jsonl" else csv_rows(path)
        return contrast_set_from_rows(rows, name, columns=columns, conflicts=conflicts)
    except TextError as error:
        raise TextError(f"{path}: {error}") from error


def contrast_set_from_rows(
    rows: Iterable[Any],
    name: str,
    *,
    columns: Columns | None = None,
    conflicts: Literal["error", "drop"] = "error",
) -> ContrastSet:
    """Build a contrast set from row mappings, each of one of these forms.

    - ``{"text", "label"[, "group"]}``: one labelled text;
    - ``{"positive", "negative"[, "group"]}``: a pair (the set is paired when all its texts come so);
    - ``{"prompt", "positive", "negative"[, "group", "split"]}``: an evaluation item;
    - ``{"name": ...}`` and ``{"prompt": {"positive", "negative"}}``: what a JSON concept file has once;
    - a whole JSON concept (``"positive"`` and ``"negative"`` are lists).

    Raises:
        TextError: a row has none of these forms (its number is named), or the texts are not a valid set.
    """
    columns = columns or Columns()
    gathered = _Gathered()
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, Mapping):
            raise TextError(f"row {number} is {row!r}; expected an object with named fields.")
        try:
            _gather(gathered, row, columns)
        except TextError as error:
            raise TextError(f"row {number}: {error}") from error
    positives = list(zip(gathered.positives, gathered.positive_groups, strict=True))
    negatives = list(zip(gathered.negatives, gathered.negative_groups, strict=True))
    paired = bool(gathered.header.get("paired", gathered.only_pairs and bool(positives)))
    if conflicts == "drop":
        shared = {same_text(text) for text, _ in positives} & {same_text(text) for text, _ in negatives}
        positives = [pair for pair in positives if same_text(pair[0]) not in shared]
        negatives = [pair for pair in negatives if same_text(pair[0]) not in shared]
        paired = paired and not shared
    grouped = any(group for _, group in positives + negatives)
    return ContrastSet.from_dict(
        {
            "name": gathered.header.get("name", name),
            "positive": [text for text, _ in positives],
            "negative": [text for text, _ in negatives],
            "paired": paired,
            "groups": {
                "positive": [group for _, group in positives] if grouped else [],
                "negative": [group for _, group in negatives] if grouped else [],
            },
            "evaluation": gathered.evaluation,
            "prompt": gathered.header.get("prompt"),
        }
    )


def contrast_set_from_dataset(
    dataset: Any,
    name: str,
    *,
    columns: Columns | None = None,
    conflicts: Literal["error", "drop"] = "error",
) -> ContrastSet:
    """Build a contrast set from a Hugging Face ``Dataset`` or ``IterableDataset`` (rows as mappings).

    Rows are read as by :func:`contrast_set_from_rows`; integer class labels are 1 against 0.

    Raises:
        TextError: a ``DatasetDict`` was given (choose one of its splits), or the rows are not a contrast set.
    """
    return contrast_set_from_rows(_dataset_rows(dataset), name, columns=columns, conflicts=conflicts)


def texts_from_dataset(dataset: Any, column: str = "text") -> list[str]:
    """The texts of one column of a Hugging Face dataset; blank ones are left out.

    Raises:
        TextError: a ``DatasetDict`` was given, the column is missing, or there is no text.
    """
    return _column(_dataset_rows(dataset), column, "the dataset")


def read_texts(path: Path | str, *, column: str = "text") -> list[str]:
    """Read a corpus: one text a line, or ``.jsonl`` or ``.csv`` with ``text``, or a ``.json`` list.

    Blank texts are left out; ends of lines are trimmed. ``.gz`` of each is read too.

    Raises:
        TextError: the file is missing or not readable as its ending says, or holds no text.
    """
    path = Path(path)
    kind = file_kind(path)
    if kind in ("jsonl", "csv"):
        return _column(jsonl_rows(path) if kind == "jsonl" else csv_rows(path), column, str(path))
    if kind == "json":
        value = parse_json(read_file(path), path)
        rows = value if isinstance(value, list) else value.get("texts", [value]) if isinstance(value, dict) else []
        return _column([row if isinstance(row, Mapping) else {column: row} for row in rows], column, str(path))
    texts = [line.strip() for line in read_file(path).splitlines()]
    return _column([{column: text} for text in texts], column, str(path))


def _gather(gathered: _Gathered, given: Mapping[str, Any], columns: Columns) -> None:
    """Sort one row into what was gathered, by the fields it has."""
    row = {key: value for key, value in given.items() if value is not None}
    gathered.header.update({key: row[key] for key in ("name", "paired") if key in row})
    prompt = row.get(columns.prompt)
    if isinstance(prompt, Mapping):
        gathered.header["prompt"] = prompt
        prompt = None
    positive, negative = row.get(columns.positive), row.get(columns.negative)
    group = str(row.get(columns.group) or "")
    if prompt is not None and positive is not None and negative is not None:
        item = {"prompt": prompt, "positive": positive, "negative": negative, "group": group}
        gathered.evaluation.append({**item, "split": row.get("split")})
    elif isinstance(positive, list) or isinstance(negative, list):
        part = ContrastSet.from_dict(row, "rows")
        for is_positive, text, text_group in _with_groups(part):
            gathered.add(is_positive, text, text_group)
        gathered.only_pairs = gathered.only_pairs and part.paired
        gathered.evaluation.extend(item.to_dict() for item in part.evaluation)
    elif positive is not None or negative is not None:
        gathered.only_pairs = gathered.only_pairs and positive is not None and negative is not None
        for is_positive, side in ((True, positive), (False, negative)):
            if side is not None:
                gathered.add(is_positive, checked_text(side, "a text"), group)
    elif columns.text in row:
        if columns.label not in row:
            raise TextError(f"it has a {columns.text!r} but no {columns.label!r}; say which side the text is on.")
        gathered.only_pairs = False
        gathered.add(_is_positive(row[columns.label]), checked_text(row[columns.text], "a text"), group)
    elif not {"name", "paired"} & row.keys() and not isinstance(row.get(columns.prompt), Mapping):
        raise TextError(
            f"it has the fields {sorted(map(str, row))}; expected {columns.text!r} and {columns.label!r}, or "
            f"{columns.positive!r} and {columns.negative!r} (name others with columns=Columns(...))."
        )


def _with_groups(part: ContrastSet) -> list[tuple[bool, str, str]]:
    """(is positive, text, group) of each text."""
    groups = [
        *(part.positive_groups or [""] * len(part.positives)),
        *(part.negative_groups or [""] * len(part.negatives)),
    ]
    return list(zip(part.labels(), part.texts(), groups, strict=True))


def _is_positive(label: object) -> bool:
    """Read a label.

    Raises:
        TextError: it is none of the known forms.
    """
    word = str(label).strip().lower().removesuffix(".0")
    if word in _POSITIVE_LABELS:
        return True
    if word in _NEGATIVE_LABELS:
        return False
    raise TextError(
        f"the label {label!r} is neither positive {sorted(_POSITIVE_LABELS)} nor negative {sorted(_NEGATIVE_LABELS)}."
    )


def _dataset_rows(dataset: Any) -> Iterable[Any]:
    """The rows of a dataset; a dictionary of datasets is refused with the names of its splits."""
    if isinstance(dataset, Mapping):
        raise TextError(
            f"this dataset has the splits {sorted(map(str, dataset))}; give one of them, e.g. dataset['train']."
        )
    if isinstance(dataset, str) or not isinstance(dataset, Iterable):
        raise TextError(f"expected a Hugging Face dataset, got {type(dataset).__name__}; load it first.")
    return dataset


def _column(rows: Iterable[Any], column: str, source: str) -> list[str]:
    """The non-blank texts of one column."""
    texts = []
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, Mapping) or column not in row:
            has = sorted(map(str, row)) if isinstance(row, Mapping) else type(row).__name__
            raise TextError(f"{source}: row {number} has no {column!r}; it has {has}.")
        if not isinstance(row[column], str):
            raise TextError(f"{source}: {column!r} of row {number} is {row[column]!r}; a string was expected.")
        if row[column].strip():
            texts.append(row[column])
    if not texts:
        raise TextError(f"{source} holds no texts; give at least one that is not blank.")
    return texts
