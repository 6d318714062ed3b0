"""``result.json``, the figures, and the README with its tables, of what is finished."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from preference_numbers import overall, setup_numbers
from preference_pictures import write_pictures
from preference_setups import Setup
from preference_tables import tables

from contrans_lens.artifacts import atomic_write

DIGITS = 4


def summarise(setups: Sequence[Setup], folder: Path) -> None:
    """Everything that is finished, as ``result.json``, figures and the tables of the README."""
    finished = {setup.name: setup_numbers(setup) for setup in setups if (setup.folder / "seed0.json").exists()}
    result = rounded({"setups": finished, "overall": overall(finished), "sizes": vars(setups[0].sizes)})
    write_compact(folder / "result.json", result)
    write_pictures(result, folder)
    readme = folder / "README.md"
    if readme.exists():
        readme.write_text(fill(readme.read_text(encoding="utf-8"), result), encoding="utf-8")


def fill(text: str, result: Mapping[str, Any]) -> str:
    """A README with the table after each ``<!-- table NAME -->`` replaced by the one that the result gives."""
    pieces, made = [], tables(result["setups"])
    for piece in text.split("<!-- table "):
        name, close, rest = piece.partition(" -->\n")
        if not close:
            pieces.append(piece)
            continue
        _, end, after = rest.partition("<!-- end -->")
        pieces.append(f"{name} -->\n{made[name]}{end}{after}")
    return "<!-- table ".join(pieces)


def write_compact(path: Path, value: dict[str, Any]) -> None:
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
