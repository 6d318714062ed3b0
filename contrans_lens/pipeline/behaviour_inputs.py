"""What is measured, as it is named on the command line: ``KIND:PATH`` or ``KIND:PATH@OPTION``.

======================================  ==============================================================================
``answers:CONCEPT[@PART]``              prompts with two answers: built-in concept, concept file or ``embedded:NAME``;
                                        the items of its ``test`` part (the default), of ``validation``, or of ``all``
``choices:FILE[@pairs]``                choice items; ``embedded:capability`` and ``embedded:knowledge`` are shipped
``truthfulqa:FILE[@pairs]``             TruthfulQA
``mmlu:FILE[@continuation]``            MMLU and its like, lettered; or with the answers themselves as choices
``bbq:FILE[@choices]``                  BBQ, its bias; or as choice items
``stereoset:FILE[@TASK]``               StereoSet, how often the stereotype wins; the ``intrasentence`` task (the
                                        default) or ``intersentence``; or, with ``pairs`` and ``intersentence-pairs``,
                                        the anti-stereotype against the stereotype
``words:FOLDER[@first]``                emotion words after scenarios, whole or by their first tokens
``generate:FILE@JUDGE``                 what is written after prompts (one a line), judged by ``sentiment``,
                                        ``refusal``, an emotion, or a lexicon file
======================================  ==============================================================================

``@pairs`` sets the best answer against the one wrong answer that counts, for a smooth behaviour in [-1, 1].
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from contrans_lens.errors import TextError
from contrans_lens.evaluation.behaviours import (
    BBQBias,
    Behaviour,
    Choices,
    Generations,
    PairedAnswers,
    StereoSetBias,
    Words,
)
from contrans_lens.evaluation.lexicon import Lexicon, emotion_lexicon, load_lexicon, refusal
from contrans_lens.pipeline.inputs import EMBEDDED, concept_reference
from contrans_lens.pipeline.reading import split_concept
from contrans_lens.pipeline.settings import Settings
from contrans_lens.pipeline.thinning import thinned
from contrans_lens.texts import (
    EMOTIONS,
    ChoiceItem,
    PromptCue,
    choice_items_from_pairs,
    pairs_from_choice_items,
    read_bbq,
    read_choice_items,
    read_mmlu,
    read_repe_emotions,
    read_stereoset,
    read_texts,
    read_truthfulqa,
    stereotype_pairs,
    word_items,
)

CAPABILITY_ITEMS = 96
"""Items of ``choices:embedded:capability``."""

_Item = TypeVar("_Item")
_TAKEN = ("neutral",)  # what the neutral texts of a sweep are called


@dataclass(frozen=True)
class Spec:
    """One behaviour as it was named."""

    kind: str
    path: str
    option: str = ""

    @classmethod
    def parse(cls, text: str) -> "Spec":
        """Read ``KIND:PATH[@OPTION]``; a path that exists may hold an ``@``.

        Raises:
            TextError: no such kind, or nothing after it.
        """
        kind, colon, rest = text.partition(":")
        if kind not in _READERS or not colon or not rest:
            raise TextError(
                f"{text!r} names no behaviour; KIND:PATH with a kind of {', '.join(_READERS)} was expected."
            )
        path, at, option = rest.rpartition("@")
        if not at or Path(rest).exists():
            return cls(kind, rest)
        return cls(kind, path, option)

    def checked_option(self, *known: str) -> str:
        """The option, if it is one of the known ones or absent.

        Raises:
            TextError: it is another one.
        """
        if self.option and self.option not in known:
            raise TextError(
                f"{self.kind}:{self.path} has the option {self.option!r}; known are {', '.join(known) or 'none'}."
            )
        return self.option

    def __str__(self) -> str:
        return f"{self.kind}:{self.path}" + (f"@{self.option}" if self.option else "")


@dataclass(frozen=True)
class BehaviourOptions:
    """What applies to every behaviour of a command."""

    limit: int | None = None
    """At most so many items, taken evenly over the file."""
    seed: int = 0
    """Of splits, embedded items and generation."""
    max_new_tokens: int = 40
    """Of generations."""


@dataclass(frozen=True)
class LexiconJudge:
    """A lexicon as a judge of generations: its balance of either side, or refusal as a yes or no."""

    lexicon: Lexicon

    def __call__(self, prompts: Sequence[str], texts: Sequence[str]) -> Sequence[float]:
        """One score in [-1, 1] for each text."""
        found = refusal(texts, self.lexicon) if self.lexicon.name == "refusal" else self.lexicon.score(texts)
        scores: list[float] = found.tolist()
        return scores

    @property
    def called(self) -> str:
        """Name and content: another version of a lexicon file is another judge."""
        return f"{self.lexicon.name} {hashlib.sha256(repr(self.lexicon).encode()).hexdigest()[:12]}"


def read_behaviours(specs: Sequence[str], options: BehaviourOptions | None = None) -> list[Behaviour]:
    """Behaviours by their specs; names that come twice are numbered.

    Raises:
        TextError: a spec names no behaviour, or its file cannot be used.
        EvaluationError: a file of BBQ that does not say of any item whom the stereotype is about.
    """
    found: list[Behaviour] = []
    for spec in specs:
        behaviour = read_behaviour(spec, options)
        found.append(_renamed(behaviour, {*_TAKEN, *(each.name for each in found)}))
    return found


def read_behaviour(spec: str, options: BehaviourOptions | None = None) -> Behaviour:
    """The behaviour that a spec names.

    Raises:
        TextError: the spec names no behaviour, or its file cannot be used.
        EvaluationError: a file of BBQ that does not say of any item whom the stereotype is about.
    """
    options = options or BehaviourOptions()
    parsed = Spec.parse(spec)
    return thinned(_READERS[parsed.kind](parsed, options), options.limit)


def as_helpfulness(behaviour: Behaviour, column: str | None = None) -> Behaviour:
    """The behaviour on the scale of helpfulness, [0, 1]: paired answers and benchmarks of bias as choices.

    Right are the answers that a benchmark of bias calls right: of StereoSet, either sentence that makes sense.

    Args:
        behaviour: what may be lost.
        column: which reading stands for it, such as ``p_mean``; None: its own.
    """
    if isinstance(behaviour, PairedAnswers):
        behaviour = Choices(tuple(choice_items_from_pairs(behaviour.items)), name=behaviour.name)
    if isinstance(behaviour, BBQBias | StereoSetBias):
        behaviour = Choices(behaviour.benchmark.items, behaviour.normalise, behaviour.name)
    if column is not None and isinstance(behaviour, Choices | Words):
        behaviour = replace(behaviour, primary=column)
    return behaviour


def prompt_cue(specs: Sequence[str]) -> PromptCue | None:
    """The words that ask for the first concept among the specs that has any."""
    for spec in map(Spec.parse, specs):
        if spec.kind == "answers":
            cue = concept_reference(spec.path).prompt
            if cue is not None:
                return cue
    return None


def _answers(spec: Spec, options: BehaviourOptions) -> Behaviour:
    part = spec.checked_option("test", "validation", "all") or "test"
    concept = concept_reference(spec.path, seed=options.seed)
    if part == "all":
        return PairedAnswers(_items(concept.evaluation, spec), concept.name)
    splits = split_concept(concept, Settings(seed=options.seed))
    chosen = splits.test if part == "test" else splits.validation
    return PairedAnswers(chosen.evaluation, concept.name)


def _choices(spec: Spec, options: BehaviourOptions) -> Behaviour:
    if spec.path.startswith(EMBEDDED):
        return _embedded_choices(spec, options)
    return _chosen(spec, read_choice_items(spec.path), _stem(spec))


def _embedded_choices(spec: Spec, options: BehaviourOptions) -> Behaviour:
    from contrans_lens.testbed.capability import capability_items, knowledge_items

    name = spec.path.removeprefix(EMBEDDED)
    if name == "knowledge":
        part = spec.checked_option("train", "validation", "test") or "test"
        return Choices(tuple(knowledge_items(part, options.seed)), name=name)
    if name != "capability":
        raise TextError(f"no embedded choice items {name!r}; there are capability and knowledge.")
    spec.checked_option()
    return Choices(tuple(capability_items(options.limit or CAPABILITY_ITEMS, options.seed)), name=name)


def _truthfulqa(spec: Spec, options: BehaviourOptions) -> Behaviour:
    return _chosen(spec, read_truthfulqa(spec.path).items, "TruthfulQA")


def _mmlu(spec: Spec, options: BehaviourOptions) -> Behaviour:
    given = spec.checked_option("lettered", "continuation")
    found = read_mmlu(spec.path, presentation="continuation" if given == "continuation" else "lettered")
    return Choices(_items(found.items, spec), name=found.name)


def _bbq(spec: Spec, options: BehaviourOptions) -> Behaviour:
    given = spec.checked_option("choices")
    found = read_bbq(spec.path)
    items = _items(found.items, spec)
    return Choices(items, name=_stem(spec)) if given == "choices" else BBQBias(found, name=_stem(spec))


def _stereoset(spec: Spec, options: BehaviourOptions) -> Behaviour:
    given = spec.checked_option("intrasentence", "intersentence", "pairs", "intersentence-pairs")
    found = read_stereoset(spec.path, "intersentence" if given.startswith("intersentence") else "intrasentence")
    _items(found.items, spec)
    if given.endswith("pairs"):
        return PairedAnswers(tuple(stereotype_pairs(found)), found.name)
    return StereoSetBias(found, name=found.name)


def _words(spec: Spec, options: BehaviourOptions) -> Behaviour:
    given = spec.checked_option("whole", "first")
    items = tuple(word_items(read_repe_emotions(spec.path)))
    return Words(items, "first" if given == "first" else "whole", _stem(spec))


def _generate(spec: Spec, options: BehaviourOptions) -> Behaviour:
    if not spec.option:
        raise TextError(f"{spec} names no judge; write generate:{spec.path}@sentiment, @refusal or @LEXICON.json.")
    judge = LexiconJudge(emotion_lexicon(spec.option) if spec.option in EMOTIONS else load_lexicon(spec.option))
    return Generations(
        tuple(read_texts(spec.path)),
        judge,
        judge.called,
        max_new_tokens=options.max_new_tokens,
        seed=options.seed,
        name=f"{_stem(spec)} {judge.lexicon.name}",
    )


_READERS: dict[str, Callable[[Spec, BehaviourOptions], Behaviour]] = {
    "answers": _answers,
    "choices": _choices,
    "truthfulqa": _truthfulqa,
    "mmlu": _mmlu,
    "bbq": _bbq,
    "stereoset": _stereoset,
    "words": _words,
    "generate": _generate,
}


def _chosen(spec: Spec, items: Sequence[ChoiceItem], name: str) -> Behaviour:
    """Choice items as they are, or as pairs."""
    if spec.checked_option("pairs"):
        return PairedAnswers(tuple(pairs_from_choice_items(items)), name)
    return Choices(_items(items, spec), name=name)


def _items(items: Sequence[_Item], spec: Spec) -> tuple[_Item, ...]:
    if not items:
        raise TextError(f"{spec} holds no items that could be measured.")
    return tuple(items)


def _stem(spec: Spec) -> str:
    return Path(spec.path).name.split(".")[0] or spec.kind


def _renamed(behaviour: Behaviour, taken: set[str]) -> Behaviour:
    if behaviour.name not in taken:
        return behaviour
    number = 2
    while f"{behaviour.name} {number}" in taken:
        number += 1
    named = f"{behaviour.name} {number}"
    match behaviour:
        case PairedAnswers() | Choices() | Words() | Generations() | BBQBias() | StereoSetBias():
            return replace(behaviour, name=named)
    return behaviour
