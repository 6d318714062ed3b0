"""The partition of a dictionary: which concepts are undesirable for a task, with the scores and reasons behind it.

PaCE (arXiv 2406.04331) asks a judge for a score of every concept and takes the 50 highest as undesirable.
The judge is any callable here; the rule is a function of the scores, so that one judgement can be cut in several ways,
and everything is kept in one file that a reader can check and correct by hand.
"""

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import pandas as pd
import torch
from jaxtyping import Bool
from torch import Tensor

from contrans_lens.artifacts import read_json, write_json
from contrans_lens.errors import ArtifactError, PaceError
from contrans_lens.pace.dictionary import ConceptDictionary

KIND = "partition"
SCHEMA_VERSION = 1
MOST_UNDESIRABLE = 50
"""As many concepts as the paper removes."""
_SHOWN = 5  # names in an error message, and concepts below the cut in a printed partition


@dataclass(frozen=True)
class ConceptScore:
    """A judgement of one concept."""

    name: str
    """The concept's name in the dictionary."""
    score: float | int
    """In [-1, 1]; 1: certainly undesirable for the task, -1: certainly benign."""
    reason: str = ""
    """Why, for the reader."""


@runtime_checkable
class Partitioner(Protocol):
    """Anything that judges a dictionary's concepts: any callable of this signature."""

    def __call__(self, task: str, dictionary: ConceptDictionary) -> Sequence[ConceptScore]:
        """One score for every atom of the dictionary, in any order.

        Args:
            task: what is to be removed, in words, e.g. ``"make the answers less rude"``.
            dictionary: the concepts.
        """
        ...


@dataclass(frozen=True)
class Partition:
    """Which atoms of a dictionary are undesirable for a task; made by :func:`partition`."""

    task: str
    """What is to be removed, in words."""
    scores: tuple[ConceptScore, ...]
    """One per atom, in the dictionary's order."""
    undesirable: tuple[str, ...]
    """Names of the undesirable atoms, the highest score first."""
    rule: str
    """How the undesirable atoms were chosen from the scores."""
    dictionary_digest: str
    """Digest of the dictionary that was judged."""
    examples: tuple[str, ...] = ()
    """The concepts that similarity was measured to, where that was the judge."""

    def __post_init__(self) -> None:
        names = {score.name for score in self.scores}
        if len(names) < len(self.scores):
            raise PaceError("a partition holds one score for each concept; a name occurs twice.")
        if len(set(self.undesirable)) < len(self.undesirable):
            raise PaceError("an undesirable concept is named twice; name each once.")
        unknown = [name for name in self.undesirable if name not in names]
        if unknown:
            raise PaceError(
                f"undesirable concepts without a score: {_listed(unknown)}; name concepts of the dictionary."
            )
        if not self.undesirable:
            raise PaceError(
                f"no concept is undesirable for {self.task!r}, so nothing can be removed; name at least one."
            )
        if len(self.undesirable) == len(self.scores):
            raise PaceError(
                f"all {len(self.scores)} concepts are undesirable for {self.task!r}, so nothing benign is left to "
                "explain an activation; raise at_least, lower most, or add benign concepts to the dictionary."
            )

    def mask(self, dictionary: ConceptDictionary) -> Bool[Tensor, " atom"]:
        """Which atoms are undesirable, in the dictionary's order.

        Raises:
            PaceError: the partition was made for another dictionary.
        """
        self.require(dictionary)
        chosen = set(self.undesirable)
        return torch.tensor([name in chosen for name in dictionary.names], dtype=torch.bool)

    def require(self, dictionary: ConceptDictionary) -> None:
        """Refuse another dictionary than the one that was judged.

        Raises:
            PaceError: its digest differs.
        """
        if dictionary.digest != self.dictionary_digest:
            raise PaceError(
                f"this partition of {len(self.scores)} concepts was made for the dictionary "
                f"{self.dictionary_digest[:12]}, not for {dictionary.digest[:12]} ({dictionary.n_atoms} concepts at "
                f"{', '.join(dictionary.hook_points)}). Names, atoms and hook points must be the same: open the one it "
                "was made for (removals() takes hook_points), or make the partition again."
            )

    def with_undesirable(self, names: Sequence[str]) -> "Partition":
        """The same scores with the undesirable concepts named by hand.

        Args:
            names: all of them, e.g. ``[*partition.undesirable, "sly"]``.

        Raises:
            PaceError: a name without a score, a name twice, none, or all.
        """
        if isinstance(names, str):
            raise PaceError(f"name the undesirable concepts in a list: [{names!r}].")
        given, before = tuple(names), set(self.undesirable)
        added = [name for name in given if name not in before]
        removed = [name for name in self.undesirable if name not in set(given)]
        changes = [f"{what} {', '.join(some)}" for what, some in (("added", added), ("removed", removed)) if some]
        rule = f"{self.rule}; by hand: {'; '.join(changes) or 'nothing changed'}"
        return replace(self, undesirable=given, rule=rule)

    def shuffled(self, seed: int = 0) -> "Partition":
        """A control: as many undesirable concepts, drawn at random among the others.

        Args:
            seed: of the draw; equal seeds give equal controls.

        Raises:
            PaceError: there are fewer other concepts than undesirable ones.
        """
        flagged = set(self.undesirable)
        others = sorted(score.name for score in self.scores if score.name not in flagged)
        if len(others) < len(flagged):
            raise PaceError(
                f"a control needs {len(flagged)} concepts that are not undesirable, and there are {len(others)}; "
                "flag fewer concepts, or add benign ones to the dictionary."
            )
        drawn = random.Random(f"partition:{seed}").sample(others, len(flagged))
        rule = f"control (seed {seed}): as many as by '{self.rule}', drawn at random among the other concepts"
        return replace(self, undesirable=tuple(drawn), rule=rule, examples=())

    def to_frame(self) -> pd.DataFrame:
        """All concepts with ``score``, ``undesirable`` and ``reason``: the undesirable first, then by score."""
        position = {name: place for place, name in enumerate(self.undesirable)}
        rows = sorted(self.scores, key=lambda row: (position.get(row.name, len(position)), -row.score, row.name))
        return pd.DataFrame(
            {
                "concept": [row.name for row in rows],
                "score": [float(row.score) for row in rows],
                "undesirable": [row.name in position for row in rows],
                "reason": [row.reason for row in rows],
            }
        )

    def _heading(self) -> str:
        return f"{self.task}: {len(self.undesirable)} of {len(self.scores)} concepts are undesirable ({self.rule})"

    def _shown(self) -> pd.DataFrame:
        return self.to_frame().head(len(self.undesirable) + _SHOWN)

    def __str__(self) -> str:
        frame = self._shown()
        width = max(len(name) for name in frame["concept"])
        lines = [self._heading()]
        for row in frame.itertuples(index=False):
            mark = "x" if row.undesirable else " "
            lines.append(f" {mark} {row.concept:{width}s} {row.score:+.3f}  {row.reason}".rstrip())
        rest = len(self.scores) - len(frame)
        return "\n".join([*lines, f"   ... and {rest} more"] if rest else lines)

    def _repr_html_(self) -> str:
        # Through pandas alone: it escapes names and reasons, which may come from anywhere.
        heading = pd.DataFrame({"partition": [self._heading()]}).to_html(index=False, header=False, border=0)
        return heading + self._shown().to_html(index=False, border=0, float_format="{:+.3f}".format)

    def save(self, path: Path | str) -> Path:
        """Save as one JSON file, atomically.

        Raises:
            ArtifactError: the file cannot be written.
        """
        write_json(Path(path), {"kind": KIND, "schema": SCHEMA_VERSION, **asdict(self)})
        return Path(path)

    @classmethod
    def load(cls, path: Path | str, dictionary: ConceptDictionary | None = None) -> "Partition":
        """Load a saved partition.

        Args:
            path: the file.
            dictionary: the dictionary it is about to be used with; checked when given.

        Raises:
            ArtifactError: the file is missing, is no partition, or of another schema.
            PaceError: it was made for another dictionary, or was edited into one that cannot be used.
        """
        body = read_json(Path(path))
        if body.get("kind") != KIND or body.get("schema") != SCHEMA_VERSION:
            raise ArtifactError(
                f"{path} is a {body.get('kind')!r} of schema {body.get('schema')!r}; a {KIND!r} of schema "
                f"{SCHEMA_VERSION} was expected."
            )
        try:
            scores = tuple(ConceptScore(**row) for row in body["scores"])
            _check(scores, [score.name for score in scores])
            loaded = cls(
                body["task"],
                scores,
                tuple(body["undesirable"]),
                body["rule"],
                body["dictionary_digest"],
                tuple(body.get("examples", ())),
            )
        except (KeyError, TypeError) as error:
            raise ArtifactError(f"the partition in {path} does not fit: {error}; make it again.") from error
        if dictionary is not None:
            loaded.require(dictionary)
        return loaded


def flags_of(dictionary: ConceptDictionary, chosen: Partition | Sequence[str]) -> Bool[Tensor, " atom"]:
    """Which atoms are meant: a partition's undesirable ones, or those of these names; in the dictionary's order.

    Raises:
        PaceError: the partition is of another dictionary, a name is unknown, or names are one text and no list.
    """
    if isinstance(chosen, Partition):
        return chosen.mask(dictionary)
    if isinstance(chosen, str):
        raise PaceError(f"the concepts are the one text {chosen!r}; give a list of concepts, or a partition.")
    flags = torch.zeros(dictionary.n_atoms, dtype=torch.bool)
    flags[[dictionary.index(name) for name in chosen]] = True
    return flags


def named_partition(dictionary: ConceptDictionary, names: Sequence[str], task: str | None = None) -> Partition:
    """A partition by hand: exactly these concepts are undesirable.

    Args:
        dictionary: the concepts.
        names: the undesirable ones; repeated names count once.
        task: what is to be removed, in words; made of the names if None.

    Raises:
        PaceError: an unknown name (close ones are told), none, or all.
    """
    if isinstance(names, str):
        raise PaceError(f"name the undesirable concepts in a list: [{names!r}].")
    chosen = tuple(dict.fromkeys(names))
    for name in chosen:
        dictionary.index(name)
    marked = set(chosen)
    scores = tuple(
        ConceptScore(name, 1.0, "named by hand") if name in marked else ConceptScore(name, 0.0)
        for name in dictionary.names
    )
    return Partition(task or f"remove {', '.join(chosen)}", scores, chosen, "named by hand", dictionary.digest)


def partition(
    dictionary: ConceptDictionary,
    task: str,
    partitioner: Partitioner,
    *,
    most: int = MOST_UNDESIRABLE,
    at_least: float | int | None = None,
) -> Partition:
    """Ask a partitioner for the score of every concept, and take the highest as undesirable.

    The paper takes the 50 highest whatever their scores are. A small dictionary would be emptied by that, so a concept
    must also score above 0, or at least ``at_least``. Equal scores are ordered by name.

    Args:
        dictionary: the concepts.
        task: what is to be removed, in words; handed to the partitioner.
        partitioner: the judge: a :class:`~contrans_lens.pace.scorers.ScoreFile`, a
            :class:`~contrans_lens.pace.scorers.SimilarityScorer`, a :class:`~contrans_lens.pace.scorers.Judge`, or any
            callable ``(task, dictionary) -> [ConceptScore(name, score, reason), ...]``.
        most: largest number of undesirable concepts.
        at_least: lowest score of an undesirable concept, in [-1, 1]; None: any score above 0.

    Raises:
        PaceError: a score is missing, extra, repeated, out of range or NaN (they are named); no concept, or every
            concept, would be undesirable; ``most`` or ``at_least`` make no sense.
    """
    if most < 1:
        raise PaceError(f"at least one concept must be undesirable; most={most} was given.")
    if at_least is not None and not -1 <= at_least <= 1:
        raise PaceError(f"scores lie in [-1, 1], so at_least={at_least} makes no sense; choose a value between.")
    given = list(partitioner(task, dictionary))
    if other := next((each for each in given if not isinstance(each, ConceptScore)), None):
        raise PaceError(f"a partitioner returns ConceptScore(name, score, reason) for every concept; got {other!r}.")
    _check(given, dictionary.names)
    by_name = {score.name: score for score in given}
    ranked = sorted(given, key=lambda score: (-score.score, score.name))
    chosen = [score.name for score in ranked if (score.score > 0 if at_least is None else score.score >= at_least)]
    bound = "a score above 0" if at_least is None else f"a score of at least {at_least:g}"
    if not chosen:
        best = ", ".join(f"{score.name} ({score.score:+.3f})" for score in ranked[:_SHOWN])
        raise PaceError(
            f"no concept has {bound} for {task!r}; the highest are {best}. Set at_least, or other examples."
        )
    scores = tuple(by_name[name] for name in dictionary.names)
    examples = tuple(getattr(partitioner, "examples", ()))
    rule = f"the {most} highest scores, with {bound}"
    return Partition(task, scores, tuple(chosen[:most]), rule, dictionary.digest, examples)


def _check(scores: Sequence[ConceptScore], names: Sequence[str]) -> None:
    """One finite score in range for each name, and no other."""
    given = Counter(score.name for score in scores)
    known = set(names)
    wrong = [f"{row.name} ({row.score})" for row in scores if not math.isfinite(row.score) or abs(row.score) > 1]
    problems = {
        "no score for": [name for name in names if name not in given],
        "scores of unknown concepts": sorted(given.keys() - known),
        "more than one score for": sorted(name for name, count in given.items() if count > 1),
        "scores that are not in [-1, 1]": wrong,
    }
    found = [f"{what} {_listed(which)}" for what, which in problems.items() if which]
    if found:
        raise PaceError(f"a partitioner gives every concept one score in [-1, 1]; this one has {'; '.join(found)}.")


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
