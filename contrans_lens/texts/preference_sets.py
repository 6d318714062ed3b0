"""Sets of preferences: parts by group, controls, and files of their own."""

import gzip
import hashlib
import html
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from contrans_lens.errors import TextError
from contrans_lens.texts.files import jsonl_rows
from contrans_lens.texts.items import PARTS, EvaluationItem, checked_text
from contrans_lens.texts.preferences import TRIPLE, Preference
from contrans_lens.texts.read_report import ReadReport
from contrans_lens.texts.rows import named_fields, reading_row
from contrans_lens.texts.splits import assign_parts


@dataclass(frozen=True)
class PreferenceSet:
    """Preference pairs of one source, at least one.

    Raises:
        TextError: there are no pairs, something else stands among them, or the name is empty.
    """

    preferences: tuple[Preference, ...]
    """The pairs, in the order of the data."""
    name: str
    """Name of the data, e.g. ``"hh_rlhf"``."""
    report: ReadReport | None = field(default=None, compare=False)
    """What was read and dropped, where the pairs come from a file. It stays with the parts of a set."""

    def __post_init__(self) -> None:
        checked_text(self.name, "the name of a preference set")
        object.__setattr__(self, "preferences", tuple(self.preferences))
        if not self.preferences:
            raise TextError(f"{self.name!r} has no preference pairs; give at least one.")
        for pair in self.preferences:
            if not isinstance(pair, Preference):
                raise TextError(f"{self.name!r} holds {str(pair)[:60]!r}; expected Preference objects.")

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.preferences)

    def __iter__(self) -> Iterator[Preference]:
        return iter(self.preferences)

    def groups(self) -> tuple[str, ...]:
        """The names of the groups, each once, in order of appearance; a pair without one counts by its prompt."""
        return tuple(dict.fromkeys(pair.unit for pair in self.preferences))

    def topics(self) -> tuple[str, ...]:
        """The topics, each once, in order of appearance; the empty one is left out."""
        return tuple(dict.fromkeys(pair.topic for pair in self.preferences if pair.topic))

    def items(self) -> list[EvaluationItem]:
        """The pairs as evaluation items, so that a preference is scored like any concept."""
        return [pair.item() for pair in self.preferences]

    def only(self, keep: Callable[[Preference], bool], what: str = "asked for") -> "PreferenceSet":
        """The pairs for which ``keep`` is true, in order.

        Args:
            keep: from a pair to whether it stays.
            what: what these pairs are, for the message when there are none.

        Raises:
            TextError: there are none.
        """
        kept = tuple(pair for pair in self.preferences if keep(pair))
        if not kept:
            raise TextError(f"none of the {len(self)} pairs of {self.name!r} is {what}.")
        return replace(self, preferences=kept)

    def part(self, split: str) -> "PreferenceSet":
        """The pairs that are pinned to one part.

        Args:
            split: ``"train"``, ``"validation"`` or ``"test"``.

        Raises:
            TextError: there is no such part, or no pair is pinned to it (then :meth:`split` may help).
        """
        if split not in PARTS:
            raise TextError(f"there is no part {split!r}; expected one of {PARTS}.")
        return self.only(lambda pair: pair.split == split, f"pinned to {split!r}; split(...) makes parts by group")

    def split(
        self, fractions: tuple[float | int, float | int, float | int] = (0.8, 0.1, 0.1), seed: int = 0
    ) -> "PreferenceSplits":
        """Split into train, validation and test so that no group straddles two of them.

        Pairs that share a group or a prompt go to one part together; a pinned pair takes its group along. The same
        seed gives the same split.

        Args:
            fractions: shares of the pairs, each above zero; they are scaled to sum to one.
            seed: another seed, another split.

        Raises:
            TextError: there are too few groups for three parts, or pins contradict the groups.
        """
        groups = tuple(pair.unit for pair in self.preferences)
        if (n_groups := len(set(groups))) < len(PARTS):
            raise TextError(
                f"{self.name!r} cannot be split: its {len(self)} pairs are of {n_groups} group(s), and pairs of one "
                "group stay together; three groups at least were expected. Add pairs of others, or give narrower ones."
            )
        texts = [tuple(pair.prompt + getattr(pair, side) for pair in self.preferences) for side in TRIPLE[1:]]
        items = tuple(replace(pair.item(), group=group) for pair, group in zip(self.preferences, groups, strict=True))
        sides = _Sides(self.name, texts[0], texts[1], True, groups, groups, items)
        _, _, where = assign_parts(sides, fractions, seed, fractions)
        parts: list[list[Preference]] = [[], [], []]
        for pair, part in zip(self.preferences, where, strict=True):
            parts[part].append(pair)
        return PreferenceSplits(*(replace(self, preferences=tuple(pairs)) for pairs in parts))

    def sample(self, n: int, seed: int = 0) -> "PreferenceSet":
        """``n`` pairs drawn without replacement, in their order; all of them if there are no more.

        Raises:
            TextError: ``n`` is below 1.
        """
        if n < 1:
            raise TextError(f"{n} pairs were asked for; at least 1 was expected.")
        if n >= len(self):
            return self
        chosen = sorted(random.Random(seed).sample(range(len(self)), n))
        return replace(self, preferences=tuple(self.preferences[index] for index in chosen))

    def swapped(self, share: float | int = 1.0, seed: int = 0) -> "PreferenceSet":
        """The set with the labels of a share of its pairs exchanged; these are marked (:attr:`Preference.swapped`).

        The share holds, to within one pair, in each topic of each part, so that no topic keeps its labels by chance.

        Args:
            share: of the pairs, from 0 to 1, rounded to whole pairs.
            seed: decides which.

        Raises:
            TextError: the share is not from 0 to 1.
        """
        if not 0 <= share <= 1:
            raise TextError(f"share={share}; a share from 0 to 1 was expected.")
        order = list(range(len(self)))
        random.Random(f"swap:{seed}").shuffle(order)
        order.sort(key=lambda index: (self.preferences[index].split or "", self.preferences[index].topic))
        chosen = {
            index for place, index in enumerate(order) if int(share * (place + 1) + 0.5) > int(share * place + 0.5)
        }
        pairs = (pair.reversed() if index in chosen else pair for index, pair in enumerate(self.preferences))
        return replace(self, preferences=tuple(pairs))

    def shuffled(self, seed: int = 0) -> "PreferenceSet":
        """The control without a preference: the labels of one half of the pairs are exchanged."""
        return self.swapped(0.5, seed)

    def length_matched(self, tolerance: float | int = 0.1, count: Callable[[str], int] = len) -> "PreferenceSet":
        """The pairs whose two answers are about equally long: a preference for length cannot decide them.

        Args:
            tolerance: the lengths differ by at most this share of the longer one.
            count: from an answer to its length; default: characters. For tokens:
                ``lambda answer: len(tokenizer(answer, add_special_tokens=False)["input_ids"])``.

        Raises:
            TextError: the tolerance is below zero, or no pair is matched.
        """
        if not tolerance >= 0:
            raise TextError(f"tolerance={tolerance}; a share of the length, 0 or more, was expected.")

        def matched(pair: Preference) -> bool:
            lengths = count(pair.chosen), count(pair.rejected)
            return max(lengths) - min(lengths) <= tolerance * max(lengths)

        return self.only(matched, f"matched in length to within {tolerance:.0%}; allow a larger tolerance")

    @property
    def content_hash(self) -> str:
        """SHA-256 of the pairs in their order, in hexadecimal: equal pairs have equal hashes under any name."""
        digest = hashlib.sha256()
        for pair in self.preferences:
            row = json.dumps(pair.to_dict(), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
            digest.update(row.encode("utf-8") + b"\n")
        return digest.hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """The set as a JSON object; :meth:`from_dict` reads it back."""
        row: dict[str, Any] = {"name": self.name, "preferences": [pair.to_dict() for pair in self.preferences]}
        return row if self.report is None else row | {"report": self.report.to_dict()}

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> "PreferenceSet":
        """Read what :meth:`to_dict` gives.

        Raises:
            TextError: a key is missing, or a pair is not what it should be.
        """
        pairs = row.get("preferences")
        if not isinstance(pairs, list | tuple):
            raise TextError(f"a preference set has 'preferences' {str(pairs)[:60]!r}; a list of pairs was expected.")
        report = row.get("report")
        preferences = tuple(Preference.from_dict(named_fields(pair, ())) for pair in pairs)
        return cls(preferences, row.get("name") or "", ReadReport.from_dict(report) if report else None)

    def save(self, path: Path | str) -> Path:
        """Write a row for each pair, ``.jsonl`` or ``.jsonl.gz``, atomically; equal sets give equal bytes.

        Every row is a plain triple, so that other programs read the file too. Name and report are not in it.

        Raises:
            ArtifactError: the folder cannot be written.
        """
        from contrans_lens.artifacts import atomic_write  # imports torch, which reading texts does not need

        path = Path(path)
        rows = (json.dumps(pair.to_dict(), ensure_ascii=False) + "\n" for pair in self.preferences)
        data = "".join(rows).encode("utf-8")
        with atomic_write(path) as temporary:
            temporary.write_bytes(gzip.compress(data, mtime=0) if path.suffix.lower() == ".gz" else data)
        return path

    @classmethod
    def load(cls, path: Path | str, name: str | None = None) -> "PreferenceSet":
        """Read what :meth:`save` wrote; nothing is dropped (:func:`read_preferences` reads files of others).

        Args:
            path: the file.
            name: the set's name; default: the file's name up to its first dot.

        Raises:
            TextError: the file cannot be read, or a row is not a pair; with path and row.
        """
        path = Path(path)
        pairs = []
        for number, row in enumerate(jsonl_rows(path), start=1):
            with reading_row(path, number):
                pairs.append(Preference.from_dict(named_fields(row, ())))
        return cls(tuple(pairs), name or path.name.split(".")[0])

    def summary(self) -> dict[str, str]:
        """What is in the set, a few words under each heading."""
        parts = Counter(pair.split or "open" for pair in self.preferences)
        topics = Counter(pair.topic for pair in self.preferences if pair.topic)
        lengths = {name: fmean(len(getattr(pair, name)) for pair in self.preferences) for name in TRIPLE}
        longer = fmean(len(pair.chosen) > len(pair.rejected) for pair in self.preferences)
        shorter = fmean(len(pair.chosen) < len(pair.rejected) for pair in self.preferences)
        found = {
            "pairs": f"{len(self):,}",
            "groups": f"{len(self.groups()):,}",
            "parts": ", ".join(f"{part} {parts[part]:,}" for part in (*PARTS, "open") if parts[part]),
            "characters": ", ".join(f"{name} {length:.0f}" for name, length in lengths.items()),
            "chosen answer": f"longer in {longer:.0%}, shorter in {shorter:.0%}",
        }
        if topics:
            found["topics"] = ", ".join(f"{topic} {count:,}" for topic, count in topics.most_common(5))
            found["topics"] += ", ..." if len(topics) > 5 else ""
        if swapped := sum(pair.swapped for pair in self.preferences):
            found["labels exchanged"] = f"{swapped:,}"
        if self.report is not None:
            found["dropped in reading"] = f"{sum(self.report.dropped.values()):,} of {self.report.read:,}"
        return found

    def __str__(self) -> str:
        return (
            f"PreferenceSet({self.name}: " + "; ".join(f"{key}: {text}" for key, text in self.summary().items()) + ")"
        )

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th>{html.escape(key)}</th><td>{html.escape(text)}</td></tr>" for key, text in self.summary().items()
        )
        return f"<table><caption>Preferences: {html.escape(self.name)}</caption>{rows}</table>"


@dataclass(frozen=True)
class PreferenceSplits:
    """The three parts of a preference set; no group and no prompt stands in two of them."""

    train: PreferenceSet
    """For fitting."""
    validation: PreferenceSet
    """For choosing strengths and stopping."""
    test: PreferenceSet
    """For the numbers that are reported."""

    def __iter__(self) -> Iterator[PreferenceSet]:
        return iter((self.train, self.validation, self.test))


@dataclass(frozen=True)
class _Sides:
    """Pairs in the form that contrast sets are split in: each is a positive, a negative and an item of one group."""

    name: str
    positives: tuple[str, ...]
    negatives: tuple[str, ...]
    paired: bool
    positive_groups: tuple[str, ...]
    negative_groups: tuple[str, ...]
    evaluation: tuple[EvaluationItem, ...]
