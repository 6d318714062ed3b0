"""Runs the model over prepared texts and keeps only the pooled residuals, taken inside the hooks."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from contrans_lens.errors import CaptureError, HookPointError
from contrans_lens.models import HookedModel, TokenBatch, hooks, run
from contrans_lens.residuals.positions import left_padding
from contrans_lens.residuals.prepared import PaddingSide, PreparedTexts

_CPU_TOKENS = 1024
"""Padded tokens in an automatic batch on a CPU: past about this many, batches get larger but not faster."""
_MOST_TOKENS = 65536
"""Padded tokens in the largest automatic batch on an accelerator."""
_VALUES_PER_TOKEN = 64
"""Values of d_model size that a block is taken to hold for each token at its peak; a guess that halving corrects."""


@dataclass
class BatchBudget:
    """How much goes through the model at once: so many padded tokens, or so many texts where the user said."""

    tokens: int | None
    texts: int | None

    def size(self, width: int) -> int:
        """Texts in a batch padded to ``width`` tokens."""
        by_tokens = None if self.tokens is None else max(1, self.tokens // width)
        return min(size for size in (by_tokens, self.texts, 1 << 20) if size is not None)

    def halve(self, texts: int, width: int) -> None:
        """Allow half of a batch of ``texts`` rows of ``width`` tokens that did not fit into memory."""
        half = texts // 2
        if self.tokens is not None:
            self.tokens = half * width
        if self.texts is not None:
            self.texts = min(self.texts, half)


def automatic_budget(model: HookedModel, batch_size: int | None) -> BatchBudget:
    """The given number of texts, or as many tokens as the model's device is expected to take.

    Raises:
        CaptureError: ``batch_size`` is below one.
    """
    if batch_size is not None:
        if batch_size < 1:
            raise CaptureError(f"batch_size is {batch_size}; give one or more, or None to have it found.")
        return BatchBudget(tokens=None, texts=batch_size)
    parameter = next(iter(model.parameters()))
    if parameter.device.type != "cuda":
        return BatchBudget(tokens=_CPU_TOKENS, texts=None)
    free, _ = torch.cuda.mem_get_info(parameter.device)
    fits = free // (_VALUES_PER_TOKEN * int(model.cfg.d_model) * parameter.element_size())
    return BatchBudget(tokens=int(min(max(fits // 2, _CPU_TOKENS), _MOST_TOKENS)), texts=None)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception is a device's or the CPU allocator's way of saying that memory ran out."""
    words = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and ("out of memory" in words or "can't allocate memory" in words)
    )


@contextlib.contextmanager
def _evaluating(model: HookedModel) -> Iterator[None]:
    """Turn dropout off, and put every module back as it was; a live model may come from training."""
    training = [module for module in model.modules() if module.training] if isinstance(model, nn.Module) else []
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True


@dataclass(frozen=True)
class PooledBatch:
    """Pooled residuals of one batch of texts."""

    n_texts: int
    n_tokens: int
    """Real tokens of the texts, for progress."""
    example: Int[Tensor, "example"]
    """Index of each row in the given order of texts and positions."""
    text: Int[Tensor, "example"]
    """Index of each row's text."""
    residuals: Float[Tensor, "example layer d_model"]
    """On the CPU, in the dtype asked for, finite."""


class _EverythingRead(Exception):
    """Raised by the last hook that was waited for: nothing after it is needed, so nothing after it is run."""


class _Selection:
    """What the hooks take of one batch: one token of a row, or the mean of a span of it."""

    def __init__(self, prepared: PreparedTexts, batch: TokenBatch, begin: int, end: int) -> None:
        first, last = prepared.examples_before(begin), prepared.examples_before(end)
        start, stop = prepared.start[first:last], prepared.stop[first:last]
        if prepared.one_each:
            self.row = torch.arange(end - begin)
        else:
            ends = prepared.example_end[begin:end] - first
            self.row = torch.repeat_interleave(torch.arange(end - begin), torch.diff(ends, prepend=ends.new_zeros(1)))
        self.column = start + left_padding(batch)[self.row]
        self.width = stop - start
        self.single = bool((self.width == 1).all())
        self.shape = batch.tokens.shape
        self._on_device: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def pool(self, residual: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "example d_model"]:
        """Pooled rows; a copy, so that ``residual`` itself can be freed."""
        if self.single:
            row, column = self._moved(residual.device, self.row, self.column)
            return residual[row, column]
        return self._mean(residual)

    def _mean(self, residual: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "example d_model"]:
        # Positions with several tokens give one example for each text, so rows of the batch and examples are
        # the same.
        begin, end = self._moved(residual.device, self.column, self.column + self.width)
        low, high = int(self.column.min()), int((self.column + self.width).max())
        column = torch.arange(low, high, device=residual.device)
        inside = (column >= begin[:, None]) & (column < end[:, None])
        # At least float32: a mean summed in bf16 loses its small terms. Padding may hold NaN, and 0 * NaN is
        # NaN.
        dtype = torch.promote_types(residual.dtype, torch.float32)
        read = residual[:, low:high].to(dtype).masked_fill(~inside[:, :, None], 0)
        weights = inside.to(dtype) / (end - begin)[:, None]
        return torch.bmm(weights[:, None], read)[:, 0]

    def _moved(self, device: torch.device, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Indices on the device of a residual; layers may sit on several."""
        if device not in self._on_device:
            self._on_device[device] = (first.to(device), second.to(device))
        return self._on_device[device]


class ResidualReader:
    """Reads pooled residuals at hook points, batch by batch, longest texts first.

    Args:
        model: the model to run.
        prepared: the texts.
        hook_points: hook points whose tensors are ``[batch, pos, d_model]``, all of one width.
        budget: batch size; halved in place when memory runs out.
        padding_side: side on which shorter texts are padded.
        dtype: dtype of the result.
    """

    def __init__(
        self,
        model: HookedModel,
        prepared: PreparedTexts,
        hook_points: Sequence[str],
        budget: BatchBudget,
        padding_side: PaddingSide = "right",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.model = model
        self.prepared = prepared
        self.hook_points = tuple(hook_points)
        self.budget = budget
        self.padding_side = padding_side
        self.dtype = dtype
        self._selection: _Selection | None = None
        self._pooled: dict[str, Tensor] = {}

    def read(self, begin: int, end: int) -> Iterator[PooledBatch]:
        """Pooled residuals of the sorted texts ``begin .. end - 1``.

        Raises:
            CaptureError: a residual is not finite, or not even one text fits into memory.
            HookPointError: a hook point does not exist, did not fire, or is not ``[batch, pos, d_model]``.
        """
        functions = {name: self._hook(name) for name in self.hook_points}
        with hooks(self.model, functions), _evaluating(self.model), torch.no_grad():
            while begin < end:
                stop = min(end, begin + self.budget.size(int(self.prepared.length[begin])))
                pooled = self._read_batch(begin, stop)
                if pooled is not None:
                    yield pooled
                    begin = stop

    def _read_batch(self, begin: int, end: int) -> PooledBatch | None:
        """One batch; ``None`` if it did not fit into memory, with the budget halved."""
        try:
            return self._forward(begin, end)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            width = int(self.prepared.length[begin])
            if end - begin == 1:
                raise CaptureError(
                    f"memory ran out on a single text of {width} tokens (text {int(self.prepared.order[begin])}): "
                    f"{error}. Shorten it, read fewer hook points, or use a device with more memory."
                ) from error
            self.budget.halve(end - begin, width)
        finally:
            self._selection = None
            self._pooled = {}
        # Out of the except block: the traceback no longer holds the failed pass's tensors.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return None

    def _forward(self, begin: int, end: int) -> PooledBatch:
        batch = self.prepared.batch(begin, end, self.padding_side)
        self._selection = _Selection(self.prepared, batch, begin, end)
        try:
            run(self.model, batch)
        except _EverythingRead:
            pass
        else:
            silent = [name for name in self.hook_points if name not in self._pooled]
            raise HookPointError(
                f"hook points {silent} exist but nothing passed through them; some need an option of the model "
                "to be turned on. Read another hook point."
            )
        first, last = self.prepared.examples_before(begin), self.prepared.examples_before(end)
        pooled = PooledBatch(
            n_texts=end - begin,
            n_tokens=int(self.prepared.length[begin:end].sum()),
            example=self.prepared.example[first:last],
            text=self.prepared.text_of_example[first:last],
            residuals=self._stacked(),
        )
        self._refuse_non_finite(pooled)
        return pooled

    def _stacked(self) -> Float[Tensor, "example layer d_model"]:
        pieces = [self._pooled[name] for name in self.hook_points]
        widths = {piece.shape[1] for piece in pieces}
        if len(widths) > 1:
            raise HookPointError(
                f"the hook points have different widths {sorted(widths)}; capture those of one width together."
            )
        if len({piece.device for piece in pieces}) > 1:
            pieces = [piece.to("cpu") for piece in pieces]
        return torch.stack(pieces, dim=1).to("cpu", self.dtype)

    def _hook(self, name: str) -> Callable[[Tensor], None]:
        def take(residual: Tensor) -> None:
            selection = self._selection
            if selection is None:
                return
            if residual.ndim != 3 or residual.shape[:2] != selection.shape:
                expected = f"[batch, pos, d_model] = [{selection.shape[0]}, {selection.shape[1]}, d_model]"
                raise HookPointError(
                    f"hook point {name!r} holds a tensor of shape {tuple(residual.shape)} where {expected} was "
                    "expected; read a residual-stream point."
                )
            self._pooled[name] = selection.pool(residual)
            if len(self._pooled) == len(self.hook_points):
                raise _EverythingRead

        return take

    def _refuse_non_finite(self, pooled: PooledBatch) -> None:
        if torch.isfinite(pooled.residuals).all():
            return
        row, layer = torch.nonzero(~torch.isfinite(pooled.residuals))[0, :2].tolist()
        advice = "look at the model's weights and dtype (float16 overflows where bfloat16 and float32 do not)"
        raise CaptureError(
            f"text {int(pooled.text[row])} has NaN or infinity at {self.hook_points[layer]} "
            f"(stored as {self.dtype}); {advice}, or leave the text out."
        )
