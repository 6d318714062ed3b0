"""Rows of a file of items, and errors that name the file and the row."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from contrans_lens.errors import TextError
from contrans_lens.texts.files import csv_rows, file_kind, jsonl_rows, parse_json, read_file


def item_rows(path: Path) -> list[Any]:
    """The rows of a csv, jsonl or json file (a list), or ``.gz`` of these; at least one.

    Raises:
        TextError: the file is missing, of another kind, or has no rows; with the path.
    """
    kind = file_kind(path)
    if kind == "json":
        rows = parse_json(read_file(path), path)
        if not isinstance(rows, list):
            raise TextError(f"{path} holds a JSON {type(rows).__name__}; a list of rows was expected.")
    elif kind in ("jsonl", "csv"):
        rows = jsonl_rows(path) if kind == "jsonl" else csv_rows(path)
    else:
        raise TextError(f"{path} is not a file of items: its name should end in .json, .jsonl or .csv (or .gz).")
    if not rows:
        raise TextError(f"{path} has no rows; at least one item was expected.")
    return rows


@contextmanager
def reading_row(path: Path, number: int) -> Iterator[None]:
    """Say in every TextError raised inside which row of which file was being read; the first row of data is 1."""
    try:
        yield
    except TextError as error:
        raise TextError(f"{path} row {number}: {error}") from error


def named_fields(row: object, required: tuple[str, ...]) -> Mapping[str, Any]:
    """The row, if it is an object that has the required fields with something in them.

    Raises:
        TextError: it is not.
    """
    if not isinstance(row, Mapping):
        raise TextError(f"it is {str(row)[:60]!r}; an object with named fields was expected.")
    missing = [key for key in required if row.get(key) in (None, "")]
    if missing:
        raise TextError(f"it lacks {missing}; it has {sorted(map(str, row))}.")
    return row
