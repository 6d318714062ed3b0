"""What a sweep measured: curves, tables, and the files it is kept in."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from contrans_lens.artifacts import atomic_write, load_artifact, save_artifact
from contrans_lens.errors import ArtifactError, TradeoffError
from contrans_lens.evaluation.behaviours import Measurement
from contrans_lens.tradeoff.curve import Curve
from contrans_lens.tradeoff.executors import from_tensors, to_tensors
from contrans_lens.tradeoff.plan import family_of

if TYPE_CHECKING:
    import pandas

_KIND = "sweep"


@dataclass(frozen=True, eq=False, repr=False)
class SweepResult:
    """Per-item values of every behaviour under every direction at every strength."""

    model: dict[str, Any]
    """Fingerprint of the model, with what it was called."""
    plan: dict[str, Any]
    """Directions, behaviours, strengths and roles, as the plan describes them."""
    measured: Mapping[tuple[str, str], Measurement]
    """By direction and behaviour; the cells of a measurement are the strengths."""
    command: str | None = field(default=None)

    @property
    def strengths(self) -> tuple[float, ...]:
        """The grid."""
        return tuple(self.plan["strengths"])

    @property
    def directions(self) -> list[str]:
        """Directions that are no control draws."""
        return [name for name in self.plan["directions"] if family_of(name) is None]

    @property
    def families(self) -> dict[str, list[str]]:
        """Control draws by family."""
        found: dict[str, list[str]] = {}
        for name in self.plan["directions"]:
            group = family_of(name)
            if group is not None:
                found.setdefault(group, []).append(name)
        return found

    def role(self, name: str) -> str | None:
        """The behaviour with a role (``alignment``, ``helpfulness``), or None."""
        chosen = self.plan["roles"].get(name)
        return None if chosen is None else str(chosen)

    def measurement(self, direction: str, behaviour: str) -> Measurement:
        """One behaviour under one direction.

        Raises:
            TradeoffError: it was not measured.
        """
        if (direction, behaviour) not in self.measured:
            raise TradeoffError(
                f"the sweep has no {behaviour!r} under {direction!r}; it has the behaviours "
                f"{', '.join(self.plan['behaviours'])} under {', '.join(self.plan['directions'])}."
            )
        return self.measured[direction, behaviour]

    def curve(self, direction: str, behaviour: str, column: str | None = None) -> Curve:
        """A column over the strengths, item by item; the behaviour's primary column if None.

        Texts that count by their tokens are scaled so that their plain mean is the mean over tokens.

        Raises:
            TradeoffError: it was not measured.
            EvaluationError: the behaviour has no such column.
        """
        found = self.measurement(direction, behaviour)
        values = found.column(column)
        if found.weights is not None:
            values = values * (found.weights / found.weights.mean())
        name = f"{behaviour} ({column or found.primary}) under {direction}"
        return Curve(torch.tensor(self.strengths, dtype=torch.float64), values, found.groups, name)

    def table(self, *, level: float = 0.95, seed: int = 0) -> "pandas.DataFrame":
        """Every mean with its interval: a line per direction, strength, behaviour and column.

        Whole numbers of a cell, such as percentiles over tokens, have no interval.
        """
        import pandas

        return pandas.DataFrame(self._rows(level, seed))

    def save(self, folder: Path | str) -> Path:
        """Write ``values/`` (per-item values as an artifact) and ``curves.csv``.

        Equal results give equal bytes.

        Raises:
            ArtifactError: the folder cannot be written; what was complete there stays.
        """
        folder = Path(folder)
        names = {f"{number}": key for number, key in enumerate(self.measured)}
        tensors: dict[str, Tensor] = {}
        described: dict[str, dict[str, Any]] = {}
        for number, (direction, behaviour) in names.items():
            found = self.measured[direction, behaviour]
            tensors |= {f"{number}.{name}": values for name, values in to_tensors(found).items()}
            described[number] = {
                "direction": direction,
                "behaviour": behaviour,
                "primary": found.primary,
                "groups": list(found.groups),
            }
        body = {"model": self.model, "plan": self.plan, "measured": described, "command": self.command}
        save_artifact(folder / "values", _KIND, tensors, body)
        with atomic_write(folder / "curves.csv") as temporary:
            self.table().to_csv(temporary, index=False, float_format="%.9g", lineterminator="\n")
        return folder

    @classmethod
    def load(cls, folder: Path | str) -> "SweepResult":
        """Read what :meth:`save` wrote.

        Raises:
            ArtifactError: missing, damaged, or not a sweep.
        """
        artifact = load_artifact(Path(folder) / "values", _KIND)
        body = artifact.body
        measured: dict[tuple[str, str], Measurement] = {}
        try:
            for number, each in body["measured"].items():
                start = f"{number}."
                tensors = {
                    name.removeprefix(start): values
                    for name, values in artifact.tensors.items()
                    if name.startswith(start)
                }
                measured[each["direction"], each["behaviour"]] = from_tensors(
                    [tensors], each["behaviour"], each["primary"], tuple(each["groups"])
                )
            return cls(body["model"], body["plan"], measured, body["command"])
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise ArtifactError(f"{folder} does not hold a sweep: {error!r} is missing or wrong.") from error

    def __repr__(self) -> str:
        n = len(self.plan["directions"])
        return f"SweepResult({self.model['name']}: {n} directions, {len(self.strengths)} strengths)"

    def _rows(self, level: float, seed: int) -> Iterator[dict[str, Any]]:
        for (direction, behaviour), found in self.measured.items():
            common = {"direction": direction, "behaviour": behaviour}
            for column in found.columns:
                for strength, each in zip(self.strengths, _intervals(found, column, level, seed), strict=True):
                    yield {"strength": strength, **common, "column": column, **each}
            for column, values in found.whole.items():
                for strength, value in zip(self.strengths, values.tolist(), strict=True):
                    yield {"strength": strength, **common, "column": column, "mean": value}


def _intervals(found: Measurement, column: str, level: float, seed: int) -> list[dict[str, Any]]:
    """Means with their intervals; without them where there is one group only."""
    if len(found.groups) - sum(map(bool, found.groups)) + len({each for each in found.groups if each}) < 2:
        return [{"mean": value, "n": found.n_items} for value in found.means(column).tolist()]
    return [
        {"mean": each.value, "low": each.low, "high": each.high, "n": each.n, "groups": each.n_groups}
        for each in found.intervals(column, level=level, seed=seed)
    ]
