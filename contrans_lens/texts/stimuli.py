"""Concepts and the sentences that stand for them: what an atom is read from."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from contrans_lens.errors import TextError
from contrans_lens.texts.files import parse_json, read_file
from contrans_lens.texts.items import checked_text, same_text
from contrans_lens.texts.rows import named_fields

DEFAULT_TEMPLATE = "Consider the {concept} in the following scenario:\nScenario: {stimulus}\nAnswer:"
"""The prompt of PaCE; its last token is read."""

_PLACES = re.compile(r"\{(concept|stimulus)\}")


def folded_name(name: str) -> str:
    """The form under which two concept names count as the same: case and white space do not matter."""
    return same_text(name).casefold()


@dataclass(frozen=True)
class ConceptStimuli:
    """A concept with the sentences that evoke it (about thirty in PaCE).

    Sentences that differ in white space alone count as one; only the first of them is kept.

    Raises:
        TextError: the name or a stimulus is empty or not a string, or fewer than two stimuli are different.
    """

    concept: str
    """The name, as it stands in the prompt."""
    stimuli: tuple[str, ...]
    """At least two different texts."""
    topic: str = ""
    """What related concepts share; empty where unknown."""
    repeated: int = field(init=False, default=0, compare=False)
    """How many repeated stimuli were left out."""

    def __post_init__(self) -> None:
        checked_text(self.concept, "the name of a concept")
        if isinstance(self.stimuli, str):
            raise TextError(f"the stimuli of concept {self.concept!r} are one string; give a list of sentences.")
        texts = [checked_text(text, f"a stimulus of concept {self.concept!r}") for text in self.stimuli]
        different: dict[str, str] = {}
        for text in texts:
            different.setdefault(same_text(text), text)
        if len(different) < 2:
            raise TextError(
                f"concept {self.concept!r} has {len(texts)} stimuli, {len(different)} of them different; give at least "
                "two different sentences (about thirty make a steady atom)."
            )
        object.__setattr__(self, "stimuli", tuple(different.values()))
        object.__setattr__(self, "repeated", len(texts) - len(different))

    def prompts(self, template: str = DEFAULT_TEMPLATE) -> list[str]:
        """The template filled with each stimulus.

        Raises:
            TextError: the template has no place for the stimulus.
        """
        return [fill(template, self.concept, stimulus) for stimulus in self.stimuli]

    def to_dict(self) -> dict[str, Any]:
        """As one line of a stimuli file."""
        return {"concept": self.concept, "topic": self.topic, "stimuli": list(self.stimuli)}


def check_template(template: str) -> None:
    """Refuse a template in which the stimulus would not be read.

    Raises:
        TextError: it holds no ``{stimulus}``.
    """
    if "{stimulus}" not in template:
        raise TextError(
            f"the template {template[:80]!r} has no place for the stimulus; write {{stimulus}} where it stands and, "
            "if you like, {concept} for the name."
        )


def fill(template: str, concept: str, stimulus: str) -> str:
    """The template with the concept's name and one stimulus in their places; other braces stay as they are.

    Raises:
        TextError: the template has no place for the stimulus.
    """
    check_template(template)
    values = {"concept": concept, "stimulus": stimulus}
    return _PLACES.sub(lambda place: values[place.group(1)], template)


def read_stimuli(path: Path | str) -> list[ConceptStimuli]:
    """Read concepts from a jsonl file: ``{"concept": ..., "topic": ..., "stimuli": [...]}``, one a line.

    ``topic`` may be left out; blank lines are passed over; ``.gz`` is read too.

    Raises:
        TextError: the file is missing, a line is no such object (its number is named), or a name stands twice.
    """
    path = Path(path)
    concepts: list[ConceptStimuli] = []
    first_line: dict[str, int] = {}
    # Not str.splitlines: it also cuts at U+2028 and others, which may stand inside JSON strings.
    for number, line in enumerate(read_file(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            concept = _concept_of(parse_json(line, path))
            seen = first_line.setdefault(folded_name(concept.concept), number)
            if seen != number:
                raise TextError(
                    f"concept {concept.concept!r} stands on line {seen} too (case and spaces do not count); put all "
                    "its stimuli on one line."
                )
        except TextError as error:
            raise TextError(f"{path} line {number}: {error}") from error
        concepts.append(concept)
    if not concepts:
        raise TextError(f"{path} holds no concepts; one JSON object a line was expected.")
    return concepts


def write_stimuli(path: Path | str, concepts: Sequence[ConceptStimuli]) -> Path:
    """Write concepts as a jsonl file that :func:`read_stimuli` reads; an older file is replaced whole or not at all.

    Raises:
        ArtifactError: the file cannot be written.
    """
    from contrans_lens.artifacts import atomic_write  # imports torch, which reading texts does not need

    path = Path(path)
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as stream:
        for concept in concepts:
            stream.write(json.dumps(concept.to_dict(), ensure_ascii=False) + "\n")
    return path


def _concept_of(row: object) -> ConceptStimuli:
    """The concept of one line."""
    fields = named_fields(row, ("concept", "stimuli"))
    stimuli = fields["stimuli"]
    if not isinstance(stimuli, list):
        raise TextError(f"its 'stimuli' are {str(stimuli)[:60]!r}; a list of sentences was expected.")
    name, topic = checked_text(fields["concept"], "the name of the concept"), fields.get("topic") or ""
    if not isinstance(topic, str):
        raise TextError(f"the topic of concept {name!r} is {topic!r}; a string was expected.")
    return ConceptStimuli(name, tuple(checked_text(text, f"a stimulus of {name!r}") for text in stimuli), topic)
