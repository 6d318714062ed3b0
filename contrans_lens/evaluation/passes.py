"""The forward passes of cells: every row from its tokens, or resumed from the residual stream at a hook point."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from contrans_lens.errors import EvaluationError
from contrans_lens.evaluation.continuations import TokenRow
from contrans_lens.evaluation.resuming import last_mlp, next_block, take, trimmed
from contrans_lens.interventions import add_rows
from contrans_lens.models import HookedModel, PrefixCache, TokenBatch, hooks, resid_post, run


class CellPasses:
    """Runs a batch of rows under additions at a hook point, in the plain way or resumed."""

    def __init__(self, model: HookedModel, entries: Mapping[str, str]) -> None:
        """Take the model and, by hook point, the entry point from which cells there are resumed."""
        self._model = model
        self._entries = entries

    def plain(
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
            logits = self.forward(stacked, reads.repeat(n_vectors, 1))
        return logits.unflatten(0, (n_vectors, n_rows))

    def resumed(
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
            logits = self.forward(one, reads.repeat(n_vectors, 1), trim=trim, cache=cache)
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
    def forward(
        self,
        batch: TokenBatch,
        reads: Int[Tensor, "row read"],
        *,
        trim: bool = False,
        cache: PrefixCache | None = None,
    ) -> Float[Tensor, "row read vocab"]:
        """Logits of a batch at the positions that are read."""
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


def token_batch(rows: Sequence[TokenRow]) -> TokenBatch:
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
