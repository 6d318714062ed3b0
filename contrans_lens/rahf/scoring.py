"""What a model prefers on held-out pairs, and what its change costs on neutral text: a row of a run for each model."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from contrans_lens.errors import ArtifactError, RahfError
from contrans_lens.evaluation import Interval, model_damage, prompt_damage
from contrans_lens.evaluation.behaviours import Measurement, PairedAnswers
from contrans_lens.evaluation.intervals import bootstrap_mean_ci
from contrans_lens.models import HookedModel
from contrans_lens.models.tokens import model_tokenizer
from contrans_lens.rahf.tokens import InstructionsByTopic, instructions_for
from contrans_lens.texts import EvaluationItem, Instructions, Preference, PreferenceSet

Kind = Literal["base", "prompt", "step 1", "aligned", "shuffled", "random", "random at equal KL"]
"""What a scored model is; the last three are controls."""

_NEUTRAL_TOKENS = 256  # of a neutral text that damage is measured on
_LENGTHS_ALIKE = 0.1  # of the longer answer, in tokens: answers that count as equally long
_KEPT = ("kl", "kl_ci", "kl_p95", "top_changed", "top_changed_ci", "nll", "nll_ci", "perplexity", "perplexity_ci")
_KEPT_BESIDE = ("unsteered_perplexity", "n_tokens", "n_texts")


@dataclass(frozen=True)
class Reading:
    """A model as it was measured; what is kept on disk, so that a run that is broken off need not measure again."""

    log_odds: tuple[float, ...]
    """log P(chosen) - log P(rejected) of each test pair, nats, whole answers."""
    damage: Mapping[str, Any] | None
    """On neutral text, against the base: ``kl``, ``top_changed``, ``nll``, ``perplexity``, each with its interval over
    texts under ``..._ci``; None where it was not measured."""
    scale: float = 1.0
    """What the adapter was multiplied by."""

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        damage = None if self.damage is None else dict(self.damage)
        return {"log_odds": list(self.log_odds), "damage": damage, "scale": self.scale}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Reading":
        """From :meth:`to_dict`.

        Raises:
            ArtifactError: something is missing or is no number.
        """
        try:
            return cls(tuple(map(float, values["log_odds"])), values["damage"], float(values["scale"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"a stored score cannot be read: {error!r}; delete the folder scores.") from error


@dataclass(frozen=True)
class Scored:
    """One model, or way to ask it, on the test pairs: means with 95 % intervals over groups of pairs."""

    name: str
    """Such as ``"aligned"`` or ``"shuffled 0"``."""
    kind: Kind
    folder: str | None
    """Its adapter within the folder of the run; None: none of its own."""
    probability: Interval
    """P(chosen) / (P(chosen) + P(rejected)) of whole answers."""
    accuracy: Interval
    """Share of pairs whose chosen answer is the more probable one."""
    margin: Interval
    """log P(chosen) - log P(rejected), nats."""
    change: Interval | None
    """``probability`` less the base's, pair by pair; None of the base."""
    lead: Interval | None
    """``probability`` of the aligned model less this one's, pair by pair; None of the aligned model."""
    matched: Interval | None
    """``probability`` over the pairs whose answers are about equally long in tokens; None where they are too few."""
    damage: Mapping[str, Any] | None
    """See :class:`Reading`."""
    scale: float = 1.0
    """What the adapter was multiplied by."""

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {**asdict(self), "damage": None if self.damage is None else dict(self.damage)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Scored":
        """From :meth:`to_dict`.

        Raises:
            ArtifactError: something is missing or does not fit.
        """
        spans = ("probability", "accuracy", "margin", "change", "lead", "matched")
        try:
            intervals = {name: None if values[name] is None else Interval(**values[name]) for name in spans}
            return cls(**{**values, **intervals})
        except (KeyError, TypeError) as error:
            raise ArtifactError(f"a stored row cannot be read: {error!r}; run again into a new folder.") from error


@dataclass(frozen=True)
class ScoredPairs:
    """The held-out pairs that can be scored, and which of them have answers of one length."""

    pairs: tuple[Preference, ...]
    matched: tuple[int, ...]
    """Numbers of the pairs whose answers are about equally long in tokens."""
    left_out: int
    """Pairs that do not fit the model's context, or whose answers are the same tokens."""
    longest: int
    """Tokens of the longest answer."""
    too_long: int = 0
    """Those of the pairs left out that need more tokens than the context."""

    @classmethod
    def of(cls, model: HookedModel, preferences: PreferenceSet, instructions: InstructionsByTopic) -> "ScoredPairs":
        """Find out which pairs fit a model, also under their instructions.

        Raises:
            RahfError: a topic has no instructions, or fewer than two groups are left, so that there is no interval.
        """
        tokenizer, context = model_tokenizer(model), int(model.cfg.n_ctx)

        def ids(text: str) -> list[int]:
            found: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
            return found

        kept: list[Preference] = []
        matched, longest, too_long = [], 0, 0
        for pair in preferences:
            prompt = asked(pair, instructions)
            whole = [ids(prompt + answer) for answer in (pair.chosen, pair.rejected)]
            if whole[0] == whole[1] or max(map(len, whole)) >= context:
                too_long += whole[0] != whole[1]
                continue
            short, long = sorted(len(ids(answer)) for answer in (pair.chosen, pair.rejected))
            longest = max(longest, long)
            if long - short <= _LENGTHS_ALIKE * long:
                matched.append(len(kept))
            kept.append(pair)
        if len({pair.unit for pair in kept}) < 2:
            raise RahfError(_too_few(preferences, kept, too_long, context))
        return cls(tuple(kept), tuple(matched), len(preferences) - len(kept), longest, too_long)

    @property
    def units(self) -> tuple[str, ...]:
        """What is resampled: the group of each pair, or without one its prompt."""
        return tuple(pair.unit for pair in self.pairs)

    def log_odds(self, model: HookedModel, instructions: InstructionsByTopic | None = None) -> tuple[float, ...]:
        """``log P(chosen) - log P(rejected)`` of each pair, in nats.

        Args:
            model: who answers.
            instructions: p+ of these stands before each prompt; None: nothing does.

        Raises:
            EvaluationError: a log-probability is not finite.
        """
        items = tuple(
            EvaluationItem(asked(pair, instructions), pair.chosen, pair.rejected, pair.unit) for pair in self.pairs
        )
        values: list[float] = PairedAnswers(items).measure(model, [()]).column("log_odds")[0].tolist()
        return tuple(values)


def decisive_controls(rows: Sequence[Scored]) -> list[Scored]:
    """The controls that a run is judged by: shuffled ones, and of each random one that at equal damage if there is one.

    One direction of the norm of v pushes a model about as far as v, to a side that chance decides, and often does far
    more damage. So its adapter is scaled to the damage of the aligned one, where neutral texts say what that is.
    """
    replaced = {row.folder for row in rows if row.kind == "random at equal KL"}
    random = [row for row in rows if row.kind == "random" and row.folder not in replaced]
    return [row for row in rows if row.kind in ("shuffled", "random at equal KL")] + random


def asked(pair: Preference, instructions: InstructionsByTopic | None) -> str:
    """The prompt of a pair, after p+ where instructions are given."""
    given = instructions_for(pair, instructions)
    return pair.prompt if given is None else given.before(pair.prompt, "positive")


def neutral_tokens(base: HookedModel) -> int:
    """Tokens of each neutral text that damage is measured on."""
    return min(_NEUTRAL_TOKENS, int(base.cfg.n_ctx))


def measured_damage(base: HookedModel, changed: HookedModel, texts: Sequence[str]) -> dict[str, Any] | None:
    """What a change of the model does to neutral texts, as plain JSON values; None without texts.

    Raises:
        EvaluationError: the models' tokens differ, or logits are not finite.
    """
    if not texts:
        return None
    found = model_damage(base, changed, texts, max_tokens=neutral_tokens(base)).to_dict()
    return {name: found[name] for name in (*_KEPT, *_KEPT_BESIDE)}


def words_damage(base: HookedModel, instructions: InstructionsByTopic, texts: Sequence[str]) -> dict[str, Any] | None:
    """What p+ before neutral texts does to them, without intervals; None without texts or with several p+.

    Raises:
        EvaluationError: as :func:`~contrans_lens.evaluation.prompt_damage`.
    """
    if not texts or not isinstance(instructions, Instructions):
        return None
    found = prompt_damage(base, texts, instructions.positive, max_tokens=neutral_tokens(base))
    empty = dict.fromkeys((*_KEPT, *_KEPT_BESIDE))
    return {**empty, "kl": found.kl, "perplexity": found.perplexity, "n_tokens": found.n_tokens, "n_texts": len(texts)}


def scored_rows(
    models: Mapping[str, tuple[Kind, str | None]], readings: Mapping[str, Reading], pairs: ScoredPairs, seed: int
) -> tuple[Scored, ...]:
    """The rows of a run from what was measured.

    Args:
        models: kind and folder by name; there is one ``"base"`` and one ``"aligned"``.
        readings: by the same names.
        pairs: what was scored.
        seed: of the bootstraps.
    """
    odds = torch.tensor([readings[name].log_odds for name in models], dtype=torch.float64)
    columns = {"probability": odds.sigmoid(), "margin": odds, "accuracy": (odds.sign() + 1) / 2}
    found = Measurement("preference", columns, "probability", pairs.units)
    spans = {name: found.intervals(name, seed=seed) for name in columns}
    names = list(models)
    base, aligned = names.index("base"), names.index("aligned")
    return tuple(
        Scored(
            name=name,
            kind=kind,
            folder=folder,
            probability=spans["probability"][number],
            accuracy=spans["accuracy"][number],
            margin=spans["margin"][number],
            change=None if number == base else found.difference(number, base, seed=seed),
            lead=None if number == aligned else found.difference(aligned, number, seed=seed),
            matched=_matched(columns["probability"][number], pairs, seed),
            damage=readings[name].damage,
            scale=readings[name].scale,
        )
        for number, (name, (kind, folder)) in enumerate(models.items())
    )


def _matched(probability: Float[Tensor, " pair"], pairs: ScoredPairs, seed: int) -> Interval | None:
    units = [pairs.units[number] for number in pairs.matched]
    if len(set(units)) < 2:
        return None
    return bootstrap_mean_ci(probability[list(pairs.matched)], units, seed=seed)


def _too_few(given: PreferenceSet, kept: Sequence[Preference], too_long: int, context: int) -> str:
    """Why there is no interval over groups, and what would help."""
    n_groups, all_groups = len({pair.unit for pair in kept}), len({pair.unit for pair in given})
    same = len(given) - len(kept) - too_long
    causes = [
        f"{_counted(too_long, 'needs', 'need')} more tokens than the context of {context}, p+ included"
        if too_long
        else "",
        f"{_counted(same, 'has', 'have')} two answers of the same tokens" if same else "",
    ]
    advice = [
        "Give shorter pairs, or take a base with a longer context." if too_long and all_groups > 1 else "",
        "Give pairs with answers that differ." if same and all_groups > 1 else "",
        "Give pairs of more groups, or without groups more prompts." if all_groups < 2 else "",
    ]
    why = " and ".join(filter(None, causes))
    return (
        f"{len(kept)} of {_counted(len(given), 'pair', 'pairs')} can be scored, of "
        f"{_counted(n_groups, 'group', 'groups')}; intervals need two groups or more. "
        + (f"Of the pairs {why}. " if why else "")
        + " ".join(filter(None, advice))
    )


def _counted(number: int, one: str, more: str) -> str:
    return f"{number} {one if number == 1 else more}"
