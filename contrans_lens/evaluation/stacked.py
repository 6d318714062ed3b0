"""Forward passes for many additions at one or several hook points, with as little repeated as the model permits.

What is saved against one full forward pass per addition:

- **The part before a hook point is run once.** Additions do not reach back, so every one of them at a hook point sees
  the same residual stream there. The unsteered model is run once on each text, up to the last hook point, and its
  residual stream at every hook point is kept, while it fits into memory; each cell (hook point, addition) resumes from
  it. Resuming needs only hooks, which both model classes have (a TransformerBridge has no ``start_at_layer``): the
  model is run on *one* row of tokens, and a hook at the hook point returns ``[vector * row, pos, d_model]``, the kept
  residual stream of every row plus addition v. Masks, rotary angles and position embeddings were made for one row and
  broadcast; they are the same for all, since rows are padded on the right, where causal attention needs no mask.
- **Common beginnings are run once per addition.** Rows made from one template, or the two continuations of an item,
  begin with the same tokens. Additions act at every position, so keys and values differ from cell to cell and those of
  the unsteered model are of no use; but within a cell the steered keys and values of a common beginning serve all rows
  that have it. The beginnings are run first and the rows continue from their cache.
- **Additions, strengths and texts are stacked as batch rows** up to a budget of tokens.
- **Only the positions that are read are unembedded,** and only they go through the MLP of the last block, since nothing
  mixes positions after it.

Whether a model stands each of these is tried at every hook point on a few tokens, against the plain way (every row run
from its tokens). What it does not stand is left out, in the end all of it: slower, same numbers.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager

import torch
from jaxtyping import Float, Int
from torch import Tensor

from contrans_lens.errors import EvaluationError
from contrans_lens.evaluation.continuations import TokenRow
from contrans_lens.evaluation.passes import CellPasses, token_batch
from contrans_lens.evaluation.resuming import Residuals, common_cut, entry_point
from contrans_lens.evaluation.standing import what_it_stands
from contrans_lens.models import HookedModel, TokenBatch, check_hook_points, input_device

# Beyond so many tokens a larger batch gains nothing on a CPU, and at small widths leaves the processor's cache
# (measured at widths 128 and 768); the number for other devices is a guess.
_CPU_TOKENS, _DEVICE_TOKENS = 2048, 65_536
_LOGIT_BUDGET = 1 << 25  # logits held at once: 128 MB in float32
_CACHE_BUDGET = 1 << 28  # keys and values of common beginnings held at once: 1 GB in float32
_PASS_SHARE = 16  # what a pass costs beside its tokens, as a part of the token budget
_WORTH_SHARING = 1024  # in fewer tokens than this there is less to save than trying costs

Within = Callable[[TokenBatch, list[TokenRow]], AbstractContextManager[object]]
"""Opens a context around the forward pass of a batch, given the rows it is made of."""


class StackedRuns:
    """Runs token rows under additions at hook points and returns logits at the positions that are read."""

    def __init__(
        self,
        model: HookedModel,
        rows: Sequence[TokenRow],
        hook_points: Sequence[str] = (),
        *,
        token_budget: int | None = None,
        batch_size: int | None = None,
        fan_out: bool | None = None,
    ) -> None:
        """Prepare to run ``rows``.

        Args:
            model: the model.
            rows: sequences and what is read from them.
            hook_points: where additions will be made; none if there will be none.
            token_budget: most tokens in one forward pass; by device if None.
            batch_size: most rows in one forward pass; no limit but the budget if None.
            fan_out: share the part before a hook point; None finds out whether the model stands it, and whether it
                stands sharing common beginnings, which is not done otherwise.

        Raises:
            HookPointError: the model has no such hook point.
            EvaluationError: a budget or batch size below one.
        """
        check_hook_points(model, hook_points)
        if (token_budget is not None and token_budget < 1) or (batch_size is not None and batch_size < 1):
            raise EvaluationError(f"token_budget={token_budget}, batch_size={batch_size}: both start at one.")
        self.rows = list(rows)
        self._model = model
        default = _CPU_TOKENS if input_device(model).type == "cpu" else _DEVICE_TOKENS
        self._token_budget = token_budget or default
        self._batch_size = batch_size
        self._fan_out = fan_out
        self._entries = {name: entry for name in hook_points if (entry := entry_point(name)) is not None}
        self._positions = [sorted({read.position for read in row.reads}) for row in self.rows]
        self._residuals = Residuals(model, list(dict.fromkeys(self._entries.values())), self._token_budget)
        self._passes = CellPasses(model, self._entries)
        self._stands: dict[str, bool] = {}
        self._trims = True
        self._cut = 0  # leading tokens that are run once for all rows that share them
        if fan_out is None and hook_points and len(self._entries) == len(set(hook_points)):
            first_read = min(positions[0] for positions in self._positions)
            self._cut = common_cut([row.tokens for row in self.rows], first_read)

    def positions(self, index: int) -> list[int]:
        """Positions of row ``index`` whose logits are returned, in ascending order."""
        return self._positions[index]

    def groups(self, n_vectors: int = 1) -> list[list[int]]:
        """Row indices that are run together: as many as fit, with common beginnings or of about the same length."""
        if self._cut and not all(self._shares(name, n_vectors) for name in self._entries):
            self._cut = 0
        cut = self._cut

        def order(index: int) -> tuple[list[int], int]:
            tokens = self.rows[index].tokens
            return tokens[:cut], -len(tokens)

        groups: list[list[int]] = []
        most = room = wasted = longest = 0
        last: list[int] = []
        for index in sorted(range(len(self.rows)), key=order):
            length, beginning = len(self.rows[index].tokens), self.rows[index].tokens[:cut]
            wasted += n_vectors * abs(longest - length)
            longest = max(longest, length)
            # Rows with one beginning stay together, beyond what all vectors at once leave room for: that costs more
            # passes, with fewer vectors each, but every beginning is run once.
            full = len(groups[-1]) >= (most if cut and beginning == last else room) if groups else True
            if full or wasted * _PASS_SHARE > self._token_budget:
                groups.append([])
                most = self._capacity(index, cut)
                room, wasted, longest = most // n_vectors, 0, length
            groups[-1].append(index)
            last = beginning
        return groups

    def logits(
        self,
        group: Sequence[int],
        additions: Float[Tensor, "vector d_model"] | None = None,
        hook_point: str = "",
        *,
        also: Mapping[str, Float[Tensor, "vector d_model"]] | None = None,
        within: Within | None = None,
    ) -> Iterator[tuple[slice, Float[Tensor, "vector row read vocab"]]]:
        """Logits of a group of rows, a slice of the vectors at a time.

        Args:
            group: row indices, as :meth:`groups` gave them.
            additions: absolute additions at every position of the hook point, ``[vector, d_model]``; None for
                the unsteered model, which counts as one vector.
            hook_point: where they are made, one of those the object was made for.
            also: further additions of the same cells, at hook points that a forward pass comes to later
                (:func:`contrans_lens.evaluation.resuming.pass_order`): vector ``v`` of every entry is made together
                with vector ``v`` of ``additions``.
            within: opens a context around the forward pass (steering by interventions).

        Yields:
            Which vectors, and logits ``[vector, row, read, vocab]`` at :meth:`positions`; rows with fewer
            reads repeat their last one.
        """
        chosen = [self.rows[index] for index in group]
        batch = token_batch(chosen)
        reads = self._read_index(group)
        if additions is None:
            with within(batch, chosen) if within is not None else contextlib.nullcontext():
                yield slice(0, 1), self._passes.forward(batch, reads)[None]
            return
        shares = self._shares(hook_point, len(additions))
        longest = max(group, key=lambda index: len(self.rows[index].tokens))
        most = max(1, self._capacity(longest, self._cut if shares else 0) // len(group))
        step = math.ceil(len(additions) / math.ceil(len(additions) / most))  # slices of about one size
        for start in range(0, len(additions), step):
            where = slice(start, min(start + step, len(additions)))
            part = additions[where]
            later = {name: each[where] for name, each in (also or {}).items()}
            if shares:
                residual = self._residuals.of(group, batch)[self._entries[hook_point]]
                logits = self._passes.resumed(batch, residual, part, hook_point, reads, self._cut, self._trims, later)
            else:
                logits = self._passes.plain(batch, part, hook_point, reads, later)
            yield where, logits

    def _capacity(self, index: int, cut: int) -> int:
        """How many rows as long as row ``index`` fit into one forward pass that begins after ``cut`` tokens."""
        length, cfg = len(self.rows[index].tokens), self._model.cfg
        width = int(cfg.d_model)
        fits = [
            self._token_budget // (length - cut),
            _LOGIT_BUDGET // (len(self._positions[index]) * int(cfg.d_vocab)),
            self._residuals.capacity(length, width),
        ]
        if cut:
            fits.append(_CACHE_BUDGET // (2 * length * width * int(cfg.n_layers)))
        if self._batch_size is not None:
            fits.append(self._batch_size)
        return max(1, min(fits))

    def _read_index(self, group: Sequence[int]) -> Int[Tensor, "row read"]:
        most = max(len(self._positions[index]) for index in group)
        padded = [self._positions[index] + self._positions[index][-1:] * most for index in group]
        return torch.tensor([positions[:most] for positions in padded])

    def _shares(self, hook_point: str, n_vectors: int) -> bool:
        """Whether cells at the hook point resume from the residual stream there."""
        if hook_point not in self._entries or self._fan_out is False:
            return False
        if self._fan_out:
            return True
        if hook_point not in self._stands:
            if n_vectors * sum(len(row.tokens) for row in self.rows) < _WORTH_SHARING:
                return False
            stands = what_it_stands(
                self._model,
                self._passes,
                self.rows,
                hook_point,
                self._entries[hook_point],
                sharing_beginnings=self._cut > 0,
                token_budget=self._token_budget,
            )
            self._stands[hook_point] = stands.resuming
            self._trims = self._trims and stands.trimming
            self._cut = self._cut if stands.cutting else 0
        return self._stands[hook_point]
