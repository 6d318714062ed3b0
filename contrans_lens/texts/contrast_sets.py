"""Contrast sets: texts that show a concept against texts that do not, with the items that score it."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from contrans_lens.errors import TextError
from contrans_lens.texts.items import EvaluationItem, PromptCue, checked_text, same_text
from contrans_lens.texts.splits import assign_parts

_KEYS = ("name", "positive", "negative", "paired", "groups", "evaluation", "prompt")


@dataclass(frozen=True)
class ContrastSet:
    """Positives and negatives of one concept, with evaluation items and a prompt cue where there are any.

    Raises:
        TextError: a side is empty, a text is blank or not a string, a text stands on both sides, or pairs and
            groups do not fit the texts.
    """

    name: str
    """The concept, e.g. ``"honesty"``."""
    positives: tuple[str, ...]
    """Texts that show the concept."""
    negatives: tuple[str, ...]
    """Texts that show its absence or its opposite."""
    paired: bool = False
    """``positives[i]`` and ``negatives[i]`` belong together: same topic, differing in the concept."""
    positive_groups: tuple[str, ...] = ()
    """Template, topic or entity of each positive; empty: every text (or pair) is its own group."""
    negative_groups: tuple[str, ...] = ()
    """The same for the negatives. A group name means the same on both sides and in the evaluation items."""
    evaluation: tuple[EvaluationItem, ...] = ()
    """What the concept is scored by."""
    prompt: PromptCue | None = None
    """Prefixes for the prompt-only control."""

    def __post_init__(self) -> None:
        checked_text(self.name, "the name of a contrast set")
        for side, texts in (("positive", self.positives), ("negative", self.negatives)):
            _check_side(self.name, side, texts)
        # Lists are what one writes in a notebook; as tuples they cannot change under the content hash.
        for field in ("positives", "negatives", "positive_groups", "negative_groups", "evaluation"):
            object.__setattr__(self, field, tuple(getattr(self, field)))
        _check_no_shared_text(self.name, self.positives, self.negatives)
        if self.paired and len(self.positives) != len(self.negatives):
            raise TextError(
                f"{self.name!r} is paired but has {len(self.positives)} positives and {len(self.negatives)} "
                "negatives; give one negative for each positive, or paired=False."
            )
        self._check_groups()
        for item in self.evaluation:
            if not isinstance(item, EvaluationItem):
                raise TextError(f"the evaluation of {self.name!r} holds {item!r}; expected EvaluationItem objects.")

    def _check_groups(self) -> None:
        for side, groups, texts in (
            ("positive", self.positive_groups, self.positives),
            ("negative", self.negative_groups, self.negatives),
        ):
            if any(not isinstance(group, str) for group in groups):
                raise TextError(f"the {side} groups of {self.name!r} must be strings, got {list(groups)[:5]}.")
            if groups and len(groups) != len(texts):
                raise TextError(
                    f"{self.name!r} has {len(texts)} {side} texts and {len(groups)} {side} groups; give "
                    "one group a text, or none at all."
                )
        if self.paired and self.positive_groups and self.negative_groups:
            for index, pair in enumerate(zip(self.positive_groups, self.negative_groups, strict=True)):
                if pair[0] != pair[1]:
                    raise TextError(
                        f"pair {index} of {self.name!r} has groups {pair[0]!r} and {pair[1]!r}; the two "
                        "texts of a pair share their group."
                    )

    def __len__(self) -> int:
        """Number of contrast texts, both sides together."""
        return len(self.positives) + len(self.negatives)

    def __str__(self) -> str:
        pairing = "pairs" if self.paired else "texts"
        return (
            f"ContrastSet({self.name}: {len(self.positives)} positive and {len(self.negatives)} negative "
            f"{pairing}, "
            f"{len(self.groups())} groups, {len(self.evaluation)} evaluation items)"
        )

    def texts(self) -> list[str]:
        """Every contrast text, positives first, in the order of :meth:`labels`."""
        return [*self.positives, *self.negatives]

    def labels(self) -> list[bool]:
        """True for each positive and False for each negative, in the order of :meth:`texts`."""
        return [True] * len(self.positives) + [False] * len(self.negatives)

    def text_groups(self) -> list[str]:
        """What must not straddle a split, one name a text in the order of :meth:`texts`.

        A text without a group is its own; a pair without one shares its own.
        """
        names = []
        for side, (texts, given) in enumerate(
            ((self.positives, self.positive_groups), (self.negatives, self.negative_groups))
        ):
            for i in range(len(texts)):
                alone = f"pair {i}" if self.paired else f"text {side}.{i}"
                names.append(given[i] if given and given[i] else alone)
        return names

    def text_pairs(self) -> list[str] | None:
        """The pair of every text in the order of :meth:`texts`; None where the set is not paired."""
        return [f"pair {i}" for i in range(len(self.positives))] * 2 if self.paired else None

    def groups(self) -> tuple[str, ...]:
        """The names of the contrast texts' groups, each once, in order of appearance."""
        return tuple(dict.fromkeys(group for group in (*self.positive_groups, *self.negative_groups) if group))

    def pairs(self) -> list[tuple[str, str]]:
        """The (positive, negative) pairs of a paired set.

        Raises:
            TextError: the set is not paired.
        """
        if not self.paired:
            raise TextError(f"{self.name!r} is not paired; read it with paired=True, or use positives and negatives.")
        return list(zip(self.positives, self.negatives, strict=True))

    def split(
        self,
        fractions: tuple[float, float, float] = (0.6, 0.2, 0.2),
        seed: int = 0,
        item_fractions: tuple[float, float, float] | None = None,
    ) -> "ContrastSplits":
        """Split into train, validation and test so that no group straddles two of them.

        Texts (and items) that share a group, a pair or their very words go to one part together; an item with
        an explicit split takes its group along. The same seed gives the same split.

        Args:
            fractions: shares of train, validation and test, each above zero; they are scaled to sum to one.
            seed: another seed, another split.
            item_fractions: shares for evaluation items that share no group with a contrast text (a share may
                be zero here: training items are often of no use). None: ``fractions``.

        Raises:
            TextError: a part would lack positives or negatives, or explicit splits contradict the groups.
        """
        positive_parts, negative_parts, item_parts = assign_parts(self, fractions, seed, item_fractions or fractions)
        parts = [self._part(k, positive_parts, negative_parts, item_parts) for k in range(3)]
        return ContrastSplits(*parts)

    def _part(self, part: int, positive: list[int], negative: list[int], items: list[int]) -> "ContrastSet":
        def chosen(values: Sequence[Any], parts: list[int]) -> tuple[Any, ...]:
            return tuple(value for value, where in zip(values, parts, strict=True) if where == part) if values else ()

        return replace(
            self,
            positives=chosen(self.positives, positive),
            negatives=chosen(self.negatives, negative),
            positive_groups=chosen(self.positive_groups, positive),
            negative_groups=chosen(self.negative_groups, negative),
            evaluation=chosen(self.evaluation, items),
        )

    def map_texts(self, function: Callable[[str], str], *, prompts: bool = False) -> "ContrastSet":
        """The set with ``function`` applied to each contrast text, and on request to each item's prompt.

        This is how a template or a chat template is put around a whole set.

        Args:
            function: from a text to a text.
            prompts: apply it to the prompts of the evaluation items too.

        Raises:
            TextError: the new texts are not a valid set (two of them became equal, say).
        """
        evaluation = self.evaluation
        if prompts:
            evaluation = tuple(replace(item, prompt=function(item.prompt)) for item in evaluation)
        return replace(
            self,
            positives=tuple(function(text) for text in self.positives),
            negatives=tuple(function(text) for text in self.negatives),
            evaluation=evaluation,
        )

    def to_dict(self) -> dict[str, Any]:
        """The set as the JSON object of a concept file; :meth:`from_dict` reads it back."""
        row: dict[str, Any] = {
            "name": self.name,
            "positive": list(self.positives),
            "negative": list(self.negatives),
            "paired": self.paired,
        }
        if self.positive_groups or self.negative_groups:
            row["groups"] = {"positive": list(self.positive_groups), "negative": list(self.negative_groups)}
        row["evaluation"] = [item.to_dict() for item in self.evaluation]
        if self.prompt is not None:
            row["prompt"] = self.prompt.to_dict()
        return row

    @classmethod
    def from_dict(cls, row: Mapping[str, Any], name: str | None = None) -> "ContrastSet":
        """Read the JSON object of a concept file.

        ``{"name", "positive": [text], "negative": [text], "evaluation": [{"prompt", "positive",
        "negative"}]}`` with optional ``"paired"``, ``"prompt"`` and ``"groups"``: one list with a group for
        each text (positives first) or for each pair, or ``{"positive": [...], "negative": [...]}``. Other
        keys (a description, say) are left aside.

        Args:
            row: the JSON object.
            name: the name where the object gives none.

        Raises:
            TextError: a key is missing or misspelt, or the texts are not a valid set.
        """
        _check_keys(row, needs_name=name is None)
        positives = _text_list(row["positive"], "positive")
        negatives = _text_list(row["negative"], "negative")
        groups = _read_groups(row.get("groups"), len(positives), len(negatives))
        items = row.get("evaluation") or ()
        if not isinstance(items, list | tuple) or any(not isinstance(item, Mapping) for item in items):
            raise TextError("'evaluation' must be a list of objects with 'prompt', 'positive' and 'negative'.")
        cue = row.get("prompt")
        if cue is not None and not isinstance(cue, Mapping):
            raise TextError(f"'prompt' is {cue!r}; expected an object with 'positive' and 'negative'.")
        return cls(
            name=checked_text(row.get("name", name), "the name of a contrast set"),
            positives=positives,
            negatives=negatives,
            paired=bool(row.get("paired", False)),
            positive_groups=groups[0],
            negative_groups=groups[1],
            evaluation=tuple(EvaluationItem.from_dict(item) for item in items),
            prompt=PromptCue.from_dict(cue) if cue is not None else None,
        )

    @property
    def content_hash(self) -> str:
        """SHA-256 of everything in the set, in hexadecimal: equal sets have equal hashes, on any machine."""
        canonical = json.dumps(self.to_dict(), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(canonical.encode("utf-8")).hexdigest()

    def save(self, path: Path | str) -> Path:
        """Write the set as a JSON concept file, atomically: an older file is replaced whole or not at all.

        Raises:
            ArtifactError: the folder cannot be written.
        """
        from contrans_lens.artifacts import write_json  # imports torch, which reading texts does not need

        path = Path(path)
        write_json(path, self.to_dict())
        return path


@dataclass(frozen=True)
class ContrastSplits:
    """The three parts of a contrast set; no group, pair or text stands in two of them."""

    train: ContrastSet
    """For estimating vectors."""
    validation: ContrastSet
    """For choosing layers and strengths."""
    test: ContrastSet
    """For the numbers that are reported."""

    def __iter__(self) -> Iterator[ContrastSet]:
        return iter((self.train, self.validation, self.test))


def _check_side(name: str, side: str, texts: Sequence[object]) -> None:
    """Refuse an empty side and texts that are blank or not strings."""
    if isinstance(texts, str):
        raise TextError(f"the {side} texts of {name!r} are one string; expected a list of texts.")
    if not texts:
        raise TextError(f"{name!r} has no {side} texts: a contrast needs both sides. Add at least one.")
    for index, text in enumerate(texts):
        checked_text(text, f"{side} text {index} of {name!r}")


def _check_no_shared_text(name: str, positives: Sequence[str], negatives: Sequence[str]) -> None:
    """Refuse a text that stands on both sides: it says nothing about the concept and leaks between labels."""
    shared = {same_text(text) for text in positives} & {same_text(text) for text in negatives}
    if shared:
        example = min(shared)
        raise TextError(
            f"{len(shared)} text(s) of {name!r} stand on both sides, e.g. {example[:80]!r}; remove them from one side."
        )


def _check_keys(row: Mapping[str, Any], needs_name: bool) -> None:
    """Name missing keys, and keys that look like a misspelt known one."""
    required = ("name", "positive", "negative") if needs_name else ("positive", "negative")
    missing = [key for key in required if key not in row]
    if missing:
        raise TextError(f"the concept lacks {missing}; it has the keys {sorted(map(str, row))}.")
    for key in row:
        near = [] if key in _KEYS else get_close_matches(str(key), [k for k in _KEYS if k not in row], cutoff=0.8)
        if near:
            raise TextError(f"the concept has a key {key!r}; did you mean {near[0]!r}?")


def _text_list(value: object, side: str) -> tuple[str, ...]:
    """A side of a concept file as a tuple of strings."""
    if not isinstance(value, list | tuple):
        raise TextError(f"{side!r} is a {type(value).__name__}; expected a list of texts.")
    return tuple(checked_text(text, f"{side} text {index}") for index, text in enumerate(value))


def _read_groups(value: object, n_positive: int, n_negative: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The groups of both sides, from any of the forms that :meth:`ContrastSet.from_dict` names."""
    if value is None:
        return (), ()
    if isinstance(value, Mapping):
        sides = [value.get("positive") or [], value.get("negative") or []]
        if set(value) - {"positive", "negative"} or any(not isinstance(side, list | tuple) for side in sides):
            raise TextError("'groups' as an object must hold the lists 'positive' and 'negative' and nothing else.")
        return tuple(map(str, sides[0])), tuple(map(str, sides[1]))
    if isinstance(value, list | tuple):
        names = tuple(map(str, value))
        if len(names) == n_positive + n_negative:
            return names[:n_positive], names[n_positive:]
        if len(names) == n_positive == n_negative:
            return names, names
        raise TextError(
            f"'groups' has {len(names)} entries for {n_positive} positives and {n_negative} negatives; "
            "give one a text "
            "(positives first), or one a pair."
        )
    raise TextError(f"'groups' is a {type(value).__name__}; expected a list or an object with two lists.")
