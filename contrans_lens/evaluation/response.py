"""What vectors do to the next token after prompts, without asking which token is right.

Three numbers that need no answer key. For prompts x and a vector written with either sign, let d(x) = p+(. | x) -
p-(. | x) be the change of the next-token distribution::

    reach      =  mean_x 1/2 sum_w |d_w(x)|                  total variation between the two signs
    agreement  =  sum_k <c_k, s_k> / sum_k <c_k, c_k>        c_k = p(. | x_k positive) - p(. | x_k negative), what the
                                                             words of a pair of prompts do by themselves; s_k = mean
                                                             of d over both prompts of pair k
    echo       =  sum_x <r(x), d(x)> / sum_x <r(x), r(x)>    r = the d of another model's own vector, over the tokens
                                                             that both models have

At equal damage on neutral text a large reach means that the vector acts where the concept matters rather than
everywhere. An agreement of 1 means that writing the vector is like having read the other words. An echo of 1 means
that the vector does here what it does in the model it was read in.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from contrans_lens.errors import EvaluationError
from contrans_lens.evaluation.continuations import Read, TokenRow
from contrans_lens.evaluation.scores import check_additions
from contrans_lens.evaluation.stacked import StackedRuns
from contrans_lens.models import HookedModel, tokenize

_HELD_VALUES = 1 << 26  # probabilities held at once: 256 MB in float32


@dataclass(frozen=True, eq=False)
class Response:
    """The numbers of the module docstring for several vectors."""

    reach: Float[Tensor, "vector"]
    agreement: Float[Tensor, "vector"] | None
    """None where the prompts are not pairs, or where their words do nothing."""
    echo: Float[Tensor, "vector"] | None
    """None where no reference was given, or where it is zero."""


class PromptResponse:
    """Measures vectors on prompts at any hook point of a model; the unsteered responses are computed once."""

    def __init__(self, model: HookedModel, prompts: Sequence[str], *, paired: bool = False) -> None:
        """Tokenise the prompts; where they are pairs, see what their difference does by itself.

        Args:
            model: the model that is written into.
            prompts: texts whose next token is looked at; a prompt longer than the context keeps its end.
            paired: the first half are the positive texts of pairs, the second half the negative ones, in the same
                order.

        Raises:
            EvaluationError: no prompts, or pairs that do not come out even.
            TextError: an empty prompt.
        """
        if not prompts or (paired and len(prompts) % 2):
            raise EvaluationError(
                f"{len(prompts)} prompts: at least one is needed, and an even number of pairs' texts."
            )
        self._model = model
        self._rows = _rows(model, prompts)
        self._cue = None
        if paired:
            positive, negative = self._probabilities(None, None)[0].chunk(2)
            self._cue = positive - negative

    def measure(
        self,
        hook_point: str,
        additions: Float[Tensor, "vector d_model"],
        *,
        reference: Float[Tensor, "reference prompt token"] | None = None,
        tokens: Int[Tensor, "token"] | None = None,
    ) -> Response:
        """Reach, agreement and echo of each addition, float64.

        Args:
            hook_point: where they are added, at every position.
            additions: absolute vectors ``[vector, d_model]``; each is tried with both signs.
            reference: for each vector, another model's change of next-token probability on the same prompts.
            tokens: this model's ids of the reference's last axis.

        Raises:
            EvaluationError: probabilities that are not finite, or a reference that does not fit.
            HookPointError: the model has no such hook point.
        """
        if reference is not None and (tokens is None or len(reference) != len(additions)):
            raise EvaluationError("a reference needs one entry a vector and the token ids of its last axis.")
        parts: list[tuple[Tensor, ...]] = []
        for where, shift in self.shifts(hook_point, additions):
            reach = shift.abs().sum(-1).mean(1) / 2
            agreement = torch.full_like(reach, float("nan"))
            if self._cue is not None:
                mean = torch.stack(shift.chunk(2, dim=1)).mean(0)
                agreement = torch.einsum("vpw,pw->v", mean, self._cue) / self._cue.square().sum()
            echo = torch.full_like(reach, float("nan"))
            if reference is not None and tokens is not None:
                theirs = reference[where].to(shift)
                echo = (shift[..., tokens] * theirs).sum((1, 2)) / theirs.square().sum((1, 2))
            parts.append((reach, agreement, echo))
        reach, agreement, echo = (torch.cat(column).double() for column in zip(*parts, strict=True))
        return Response(reach, *(None if bool(each.isnan().any()) else each for each in (agreement, echo)))

    def shifts(
        self, hook_point: str, additions: Float[Tensor, "vector d_model"]
    ) -> Iterator[tuple[slice, Float[Tensor, "vector prompt vocab"]]]:
        """Change of next-token probability ``p+ - p-`` that each addition makes, a slice of the vectors at a time.

        Raises:
            EvaluationError: additions or probabilities that are not finite, or another width than the model's.
            HookPointError: the model has no such hook point.
        """
        check_additions(self._model, additions)
        step = max(1, _HELD_VALUES // (2 * len(self._rows) * int(self._model.cfg.d_vocab)))
        for start in range(0, len(additions), step):
            part = additions[start : start + step]
            plus, minus = self._probabilities(hook_point, torch.cat([part, -part])).chunk(2)
            yield slice(start, start + len(part)), plus - minus

    def _probabilities(
        self, hook_point: str | None, additions: Float[Tensor, "vector d_model"] | None
    ) -> Float[Tensor, "vector prompt vocab"]:
        runs = StackedRuns(self._model, self._rows, () if hook_point is None else (hook_point,))
        count = 1 if additions is None else len(additions)
        found = torch.empty(count, len(self._rows), int(self._model.cfg.d_vocab))
        for group in runs.groups(count):
            for part, logits in runs.logits(group, additions, hook_point or ""):
                found[part, group] = logits[:, :, 0].float().softmax(-1).cpu()
        if not bool(found.isfinite().all()):
            place = "the unsteered model" if hook_point is None else hook_point
            raise EvaluationError(f"next-token probabilities hold NaN or infinity at {place}; use a wider dtype.")
        return found


def shared_tokens(
    one: HookedModel | dict[str, int], other: HookedModel | dict[str, int]
) -> tuple[Int[Tensor, "token"], Int[Tensor, "token"]]:
    """Ids of the tokens that two models both have, by the text they stand for; special tokens are left out.

    Args:
        one: a model, or its :func:`token_texts`.
        other: likewise.
    """
    first, second = (each if isinstance(each, dict) else token_texts(each) for each in (one, other))
    texts = [text for text in first if text in second]
    here, there = (torch.tensor([ids[text] for text in texts], dtype=torch.int64) for ids in (first, second))
    return here, there


def token_texts(model: HookedModel) -> dict[str, int]:
    """The text of every token of a model's vocabulary, with its id; special tokens and empty texts are left out."""
    special = set(model.tokenizer.all_special_ids)
    found: dict[str, int] = {}
    for token in range(min(int(model.cfg.d_vocab), len(model.tokenizer))):
        text = model.tokenizer.decode([token])
        if token not in special and text:
            found.setdefault(text, token)
    return found


def _rows(model: HookedModel, prompts: Sequence[str]) -> list[TokenRow]:
    """Each prompt as a row of which the last token's prediction is read."""
    batch = tokenize(model, list(prompts), truncate="left")
    rows = []
    for number, prompt in enumerate(prompts):
        ids = batch.tokens[number][batch.mask[number]].tolist()
        last = len(ids) - 1
        rows.append(TokenRow(ids, batch.offsets[number], prompt, len(ids), batch.bos, [Read(number, last, 0, 1)]))
    return rows
