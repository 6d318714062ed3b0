"""A run of PaCE summed up: what was found and removed, and the weak points of the method where they occur in it."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from contrans_lens.interventions.audit import Finding
from contrans_lens.pace.partition import Partition

if TYPE_CHECKING:
    from contrans_lens.pace.run import PaceRun

_SHOWN = 5  # names in a sentence
_FEW_EXAMPLES = 3
_CLOSE = 0.02  # of the scores' range [-1, 1]: a cut between nearer scores could as well lie elsewhere
_HALF = 0.5
_LARGE = 0.5  # of the activation's norm


@dataclass(frozen=True)
class PointSummary:
    """What happened at one hook point."""

    hook_point: str
    tokens: int
    """Activations that were decomposed."""
    explained: float
    """Share of the squared norm that the concepts explain, mean over tokens."""
    removed: float
    """Norm of what was taken out over the activation's, mean over tokens."""
    concepts: tuple[tuple[str, float, int, int], ...]
    """What was removed: concept, mean coefficient, tokens where it was found, those with a negative coefficient."""


@dataclass(frozen=True)
class AuditRow:
    """A concept at one hook point."""

    concept: str
    positive: float
    """Positive part of the mean coefficient, ``mean(max(c, 0))`` over the tokens where the concept was found."""
    negative: float
    """Negative part; both add up to the mean."""
    tokens: int
    """Tokens where it was found."""
    removed: bool
    """Whether it was taken out."""


def point_summaries(run: "PaceRun") -> list[PointSummary]:
    """What was found and removed at each hook point, in the order of the run."""
    audit = run.edited.audit
    made = []
    for point in dict.fromkeys(removal.hook_point for removal in run.removals):
        here = [] if audit is None else [each for each in audit.findings if each.hook_point == point]
        concepts = [] if audit is None else audit.concepts(point)
        negative = Counter(name for each in here for name, value in each.removed if value < 0)
        made.append(
            PointSummary(
                point,
                len(here),
                _mean(here, lambda each: 1 - (each.residual / each.norm) ** 2),
                _mean(here, lambda each: each.removed_norm / each.norm),
                tuple((name, mean, tokens, negative[name]) for _, name, mean, tokens in concepts),
            )
        )
    return made


def audit_rows(run: "PaceRun", hook_point: str, k: int) -> list[AuditRow]:
    """The ``k`` concepts with the largest sums of ``|c|`` at a hook point; removed ones are never crowded out."""
    audit = run.edited.audit
    values: dict[str, list[float]] = {}
    taken: set[str] = set()
    for finding in () if audit is None else audit.findings:
        if finding.hook_point == hook_point:
            taken.update(name for name, _ in finding.removed)
            for name, value in finding.found:
                values.setdefault(name, []).append(value)
    ranked = sorted(values, key=lambda name: -sum(map(abs, values[name])))
    kept = set(sorted(ranked, key=lambda name: name not in taken)[:k])
    return [
        AuditRow(
            name,
            sum(value for value in values[name] if value > 0) / len(values[name]),
            sum(value for value in values[name] if value < 0) / len(values[name]),
            len(values[name]),
            name in taken,
        )
        for name in ranked
        if name in kept
    ]


def weak_points(run: "PaceRun") -> list[str]:
    """Sentences about what a reader should not overlook in this run; none where nothing was noticed."""
    points = point_summaries(run)
    return [
        *_negative(run, points),
        *_found_nowhere(run, points),
        *_partition(run.partition),
        *_decomposition(run, points),
        *_controls(run),
    ]


def changed_prompts(run: "PaceRun", texts: Sequence[str]) -> int:
    """How many prompts were continued in another way than by the plain model."""
    return sum(one != other for one, other in zip(run.plain.texts, texts, strict=True))


def _negative(run: "PaceRun", points: Sequence[PointSummary]) -> Iterator[str]:
    if run.removals[0].strength <= 0:
        return
    counts: dict[str, list[int]] = {}
    for name, _, tokens, negative in (concept for point in points for concept in point.concepts):
        before = counts.setdefault(name, [0, 0])
        counts[name] = [before[0] + negative, before[1] + tokens]
    below = sorted(((name, n[0], n[1]) for name, n in counts.items() if n[0]), key=lambda each: -each[1])
    if below:
        of_concepts = [f"'{name}' (at {negative} of {tokens} tokens)" for name, negative, tokens in below]
        where = [point.hook_point for point in points if any(concept[3] for concept in point.concepts)]
        yield (
            f"Undesirable concepts have negative coefficients: {_listed(of_concepts)}; at {_listed(where)}. Taking a "
            "negative amount out puts the concept in: there, the removal adds it."
        )


def _found_nowhere(run: "PaceRun", points: Sequence[PointSummary]) -> Iterator[str]:
    taken = {concept[0] for point in points for concept in point.concepts}
    if not taken:
        yield (
            "Nothing was removed: none of the undesirable concepts was found at any token, so the texts are the plain "
            "ones. A smaller penalty (or more atoms), other hook points or per_token find more."
        )
        return
    never = [name for name in run.partition.undesirable if name not in taken]
    if never:
        which = _listed([f"'{name}'" for name in never])
        yield (
            f"{len(never)} of {len(run.partition.undesirable)} undesirable concepts were found nowhere: {which}. "
            "Nothing was taken out for them."
        )


def _partition(partition: Partition) -> Iterator[str]:
    examples = partition.examples
    if examples and len(examples) < _FEW_EXAMPLES:
        which = _listed([f"'{name}'" for name in examples])
        yield (
            f"All {len(partition.undesirable)} undesirable concepts were chosen because they are near to {which}: few "
            "examples, so what these have in common with others by accident counts, too. Look the list through."
        )
    chosen = set(partition.undesirable)
    lowest = min((score for score in partition.scores if score.name in chosen), key=lambda score: score.score)
    highest = max((score for score in partition.scores if score.name not in chosen), key=lambda score: score.score)
    if abs(lowest.score - highest.score) < _CLOSE:
        yield (
            f"The partition is cut between near scores: '{lowest.name}' ({lowest.score:+.3f}) is undesirable and "
            f"'{highest.name}' ({highest.score:+.3f}) is not."
        )


def _decomposition(run: "PaceRun", points: Sequence[PointSummary]) -> Iterator[str]:
    whole = run.removals[0].solver.scope == "dictionary"
    little = [f"{each.hook_point} ({each.explained:.0%})" for each in points if each.tokens and each.explained < _HALF]
    if whole and little:
        yield (
            f"The concepts explain less than half of the activations at {_listed(little)}: what the dictionary has no "
            "word for is never removed."
        )
    much = [f"{each.hook_point} ({each.removed:.0%})" for each in points if each.tokens and each.removed > _LARGE]
    if much:
        yield (
            f"What was taken out is more than half as long as the activations at {_listed(much)}: expect texts to "
            "change for other reasons than the concepts."
        )


def _controls(run: "PaceRun") -> Iterator[str]:
    n, changed = len(run.plain.prompts), changed_prompts(run, run.edited.texts)
    others = max((changed_prompts(run, each.texts) for each in run.controls), default=0)
    if others and others >= changed:
        yield (
            f"Removing as many concepts at random changed {others} of {n} texts, removing the undesirable ones "
            f"{changed}: a changed text alone says little here; read whether it changed in the way that was meant."
        )
    if not run.damages:
        yield "Damage was not measured, because no neutral texts were given."


def _mean(findings: Sequence[Finding], value: Callable[[Finding], float]) -> float:
    values = [value(each) for each in findings if each.norm]
    return sum(values) / len(values) if values else 0.0


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
