"""Evaluation items and prompt cues: what a concept is scored by, and its prompt-only control."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from contrans_lens.errors import TextError

PARTS = ("train", "validation", "test")
"""The names of the three parts of a split, in order."""


def checked_text(value: object, what: str) -> str:
    """Return ``value`` when it is a string with something to read in it.

    Raises:
        TextError: not a string, or nothing but white space.
    """
    if not isinstance(value, str):
        raise TextError(f"{what} is a {type(value).__name__}: {value!r}. A string was expected.")
    if not value.strip():
        raise TextError(f"{what} is empty. Remove it or give it words; white space alone cannot be read by a model.")
    return value


def same_text(text: str) -> str:
    """The form under which two texts count as the same: runs of white space become one space."""
    return " ".join(text.split())


@dataclass(frozen=True)
class EvaluationItem:
    """One prompt with two continuations; its score is P(positive) / (P(positive) + P(negative)).

    Raises:
        TextError: a text is empty or not a string, the continuations are equal, or the split is unknown.
    """

    prompt: str
    """What the model reads; it ends where the model is about to act. Continuations bring their own space."""
    positive: str
    """The continuation that shows the concept."""
    negative: str
    """The continuation that does not."""
    group: str = ""
    """Template, topic or entity: items of one group never straddle a split. Empty: its own group."""
    split: str | None = None
    """``"train"``, ``"validation"`` or ``"test"`` pins the item and its group there; None leaves it open."""

    def __post_init__(self) -> None:
        for field in ("prompt", "positive", "negative"):
            checked_text(getattr(self, field), f"the {field!r} of an evaluation item")
        if self.positive == self.negative:
            raise TextError(
                f"an evaluation item has the same continuation {self.positive!r} on both sides; "
                "its score would always be one half. Give two different ones."
            )
        if not isinstance(self.group, str):
            raise TextError(f"the group of an evaluation item is {self.group!r}; a string was expected.")
        if self.split is not None and self.split not in PARTS:
            raise TextError(f"the split of an evaluation item is {self.split!r}; expected one of {PARTS} or none.")

    def to_dict(self) -> dict[str, str]:
        """The item as the JSON object of a concept file; an empty group and an open split are left out."""
        row = {"prompt": self.prompt, "positive": self.positive, "negative": self.negative}
        if self.group:
            row["group"] = self.group
        if self.split is not None:
            row["split"] = self.split
        return row

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> "EvaluationItem":
        """Read the JSON object of a concept file.

        Raises:
            TextError: a key is missing, or a value is not what it should be.
        """
        missing = [key for key in ("prompt", "positive", "negative") if key not in row]
        if missing:
            raise TextError(f"an evaluation item lacks {missing}; it has {sorted(row)}.")
        group = row.get("group") or ""
        return cls(row["prompt"], row["positive"], row["negative"], group, row.get("split") or None)


@dataclass(frozen=True)
class PromptCue:
    """Two prefixes that ask for the concept in words: the prompt-only control beside steering.

    Raises:
        TextError: a prefix is empty or not a string, or both are the same.
    """

    positive: str
    """Put before a prompt, it asks for the concept."""
    negative: str
    """Put before a prompt, it asks for its opposite."""

    def __post_init__(self) -> None:
        checked_text(self.positive, "the positive prompt cue")
        checked_text(self.negative, "the negative prompt cue")
        if self.positive == self.negative:
            raise TextError(f"both prompt cues are {self.positive!r}; they must differ to steer anything.")

    def to_dict(self) -> dict[str, str]:
        """The cue as the ``"prompt"`` object of a concept file."""
        return {"positive": self.positive, "negative": self.negative}

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> "PromptCue":
        """Read the ``"prompt"`` object of a concept file.

        Raises:
            TextError: a key is missing, or a value is not what it should be.
        """
        missing = [key for key in ("positive", "negative") if key not in row]
        if missing:
            raise TextError(f"the prompt cue lacks {missing}; expected an object with 'positive' and 'negative'.")
        return cls(row["positive"], row["negative"])
