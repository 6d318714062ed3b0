"""What a user names on the command line, turned into what the pipeline takes."""

from pathlib import Path
from typing import Literal, cast

from contrans_lens.errors import ModelError
from contrans_lens.texts import ContrastSet, load_concept, read_texts

EMBEDDED = "embedded:"

ModelKind = Literal["auto", "hooked", "bridge"]


def model_reference(name: str) -> str | Path:
    """A hub name or local folder as it is; ``embedded:NAME`` as the folder of that shipped model.

    Raises:
        TestbedError: no embedded model has that name.
    """
    if name.startswith(EMBEDDED):
        from contrans_lens.testbed import model_path

        return model_path(name.removeprefix(EMBEDDED))
    return Path(name) if Path(name).is_dir() else name


def concept_reference(name: str, seed: int = 0) -> ContrastSet:
    """A built-in concept by name, a concept file by path, or ``embedded:NAME`` from the embedded world.

    Raises:
        TextError: no such concept, or the file is not a valid one.
        TestbedError: no embedded concept has that name.
    """
    if name.startswith(EMBEDDED):
        from contrans_lens.testbed import concept

        return ContrastSet.from_dict(concept(name.removeprefix(EMBEDDED), seed=seed))
    return load_concept(name)


def text_reference(name: str, n: int = 2000) -> list[str]:
    """A text file (one a line, or jsonl), or ``embedded:map`` / ``embedded:neutral`` from the embedded world.

    Raises:
        TextError: the file is missing, empty or malformed, or the embedded corpus is unknown.
    """
    if name.startswith(EMBEDDED):
        from contrans_lens import testbed

        corpora = {"map": testbed.map_texts, "neutral": testbed.neutral_texts}
        corpus = name.removeprefix(EMBEDDED)
        if corpus in corpora:
            return corpora[corpus](n)
    return read_texts(name)


def model_kind(kind: str) -> ModelKind:
    """Check the name of a kind.

    Raises:
        ModelError: it is none of auto, hooked and bridge.
    """
    if kind not in ("auto", "hooked", "bridge"):
        raise ModelError(f"kind {kind!r} is unknown; choose auto, hooked or bridge.")
    return cast(ModelKind, kind)
