"""Where a forward pass is resumed, what is kept for it, and what of it need not be computed."""

import contextlib
import itertools
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from contrans_lens.errors import HookPointError
from contrans_lens.models import HookedModel, HookFunction, TokenBatch, hooks, layer_of, resid_post, resid_pre, run

_KEPT_VALUES = 1 << 26  # residual stream kept between passes: 256 MB in float32
_WORTH_CUTTING = 0.2  # share of the tokens that must be saved by a common beginning, which costs a pass of its own


def entry_point(hook_point: str) -> str | None:
    """Where a pass is resumed for a hook point; None if it lies in no block.

    That is the hook point itself where all of the residual stream goes through it, else where its block begins.
    """
    try:
        layer = layer_of(hook_point)
    except HookPointError:
        return None
    return hook_point if hook_point in (resid_pre(layer), resid_post(layer)) else resid_pre(layer)


def pass_order(hook_point: str) -> tuple[int, int]:
    """A key that sorts hook points in the order in which a forward pass comes to them (within a block: as known).

    Raises:
        HookPointError: the hook point lies in no block.
    """
    layer = layer_of(hook_point)
    return layer, 0 if hook_point == resid_pre(layer) else 2 if hook_point == resid_post(layer) else 1


def next_block(entry: str) -> int:
    """The first block that is run after an entry point."""
    layer = layer_of(entry)
    return layer + (entry == resid_post(layer))


def common_cut(rows: Sequence[Sequence[int]], limit: int) -> int:
    """How many leading tokens are best run once for all rows that share them; 0 if too few do.

    With ``u(c)`` different beginnings of ``c`` tokens among ``n`` rows, ``c (n - u(c))`` tokens are saved.

    Args:
        rows: token ids of each row.
        limit: the longest beginning that may be cut off; nothing before it is read.
    """
    ordered = sorted(list(row) for row in rows)
    shared = []
    for one, other in itertools.pairwise(ordered):
        same = 0
        for first, second in zip(one[:limit], other[:limit], strict=False):
            if first != second:
                break
            same += 1
        shared.append(same)
    saved = [cut * sum(same >= cut for same in shared) for cut in range(limit + 1)]
    best = max(range(limit + 1), key=lambda cut: saved[cut])
    return best if saved[best] >= _WORTH_CUTTING * sum(map(len, rows)) else 0


class Residuals:
    """The unsteered residual stream of token rows at entry points, run once and kept while it fits into memory."""

    def __init__(self, model: HookedModel, entries: Sequence[str], token_budget: int) -> None:
        self._model = model
        self._entries = sorted(entries, key=next_block)
        self._token_budget = token_budget
        self._kept: dict[int, dict[str, Tensor]] = {}
        self._room = _KEPT_VALUES
        self._latest: tuple[tuple[int, ...], dict[str, Tensor]] = ((), {})

    def capacity(self, length: int, width: int) -> int:
        """How many rows of ``length`` tokens can be held at once."""
        return _KEPT_VALUES // (length * width * max(1, len(self._entries)))

    def of(self, group: Sequence[int], batch: TokenBatch) -> dict[str, Float[Tensor, "row pos d_model"]]:
        """By entry point, for a group of rows and the right-padded batch they make."""
        key = tuple(group)
        if key != self._latest[0]:
            if all(row in self._kept for row in key):
                kept = [self._kept[row] for row in key]
                found = {name: pad_sequence([row[name] for row in kept], batch_first=True) for name in self._entries}
            else:
                found = self._run(batch)
                self._keep(key, batch, found)
            self._latest = (key, found)
        return self._latest[1]

    def _run(self, batch: TokenBatch) -> dict[str, Tensor]:
        parts: dict[str, list[Tensor]] = {name: [] for name in self._entries}

        def store(name: str) -> HookFunction:
            def keep(activation: Tensor) -> None:
                parts[name].append(activation.detach().clone())

            return keep

        width = batch.tokens.shape[1]
        step = max(1, self._token_budget // width)
        with hooks(self._model, {name: store(name) for name in self._entries}):
            for start in range(0, len(batch), step):
                rows = list(range(start, min(start + step, len(batch))))
                run(self._model, batch.rows(rows), stop_after=self._entries[-1])
        return {name: torch.cat([_widened(part, width) for part in found]) for name, found in parts.items()}

    def _keep(self, key: tuple[int, ...], batch: TokenBatch, found: dict[str, Tensor]) -> None:
        for place, (row, length) in enumerate(zip(key, batch.lengths.tolist(), strict=True)):
            size = sum(length * states.shape[-1] for states in found.values())
            if row not in self._kept and size <= self._room:
                self._kept[row] = {name: states[place, :length].clone() for name, states in found.items()}
                self._room -= size


def last_mlp(model: HookedModel) -> nn.Module | None:
    """The MLP of the last block, or None where there is none or somebody's hooks look into it."""
    blocks = getattr(model, "blocks", None)
    mlp = getattr(blocks[-1], "mlp", None) if isinstance(blocks, nn.ModuleList) else None
    if not isinstance(mlp, nn.Module):
        return None
    points = [module for name, module in mlp.named_modules() if name.rpartition(".")[2].startswith("hook_")]
    return None if any(point._forward_hooks for point in points) else mlp


@contextlib.contextmanager
def trimmed(mlp: nn.Module | None, reads: Int[Tensor, "row read"]) -> Iterator[None]:
    """Run a module that maps every position by itself at the positions that are read only; it gives zero elsewhere."""
    if mlp is None:
        yield
        return
    width = 0

    def narrow(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        nonlocal width
        width = args[0].shape[1]
        return (take(args[0], reads), *args[1:])

    def widen(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        full = output.new_zeros(len(output), width, output.shape[-1])
        index = reads.to(output.device)
        full[torch.arange(len(output), device=output.device)[:, None], index] = output
        return full

    with contextlib.ExitStack() as stack:
        stack.callback(mlp.register_forward_pre_hook(narrow).remove)
        stack.callback(mlp.register_forward_hook(widen).remove)
        yield


def take(states: Float[Tensor, "row pos dim"], reads: Int[Tensor, "row read"]) -> Float[Tensor, "row read dim"]:
    """States at some positions of each row."""
    index = reads.to(states.device)
    return states[torch.arange(len(states), device=states.device)[:, None], index]


def _widened(states: Float[Tensor, "row pos dim"], width: int) -> Float[Tensor, "row wide dim"]:
    return nn.functional.pad(states, (0, 0, 0, width - states.shape[1]))
