"""What a run of RAHF found: scores with controls, damage, cost, the verdict, and where the adapter is."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contrans_lens.artifacts import atomic_write, read_json, write_json
from contrans_lens.errors import ArtifactError
from contrans_lens.evaluation import Interval
from contrans_lens.rahf.cautions import weak_points
from contrans_lens.rahf.norms import DifferenceNorms
from contrans_lens.rahf.scoring import Scored
from contrans_lens.rahf.training import Cost, LossCurve
from contrans_lens.rahf.verdict import verdict_of

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

SCHEMA = "contrans-lens/rahf/1"
RESULT = "result.json"
FIT = "fit"
"""Name of step 3 among the curves."""


@dataclass(frozen=True)
class AlphaTrial:
    """One alpha that ``"auto"`` has tried."""

    alpha: float
    probability: Interval
    """P(chosen) on the validation pairs."""
    behind: Interval
    """P(chosen) of the best one less this one's, pair by pair."""
    kl: float | None
    """KL(base || fitted) on neutral text, nats per token; None without neutral texts."""
    chosen: bool

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "AlphaTrial":
        """From :meth:`to_dict`."""
        return cls(**{**values, **{name: Interval(**values[name]) for name in ("probability", "behind")}})


@dataclass(frozen=True, eq=False, repr=False)
class RahfResult:
    """A finished run; it prints, plots and saves."""

    model: dict[str, Any]
    """Fingerprint of the base, with the name it was opened by."""
    preferences: dict[str, Any]
    """Name, hash, topics, pairs and groups of each part, what was dropped in reading, pairs that were not scored."""
    instructions: dict[str, Any]
    """p+ and p-, by topic; the empty topic stands for all."""
    settings: dict[str, Any]
    hook_points: tuple[str, ...]
    """Where the residual stream was read and moved."""
    alpha: float
    """How many times v it was moved."""
    trials: tuple[AlphaTrial, ...]
    """What ``alpha="auto"`` has tried; empty where alpha was given."""
    rows: tuple[Scored, ...]
    """The base, the prompt-only control, models of step 1, the aligned model, controls."""
    relative_error: float
    """What the fit leaves of the way to its targets, over the training answers: 1 is the base, 0 a perfect fit."""
    validation_relative_error: float | None
    """The same over validation answers."""
    norms: DifferenceNorms
    """How large v is, by layer and token."""
    curves: Mapping[str, LossCurve]
    """Losses of the trainings by step, over the training pairs."""
    validation_curves: Mapping[str, LossCurve]
    """The same over the validation pairs."""
    costs: Mapping[str, Cost]
    """What each step took, controls and scoring left out. Differences that were not kept were read in step 3."""
    control_seconds: float
    """Wall time of the controls' trainings and readings together."""
    folder: Path
    """Where the run lies; the adapter is in ``adapter``."""
    command: str | None = None

    @property
    def verdict(self) -> str:
        """``"aligns"``, ``"does not align"`` or ``"undecided"``."""
        return verdict_of(self.rows).word

    @property
    def reason(self) -> str:
        """The clauses of the rule that decided, with their numbers."""
        return verdict_of(self.rows).reason

    @property
    def adapter(self) -> Path:
        """Folder of the aligned adapter; ``open_model``, ``peft`` and ``transformers`` open it."""
        return self.folder / "adapter"

    @property
    def total_cost(self) -> Cost:
        """All steps together."""
        costs = [each.to_dict() for each in self.costs.values()]
        return Cost(**{name: sum(each[name] for each in costs) for name in costs[0]})

    def row(self, name: str) -> Scored:
        """The row called ``name``; KeyError with the names there are."""
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(f"no row {name!r}; there are {[row.name for row in self.rows]}")

    def cautions(self) -> list[str]:
        """What a reader should not overlook in this run; empty where nothing was noticed."""
        return weak_points(self)

    def table(self) -> "pandas.DataFrame":
        """The rows as a data frame, one line each, with intervals."""
        import pandas

        lines = []
        for row in self.rows:
            line: dict[str, Any] = {"name": row.name, "kind": row.kind}
            for name in ("probability", "accuracy", "margin", "change", "lead", "matched"):
                span: Interval | None = getattr(row, name)
                line[name] = None if span is None else span.value
                line |= {f"{name}_{end}": None if span is None else getattr(span, end) for end in ("low", "high")}
            damage = row.damage or {}
            line |= {name: damage.get(name) for name in ("kl", "top_changed", "nll", "perplexity")}
            lines.append(line)
        return pandas.DataFrame(lines).set_index("name")

    def summary(self) -> dict[str, Any]:
        """The content of ``result.json``."""
        return {
            "schema": SCHEMA,
            "kind": "rahf",
            "model": self.model,
            "preferences": self.preferences,
            "instructions": self.instructions,
            "settings": self.settings,
            "hook_points": list(self.hook_points),
            "alpha": self.alpha,
            "trials": [trial.to_dict() for trial in self.trials],
            "rows": [row.to_dict() for row in self.rows],
            "verdict": self.verdict,
            "reason": self.reason,
            "cautions": self.cautions(),
            "relative_error": self.relative_error,
            "validation_relative_error": self.validation_relative_error,
            "norms": self.norms.to_dict(),
            "curves": {name: curve.to_dict() for name, curve in self.curves.items()},
            "validation_curves": {name: curve.to_dict() for name, curve in self.validation_curves.items()},
            "costs": {name: cost.to_dict() for name, cost in self.costs.items()},
            "total_cost": self.total_cost.to_dict(),
            "control_seconds": self.control_seconds,
            "command": self.command,
        }

    @classmethod
    def load(cls, folder: Path | str) -> "RahfResult":
        """Read the ``result.json`` of a finished run.

        Raises:
            ArtifactError: there is none, it is of another kind or schema, or it lacks something.
        """
        folder = Path(folder)
        found = read_json(folder / RESULT)
        if found.get("schema") != SCHEMA:
            raise ArtifactError(
                f"{folder / RESULT} has the schema {found.get('schema')!r}; {SCHEMA!r} was expected. Give the folder "
                "of a run of rahf, or run it again."
            )
        try:
            read: dict[str, Any] = {
                "hook_points": tuple(found["hook_points"]),
                "trials": tuple(AlphaTrial.from_dict(each) for each in found["trials"]),
                "rows": tuple(Scored.from_dict(each) for each in found["rows"]),
                "norms": _norms(found["norms"]),
                "costs": {name: Cost.from_dict(each) for name, each in found["costs"].items()},
                "folder": folder,
            }
            for name in ("curves", "validation_curves"):
                read[name] = {key: LossCurve.from_dict(each) for key, each in found[name].items()}
            plain = {each.name: found[each.name] for each in fields(cls) if each.name not in read}
        except (KeyError, TypeError, AttributeError) as error:
            raise ArtifactError(f"{folder / RESULT} does not fit: {error!r}; run again into a new folder.") from error
        return cls(**plain, **read)

    def with_command(self, command: str | None) -> "RahfResult":
        """The same result with the command that makes it again."""
        return replace(self, command=command)

    def plot(self) -> "Figure":
        """P(chosen) of every row with its interval, and what each costs on neutral text."""
        from contrans_lens.reports import scores_figure

        return scores_figure(self)

    def save(self, folder: Path | str | None = None) -> Path:
        """Write result.json, scores.csv, figures and report.html.

        Args:
            folder: None: that of the run.

        Raises:
            ArtifactError: the folder cannot be written; what was complete there stays.
        """
        from contrans_lens.reports import write_rahf_report

        folder = self.folder if folder is None else Path(folder)
        with atomic_write(folder / "scores.csv") as temporary:
            self.table().to_csv(temporary, float_format="%.9g", lineterminator="\n")
        write_rahf_report(self, folder)
        write_json(folder / RESULT, self.summary())
        return folder

    def __repr__(self) -> str:
        return (
            f"RahfResult({self.model['name']}, {self.settings['method']} on {self.preferences['name']}: {self.verdict})"
        )

    def __str__(self) -> str:
        lines = [
            f"{self.model['name']}: {self.settings['method']} on {self.preferences['name']}, alpha {self.alpha:g} at "
            + ", ".join(self.hook_points),
            f"{'':14s} {'P(chosen)':>9s} {'95 % interval':>16s} {'accuracy':>8s} {'margin':>8s} {'KL':>8s} {'ppl':>8s}",
        ]
        for row in self.rows:
            span, damage = row.probability, row.damage or {}
            kl, perplexity = damage.get("kl"), damage.get("perplexity")
            lines.append(
                f"{row.name:14s} {span.value:9.3f} {f'[{span.low:.3f}, {span.high:.3f}]':>16s} "
                f"{row.accuracy.value:8.3f} {row.margin.value:8.2f} {'' if kl is None else f'{kl:.4f}':>8s} "
                f"{'' if perplexity is None else f'{perplexity:.2f}':>8s}"
            )
        total = self.total_cost
        lines.append(f"took {total.seconds:.0f} s, {total.n_tokens:,} tokens, {total.block_tokens:,} block tokens")
        lines.append(f"verdict: {self.verdict} ({self.reason})")
        return "\n".join([*lines, *(f"beware: {each}" for each in self.cautions())])

    def _repr_html_(self) -> str:
        from contrans_lens.reports import rahf_html

        return rahf_html(self)


def _norms(values: Mapping[str, Any]) -> DifferenceNorms:
    def interval(each: Mapping[str, Any] | None) -> Interval | None:
        return None if each is None else Interval(**each)

    norms = values["residual_norms"]
    return DifferenceNorms(
        **{
            **values,
            "hook_points": tuple(values["hook_points"]),
            "layers": tuple(values["layers"]),
            "layer_intervals": tuple(map(interval, values["layer_intervals"])),
            "offsets": tuple(map(tuple, values["offsets"])),
            "offset_intervals": tuple(tuple(map(interval, row)) for row in values["offset_intervals"]),
            "counts": tuple(values["counts"]),
            "residual_norms": None if norms is None else tuple(norms),
        }
    )
