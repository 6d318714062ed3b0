"""PaCE in one call: generate with and without the undesirable concepts, with controls, and say what was removed."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contrans_lens.artifacts import atomic_write, write_json
from contrans_lens.errors import PaceError
from contrans_lens.evaluation import Interval
from contrans_lens.evaluation.behaviours import NeutralText
from contrans_lens.interventions import Generation, Positions, generate
from contrans_lens.models import HookedModel, fingerprint
from contrans_lens.models.naming import described, model_name
from contrans_lens.pace.cautions import point_summaries, weak_points
from contrans_lens.pace.dictionary import ConceptDictionary
from contrans_lens.pace.partition import Partition, named_partition
from contrans_lens.pace.removal import ConceptRemoval, Mode, prepare, removals
from contrans_lens.pace.solvers.elastic_net import ElasticNet
from contrans_lens.pace.solvers.prepared import PreparedAtoms
from contrans_lens.pace.solvers.solver import Solver

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

SCHEMA = "contrans-lens/pace/1"
_PROMPT_TOKENS = 8  # of a neutral text, where a removal acts from the end of the prompt on
_SHOWN = 5


@dataclass(frozen=True)
class RemovalDamage:
    """What a removal does to neutral text: KL(unsteered || edited), nats per token."""

    name: str
    kl: Interval
    top_changed: Interval
    """Share of tokens with another most probable token."""


@dataclass(frozen=True, eq=False, repr=False)
class PaceRun:
    """Texts of the plain and the edited model, the audit, controls and damage."""

    model: dict[str, Any]
    partition: Partition
    removals: tuple[ConceptRemoval, ...]
    plain: Generation
    """What the model writes as it is."""
    edited: Generation
    """What it writes without the undesirable concepts, with the audit."""
    controls: tuple[Generation, ...]
    """What it writes without as many other concepts, drawn at random."""
    damages: tuple[RemovalDamage, ...]
    """Of the removal and of each control; empty where no neutral texts were given."""
    command: str | None = None

    def with_command(self, command: str | None) -> "PaceRun":
        """The same with the command that makes it again."""
        return replace(self, command=command)

    def texts(self) -> "pandas.DataFrame":
        """Prompts with their continuations: plain, edited, and each control."""
        import pandas

        columns = {"prompt": self.plain.prompts, "plain": self.plain.texts, "edited": self.edited.texts}
        columns |= {f"control {number}": each.texts for number, each in enumerate(self.controls)}
        return pandas.DataFrame(columns)

    def concepts(self, *, removed: bool = True) -> "pandas.DataFrame":
        """What was found at each hook point: concept, mean coefficient over the tokens it was found at, tokens.

        Args:
            removed: what was taken out only; otherwise everything that was found.
        """
        import pandas

        columns = ["hook_point", "concept", "coefficient", "tokens"]
        audit = self.edited.audit
        return pandas.DataFrame([] if audit is None else audit.concepts(removed=removed), columns=columns)

    def summary(self) -> dict[str, Any]:
        """The content of ``result.json``."""
        return {
            "schema": SCHEMA,
            "kind": "pace",
            "model": self.model,
            "task": self.partition.task,
            "undesirable": list(self.partition.undesirable),
            "rule": self.partition.rule,
            "removals": [each.to_key() for each in self.removals],
            "texts": self.texts().to_dict("records"),
            "concepts": self.concepts(removed=False).to_dict("records"),
            "points": [asdict(each) for each in point_summaries(self)],
            "cautions": weak_points(self),
            "damages": [
                {"name": each.name, "kl": vars(each.kl), "top_changed": vars(each.top_changed)} for each in self.damages
            ],
            "command": self.command,
        }

    def plot(self, k: int = 15) -> "Figure":
        """What was found at each hook point, undesirable concepts marked."""
        from contrans_lens.reports import audit_figure

        return audit_figure(self, k)

    def save(self, folder: Path | str) -> Path:
        """Write result.json, texts.csv, concepts.csv, the audit, the partition, figures and report.html.

        ``audit.jsonl`` has a line for each token that was decomposed: what was found and what was removed.

        Raises:
            ArtifactError: the folder cannot be written; what was complete there stays.
        """
        from contrans_lens.reports import write_pace_report

        folder = Path(folder)
        self.partition.save(folder / "partition.json")
        for name, table in (("texts", self.texts()), ("concepts", self.concepts(removed=False))):
            with atomic_write(folder / f"{name}.csv") as temporary:
                table.to_csv(temporary, index=False, float_format="%.9g", lineterminator="\n")
        audit = self.edited.audit
        with atomic_write(folder / "audit.jsonl") as temporary:
            lines = [json.dumps(asdict(each)) for each in (() if audit is None else audit.findings)]
            temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        write_pace_report(self, folder)
        write_json(folder / "result.json", self.summary())
        return folder

    def __repr__(self) -> str:
        return f"PaceRun({self.model['name']}: {self.partition.task}, {len(self.plain.prompts)} prompts)"

    def __str__(self) -> str:
        lines = [f"{self.model['name']}: {self.partition.task}", *map(str, self.removals)]
        for _, row in self.texts().iterrows():
            lines += [f"prompt   {row['prompt']!r}", f"  plain  {row['plain']!r}", f"  edited {row['edited']!r}"]
            lines += [f"  {name} {row[name]!r}" for name in row.index if name.startswith("control")]
        audit = self.edited.audit
        taken = [] if audit is None else audit.concepts()
        for point in dict.fromkeys(each[0] for each in taken):
            shown = [f"{name} {mean:+.3g} ({n})" for where, name, mean, n in taken if where == point]
            more = f", and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
            lines.append(f"removed at {point}: {', '.join(shown[:_SHOWN])}{more}")
        lines += [] if taken else ["nothing was removed: none of the undesirable concepts was found"]
        lines += [f"damage of {each.name}: KL {_told(each.kl)}" for each in self.damages]
        lines += [f"beware: {each}" for each in weak_points(self)]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        from contrans_lens.reports import pace_html

        return pace_html(self)


def remove_concepts(
    model: HookedModel,
    prompts: Sequence[str],
    dictionary: ConceptDictionary,
    undesirable: Partition | Sequence[str],
    hook_points: Sequence[str] | None = None,
    *,
    solver: Solver | None = None,
    mode: Mode = "per_prompt",
    positions: Positions | None = None,
    strength: float | int = 1.0,
    max_new_tokens: int = 40,
    temperature: float = 0.0,
    batch_size: int | None = None,
    controls: int = 1,
    neutral: Sequence[str] = (),
    seed: int = 0,
    prepared: Mapping[str, PreparedAtoms] | None = None,
) -> PaceRun:
    """Continue prompts with the undesirable concepts taken out, beside the plain model and controls.

    Args:
        model: the model.
        prompts: texts to continue.
        dictionary: made on this model.
        undesirable: a partition of this dictionary, or names of its concepts.
        hook_points: where to act; all of the dictionary's if None.
        solver: how coefficients are found; the paper's elastic net if None.
        mode: ``"per_prompt"`` (the paper) or ``"per_token"``.
        positions: at which tokens to act; None: see :func:`contrans_lens.pace.removals`.
        strength: share of what is found that is taken out.
        max_new_tokens: how many tokens to generate at most.
        temperature: 0 is greedy.
        batch_size: prompts in one forward pass.
        controls: runs with as many other concepts, drawn at random (:meth:`Partition.shuffled`).
        neutral: texts on which damage is measured; two at least. With ``per_prompt`` the first 8 tokens of each are its
            prompt, and damage is that of what follows.
        seed: of the sampling, the control draws and the bootstraps.
        prepared: atoms made ready before, by hook point.

    Raises:
        PaceError: the partition or the hook points do not fit the dictionary.
        FingerprintMismatchError: the dictionary was made on another model.
        TextError: a prompt is empty, or too long for the model.
    """
    if controls < 0:
        raise PaceError(f"{controls} controls; none or more are expected.")
    if len(neutral) == 1:
        raise PaceError("one neutral text gives no interval; give two or more, or none.")
    dictionary.require_model(model)
    partition = undesirable if isinstance(undesirable, Partition) else named_partition(dictionary, undesirable)
    chosen = ElasticNet() if solver is None else solver
    ready = prepare(dictionary, hook_points) if prepared is None and chosen.scope == "dictionary" else prepared
    partitions = [partition, *(partition.shuffled(seed + draw) for draw in range(controls))]
    cells = [
        removals(
            dictionary,
            each,
            hook_points,
            solver=chosen,
            mode=mode,
            positions=positions,
            strength=strength,
            label=partition.task if number == 0 else f"control {number - 1}",
            prepared=ready,
        )
        for number, each in enumerate(partitions)
    ]
    written = [
        generate(
            model,
            prompts,
            cell,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
            batch_size=batch_size,
            audit=number == 1,
        )
        for number, cell in enumerate([(), *cells])
    ]
    return PaceRun(
        model=described(fingerprint(model), model_name(model)),
        partition=partition,
        removals=cells[0],
        plain=written[0],
        edited=written[1],
        controls=tuple(written[2:]),
        damages=_damages(model, cells, neutral, mode, seed) if neutral else (),
    )


def _damages(
    model: HookedModel, cells: Sequence[tuple[ConceptRemoval, ...]], neutral: Sequence[str], mode: Mode, seed: int
) -> tuple[RemovalDamage, ...]:
    texts = NeutralText(tuple(neutral), prompt_tokens=_PROMPT_TOKENS if mode == "per_prompt" else None)
    found = texts.measure(model, list(cells))
    pairs = zip(found.intervals("kl", seed=seed), found.intervals("top_changed", seed=seed), strict=True)
    return tuple(RemovalDamage(cells[number][0].label, kl, top) for number, (kl, top) in enumerate(pairs))


def _told(interval: Interval) -> str:
    return f"{interval.value:.4f} [{interval.low:.4f}, {interval.high:.4f}]"
