"""What a transplant found: rows with their controls, the recovered share, the verdict, and how to do it again."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contrans_lens.artifacts import write_json
from contrans_lens.concepts import ConceptVectors
from contrans_lens.interventions import Intervention
from contrans_lens.maps import AffineMap
from contrans_lens.selection import LayerReport

if TYPE_CHECKING:  # both are costly to import and needed only by the methods that return them
    import matplotlib.figure
    import pandas

RESULT_SCHEMA = "contrans-lens/transplant/1"

Interval = tuple[float, float]


@dataclass(frozen=True)
class Row:
    """One line of the table: an intervention (or a family of control draws) and what it did on the test items."""

    name: str
    """``unsteered``, ``prompt``, ``random``, ``random_covariance``, ``random_source``, ``shuffled_map``,
    ``identity``, ``last_layer``, ``native`` or ``transplanted``."""
    score: float
    """Mean score under + over the test items, a probability."""
    ci: Interval
    """Interval of ``score``, clustered by item group (and by draw for controls)."""
    effect: float
    """score(+) - score(-): antisymmetric, so what pulls both signs toward one half cancels."""
    effect_ci: Interval
    """Interval of ``effect``."""
    raw_effect: float
    """score(+) - score(unsteered)."""
    kl: float | None
    """KL(unsteered || steered) on neutral text, nats per token, mean over both signs and the draws (all of them, or
    as many as ``Settings.damage_draws`` allows)."""
    perplexity: float | None
    """Perplexity of the steered target on neutral text, a mean like ``kl``."""
    n: int
    """Test items."""
    strength: float | None
    """Norm of the added vector over the mean residual norm at the hook point; None where nothing is added."""
    seeds: tuple[int, ...] = ()
    """Seeds of the draws, one each; empty for a single deterministic vector."""
    hook_point: str | None = None
    """Where it was written."""
    draws: tuple[float, ...] = ()
    """Effect of each control draw."""
    p_value: float | None = None
    """For controls: (1 + #{draws whose effect reaches the transplanted one}) / (1 + #draws)."""

    def to_dict(self) -> dict[str, Any]:
        """The row as JSON-serialisable values."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


@dataclass(frozen=True)
class Share:
    """The transplanted effect as a share of the native one, 1.0 = the target's own ceiling."""

    value: float | None
    """The ratio of mean effects; None where the native effect is not distinguishable from zero."""
    ci: tuple[float | None, float | None]
    """Its paired, clustered bootstrap interval."""


@dataclass(frozen=True)
class CurvePoint:
    """One strength of the strength curve, for one kind of vector."""

    name: str
    strength: float
    score_plus: float
    score_minus: float
    kl: float
    spread: Interval | None = None
    """For control draws: the range that holds 95 % of the draws' effects."""

    @property
    def effect(self) -> float:
        """score(+) - score(-)."""
        return self.score_plus - self.score_minus


@dataclass(frozen=True, repr=False)
class TransplantResult:
    """All that :func:`contrans_lens.transplant` found. It prints, plots, saves and steers."""

    source: dict[str, Any]
    """Fingerprint of the source model, with the name it was opened by."""
    target: dict[str, Any]
    """Fingerprint of the target model, with the name it was opened by."""
    concept: str
    hook_points: dict[str, str]
    """``source`` (read), ``target`` (written) and ``native`` (where the target's own vector is written)."""
    rows: tuple[Row, ...]
    recovered_share: Share
    verdict: str
    """``transfers``, ``transfers in part`` or ``does not transfer``."""
    reason: str
    """The rule's clauses that decided the verdict, with their numbers."""
    curves: tuple[CurvePoint, ...]
    layer_table: tuple[dict[str, Any], ...]
    """The validation sweep: one entry per (source, target) hook-point pair."""
    diagnostics: dict[str, Any]
    """Held-out map quality, reading quality, counts of texts and truncations."""
    items: tuple[dict[str, Any], ...]
    """Per test item: prompt, group and the scores of the single-vector rows under + and -."""
    settings: dict[str, Any]
    seconds: float
    peak_memory_mb: float
    command: str | None
    layer_report: LayerReport | None = field(default=None, repr=False)
    """What the evidence said about the layers; None where it did not choose them."""
    vectors: dict[str, ConceptVectors] = field(default_factory=dict, repr=False)
    """``source``, ``transplanted`` and ``native`` concept vectors."""
    map: AffineMap | None = field(default=None, repr=False)
    """The affine map between the chosen hook points."""

    def row(self, name: str) -> Row:
        """The row called ``name``; KeyError with the names there are."""
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(f"no row {name!r}; there are {[row.name for row in self.rows]}")

    def intervention(self, strength: float | None = None, *, native: bool = False) -> Intervention:
        """The transplanted (or native) vector as an addition to the target's residual stream.

        Args:
            strength: in units of the mean residual norm; None takes the one that was scored. Negative is the
                opposite of the concept.
            native: take the target's own vector instead.
        """
        name = "native" if native else "transplanted"
        chosen = self.row(name)
        vectors = self.vectors[name]
        norms = vectors.residual_norms
        return Intervention(
            hook_point=vectors.hook_points[0],
            op="add",
            vector=vectors.vectors[0],
            strength=(chosen.strength or 0.0) if strength is None else strength,
            unit="residual_norm",
            residual_norm=None if norms is None else float(norms[0]),
            fingerprint=vectors.fingerprint,
            label=f"{self.concept} ({name})",
        )

    def table(self) -> "pandas.DataFrame":
        """The rows as a data frame, one line each."""
        import pandas

        columns = [row.to_dict() for row in self.rows]
        return pandas.DataFrame(columns).drop(columns=["draws", "seeds"]).set_index("name")

    def summary(self) -> dict[str, Any]:
        """The content of ``result.json``."""
        return {
            "schema": RESULT_SCHEMA,
            "source": self.source,
            "target": self.target,
            "concept": self.concept,
            "hook_points": self.hook_points,
            "rows": [row.to_dict() for row in self.rows],
            "recovered_share": {"value": self.recovered_share.value, "ci": list(self.recovered_share.ci)},
            "verdict": self.verdict,
            "reason": self.reason,
            "curves": [
                {
                    "name": p.name,
                    "strength": p.strength,
                    "score": [p.score_minus, p.score_plus],
                    "effect": p.effect,
                    "kl": p.kl,
                    "spread": None if p.spread is None else list(p.spread),
                }
                for p in self.curves
            ],
            "layers": list(self.layer_table),
            "layer_report": None if self.layer_report is None else self.layer_report.summary(),
            "diagnostics": self.diagnostics,
            "settings": self.settings,
            "seconds": self.seconds,
            "peak_memory_mb": self.peak_memory_mb,
            "command": self.command,
        }

    def with_command(self, command: str | None) -> "TransplantResult":
        """The same result with the command that makes it again."""
        return replace(self, command=command)

    def plot(self) -> "matplotlib.figure.Figure":
        """The overview figure: strength curves with controls, damage beside effect, the rows, the layer sweep."""
        from contrans_lens.reports import overview_figure

        return overview_figure(self)

    def save(self, folder: Path | str) -> Path:
        """Write result.json, figures, report.html, vectors, map and reproduce.json into ``folder``.

        Raises:
            ArtifactError: the folder cannot be written; what was complete there stays.
        """
        from contrans_lens.reports import write_report

        folder = Path(folder)
        self.save_artifacts(folder)
        write_report(self, folder)
        if self.layer_report is not None:
            self.layer_report.save(folder / "layers")
        write_json(folder / "result.json", self.summary())
        return folder

    def save_artifacts(self, folder: Path) -> None:
        """Write vectors, map, ready-made intervention and reproduce.json, without figures or report."""
        for name, vectors in self.vectors.items():
            vectors.save(folder / "vectors" / name)
        if self.map is not None:
            self.map.save(folder / "map")
        self.intervention().save(folder / "intervention")
        write_json(folder / "reproduce.json", self.reproduction())
        write_json(folder / "items.json", {"items": list(self.items)})

    def reproduction(self) -> dict[str, Any]:
        """What it takes to make the same numbers again: command, settings, fingerprints, content hashes."""
        from contrans_lens.artifacts import package_versions

        return {
            "command": self.command,
            "settings": self.settings,
            "source": self.source,
            "target": self.target,
            "texts": self.diagnostics.get("text_hashes"),
            "versions": package_versions(),
        }

    def __repr__(self) -> str:
        return f"TransplantResult({self.concept}: {self.source['name']} -> {self.target['name']}, {self.verdict})"

    def __str__(self) -> str:
        """The table and the verdict as plain text."""
        share = self.recovered_share
        value = "undefined" if share.value is None else f"{share.value:.0%}"
        low, high = share.ci
        interval = "" if low is None or high is None else f" [{low:.0%}, {high:.0%}]"
        return "\n".join(
            [
                f"{self.concept}: {self.source['name']} -> {self.target['name']}",
                f"read at {self.hook_points['source']}, written at {self.hook_points['target']}",
                format_rows(self.rows),
                f"share of the native effect recovered: {value}{interval}",
                f"verdict: {self.verdict} ({self.reason})",
            ]
        )

    def _repr_html_(self) -> str:
        from contrans_lens.reports import result_html

        return result_html(self)


def format_rows(rows: Sequence[Row]) -> str:
    """Rows as an aligned plain-text table."""
    lines = [f"{'':18s} {'score(+)':>8s} {'effect':>7s} {'95 % interval':>17s} {'KL':>7s} {'ppl':>8s} {'p':>6s}"]
    for row in rows:
        interval = f"[{row.effect_ci[0]:+.3f}, {row.effect_ci[1]:+.3f}]"
        kl = "" if row.kl is None else f"{row.kl:.4f}"
        perplexity = "" if row.perplexity is None else f"{row.perplexity:.2f}"
        p_value = "" if row.p_value is None else f"{row.p_value:.3f}"
        line = f"{row.name:18s} {row.score:8.3f} {row.effect:+7.3f} {interval:>17s} {kl:>7s} {perplexity:>8s} "
        lines.append(line + f"{p_value:>6s}")
    return "\n".join(lines)
