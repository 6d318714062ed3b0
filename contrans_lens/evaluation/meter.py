"""Measures vectors and cells on neutral texts that were made ready once: the sums behind :class:`Damage`.

Log-probabilities and sums over the vocabulary are in float32 (float64 where the model is), sums over tokens in float64.
The unsteered log-probabilities are computed once per text and kept while they fit into memory.
"""

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from contrans_lens.errors import EvaluationError
from contrans_lens.evaluation.cells import Cells, CellStack, stack_logits
from contrans_lens.evaluation.continuations import plan_texts
from contrans_lens.evaluation.scores import check_cells, log_probabilities
from contrans_lens.evaluation.stacked import StackedRuns, Within
from contrans_lens.interventions import Continuation, Edit, Generated
from contrans_lens.models import HookedModel

_KEPT_VALUES = 1 << 26  # unsteered log-probabilities kept between passes: 256 MB in float32


@dataclass(frozen=True)
class DamageTotals:
    """Sums over the tokens of each text, for several vectors; not finite where the model's logits are not."""

    kl: Float[Tensor, "vector text"]
    """Summed KL, float64."""
    nll: Float[Tensor, "vector text"]
    """Summed negative log-likelihood, float64."""
    token_kl: Float[Tensor, "vector token"]
    """KL of every token, texts one after the other."""
    tv: Float[Tensor, "vector text"] | None = None
    """Summed total variation, float64; this and what follows are None unless the meter was made for them."""
    token_tv: Float[Tensor, "vector token"] | None = None
    """Total variation of every token."""
    changed: Float[Tensor, "vector text"] | None = None
    """Number of tokens at which another token is the most probable one."""

    def of(self, chosen: slice | Sequence[int]) -> "DamageTotals":
        """The totals of some of the vectors."""
        index = chosen if isinstance(chosen, slice) else list(chosen)
        more = (None if each is None else each[index] for each in (self.tv, self.token_tv, self.changed))
        return DamageTotals(self.kl[index], self.nll[index], self.token_kl[index], *more)


def warn_of_unseen_damage(edits: Iterable[Edit], prompt_tokens: int | None) -> None:
    """Warn where edits begin at the end of a prompt and neutral texts have none: hardly anything would be measured."""
    if prompt_tokens is None and any(isinstance(each.positions, Generated | Continuation) for each in edits):
        warnings.warn(
            "neutral texts are measured whole, as prompts, but some edits begin where a prompt ends: their damage will "
            "look like none. Give prompt_tokens=8 or so, the first tokens of each text that are its prompt.",
            stacklevel=3,
        )


class DamageMeter:
    """Neutral texts made ready to measure many vectors, strength after strength."""

    def __init__(
        self,
        model: HookedModel,
        texts: Sequence[str],
        hook_point: str | Sequence[str] | None = None,
        *,
        max_tokens: int | None = None,
        prompt_tokens: int | None = None,
        token_budget: int | None = None,
        fan_out: bool | None = None,
        details: bool = True,
    ) -> None:
        """Tokenise the texts; see :func:`damage_vectors` for the arguments and what is raised.

        With ``prompt_tokens`` the first so many tokens of each text are its prompt and damage is that of what follows:
        what edits that begin where a prompt ends must be measured on.
        Several hook points may be given; they are then measured with :meth:`cell_totals`. Without ``details`` neither
        total variation nor changed tokens are measured, which a search for a strength has no use for.
        """
        self._details = details
        self._model = model
        self._token_budget = token_budget
        self._hook_points = [hook_point] if isinstance(hook_point, str) else list(hook_point or ())
        rows, truncated = plan_texts(model, texts, max_tokens, prompt_tokens)
        self._runs = StackedRuns(model, rows, self._hook_points, token_budget=token_budget, fan_out=fan_out)
        self.truncated_texts: int = sum(truncated)
        """Texts of which only the beginning is used."""
        self._targets = [torch.tensor([read.token for read in row.reads]) for row in rows]
        self.counts: Int[Tensor, " text"] = torch.tensor([len(target) for target in self._targets])
        """Predicted tokens of each text."""
        self._base: dict[int, Tensor] = {}
        self._kept = 0
        self._base_nll = torch.full((len(rows),), math.nan, dtype=torch.float64)

    @property
    def unsteered_nll(self) -> float:
        """Mean negative log-likelihood of the unsteered model; known once something was measured."""
        return float(self._base_nll.sum() / self.counts.sum())

    def totals(
        self,
        additions: Float[Tensor, "vector d_model"] | None,
        *,
        within: Within | None = None,
    ) -> DamageTotals:
        """Measure vectors at the one hook point, or (None) what the context ``within`` does.

        Raises:
            EvaluationError: additions that are not finite or of another width, or not one hook point to add them at;
                the unsteered model's logits are not finite.
        """
        if additions is None:
            return self._measure([CellStack((0,), {}, within)])
        if len(self._hook_points) != 1:
            raise EvaluationError(
                f"the meter was made for {len(self._hook_points)} hook points, so where to add is not clear; "
                "make it for one, or use cell_totals."
            )
        return self.cell_totals({self._hook_points[0]: additions})[self._hook_points[0]]

    def cell_totals(self, additions: Mapping[str, Float[Tensor, "_ d_model"]]) -> dict[str, DamageTotals]:
        """Measure vectors, by hook point, at some or all of the hook points the meter was made for.

        Raises:
            EvaluationError: another hook point, or as :meth:`totals`.
        """
        check_cells(self._model, additions)
        stacks, parts, count = [], {}, 0
        for name, vectors in additions.items():
            parts[name] = slice(count, count + len(vectors))
            stacks.append(CellStack(tuple(range(count, count + len(vectors))), {name: vectors}))
            count += len(vectors)
        found = self._measure(stacks)
        return {name: found.of(part) for name, part in parts.items()}

    def totals_of(self, cells: Cells) -> DamageTotals:
        """Measure cells; the meter must have been made for their first hook points.

        Raises:
            EvaluationError: another hook point; the unsteered model's logits are not finite.
        """
        return self._measure(cells.stacks)

    def totals_of_model(self, changed: HookedModel) -> DamageTotals:
        """Measure another model on the same tokens, which must mean the same to it; the meter's own is the unsteered.

        Raises:
            EvaluationError: the unsteered model's logits are not finite.
        """
        runs = StackedRuns(changed, self._runs.rows, token_budget=self._token_budget)
        return self._measure([CellStack((0,), {})], runs)

    def _measure(self, stacks: Sequence[CellStack], steered: StackedRuns | None = None) -> DamageTotals:
        """Sums under every cell, of the model itself or of the other one whose runs of the same rows are given."""
        names = [next(iter(stack.additions)) for stack in stacks if stack.additions]
        others = [name for name in names if name not in self._hook_points]
        if others:
            raise EvaluationError(
                f"the meter was made for {', '.join(self._hook_points) or 'no hook point'}, not for {others[0]}."
            )
        sizes = [len(stack.numbers) for stack in stacks]
        found = _no_totals(sum(sizes), len(self.counts), int(self.counts.sum()), self._details)
        for group in self._runs.groups(max(sizes)):
            base, targets = self._unsteered(group), self._padded_targets(group)
            for numbers, logits in stack_logits(steered or self._runs, group, stacks):
                # Another model may be on another device, or in another dtype.
                self._note(found, numbers, group, base, targets, log_probabilities(logits).to(base))
        return found

    def _note(
        self,
        totals: DamageTotals,
        numbers: list[int],
        group: Sequence[int],
        base: Float[Tensor, "row read vocab"],
        targets: Int[Tensor, "row read"],
        steered: Float[Tensor, "vector row read vocab"],
    ) -> None:
        """Add up what some vectors do to a group of texts."""
        ends = self.counts.cumsum(0)
        part = torch.tensor(numbers)
        divergence, surprise = kl_divergence(base, steered), _surprise(steered, targets)
        details = distribution_change(base, steered) if self._details else None
        for row, text in enumerate(group):
            count, end = int(self.counts[text]), int(ends[text])
            totals.token_kl[part, end - count : end] = divergence[:, row, :count]
            totals.kl[part, text] = divergence[:, row, :count].sum(-1)
            totals.nll[part, text] = surprise[:, row, :count].sum(-1)
            if details is not None and totals.tv is not None and totals.token_tv is not None:
                variation, changed = details
                totals.token_tv[part, end - count : end] = variation[:, row, :count]
                totals.tv[part, text] = variation[:, row, :count].sum(-1)
                if totals.changed is not None:
                    totals.changed[part, text] = changed[:, row, :count].sum(-1)

    def _unsteered(self, group: Sequence[int]) -> Float[Tensor, "row read vocab"]:
        """Log-probabilities of the unsteered model, computed once per text while they fit into memory."""
        if all(text in self._base for text in group):
            return pad_sequence([self._base[text] for text in group], batch_first=True)
        [(_, logits)] = self._runs.logits(group)
        base = log_probabilities(logits)[0]
        surprise = _surprise(base[None], self._padded_targets(group))[0]
        for row, text in enumerate(group):
            count = int(self.counts[text])
            self._base_nll[text] = surprise[row, :count].sum()
            if not math.isfinite(self._base_nll[text]):
                raise EvaluationError(
                    f"the unsteered model's logits of text {text} hold NaN or infinity; use a wider dtype, "
                    "or look at the model."
                )
            if self._kept + count * base.shape[-1] <= _KEPT_VALUES:
                self._base[text] = base[row, :count].clone()  # a view would keep the whole group in memory
                self._kept += count * base.shape[-1]
        return base

    def _padded_targets(self, group: Sequence[int]) -> Int[Tensor, "row read"]:
        most = max(int(self.counts[text]) for text in group)
        padded = torch.zeros(len(group), most, dtype=torch.long)
        for row, text in enumerate(group):
            padded[row, : int(self.counts[text])] = self._targets[text]
        return padded


def _no_totals(n_vectors: int, n_texts: int, n_tokens: int, details: bool) -> DamageTotals:
    def nothing(n_columns: int) -> Tensor:
        return torch.zeros(n_vectors, n_columns, dtype=torch.float64)

    kl, nll, token_kl = nothing(n_texts), nothing(n_texts), nothing(n_tokens)
    if not details:
        return DamageTotals(kl, nll, token_kl)
    return DamageTotals(kl, nll, token_kl, nothing(n_texts), nothing(n_tokens), nothing(n_texts))


def kl_divergence(
    base: Float[Tensor, "row read vocab"], steered: Float[Tensor, "vector row read vocab"]
) -> Float[Tensor, "vector row read"]:
    """KL(base || steered) at every position, in float64 on the CPU; rounding below zero is cut off."""
    p = base.exp()
    cross = torch.einsum("rkv,nrkv->nrk", p, steered)
    entropy = torch.einsum("rkv,rkv->rk", p, base)
    return (entropy - cross).to("cpu", torch.float64).clamp_min(0.0)


def distribution_change(
    base: Float[Tensor, "row read vocab"], steered: Float[Tensor, "vector row read vocab"]
) -> tuple[Float[Tensor, "vector row read"], Float[Tensor, "vector row read"]]:
    """Total variation, and 1 where the most probable token changed, at every position, float64 on the CPU."""
    p, top = base.exp(), base.argmax(-1)
    # One vector at a time: the difference of all at once would double what is held.
    variation = torch.stack([(each.exp() - p).abs_().sum(-1) for each in steered]) / 2
    changed = steered.argmax(-1) != top
    return variation.to("cpu", torch.float64), changed.to("cpu", torch.float64)


def _surprise(
    log_p: Float[Tensor, "vector row read vocab"], targets: Int[Tensor, "row read"]
) -> Float[Tensor, "vector row read"]:
    """Negative log-probability of the text's own tokens, in float64 on the CPU."""
    index = targets.to(log_p.device)[None, :, :, None].expand(len(log_p), -1, -1, 1)
    return -log_p.gather(-1, index)[..., 0].to("cpu", torch.float64)
