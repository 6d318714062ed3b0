"""What a comparison found: rows with paired intervals, damage, tables and files."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from contrans_lens.artifacts import atomic_write, save_artifact, write_json
from contrans_lens.errors import TradeoffError
from contrans_lens.evaluation import Interval
from contrans_lens.evaluation.behaviours import Measurement
from contrans_lens.tradeoff.executors import to_tensors

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas

COMPARISON_SCHEMA = "contrans-lens/comparison/1"
UNSTEERED_ROW = "unsteered"
Signs = Literal["both", "plus"]
_KIND = "comparison"


@dataclass(frozen=True)
class ComparisonRow:
    """One column of one behaviour under one method."""

    method: str
    n_draws: int
    """1, or the draws of a control family."""
    behaviour: str
    column: str
    is_primary: bool
    """Whether the column is the one that stands for its behaviour."""
    plus: Interval
    """Written with this sign, or the positive words before the prompt."""
    minus: Interval
    """With the other; where one sign was written, the unsteered model."""
    effect: Interval
    """plus - minus, paired by item; plus - unsteered where one sign was written."""
    change: Interval
    """(plus + minus) / 2 - unsteered, paired by item: what both signs do alike; the effect where one was written."""
    difference: Interval | None
    """effect minus the reference's, paired by item; None for the reference itself."""
    strength: float | None = None
    """Multiple of the direction as given, mean over draws; None where nothing was solved."""
    reached: bool | None = None
    """Whether the budget was reached (by all draws); None where nothing was solved."""
    draws: tuple[float, ...] = ()
    """Effect of each draw of a family."""
    p_value: float | None = None
    """For families: (1 + #{draws whose effect is as large as the reference's, either sign}) / (1 + #draws)."""

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


@dataclass(frozen=True)
class DamageRow:
    """What a method does to neutral text, mean over the signs written and all draws."""

    method: str
    kl: float
    """KL(unsteered || steered), nats per token."""
    perplexity: float
    kl_ci: tuple[float, float] | None = None
    """Its interval over texts; None for words."""
    kl_p95: float | None = None
    """95th percentile over tokens."""
    tv: float | None = None
    """Total variation, [0, 1]."""
    tv_ci: tuple[float, float] | None = None
    tv_p95: float | None = None
    top_changed: float | None = None
    """Share of tokens with another most probable token."""

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


@dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """Methods beside each other at equal damage. It prints, plots and saves."""

    model: dict[str, Any]
    budget: float | None
    """Damage that strengths were solved for; None: strengths as given."""
    measure: str
    """``kl`` or ``perplexity_ratio``."""
    reference: str
    rows: tuple[ComparisonRow, ...]
    damages: tuple[DamageRow, ...]
    values: Mapping[str, Mapping[str, Measurement]]
    """By behaviour and method, per-item values: for each draw, written with this sign and with the other."""
    level: float = 0.95
    seed: int = 0
    signs: Signs = "both"
    """``plus``: every method was written as given and compared with the unsteered model."""
    command: str | None = field(default=None)

    def row(self, method: str, behaviour: str, column: str | None = None) -> ComparisonRow:
        """A row; the behaviour's primary column if None.

        Raises:
            TradeoffError: there is no such row.
        """
        for row in self.rows:
            wanted = row.column == column or (column is None and row.is_primary)
            if (row.method, row.behaviour) == (method, behaviour) and wanted:
                return row
        known = sorted({f"{row.method} on {row.behaviour}" for row in self.rows})
        asked = f"{method!r} on {behaviour!r} ({column or 'primary column'})"
        raise TradeoffError(f"no row {asked}; there are {', '.join(known)}.")

    def damage(self, method: str) -> DamageRow:
        """The damage of a method.

        Raises:
            TradeoffError: there is no such method.
        """
        for row in self.damages:
            if row.method == method:
                return row
        raise TradeoffError(f"no method {method!r}; there are {', '.join(row.method for row in self.damages)}.")

    def with_command(self, command: str | None) -> "Comparison":
        """The same with the command that makes it again."""
        return replace(self, command=command)

    def table(self, *, primary_only: bool = False) -> "pandas.DataFrame":
        """The rows as a data frame, with the damage of each method."""
        import pandas

        lines = []
        for row in self.rows:
            if primary_only and not row.is_primary:
                continue
            line: dict[str, Any] = {"behaviour": row.behaviour, "column": row.column, "method": row.method}
            for name in ("plus", "minus", "effect", "change", "difference"):
                interval = getattr(row, name)
                if interval is not None:
                    line |= {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
            line |= {"p_value": row.p_value, "draws": row.n_draws, "n": row.plus.n, "strength": row.strength}
            found = self.damage(row.method)
            lines.append({**line, "kl": found.kl, "perplexity": found.perplexity})
        return pandas.DataFrame(lines)

    def summary(self) -> dict[str, Any]:
        """The content of ``result.json``."""
        return {
            "schema": COMPARISON_SCHEMA,
            "model": self.model,
            "budget": self.budget,
            "measure": self.measure,
            "reference": self.reference,
            "signs": self.signs,
            "rows": [row.to_dict() for row in self.rows],
            "damages": [row.to_dict() for row in self.damages],
            "whole": {behaviour: self._whole(found) for behaviour, found in self.values.items()},
            "level": self.level,
            "seed": self.seed,
            "command": self.command,
        }

    @staticmethod
    def _whole(methods: Mapping[str, Measurement]) -> dict[str, dict[str, list[float]]]:
        """Numbers that are no means over items (bias scores, percentiles), by method: + and - of each draw in turn."""
        found = {method: {name: each.tolist() for name, each in one.whole.items()} for method, one in methods.items()}
        return {method: numbers for method, numbers in found.items() if numbers}

    def plot(self) -> "matplotlib.figure.Figure":
        """Effects of every method with their intervals, a panel a behaviour, damage beside them."""
        from contrans_lens.reports import comparison_figure

        return comparison_figure(self)

    def save(self, folder: Path | str) -> Path:
        """Write result.json, comparison.csv, per-item values, figures and report.html into ``folder``.

        Raises:
            ArtifactError: the folder cannot be written; what was complete there stays.
        """
        from contrans_lens.reports import write_comparison_report

        folder = Path(folder)
        tensors: dict[str, Tensor] = {}
        described = {}
        for number, (behaviour, methods) in enumerate(self.values.items()):
            for place, (method, found) in enumerate(methods.items()):
                key = f"{number}.{place}"
                tensors |= {f"{key}.{name}": values for name, values in to_tensors(found).items()}
                described[key] = {"behaviour": behaviour, "method": method, "groups": list(found.groups)}
        save_artifact(folder / "values", _KIND, tensors, {"model": self.model, "values": described})
        with atomic_write(folder / "comparison.csv") as temporary:
            self.table().to_csv(temporary, index=False, float_format="%.9g", lineterminator="\n")
        write_comparison_report(self, folder)
        write_json(folder / "result.json", self.summary())
        return folder

    def __repr__(self) -> str:
        return f"Comparison({self.model['name']}: {', '.join(row.method for row in self.damages)})"

    def __str__(self) -> str:
        at = "at the strengths given" if self.budget is None else f"at a {self.measure} of {self.budget:.4g}"
        lines = [f"{self.model['name']}, {at}, compared with {self.reference}"]
        for row in self.rows:
            if row.is_primary:
                shown = [f"effect {_told(row.effect)}", f"change {_told(row.change)}"]
                shown += [] if row.difference is None else [f"difference {_told(row.difference)}"]
                shown += [] if row.p_value is None else [f"p = {row.p_value:.3f}"]
                if row.method == UNSTEERED_ROW:  # it has no effect; its value is what others are seen against
                    shown = [f"value {_told(row.plus)}"]
                found = self.damage(row.method)
                cost = f"KL {found.kl:.4f}  ppl {found.perplexity:.2f}"
                lines.append("  ".join([f"{row.behaviour:14s} {row.method:20s}", *shown, cost]))
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        from contrans_lens.reports import comparison_html

        return comparison_html(self)


def _told(interval: Interval) -> str:
    return f"{interval.value:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"
