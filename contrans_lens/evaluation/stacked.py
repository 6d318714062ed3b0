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
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from contrans_lens.errors import EvaluationError
from contrans_lens.evaluation.continuations import TokenRow
from contrans_lens.evaluation.resuming import (
    Residuals,
    common_cut,
    entry_point,
    last_mlp,
    next_block,
    take,
    trimmed,
)
from contrans_lens.interventions import add_rows
from contrans_lens.models import (
    HookedModel,
    PrefixCache,
    TokenBatch,
    check_hook_points,
    hooks,
    input_device,
    resid_post,
    run,
)

# Beyond so many tokens a larger batch gains nothing on a CPU, and at small widths leaves the processor's cache
# (measured at widths 128 and 768); the number for other devices is a guess.
_CPU_TOKENS, _DEVICE_TOKENS = 2048, 65_536
_LOGIT_BUDGET = 1 << 25  # logits held at once: 128 MB in float32
_CACHE_BUDGET = 1 << 28  # keys and values of common beginnings held at once: 1 GB in float32
_PASS_SHARE = 16  # what a pass costs beside its tokens, as a part of the token budget
_WORTH_SHARING = 1024  # in fewer tokens than this there is less to save than trying costs
_PROBE_TOKENS = 6
_ODD_SHAPES = (RuntimeError, ValueError, IndexError, TypeError, AttributeError, AssertionError)  # what models raise

_TRIED: weakref.WeakKeyDictionary[HookedModel, dict[tuple[str, bool], "_Stands"]] = weakref.WeakKeyDictionary()
"""What was found out about models, by hook point and whether a common beginning was to be tried."""

Within = Callable[[TokenBatch, list[TokenRow]], AbstractContextManager[object]]
"""Opens a context around the forward pass of a batch, given the rows it is made of."""


@dataclass(frozen=True)
class _Stands:
    """What a model stands at a hook point."""

    resuming: bool
    trimming: bool
    cutting: bool


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
        batch = _token_batch(chosen)
        reads = self._read_index(group)
        if additions is None:
            with within(batch, chosen) if within is not None else contextlib.nullcontext():
                yield slice(0, 1), self._forward(batch, reads)[None]
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
                logits = self._resumed(batch, residual, part, hook_point, reads, self._cut, self._trims, later)
            else:
                logits = self._plain(batch, part, hook_point, reads, later)
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
            known = _TRIED.setdefault(self._model, {})
            key = (hook_point, self._cut > 0)
            if key not in known:
                known[key] = self._try(hook_point)
            self._stands[hook_point] = known[key].resuming
            self._trims = self._trims and known[key].trimming
            self._cut = self._cut if known[key].cutting else 0
        return self._stands[hook_point]

    @torch.no_grad()
    def _try(self, hook_point: str) -> _Stands:
        """Try on a few tokens of two rows with three large and different additions.

        The rows differ in length and, beyond a common beginning, in their tokens.
        """
        entry, cut = self._entries[hook_point], _PROBE_TOKENS // 2
        tokens = (self.rows[0].tokens * _PROBE_TOKENS)[:_PROBE_TOKENS]
        other = tokens[:cut] + (self.rows[-1].tokens[::-1] * _PROBE_TOKENS)[: _PROBE_TOKENS - cut - 1]
        batch = _token_batch([TokenRow(ids, (), "", 1, False) for ids in (tokens, other)])
        reads = (batch.lengths - 1)[:, None]
        residual = Residuals(self._model, [entry], self._token_budget).of(range(2), batch)[entry]
        norm = residual[:, 1:].float().norm(dim=-1).mean()
        directions = torch.randn(3, residual.shape[-1], generator=torch.Generator().manual_seed(0))
        additions = directions / directions.norm(dim=1, keepdim=True) * norm.cpu()
        expected = self._plain(batch, additions, hook_point, reads).float()
        spread = float((expected - expected.mean(0)).abs().max())

        def succeeds(cut: int, trim: bool) -> bool:
            try:
                found = self._resumed(batch, residual, additions, hook_point, reads, cut, trim).float()
            except _ODD_SHAPES:
                return False
            return found.shape == expected.shape and float((found - expected).abs().max()) <= 1e-2 * spread

        trims = succeeds(0, True)
        resumes = trims or succeeds(0, False)
        return _Stands(resumes, trims, resumes and self._cut > 0 and succeeds(cut, trims))

    def _plain(
        self,
        batch: TokenBatch,
        additions: Float[Tensor, "vector d_model"],
        hook_point: str,
        reads: Int[Tensor, "row read"],
        later: Mapping[str, Tensor] | None = None,
    ) -> Float[Tensor, "vector row read vocab"]:
        """Every row run from its tokens, once per vector."""
        n_vectors, n_rows = len(additions), len(batch)
        stacked = batch.rows(list(range(n_rows)) * n_vectors)
        with add_all(self._model, {hook_point: additions, **(later or {})}, n_rows):
            logits = self._forward(stacked, reads.repeat(n_vectors, 1))
        return logits.unflatten(0, (n_vectors, n_rows))

    def _resumed(
        self,
        batch: TokenBatch,
        residual: Float[Tensor, "row pos d_model"],
        additions: Float[Tensor, "vector d_model"],
        hook_point: str,
        reads: Int[Tensor, "row read"],
        cut: int,
        trim: bool,
        later: Mapping[str, Tensor] | None = None,
    ) -> Float[Tensor, "vector row read vocab"]:
        """What follows the hook point for every vector and row, from the residual stream at the entry point.

        The model is fed one row, the longest: it has no padding, so no mask is made that would be its own.
        """
        n_vectors, n_rows = len(additions), len(batch)
        start = next_block(self._entries[hook_point])
        one = batch.rows([int(batch.lengths.argmax())])
        cache = None
        n_layers = int(self._model.cfg.n_layers)
        if cut and 0 < start < n_layers:  # HookedTransformer counts rows in the cache of block 0, which must see one
            beginnings, of_row = batch.tokens[:, :cut].unique(dim=0, return_inverse=True)
            n_beginnings = len(beginnings)
            example = torch.tensor([int((of_row == number).nonzero()[0]) for number in range(n_beginnings)])
            cache = PrefixCache(self._model, start, n_vectors * n_beginnings)
            with self._fanned_out(residual[example, :cut], additions, hook_point, later):
                self._fill(_columns(one, slice(None, cut)), n_vectors * n_beginnings, cache, trim)
            cache.select((torch.arange(n_vectors)[:, None] * n_beginnings + of_row).flatten())
            one, residual, reads = _columns(one, slice(cut, None)), residual[:, cut:], reads - cut
        trim = trim and start < n_layers
        with self._fanned_out(residual, additions, hook_point, later):
            logits = self._forward(one, reads.repeat(n_vectors, 1), trim=trim, cache=cache)
        return logits.unflatten(0, (n_vectors, n_rows))

    @contextlib.contextmanager
    def _fanned_out(
        self,
        residual: Float[Tensor, "row pos d_model"],
        additions: Float[Tensor, "vector d_model"],
        hook_point: str,
        later: Mapping[str, Tensor] | None = None,
    ) -> Iterator[None]:
        """Replace the one row at the entry point by all rows, once per vector, and make the additions."""
        entry = self._entries[hook_point]

        def resume(activation: Tensor) -> Tensor:
            rows = residual.to(activation.device, activation.dtype)
            if entry != hook_point:
                return rows.repeat(len(additions), 1, 1)
            return (rows + additions.to(rows.device, rows.dtype)[:, None, None]).flatten(0, 1)

        made_later = dict(later or {}) if entry == hook_point else {hook_point: additions, **(later or {})}
        with hooks(self._model, {entry: resume}), add_all(self._model, made_later, len(residual)):
            yield

    @torch.no_grad()
    def _fill(self, batch: TokenBatch, n_rows: int, cache: PrefixCache, trim: bool) -> None:
        """Run beginnings for their keys and values; nothing is read."""
        nowhere = torch.zeros(n_rows, 1, dtype=torch.long)
        with trimmed(last_mlp(self._model) if trim else None, nowhere):
            run(self._model, batch, stop_after=resid_post(int(self._model.cfg.n_layers) - 1), cache=cache)

    @torch.no_grad()
    def _forward(
        self,
        batch: TokenBatch,
        reads: Int[Tensor, "row read"],
        *,
        trim: bool = False,
        cache: PrefixCache | None = None,
    ) -> Float[Tensor, "row read vocab"]:
        sliced = False

        def keep_reads(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            nonlocal sliced
            sliced = True
            return (take(args[0], reads), *args[1:])

        unembed = unembedding(self._model)
        with contextlib.ExitStack() as stack:
            if trim and reads.shape[1] < batch.tokens.shape[1]:
                stack.enter_context(trimmed(last_mlp(self._model), reads))
            if unembed is not None:
                stack.callback(unembed.register_forward_pre_hook(keep_reads).remove)
            logits = run(self._model, batch, cache=cache)
        if logits is None:
            raise EvaluationError("the model gave no logits.")
        return logits if sliced else take(logits, reads)


@contextlib.contextmanager
def add_all(model: HookedModel, additions: Mapping[str, Float[Tensor, "_ d_model"]], n_rows: int) -> Iterator[None]:
    """Make the additions of cells at every position of several hook points.

    Args:
        model: the model.
        additions: by hook point, one vector a cell.
        n_rows: rows of each cell; the batch holds all rows of the first cell, then all of the second, and so on.
    """
    with contextlib.ExitStack() as stack:
        for name, vectors in additions.items():
            stack.enter_context(add_rows(model, name, vectors.repeat_interleave(n_rows, dim=0)))
        yield


def unembedding(model: HookedModel) -> nn.Module | None:
    """The module that turns the final states into logits; both model classes call it ``unembed``."""
    unembed = getattr(model, "unembed", None)
    return unembed if isinstance(unembed, nn.Module) else None


def _columns(batch: TokenBatch, columns: slice) -> TokenBatch:
    return replace(batch, tokens=batch.tokens[:, columns], mask=batch.mask[:, columns])


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
