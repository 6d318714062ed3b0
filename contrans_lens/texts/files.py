"""Files of texts: their kind by their ending, and their rows. Everything wrong with one is a TextError."""

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

from contrans_lens.errors import TextError


def file_kind(path: Path) -> str:
    """The file's ending without the dot, and without ``.gz``."""
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"]
    kind = suffixes[-1].removeprefix(".") if suffixes else ""
    return {"ndjson": "jsonl"}.get(kind, kind)


def read_file(path: Path) -> str:
    """The text of a file, unpacked when it ends in ``.gz``; a byte order mark is dropped."""
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if path.suffix.lower() == ".gz" else data).decode("utf-8-sig")
    except FileNotFoundError as error:
        raise TextError(f"{path} does not exist.") from error
    except (OSError, EOFError) as error:
        raise TextError(f"{path} cannot be read: {error}.") from error
    except UnicodeDecodeError as error:
        raise TextError(f"{path} is not UTF-8 text: {error}. Convert it first.") from error


def parse_json(text: str, path: Path) -> Any:
    """The JSON value of a text; a TextError with the path when it is not JSON."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise TextError(f"{path} is not JSON: {error}.") from error


def jsonl_rows(path: Path) -> list[Any]:
    """The JSON value of each line that is not blank."""
    rows = []
    # Not str.splitlines: it also cuts at U+2028 and others, which may stand inside JSON strings.
    for number, line in enumerate(read_file(path).split("\n"), start=1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise TextError(f"{path} line {number} is not JSON: {error}.") from error
    return rows


def csv_rows(path: Path) -> list[dict[str, Any]]:
    """Rows by the names in the header line; empty cells count as absent."""
    try:
        reader = csv.DictReader(io.StringIO(read_file(path), newline=""), strict=True)
        return [{key: value for key, value in row.items() if key is not None and value} for row in reader]
    except csv.Error as error:
        raise TextError(f"{path} is not readable as csv: {error}.") from error
