"""The concepts that ship with the package, by name."""

from functools import cache
from importlib import resources
from pathlib import Path

from contrans_lens.errors import TextError
from contrans_lens.texts.contrast_sets import ContrastSet
from contrans_lens.texts.readers import read_contrast_set


def builtin_concepts() -> tuple[str, ...]:
    """The names of the concepts that ship with the package, in alphabetical order."""
    folder = resources.files("contrans_lens.texts") / "builtin"
    return tuple(sorted(entry.name.removesuffix(".json") for entry in folder.iterdir() if entry.name.endswith(".json")))


def load_concept(name_or_path: str | Path) -> ContrastSet:
    """Load a concept: a built-in name such as ``"honesty"``, or the path of a concept file.

    A bare word is looked up among the built-in concepts; anything with a suffix or a folder in it is a path.

    Raises:
        TextError: there is neither a built-in concept nor a file of this name, or the file is not a valid
            concept.
    """
    path = Path(name_or_path)
    if str(name_or_path) in builtin_concepts():
        return _builtin(str(name_or_path))
    if not path.exists():
        raise TextError(
            f"{str(name_or_path)!r} is neither a built-in concept nor a file. "
            f"Built-in: {', '.join(builtin_concepts())}. A file ends in .json, .jsonl or .csv."
        )
    return read_contrast_set(path)


@cache
def _builtin(name: str) -> ContrastSet:
    """Read a shipped concept file, once."""
    source = resources.files("contrans_lens.texts") / "builtin" / f"{name}.json"
    with resources.as_file(source) as path:
        return read_contrast_set(path, name=name)
