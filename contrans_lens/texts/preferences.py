"""Preferences: a prompt with an answer that was chosen and one that was rejected."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from contrans_lens.errors import TextError
from contrans_lens.texts.items import PARTS, EvaluationItem, same_text

TRIPLE = ("prompt", "chosen", "rejected")
"""The texts of a preference."""


class UnusablePair(TextError):
    """Two answers that are no preference; readers count them under ``reason``."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        """The heading in a :class:`ReadReport`, such as ``"empty answer"``."""


@dataclass(frozen=True)
class Preference:
    """One preference triple (q, r_chosen, r_rejected) of RAHF (arXiv 2312.15997).

    Raises:
        UnusablePair: (a ``TextError``) a text is blank, not a string or not Unicode, the answers are equal but for
            white space around them, the split is unknown, or the margin is not a finite number.
    """

    prompt: str
    """What the model reads; it ends where the answer begins."""
    chosen: str
    """The preferred answer, with its own leading space where the format has one."""
    rejected: str
    """The other answer, written in the same way."""
    group: str = ""
    """Conversation, topic or entity: pairs of one group never straddle a split. Empty: its prompt is its group."""
    split: str | None = None
    """``"train"``, ``"validation"`` or ``"test"`` pins the pair and its group there; None leaves it open."""
    topic: str = ""
    """What the preference is about, such as ``"kindness"``; a heading for tables and for shuffling."""
    margin: float | int | None = None
    """Score of the chosen answer minus that of the rejected one, where the data have scores."""
    swapped: bool = False
    """Whether the labels were exchanged against the data (a control)."""

    def __post_init__(self) -> None:
        _check_types(vars(self))
        for name in (*TRIPLE, "group", "topic"):
            _check_unicode(getattr(self, name), name)
        for name in TRIPLE:
            if not getattr(self, name).strip():
                reason = "empty prompt" if name == "prompt" else "empty answer"
                raise UnusablePair(reason, f"{name!r} has nothing to read in it.")
        if self.chosen.strip() == self.rejected.strip():
            raise UnusablePair("equal answers", f"both are {self.chosen[:60]!r}; two different ones were expected.")
        if self.split is not None and self.split not in PARTS:
            raise UnusablePair("unknown split", f"it is {self.split!r}; expected one of {PARTS} or none.")

    @property
    def unit(self) -> str:
        """What the pair must not be parted from: its group, or without one its prompt."""
        return self.group or same_text(self.prompt)

    def reversed(self) -> "Preference":
        """The pair with its labels exchanged, which is marked in ``swapped``; twice gives the pair back."""
        margin = None if self.margin is None else -self.margin
        return replace(self, chosen=self.rejected, rejected=self.chosen, margin=margin, swapped=not self.swapped)

    def item(self) -> EvaluationItem:
        """The pair as an evaluation item: P(chosen) / (P(chosen) + P(rejected)) is its score."""
        return EvaluationItem(self.prompt, self.chosen, self.rejected, self.group, self.split)

    def to_dict(self) -> dict[str, Any]:
        """The pair as a JSON object; what is empty, open or false is left out."""
        row: dict[str, Any] = {name: getattr(self, name) for name in TRIPLE}
        optional: dict[str, Any] = {"group": self.group or None, "split": self.split, "topic": self.topic or None}
        optional |= {"margin": self.margin, "swapped": self.swapped or None}
        return row | {name: value for name, value in optional.items() if value is not None}

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> "Preference":
        """Read what :meth:`to_dict` gives; groups and topics may be whole numbers, other keys are left aside.

        Raises:
            UnusablePair: a key is missing, or a value is not what it should be.
        """
        missing = [name for name in TRIPLE if row.get(name) is None]
        if missing:
            raise UnusablePair("missing field", f"it lacks {missing}; it has {sorted(map(str, row))}.")
        values = {name: row[name] for name in TRIPLE}
        values |= {name: _label(row.get(name)) for name in ("group", "topic")}
        values |= {"split": row.get("split") or None, "margin": row.get("margin")}
        values["swapped"] = row.get("swapped") or False
        _check_types(values)
        return cls(**values)


def _label(value: object) -> Any:
    """A group or topic: whole numbers are names too, nothing is the empty name."""
    if value is None:
        return ""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _check_types(values: Mapping[str, Any]) -> None:
    """Refuse values that are of another kind than the fields of a preference."""
    for name in (*TRIPLE, "group", "topic"):
        if not isinstance(values[name], str):
            raise UnusablePair("wrong type", f"{name!r} is {str(values[name])[:60]!r}; a string was expected.")
    if not isinstance(values["split"], str | None):
        raise UnusablePair("wrong type", f"the split is {values['split']!r}; one of {PARTS} or none was expected.")
    margin = values["margin"]
    is_number = isinstance(margin, int | float) and not isinstance(margin, bool)
    if margin is not None and not (is_number and math.isfinite(margin)):
        raise UnusablePair("margin not a number", f"the margin is {margin!r}; a finite number was expected.")
    if not isinstance(values["swapped"], bool):
        raise UnusablePair("wrong type", f"'swapped' is {values['swapped']!r}; true or false was expected.")


def _check_unicode(value: str, name: str) -> None:
    """Refuse half of a surrogate pair: JSON can spell it, but neither a file nor a tokenizer takes it."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UnusablePair("not Unicode", f"{name!r} holds half of a character: {error}.") from error
