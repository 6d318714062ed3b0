"""Partitioners: scores from a file, from similarity to example concepts, or from a user's judge.

The paper (PaCE, arXiv 2406.04331) asks GPT-4 for the scores. None of these asks anybody: a file holds what somebody
has judged before, similarity is measured in the model's own space, and a judge is the user's own function.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from contrans_lens.errors import PaceError, TextError
from contrans_lens.pace.dictionary import ConceptDictionary
from contrans_lens.pace.partition import ConceptScore
from contrans_lens.pace.retrieval import mean_atom, nearness
from contrans_lens.texts.files import csv_rows, file_kind, jsonl_rows, parse_json, read_file

_SHOWN = 5


@dataclass(frozen=True)
class ScoreFile:
    """Scores that are written down: ``name``, ``score`` in [-1, 1] and, if there is one, ``reason``.

    The ending says what it is (``.gz`` may follow): a ``.jsonl`` file holds one object a line, a ``.csv`` file one row
    a concept under a header, a ``.json`` file a list of objects, or an object of scores by name.
    """

    path: Path | str
    """The file; its ending says what it is."""
    default: float | int | None = None
    """Score of concepts that the file does not name; None: they are refused."""

    def __call__(self, task: str, dictionary: ConceptDictionary) -> list[ConceptScore]:
        """The file's scores.

        Raises:
            PaceError: the file cannot be read, a row lacks its name or score, a name is not in the dictionary (close
                matches are told), occurs twice, or is missing without a default.
        """
        scores = [_scored(row, f"{Path(self.path).name}, entry {number}") for number, row in self._rows()]
        given, known = {score.name for score in scores}, set(dictionary.names)
        unknown = [_with_matches(score.name, dictionary.names) for score in scores if score.name not in known]
        if unknown:
            raise PaceError(f"{self.path} scores concepts that the dictionary does not have: {_listed(unknown)}.")
        missing = [name for name in dictionary.names if name not in given]
        if missing and self.default is None:
            raise PaceError(
                f"{self.path} has no score for {_listed(missing)}; add them, or give ScoreFile a default score."
            )
        return scores + [ConceptScore(name, self.default or 0.0, "default: not in the file") for name in missing]

    def _rows(self) -> list[tuple[int, Any]]:
        path = Path(self.path)
        kind = file_kind(path)
        if kind not in ("jsonl", "csv", "json"):
            raise PaceError(f"scores are read from .jsonl, .csv or .json files; {path.name} is none of them.")
        try:
            if kind == "json":
                rows = _listed_rows(parse_json(read_file(path), path))
            else:
                rows = jsonl_rows(path) if kind == "jsonl" else csv_rows(path)
        except TextError as error:
            raise PaceError(f"the scores cannot be read: {error}") from error
        return list(enumerate(rows, start=1))


@dataclass(frozen=True)
class SimilarityScorer:
    """Scores from the similarity to example concepts, in the model's own space; it asks nobody.

    With unit atoms ``v`` from which the mean atom is taken away (all concepts share a direction, which says nothing
    about any of them), examples E and counterexamples C, and averages over the hook points::

        near_E(i) = cos(v_i, sum_{e in E} v_e)
        score(i)  = near_E(i)                       without counterexamples
                    (near_E(i) - near_C(i)) / 2     with them

    Concepts with the opposite meaning score negative. The task is not read: the examples say what is meant. Many
    concepts score a little above 0 by chance, so cut by ``partition(..., at_least=0.5)`` or so; with counterexamples
    scores are half as large, so by .25.
    """

    examples: Sequence[str]
    """Names of undesirable concepts of the dictionary; at least one."""
    counterexamples: Sequence[str] = ()
    """Names of concepts that are to stay."""
    hook_points: Sequence[str] | None = None
    """Where similarity is measured; None: at all hook points of the dictionary."""
    combine: str = "mean"
    """``"mean"``: similarity to the sum of the examples; ``"max"``: to the nearest example."""
    centred: bool = True
    """Whether the mean atom is taken away first."""

    def __post_init__(self) -> None:
        if isinstance(self.examples, str) or isinstance(self.counterexamples, str) or not self.examples:
            raise PaceError(
                f"examples and counterexamples are lists of concept names, with at least one example; got "
                f"{self.examples!r} and {self.counterexamples!r}."
            )
        both = sorted(set(self.examples) & set(self.counterexamples))
        if both:
            raise PaceError(f"{_listed(both)} cannot be both example and counterexample; choose.")
        if self.combine not in ("mean", "max"):
            raise PaceError(f"examples are combined by 'mean' or 'max', not by {self.combine!r}.")
        if self.hook_points is not None and (isinstance(self.hook_points, str) or not self.hook_points):
            raise PaceError(f"hook_points is a list of names, or None for all; got {self.hook_points!r}.")

    def __call__(self, task: str, dictionary: ConceptDictionary) -> list[ConceptScore]:
        """A score for every concept, with the nearest example as its reason.

        Raises:
            PaceError: an example is not in the dictionary (close matches are told), or the dictionary lacks a hook
                point.
        """
        names = [*self.examples, *self.counterexamples]
        rows = [dictionary.index(name) for name in names]
        n_examples = len(self.examples)
        hook_points = dictionary.hook_points if self.hook_points is None else self.hook_points
        totals = torch.zeros(dictionary.n_atoms)
        cosines = torch.zeros(dictionary.n_atoms, len(names))
        for hook_point in hook_points:
            atoms = dictionary.at(hook_point)
            centre = mean_atom(atoms) if self.centred else None
            queries = torch.as_tensor(atoms[rows]).float()
            cosines += nearness(atoms, queries, centre) / len(hook_points)
            near = self._near(atoms, queries[:n_examples], centre)
            if self.counterexamples:
                near = (near - self._near(atoms, queries[n_examples:], centre)) / 2
            totals += near / len(hook_points)
        best = cosines.abs().argmax(1).tolist()
        return [
            ConceptScore(name, score, f"cosine {cosines[row, example]:+.2f} with '{names[example]}'")
            for row, (name, score, example) in enumerate(
                zip(dictionary.names, totals.clamp(-1, 1).tolist(), best, strict=True)
            )
        ]

    def _near(
        self,
        atoms: Float[Tensor, "atom d_model"],
        queries: Float[Tensor, "example d_model"],
        centre: Float[Tensor, " d_model"] | None,
    ) -> Float[Tensor, " atom"]:
        if self.combine == "max":
            return nearness(atoms, queries, centre).amax(1)
        return nearness(atoms, queries.mean(0, keepdim=True), centre)[:, 0]


@dataclass(frozen=True)
class Judge:
    """A user's judge, e.g. a language model behind an API, asked about one concept at a time."""

    judge: Callable[[str, str], float | int | tuple[float | int, str]]
    """``(task, concept name) -> score`` in [-1, 1], or a score and its reason."""

    def __call__(self, task: str, dictionary: ConceptDictionary) -> list[ConceptScore]:
        """The judge's score of every concept.

        Raises:
            PaceError: an answer is neither a number nor a number and a reason.
        """
        return [_answer(name, self.judge(task, name)) for name in dictionary.names]


def _answer(name: str, answer: Any) -> ConceptScore:
    score, reason = answer if isinstance(answer, tuple) and len(answer) == 2 else (answer, "")
    if isinstance(score, bool) or not isinstance(score, float | int) or not isinstance(reason, str):
        raise PaceError(f"the judge said {answer!r} about {name!r}; a number, or (number, reason), was expected.")
    return ConceptScore(name, score, reason)


def _listed_rows(value: Any) -> list[Any]:
    """The entries of a JSON file: a list of them, or scores or entries by name."""
    if isinstance(value, Mapping):
        return [{"name": name, **(each if isinstance(each, dict) else {"score": each})} for name, each in value.items()]
    return value if isinstance(value, list) else [value]


def _scored(row: Any, where: str) -> ConceptScore:
    if isinstance(row, dict) and "concept" in row and "name" not in row:
        row = {**row, "name": row["concept"]}  # as a partition's own table calls it
    if not isinstance(row, dict) or not row.get("name") or row.get("score") is None:
        raise PaceError(f"{where} is {row!r}; an entry with 'name' (or 'concept') and 'score' was expected.")
    try:
        return ConceptScore(str(row["name"]), float(row["score"]), str(row.get("reason") or ""))
    except (TypeError, ValueError) as error:
        raise PaceError(f"{where}: the score of {row['name']!r} is {row['score']!r}, which is not a number.") from error


def _with_matches(name: str, known: Sequence[str]) -> str:
    near = get_close_matches(name, known, n=3)
    return f"{name} (did you mean {' or '.join(near)}?)" if near else name


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
