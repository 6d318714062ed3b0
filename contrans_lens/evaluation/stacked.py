"""Forward passes for many additions at one hook point, with as little repeated as the model class permits.

Three things are saved against one full forward pass per vector and text:

- **The part before the hook point is shared.** Every vector sees the same residual stream there. One row runs
up to
  the hook point, where a hook *fans it out*: it returns ``[vector, pos, d_model]`` for ``[1, pos, d_model]``,
  row v with addition v, and the rest of the model runs on the larger batch. Masks, rotary angles and position
  embeddings were made for one row and broadcast. This needs no ``start_at_layer`` (which a TransformerBridge
  lacks), only hooks.
- **Only the positions that are read are unembedded.** A pre-hook on the unembedding keeps ``[row, read,
d_model]``. - Rows are stacked up to a budget of tokens.

Whether a model stands fanning out is tried on a few tokens first, against the plain way (every row run from
its tokens). A model that does not, or a hook point inside a block where it makes no sense, is run the plain
way: slower, same numbers.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from contrans_lens.errors import EvaluationError
from contrans_lens.evaluation.continuations import TokenRow
from contrans_lens.interventions import add_rows
from contrans_lens.models import HookedModel, TokenBatch, check_hook_points, hooks, input_device, run

# Beyond so many tokens a larger batch gains nothing on a CPU (measured); the number for other devices is a guess.
_CPU_TOKENS, _DEVICE_TOKENS = 4096, 65_536
_LOGIT_BUDGET = 1 << 25  # logits held at once: 128 MB in float32
_WORTH_FANNING = 256  # fewer tokens than this after fanning out one row are better stacked with other rows
_PROBE_TOKENS = 6

Within = Callable[[TokenBatch, list[TokenRow]], AbstractContextManager[object]]
"""Opens a context around the forward pass of a batch, given the rows it is made of."""


class StackedRuns:
    """Runs token rows under additions at a hook point and returns logits at the positions that are read."""

    def __init__(
        self,
        model: HookedModel,
        rows: Sequence[TokenRow],
        hook_point: str | None = None,
        *,
        token_budget: int | None = None,
        batch_size: int | None = None,
        fan_out: bool | None = None,
    ) -> None:
        """Prepare to run ``rows``.

        Args:
            model: the model.
            rows: sequences and what is read from them.
            hook_point: where additions are made; None if there will be none.
            token_budget: most tokens in one forward pass; by device if None.
            batch_size: most rows in one forward pass; no limit but the budget if None.
            fan_out: share the part before the hook point; None finds out whether the model stands it.

        Raises:
            HookPointError: the model has no such hook point.
            EvaluationError: a budget or batch size below one.
        """
        if hook_point is not None:
            check_hook_points(model, [hook_point])
        if (token_budget is not None and token_budget < 1) or (batch_size is not None and batch_size < 1):
            raise EvaluationError(f"token_budget={token_budget}, batch_size={batch_size}: both start at one.")
        self.rows = list(rows)
        self._model = model
        self._hook_point = hook_point
        default = _CPU_TOKENS if input_device(model).type == "cpu" else _DEVICE_TOKENS
        self._token_budget = token_budget or default
        self._batch_size = batch_size
        self._fan_out = fan_out
        self._positions = [sorted({read.position for read in row.reads}) for row in self.rows]

    def positions(self, index: int) -> list[int]:
        """Positions of row ``index`` whose logits are returned, in ascending order."""
        return self._positions[index]

    def groups(self, n_vectors: int = 1) -> list[list[int]]:
        """Row indices that are run together, longest first: one that is fanned out, or as many as fit."""
        order = sorted(range(len(self.rows)), key=lambda index: -len(self.rows[index].tokens))
        groups: list[list[int]] = []
        for index in order:
            if groups and not self._fans(n_vectors, index):
                first = groups[-1][0]
                if not self._fans(n_vectors, first) and len(groups[-1]) < self._capacity(first) // n_vectors:
                    groups[-1].append(index)
                    continue
            groups.append([index])
        return groups

    def logits(
        self,
        group: Sequence[int],
        additions: Float[Tensor, "vector d_model"] | None = None,
        *,
        within: Within | None = None,
    ) -> Iterator[tuple[slice, Float[Tensor, "vector row read vocab"]]]:
        """Logits of a group of rows, a slice of the vectors at a time.

        Args:
            group: row indices, as :meth:`groups` gave them.
            additions: absolute additions at every position of the hook point, ``[vector, d_model]``; None for
                the unsteered model, which counts as one vector.
            within: opens a context around the forward pass (steering by interventions).

        Yields:
            Which vectors, and logits ``[vector, row, read, vocab]`` at :meth:`positions`; rows with fewer
            reads repeat their last one.
        """
        chosen = [self.rows[index] for index in group]
        batch = _token_batch(chosen)
        reads = self._read_index(group)
        if additions is None:
            with within(batch, chosen) if within is not None else contextlib.nullcontext():
                yield slice(0, 1), self._forward(batch, reads)[None]
            return
        fan = len(group) == 1 and self._fans(len(additions), group[0])
        step = max(1, self._capacity(group[0]) // len(group))
        for start in range(0, len(additions), step):
            part = additions[start : start + step]
            forward = self._fanned if fan else self._plain
            yield slice(start, start + len(part)), forward(batch, part, reads)

    def _capacity(self, index: int) -> int:
        """How many rows as long as row ``index`` fit into one forward pass."""
        by_tokens = self._token_budget // len(self.rows[index].tokens)
        by_logits = _LOGIT_BUDGET // (len(self._positions[index]) * int(self._model.cfg.d_vocab))
        fits = max(1, min(by_tokens, by_logits))
        return fits if self._batch_size is None else min(fits, self._batch_size)

    def _read_index(self, group: Sequence[int]) -> Int[Tensor, "row read"]:
        most = max(len(self._positions[index]) for index in group)
        padded = [self._positions[index] + self._positions[index][-1:] * most for index in group]
        return torch.tensor([positions[:most] for positions in padded])

    def _fans(self, n_vectors: int, index: int) -> bool:
        if self._hook_point is None or self._fan_out is False:
            return False
        if self._fan_out is None:
            if min(n_vectors, self._capacity(index)) * len(self.rows[index].tokens) < _WORTH_FANNING:
                return False
            self._fan_out = self._stands_fanning()
        return self._fan_out

    @torch.no_grad()
    def _stands_fanning(self) -> bool:
        """Try both ways on a few tokens with two large and different additions."""
        row = self.rows[0]
        tokens = row.tokens[:_PROBE_TOKENS]
        batch = _token_batch([TokenRow(tokens, row.offsets[: len(tokens)], row.text, len(tokens), row.bos)])
        reads = torch.arange(len(tokens))[None]
        norm = mean_norm(self._model, [batch], self._hook_point or "")
        width = int(self._model.cfg.d_model)
        directions = torch.randn(3, width, generator=torch.Generator().manual_seed(0))
        additions = directions / directions.norm(dim=1, keepdim=True) * norm
        expected = self._plain(batch, additions, reads).float()
        try:
            found = self._fanned(batch, additions, reads).float()
        except (RuntimeError, ValueError, IndexError):  # what a shape that does not fit raises, by model
            return False
        spread = float((expected - expected.mean(0)).abs().max())
        return found.shape == expected.shape and float((found - expected).abs().max()) <= 1e-2 * spread

    def _plain(
        self,
        batch: TokenBatch,
        additions: Float[Tensor, "vector d_model"],
        reads: Int[Tensor, "row read"],
    ) -> Float[Tensor, "vector row read vocab"]:
        """Every row run from its tokens, once per vector."""
        n_vectors, n_rows = len(additions), len(batch)
        stacked = batch.rows(list(range(n_rows)) * n_vectors)
        per_row = additions.repeat_interleave(n_rows, dim=0)
        with add_rows(self._model, self._hook_point or "", per_row):
            logits = self._forward(stacked, reads.repeat(n_vectors, 1))
        return logits.unflatten(0, (n_vectors, n_rows))

    def _fanned(
        self,
        batch: TokenBatch,
        additions: Float[Tensor, "vector d_model"],
        reads: Int[Tensor, "row read"],
    ) -> Float[Tensor, "vector row read vocab"]:
        """One row run up to the hook point and fanned out there."""

        def fan_out(activation: Tensor) -> Tensor:
            return activation + additions.to(activation.device, activation.dtype)[:, None]

        with hooks(self._model, {self._hook_point or "": fan_out}):
            return self._forward(batch, reads.expand(len(additions), -1))[:, None]

    @torch.no_grad()
    def _forward(self, batch: TokenBatch, reads: Int[Tensor, "row read"]) -> Float[Tensor, "row read vocab"]:
        sliced = False

        def keep_reads(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            nonlocal sliced
            sliced = True
            return (_take(args[0], reads), *args[1:])

        unembed = _unembedding(self._model)
        with contextlib.ExitStack() as stack:
            if unembed is not None:
                stack.callback(unembed.register_forward_pre_hook(keep_reads).remove)
            logits = run(self._model, batch)
        if logits is None:
            raise EvaluationError("the model gave no logits.")
        return logits if sliced else _take(logits, reads)


def mean_norm(model: HookedModel, batches: Sequence[TokenBatch], hook_point: str) -> float:
    """Mean norm of the activation at ``hook_point`` over real tokens other than the first of each row.

    The first token is left out (where there are others): its massive activations would decide the mean.
    """
    total, count = 0.0, 0

    def measure(activation: Tensor) -> None:
        nonlocal total, count
        keep = mask.to(activation.device)
        norms = activation.float().norm(dim=-1)[keep]
        total, count = total + float(norms.double().sum()), count + len(norms)

    for batch in batches:
        mask = batch.mask.clone()
        if int(batch.lengths.min()) > 1:
            mask[:, 0] = False
        with hooks(model, {hook_point: measure}):
            run(model, batch, stop_after=hook_point)
    return total / count


def _unembedding(model: HookedModel) -> nn.Module | None:
    """The module that turns the final states into logits; both model classes call it ``unembed``."""
    unembed = getattr(model, "unembed", None)
    return unembed if isinstance(unembed, nn.Module) else None


def _take(states: Float[Tensor, "row pos dim"], reads: Int[Tensor, "row read"]) -> Float[Tensor, "row read dim"]:
    index = reads.to(states.device)
    return states[torch.arange(len(states), device=states.device)[:, None], index]


def _token_batch(rows: Sequence[TokenRow]) -> TokenBatch:
    """Rows as a right-padded batch; right padding changes nothing before it under causal attention."""
    width = max(len(row.tokens) for row in rows)
    tokens = torch.tensor([row.tokens + row.tokens[-1:] * (width - len(row.tokens)) for row in rows])
    lengths = torch.tensor([len(row.tokens) for row in rows])
    return TokenBatch(
        tokens=tokens,
        mask=torch.arange(width)[None] < lengths[:, None],
        bos=rows[0].bos,
        padding_side="right",
        offsets=tuple(row.offsets for row in rows),
        truncated=(0,) * len(rows),
    )
