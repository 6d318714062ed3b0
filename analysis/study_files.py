"""What a study leaves in the repository: numbers in few digits and few lines, and tables in its README."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from contrans_lens.artifacts import atomic_write

DIGITS = 4


def write_compact(path: Path, value: Mapping[str, Any]) -> None:
    """Write JSON with every innermost list and object on one line."""
    text = json.dumps(value, indent=1, allow_nan=False)
    for innermost in (r"\[[^][{}]*\]", r"\{[^{}]*\}"):
        text = re.sub(innermost, lambda found: re.sub(r"\s+", " ", found.group()), text)
    with atomic_write(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def rounded(value: Any) -> Any:
    """The same JSON with numbers of four significant digits."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    return [rounded(each) for each in value] if isinstance(value, list | tuple) else value


def fill(text: str, made: Mapping[str, str]) -> str:
    """A README with what stands after each ``<!-- table NAME -->``, up to ``<!-- end -->``, replaced by that table."""
    pieces = []
    for piece in text.split("<!-- table "):
        name, close, rest = piece.partition(" -->\n")
        if not close:
            pieces.append(piece)
            continue
        _, end, after = rest.partition("<!-- end -->")
        pieces.append(f"{name} -->\n{made[name]}{end}{after}")
    return "<!-- table ".join(pieces)
