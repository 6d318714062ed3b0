"""What the command line gives PaCE: prompts, a solver, and which concepts are unwanted."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from contrans_lens.errors import PaceError, TextError
from contrans_lens.pace.dictionary import ConceptDictionary
from contrans_lens.pace.partition import MOST_UNDESIRABLE, Partition, Partitioner, named_partition, partition
from contrans_lens.pace.removal import Mode
from contrans_lens.pace.scorers import ScoreFile, SimilarityScorer
from contrans_lens.pace.solvers.elastic_net import ElasticNet
from contrans_lens.pace.solvers.omp import OMP
from contrans_lens.pace.solvers.projection import OrthogonalProjection, VectorAddition
from contrans_lens.pace.solvers.solver import Solver
from contrans_lens.texts import read_texts
from contrans_lens.texts.items import checked_text

SOLVERS = ("elastic-net", "omp", "projection", "addition")
"""Names of solvers on the command line."""
MODES: tuple[Mode, ...] = get_args(Mode)
"""When an activation is decomposed."""

_SOLVER_OPTIONS = {"elastic-net": ("alpha", "tau"), "omp": ("k",), "projection": (), "addition": ("coefficient",)}


def prompts_reference(prompts: Sequence[str], path: Path | str | None = None) -> list[str]:
    """Prompts that were given one by one, then those of a file: one a line, or jsonl with ``text``.

    Prompts that hold line breaks need jsonl, or to be given one by one.

    Raises:
        TextError: there are none, one is empty, or the file cannot be read.
    """
    given = [checked_text(prompt, f"prompt {number}") for number, prompt in enumerate(prompts, start=1)]
    found = given + ([] if path is None else read_texts(path))
    if not found:
        raise TextError("there is nothing to continue: give --prompt TEXT, perhaps several times, or --prompts FILE.")
    return found


def solver_reference(
    kind: str,
    *,
    alpha: float | None = None,
    tau: float | None = None,
    k: int | None = None,
    coefficient: float | None = None,
) -> Solver:
    """The solver of that name with the options that were given; others are the paper's.

    Raises:
        PaceError: no such solver, an option that belongs to another one, a coefficient that is missing, or a value out
            of range.
    """
    if kind not in SOLVERS:
        raise PaceError(f"solver {kind!r} is unknown; choose one of {', '.join(SOLVERS)}.")
    values: dict[str, Any] = {"alpha": alpha, "tau": tau, "k": k, "coefficient": coefficient}
    given = {name: value for name, value in values.items() if value is not None}
    foreign = [f"--{name}" for name in given if name not in _SOLVER_OPTIONS[kind]]
    if foreign:
        own = ", ".join(f"--{name}" for name in _SOLVER_OPTIONS[kind]) or "no option"
        raise PaceError(f"{', '.join(foreign)} does not belong to the solver {kind}, which has {own}.")
    if kind == "elastic-net":
        return ElasticNet(**given)
    if kind == "omp":
        return OMP(**given)
    if kind == "projection":
        return OrthogonalProjection()
    if coefficient is None:
        raise PaceError("the solver addition needs --coefficient, how much is taken out in units of ||z||, e.g. 0.1.")
    return VectorAddition(coefficient)


def mode_reference(mode: str) -> Mode:
    """Check the name of a mode.

    Raises:
        PaceError: it is none.
    """
    for known in MODES:
        if mode.replace("-", "_") == known:
            return known
    raise PaceError(f"mode {mode!r} is unknown; choose one of {', '.join(MODES)}.")


@dataclass(frozen=True)
class PartitionChoice:
    """Which concepts are unwanted, as the command line says it: in one of four ways.

    Raises:
        PaceError: none of the ways or several, or an option that does not belong to the way.
    """

    remove: tuple[str, ...] = ()
    """Exactly these concepts."""
    examples: tuple[str, ...] = ()
    """Concepts like these."""
    scores: Path | None = None
    """A file of scores."""
    saved: Path | None = None
    """A saved partition."""
    counterexamples: tuple[str, ...] = ()
    """Beside examples: concepts that are to stay."""
    most: int | None = None
    """Of examples and scores: largest number of undesirable concepts."""
    at_least: float | None = None
    """Of examples and scores: lowest score of an undesirable concept."""
    default_score: float | None = None
    """Of scores: that of concepts the file does not name."""
    task: str | None = None
    """What is to be removed, in words."""

    def __post_init__(self) -> None:
        ways = {
            "--remove": self.remove,
            "--examples": self.examples,
            "--scores": self.scores,
            "--partition": self.saved,
        }
        given = [name for name, value in ways.items() if value]
        if len(given) != 1:
            raise PaceError(
                f"{' and '.join(given) or 'nothing'} says what is to be removed; give one of {', '.join(ways)}."
            )
        needed = {
            "--most": (self.most is not None, ("--examples", "--scores")),
            "--at-least": (self.at_least is not None, ("--examples", "--scores")),
            "--counterexamples": (bool(self.counterexamples), ("--examples",)),
            "--default-score": (self.default_score is not None, ("--scores",)),
            "--task": (self.task is not None, ("--remove", "--examples", "--scores")),
        }
        for name, (is_given, ways_of) in needed.items():
            if is_given and given[0] not in ways_of:
                raise PaceError(f"{name} goes with {' or '.join(ways_of)}, not with {given[0]}; leave it out.")

    def partition(self, dictionary: ConceptDictionary) -> Partition:
        """The partition of a dictionary.

        Raises:
            PaceError: a concept is not in the dictionary (close ones are named), a score is missing or out of range,
                nothing or everything would be undesirable, or the saved partition is of another dictionary.
            ArtifactError: the saved partition cannot be read.
        """
        if self.saved is not None:
            return Partition.load(self.saved, dictionary)
        if self.remove:
            return named_partition(dictionary, self.remove, self.task)
        task, scorer = self._judged()
        most = MOST_UNDESIRABLE if self.most is None else self.most
        return partition(dictionary, task, scorer, most=most, at_least=self.at_least)

    def _judged(self) -> tuple[str, Partitioner]:
        """The task, in its own words where none were given, and the judge."""
        if self.scores is not None:
            return self.task or f"remove what {self.scores.name} scores high", ScoreFile(
                self.scores, self.default_score
            )
        scorer = SimilarityScorer(self.examples, self.counterexamples)
        return self.task or f"remove what is like {', '.join(self.examples)}", scorer
