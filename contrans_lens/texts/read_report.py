"""What a reader did with a file: how much it read, kept and dropped, and why."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from contrans_lens.errors import TextError

SHOWN_LINES = 10
"""Line numbers that a report names for each reason."""


@dataclass(frozen=True)
class ReadReport:
    """Counts of a reading; ``read == kept + left_out + sum(dropped.values())``."""

    source: str
    """Name of the file, or of the data set."""
    format: str
    """The format the rows were read as."""
    read: int
    """Rows that were looked at; blank lines do not count."""
    kept: int
    """Rows that became a pair of the set."""
    dropped: Mapping[str, int] = field(default_factory=dict)
    """Rows that could not be used, by reason, the most frequent first."""
    lines: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """The first places of each reason, at most ten; counted from 1."""
    left_out: int = 0
    """Usable rows that a sample of limited size left out."""
    unit: str = "line"
    """What ``lines`` counts: lines of a ``.jsonl`` file, otherwise rows of data."""

    def __str__(self) -> str:
        lines = [f"{self.source} ({self.format}): {self.read} read, {self.kept} kept"]
        if self.left_out:
            lines[0] += f", {self.left_out} left out by the limit"
        for reason, count in self.dropped.items():
            places = ", ".join(map(str, self.lines[reason]))
            more = ", ..." if count > len(self.lines[reason]) else ""
            lines.append(f"  {count} dropped: {reason} ({self.unit} {places}{more})")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """The report as a JSON object; :meth:`from_dict` reads it back."""
        lines = {reason: list(numbers) for reason, numbers in self.lines.items()}
        return {**vars(self), "dropped": dict(self.dropped), "lines": lines}

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> "ReadReport":
        """Read what :meth:`to_dict` gives.

        Raises:
            TextError: a key is missing, unknown or of the wrong kind.
        """
        try:
            lines = {reason: tuple(numbers) for reason, numbers in row["lines"].items()}
            return cls(**{**row, "dropped": dict(row["dropped"]), "lines": lines})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise TextError(f"a read report is {str(dict(row))[:80]!r}; what to_dict gives was expected.") from error


class Tally:
    """Counts rows while they are read, and makes the report of it."""

    def __init__(self, source: str, unit: str) -> None:
        self.source, self.unit, self.read = source, unit, 0
        self._dropped: Counter[str] = Counter()
        self._lines: dict[str, list[int]] = {}

    def drop(self, reason: str, number: int) -> None:
        """Count a row that cannot be used."""
        self._dropped[reason] += 1
        numbers = self._lines.setdefault(reason, [])
        if len(numbers) < SHOWN_LINES:
            numbers.append(number)

    def report(self, form: str, kept: int) -> ReadReport:
        """The report of what was counted, of which ``kept`` rows are in the set."""
        dropped = dict(self._dropped.most_common())
        lines = {reason: tuple(self._lines[reason]) for reason in dropped}
        left_out = self.read - kept - sum(dropped.values())
        return ReadReport(self.source, form, self.read, kept, dropped, lines, left_out, self.unit)
