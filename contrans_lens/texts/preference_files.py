"""Reading preference data in the formats it is published in, with a count of what could not be used."""

import json
import random
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from contrans_lens.errors import TextError
from contrans_lens.texts.dialogues import Render
from contrans_lens.texts.files import csv_rows, file_kind, read_file
from contrans_lens.texts.hh_rlhf import hh_rlhf_preference
from contrans_lens.texts.items import PARTS
from contrans_lens.texts.preference_sets import PreferenceSet
from contrans_lens.texts.preferences import Preference, UnusablePair
from contrans_lens.texts.read_report import Tally
from contrans_lens.texts.triples import triple_preference
from contrans_lens.texts.ultrafeedback import ultrafeedback_preference, ultrafeedback_raw_preference

PreferenceFormat = Literal["auto", "hh-rlhf", "ultrafeedback", "ultrafeedback-raw", "triples"]
FORMATS = ("hh-rlhf", "ultrafeedback", "ultrafeedback-raw", "triples")
"""The formats that rows are read as; ``"auto"`` takes that of the first row that shows one."""

_NumberedRows = Iterable[tuple[int, Any]]
_Reader = Callable[[object], Preference]


def read_preferences(
    path: Path | str,
    *,
    format: PreferenceFormat = "auto",
    name: str | None = None,
    strict: bool = False,
    limit: int | None = None,
    seed: int | None = None,
    split: str | None = None,
    render: Render | None = None,
    min_margin: float | int = 0.0,
    score: str = "overall_score",
) -> PreferenceSet:
    """Read preference pairs from ``.jsonl``, ``.json`` (a list) or ``.csv``, or ``.gz`` of each.

    Rows have one of these formats: ``"hh-rlhf"`` (:func:`hh_rlhf_preference`), ``"ultrafeedback"``
    (:func:`ultrafeedback_preference`), ``"ultrafeedback-raw"`` (:func:`ultrafeedback_raw_preference`) or ``"triples"``
    (:func:`triple_preference`). Rows that cannot be used (malformed dialogues, equal or empty answers, lines that are
    no JSON) and pairs that stand there twice are left out, and counted by reason in the set's ``report``.

    Args:
        path: the file.
        format: what the rows are; ``"auto"``: what the first row that shows a format is.
        name: the set's name; default: the file's name up to its first dot.
        strict: refuse the file at the first row that cannot be used.
        limit: the most pairs to keep; None: all.
        seed: which ones: a sample drawn with this seed, in the order of the file, or with None the first ones (the
            rest of the file is then neither checked nor counted).
        split: pins all pairs to this part, whatever the rows say; None leaves that to the rows.
        render: how messages become a prompt, e.g. ``partial(chat_template, tokenizer)``. None: hh-rlhf and plain
            triples as they stand, messages in the layout of hh-rlhf.
        min_margin: pairs with scores are dropped when the margin is not above it.
        score: the score of a completion in the raw form of UltraFeedback.

    Raises:
        TextError: the file is missing, empty, of another kind, not readable, without a usable pair, of no known
            format, or an argument is not what it should be; with ``strict`` also the first unusable row, with its
            number.
    """
    path = Path(path)
    unit, rows = _file_rows(path)
    tally = Tally(path.name, unit)
    reader = _row_reader(format, render, min_margin, score)
    return _gather(rows, tally, name or path.name.split(".")[0], reader, strict, (limit, seed), split)


def preferences_from_rows(
    rows: Iterable[Any],
    name: str,
    *,
    format: PreferenceFormat = "auto",
    strict: bool = False,
    limit: int | None = None,
    seed: int | None = None,
    split: str | None = None,
    render: Render | None = None,
    min_margin: float | int = 0.0,
    score: str = "overall_score",
) -> PreferenceSet:
    """Preference pairs from row mappings, such as a Hugging Face ``Dataset``; see :func:`read_preferences`.

    Raises:
        TextError: as :func:`read_preferences`; or the rows are a dictionary of data sets.
    """
    if isinstance(rows, Mapping | str):
        named = f" with the keys {sorted(map(str, rows))}" if isinstance(rows, Mapping) else ""
        raise TextError(f"the rows are a {type(rows).__name__}{named}; give one data set or list of rows.")
    reader = _row_reader(format, render, min_margin, score)
    tally = Tally(name, "row")
    return _gather(enumerate(rows, start=1), tally, name, reader, strict, (limit, seed), split)


class _RowReader:
    """Reads rows in one format; without a given one, in that of the first row that shows one."""

    def __init__(self, form: str | None, readers: Mapping[str, _Reader]) -> None:
        self.form, self._readers = form, readers

    def read(self, row: object) -> Preference:
        """The pair of a row.

        Raises:
            UnusablePair: there is none.
        """
        if isinstance(row, UnusablePair):
            raise row
        self.form = self.form or _recognised(row)
        if self.form is None:
            raise UnusablePair("unknown format", f"{str(row)[:60]!r} has none of the formats {FORMATS}.")
        return self._readers[self.form](row)


def _row_reader(form: str, render: Render | None, min_margin: float | int, score: str) -> _RowReader:
    if form not in (*FORMATS, "auto"):
        raise TextError(f"format={form!r}; expected 'auto' or one of {FORMATS}.")
    readers: dict[str, _Reader] = {
        "hh-rlhf": partial(hh_rlhf_preference, render=render),
        "ultrafeedback": partial(ultrafeedback_preference, render=render, min_margin=min_margin),
        "ultrafeedback-raw": partial(ultrafeedback_raw_preference, render=render, min_margin=min_margin, score=score),
        "triples": partial(triple_preference, render=render),
    }
    return _RowReader(None if form == "auto" else form, readers)


def _recognised(row: object) -> str | None:
    """The format of a row by its fields, or None."""
    if not isinstance(row, Mapping):
        return None
    if "completions" in row and "instruction" in row:
        return "ultrafeedback-raw"
    if "chosen" not in row or "rejected" not in row:
        return None
    if isinstance(row["chosen"], list | tuple):
        return "ultrafeedback"
    return "triples" if "prompt" in row else "hh-rlhf"


def _gather(
    rows: _NumberedRows,
    tally: Tally,
    name: str,
    reader: _RowReader,
    strict: bool,
    limit: tuple[int | None, int | None],
    split: str | None,
) -> PreferenceSet:
    """The pairs of the rows, with the report of what was left out."""
    most, seed = limit
    if most is not None and most < 1:
        raise TextError(f"limit={most}; at least 1 was expected, or None for all pairs.")
    if split is not None and split not in PARTS:
        raise TextError(f"split={split!r}; expected one of {PARTS} or None.")
    pairs: dict[tuple[str, str, str], Preference] = {}
    for number, row in rows:
        tally.read += 1
        try:
            pair = reader.read(row)
            key = (pair.prompt, pair.chosen, pair.rejected)
            if key in pairs:
                raise UnusablePair("duplicate pair", f"{pair.chosen[:40]!r} stands here a second time.")
        except UnusablePair as error:
            if strict:
                raise TextError(f"{tally.source} {tally.unit} {number}: {error}") from error
            tally.drop(error.reason, number)
            continue
        pairs[key] = pair if split is None else replace(pair, split=split)
        if seed is None and len(pairs) == most:
            break
    kept = _sampled(list(pairs.values()), most, seed)
    report = tally.report(reader.form or "unknown", len(kept))
    if not report.read:
        raise TextError(f"{tally.source} has no rows; at least one preference pair was expected.")
    if not kept:
        wanted = (
            f"rows of one of the formats {FORMATS} were expected" if reader.form is None else "see the reasons below"
        )
        raise TextError(f"{tally.source} holds no usable pair; {wanted}.\n{report}")
    return PreferenceSet(tuple(kept), name, report)


def _sampled(pairs: list[Preference], most: int | None, seed: int | None) -> list[Preference]:
    """At most ``most`` pairs in their order: drawn with the seed, or the first."""
    if most is None or len(pairs) <= most:
        return pairs
    if seed is None:
        return pairs[:most]
    return [pairs[index] for index in sorted(random.Random(seed).sample(range(len(pairs)), most))]


def _file_rows(path: Path) -> tuple[str, _NumberedRows]:
    """What the numbers of the rows count, and the rows; a line that is no JSON is an UnusablePair in its place."""
    kind = file_kind(path)
    if kind not in ("jsonl", "json", "csv"):
        raise TextError(f"{path} is not a file of preferences: its name should end in .jsonl, .json or .csv (or .gz).")
    try:
        if kind == "csv":
            return "row", _whole_rows(csv_rows(path))
        text = read_file(path)
    except zlib.error as error:
        raise TextError(f"{path} cannot be unpacked: {error}. Fetch it again.") from error
    if kind == "jsonl":
        return "line", _json_lines(text)
    value = _parsed(text) if text.strip() else []
    if isinstance(value, UnusablePair):
        raise TextError(f"{path} is {value}") from value
    if isinstance(value, Mapping) and "preferences" in value:
        value = value["preferences"]
    if not isinstance(value, list):
        raise TextError(f"{path} holds a JSON {type(value).__name__}; a list of rows was expected.")
    return "row", enumerate(value, start=1)


def _json_lines(text: str) -> Iterator[tuple[int, Any]]:
    # Not str.splitlines: it also cuts at U+2028 and others, which may stand inside JSON strings.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, _parsed(line)


def _parsed(text: str) -> Any:
    """A JSON value, or the UnusablePair that stands for what is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits and deep nesting are refused too
        return UnusablePair("not JSON", f"{error}.")


def _whole_rows(rows: list[dict[str, Any]]) -> _NumberedRows:
    """Rows of a csv file in which every column stands: an empty cell is an empty text, not a missing field."""
    columns = dict.fromkeys(column for row in rows for column in row)
    return enumerate(({column: row.get(column, "") for column in columns} for row in rows), start=1)
