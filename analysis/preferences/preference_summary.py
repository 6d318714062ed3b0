"""``result.json``, the figures, and the README with its tables, of what is finished."""

from collections.abc import Sequence
from pathlib import Path

from preference_numbers import overall, setup_numbers
from preference_pictures import write_pictures
from preference_setups import Setup
from preference_tables import tables
from study_files import fill, rounded, write_compact


def summarise(setups: Sequence[Setup], folder: Path) -> None:
    """Everything that is finished, as ``result.json``, figures and the tables of the README."""
    finished = {setup.name: setup_numbers(setup) for setup in setups if (setup.folder / "seed0.json").exists()}
    result = rounded({"setups": finished, "overall": overall(finished), "sizes": vars(setups[0].sizes)})
    write_compact(folder / "result.json", result)
    write_pictures(result, folder)
    readme = folder / "README.md"
    if readme.exists():
        readme.write_text(fill(readme.read_text(encoding="utf-8"), tables(result["setups"])), encoding="utf-8")
