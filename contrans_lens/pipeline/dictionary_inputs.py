"""What the command line gives to build a concept dictionary from: stimuli, a list of words, or atoms of others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from contrans_lens.errors import PaceError, TextError
from contrans_lens.models import HookedModel
from contrans_lens.pace.dictionary import ConceptDictionary
from contrans_lens.pace.external import read_external
from contrans_lens.pipeline.inputs import EMBEDDED
from contrans_lens.texts.files import csv_rows, file_kind, jsonl_rows, read_file
from contrans_lens.texts.items import checked_text
from contrans_lens.texts.stimuli import DEFAULT_TEMPLATE, ConceptStimuli, check_template, folded_name, read_stimuli
from contrans_lens.texts.stimuli_frames import FrameKind, frame_stimuli

FRAMES: tuple[FrameKind, ...] = get_args(FrameKind)
"""What a concept of a word list can be."""

_WORLD = "world"


@dataclass(frozen=True)
class Stimuli:
    """Concepts with their stimuli, and the prompt that they stand in."""

    concepts: tuple[ConceptStimuli, ...]
    template: str = DEFAULT_TEMPLATE


def stimuli_reference(name: str, template: str | None = None, *, seed: int = 0) -> Stimuli:
    """A stimuli file (jsonl), or ``embedded:world``, the concepts of the embedded models' world.

    Args:
        name: the file or the name.
        template: the prompt; None: the paper's for a file, and the bare stimulus for the world's, which already end
            where they are read.
        seed: of the world's wording.

    Raises:
        TextError: the file is missing or malformed, no embedded stimuli have that name, or the template has no place
            for the stimulus.
    """
    if name.startswith(EMBEDDED):
        from contrans_lens.testbed.stimuli import STIMULI_TEMPLATE, concept_stimuli

        if name.removeprefix(EMBEDDED) != _WORLD:
            raise TextError(f"no embedded stimuli are called {name!r}; there are those of {EMBEDDED}{_WORLD}.")
        return Stimuli(tuple(concept_stimuli(seed)), _template(template, STIMULI_TEMPLATE))
    return Stimuli(tuple(read_stimuli(name)), _template(template, DEFAULT_TEMPLATE))


def framed_stimuli(
    path: Path | str, frame: str | None, template: str | None = None, *, n: int = 30, seed: int = 0
) -> Stimuli:
    """Stimuli made from a list of concepts: one a line, or ``.jsonl`` or ``.csv`` with ``concept``.

    Rows of ``.jsonl`` and ``.csv`` may hold ``topic``, and ``frame`` where it differs from the others.

    Args:
        path: the list.
        frame: what the concepts are, one of :data:`FRAMES`; None where every row says it.
        template: the prompt; None: the paper's.
        n: sentences for each concept.
        seed: of the sentences.

    Raises:
        TextError: the list is missing, empty or malformed, a concept stands twice, or a frame is missing or unknown.
    """
    path = Path(path)
    concepts: dict[str, ConceptStimuli] = {}
    for number, row in enumerate(_listed(path), start=1):
        where = f"entry {number} of {path}"
        name = checked_text(row.get("concept"), f"the concept in {where}").strip()
        kind = _frame(row.get("frame") or frame, where)
        if folded_name(name) in concepts:
            raise TextError(f"{where}: concept {name!r} stands twice; leave one out.")
        made = frame_stimuli(name, kind, n, seed, topic=str(row.get("topic") or ""))
        concepts[folded_name(name)] = made
    if not concepts:
        raise TextError(f"{path} holds no concepts; one a line was expected.")
    return Stimuli(tuple(concepts.values()), _template(template, DEFAULT_TEMPLATE))


@dataclass(frozen=True)
class ExternalAtoms:
    """Atoms that somebody else made, as files."""

    path: Path
    """Matrix of the atoms."""
    names: Path
    """Their names."""
    hook_point: str
    """Where in the model they belong."""
    tensor: str | None = None
    """Which tensor of the file."""
    transposed: bool | None = None
    """Whether atoms are columns; None: told by the number of names."""
    drop_unusable: bool = False
    """Whether atoms that are zero or not finite are left out; otherwise they are refused."""

    def read(self, model: HookedModel | None, cosine_limit: float | int = 0.999) -> ConceptDictionary:
        """The dictionary; without the model it can be searched, but not be used.

        Raises:
            PaceError, ArtifactError, TextError, HookPointError: see :func:`contrans_lens.pace.external.read_external`.
        """
        return read_external(
            self.path,
            self.names,
            self.hook_point,
            model=model,
            tensor=self.tensor,
            transposed=self.transposed,
            unusable="drop" if self.drop_unusable else "error",
            cosine_limit=cosine_limit,
        )


def external_reference(
    path: Path | None,
    names: Path | None,
    hook_points: Sequence[str],
    *,
    tensor: str | None = None,
    transposed: bool | None = None,
    drop_unusable: bool = False,
) -> ExternalAtoms | None:
    """Foreign atoms where a path to them was given; else None.

    Raises:
        PaceError: names or the one hook point are missing, or options were given without a path.
    """
    if path is None:
        if names is not None or tensor is not None or transposed is not None or drop_unusable:
            raise PaceError("--names, --tensor, --columns, --rows and --drop-unusable go with --external FILE.")
        return None
    if names is None or len(hook_points) != 1:
        raise PaceError("--external needs --names FILE, and one --hook-point: where its atoms belong.")
    return ExternalAtoms(path, names, hook_points[0], tensor, transposed, drop_unusable)


def _template(given: str | None, default: str) -> str:
    """The template, with a line break wherever a backslash and an n were typed in a shell."""
    template = default if given is None else given.replace("\\n", "\n")
    check_template(template)
    return template


def _listed(path: Path) -> Sequence[Mapping[str, Any]]:
    kind = file_kind(path)
    if kind in ("jsonl", "csv"):
        rows: list[Any] = jsonl_rows(path) if kind == "jsonl" else csv_rows(path)
        return [row if isinstance(row, Mapping) else {"concept": row} for row in rows]
    return [{"concept": line} for line in read_file(path).splitlines() if line.strip()]


def _frame(given: object, where: str) -> FrameKind:
    for known in FRAMES:
        if given == known:
            return known
    said = "nothing says" if given is None else f"{given!r} does not say"
    raise TextError(f"{where}: {said} what the concept is; give --frame, one of {', '.join(FRAMES)}.")
