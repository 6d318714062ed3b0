"""Read the residual stream of a model on a set of texts: each text once, only the pooled residuals kept."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from contrans_lens.errors import CaptureError, TextError
from contrans_lens.models import HookedModel, check_hook_points, fingerprint, residual_hook_points
from contrans_lens.residuals.moments import Moments, MomentsFitter
from contrans_lens.residuals.positions import LastToken, ReadPositions
from contrans_lens.residuals.prepared import PaddingSide, PreparedTexts, Truncate, prepare_texts, text_hash
from contrans_lens.residuals.progress import token_progress
from contrans_lens.residuals.reader import ResidualReader, automatic_budget
from contrans_lens.residuals.shards import Shard
from contrans_lens.residuals.store import ResidualStore
from contrans_lens.residuals.writer import StoreWriter, writing

LAST_TOKEN = LastToken()
"""The default position."""


def capture(
    model: HookedModel,
    texts: Sequence[str],
    hook_points: Sequence[str] | None = None,
    *,
    positions: ReadPositions = LAST_TOKEN,
    store: Path | str | None = None,
    batch_size: int | None = None,
    dtype: torch.dtype = torch.float32,
    truncate: Truncate = "error",
    max_length: int | None = None,
    prepend_bos: bool | None = None,
    padding_side: PaddingSide = "right",
    progress: bool = False,
) -> ResidualStore:
    """Pooled residuals ``[example, layer, d_model]`` of the texts at hook points.

    Texts are tokenised once and run longest first. Inside the hooks the residual ``[batch, pos, d_model]`` is
    reduced to one row for each example, and the forward pass ends with the last hook point that is needed.

    Args:
        model: the model.
        texts: the texts; none empty.
        hook_points: names of hook points with tensors ``[batch, pos, d_model]``; ``None`` is every block's
            output.
        positions: where each text is read.
        store: folder for a memory-mapped store. A capture into it that was interrupted is taken up again, and
            one that is finished is opened without running the model. ``None`` keeps the residuals in memory.
        batch_size: texts in a batch; ``None`` finds it from the device's memory. Halved when memory runs out.
        dtype: dtype the residuals are kept in.
        truncate: what becomes of texts longer than the model's context: refused, or cut at their ``"left"``
            or ``"right"``. How many were cut is in the result's ``truncated`` and in a warning.
        max_length: length to truncate to, in tokens; ``None`` is the model's context.
        prepend_bos: whether texts begin with BOS; ``None`` is the model's own convention.
        padding_side: side on which shorter texts are padded; the residuals do not depend on it.
        progress: whether to show a progress bar with the time left.

    Returns:
        The store, with examples in the order of the texts.

    Raises:
        TextError: there are no texts, one is empty, or one is too long and ``truncate`` is ``"error"``.
        HookPointError: a hook point does not exist or holds something else than residuals.
        CaptureError: a residual is not finite (text and hook point are named), a text has no token at the
            position, or memory is too small for a single text.
        ArtifactError: ``store`` holds another capture or cannot be written; finished shards are kept for
            another run.
    """
    job = _Job(
        model,
        texts,
        hook_points,
        positions,
        batch_size=batch_size,
        dtype=dtype,
        truncate=truncate,
        max_length=max_length,
        prepend_bos=prepend_bos,
        padding_side=padding_side,
    )
    if store is None:
        return _capture_to_memory(job, progress)
    return _capture_to_folder(job, Path(store), progress)


def capture_moments(
    model: HookedModel,
    texts: Sequence[str],
    hook_points: Sequence[str] | None = None,
    *,
    positions: ReadPositions = LAST_TOKEN,
    covariance: bool = True,
    batch_size: int | None = None,
    truncate: Truncate = "error",
    max_length: int | None = None,
    prepend_bos: bool | None = None,
    padding_side: PaddingSide = "right",
    progress: bool = False,
) -> Moments:
    """Mean, covariance and mean norm of the pooled residuals, without keeping them.

    Memory does not grow with the number of texts, beyond their tokens. Arguments are those of
    :func:`capture`; ``covariance=False`` leaves out the ``[layer, d_model, d_model]`` second moments.

    Raises:
        TextError: there are no texts, one is empty, or one is too long and ``truncate`` is ``"error"``.
        HookPointError: a hook point does not exist or holds something else than residuals.
        CaptureError: a residual is not finite, a text has no token at the position, memory is too small for a
            single text, or there are fewer than two examples.
    """
    job = _Job(
        model,
        texts,
        hook_points,
        positions,
        batch_size=batch_size,
        dtype=torch.float32,
        truncate=truncate,
        max_length=max_length,
        prepend_bos=prepend_bos,
        padding_side=padding_side,
    )
    fitter = MomentsFitter(job.hook_points, covariance=covariance)
    prepared = job.prepare()
    with token_progress(progress, "moments", int(prepared.length.sum())) as advance:
        for batch in job.reader(prepared).read(0, prepared.n_texts):
            fitter.update(batch.residuals)
            advance(batch.n_tokens)
    description = job.describe()
    description.pop("fingerprint")
    description["truncated"] = int((prepared.truncated > 0).sum())
    return fitter.fit(fingerprint=job.fingerprint, description=description)


class _Job:
    """The arguments of a capture, checked, with the identity of the model and of the texts."""

    def __init__(
        self,
        model: HookedModel,
        texts: Sequence[str],
        hook_points: Sequence[str] | None,
        positions: ReadPositions,
        *,
        batch_size: int | None,
        dtype: torch.dtype,
        truncate: Truncate,
        max_length: int | None,
        prepend_bos: bool | None,
        padding_side: PaddingSide,
    ) -> None:
        names = residual_hook_points(model) if hook_points is None else list(hook_points)
        if isinstance(hook_points, str) or not names or len(set(names)) < len(names):
            raise CaptureError(f"hook points must be a list of different names; {hook_points!r} was given.")
        check_hook_points(model, names)
        if not dtype.is_floating_point:
            raise CaptureError(f"residuals cannot be kept as {dtype}; choose a floating-point dtype.")
        if isinstance(texts, str) or not len(texts):
            raise TextError("capture needs a list with at least one text.")
        self.model = model
        self.texts = texts
        self.hook_points = tuple(names)
        self.positions = positions
        self.batch_size = batch_size
        self.dtype = dtype
        self.truncate = truncate
        self.max_length = max_length
        self.prepend_bos = prepend_bos
        self.padding_side = padding_side
        self.text_hash = text_hash(texts)
        self.fingerprint = fingerprint(model)

    def describe(self) -> dict[str, Any]:
        """What is captured, as plain data; everything that the numbers depend on, and nothing else."""
        return {
            "fingerprint": self.fingerprint.to_dict(),
            "text_sha256": self.text_hash,
            "n_texts": len(self.texts),
            "hook_points": list(self.hook_points),
            "positions": self.positions.to_dict(),
            "dtype": str(self.dtype).removeprefix("torch."),
            "truncate": self.truncate,
            "max_length": self.max_length,
            "prepend_bos": self.prepend_bos,
            "padding_side": self.padding_side,
        }

    def prepare(self) -> PreparedTexts:
        """Tokenise, resolve positions, and say how many texts were cut."""
        prepared = prepare_texts(
            self.model,
            self.texts,
            self.positions,
            truncate=self.truncate,
            max_length=self.max_length,
            prepend_bos=self.prepend_bos,
        )
        cut = int((prepared.truncated > 0).sum())
        if cut:
            warnings.warn(
                f"{cut} of {prepared.n_texts} texts were too long and lost {int(prepared.truncated.sum())} tokens on "
                f"their {self.truncate}.",
                stacklevel=4,
            )
        return prepared

    def reader(self, prepared: PreparedTexts) -> ResidualReader:
        """A reader of the hook points over prepared texts."""
        budget = automatic_budget(self.model, self.batch_size)
        return ResidualReader(self.model, prepared, self.hook_points, budget, self.padding_side, self.dtype)


def _capture_to_memory(job: _Job, progress: bool) -> ResidualStore:
    prepared = job.prepare()
    residuals = torch.empty(0)
    text_index = torch.empty(prepared.n_examples, dtype=torch.int64)
    text_index[prepared.example] = prepared.text_of_example
    with token_progress(progress, "capture", int(prepared.length.sum())) as advance:
        for batch in job.reader(prepared).read(0, prepared.n_texts):
            if not residuals.numel():
                residuals = torch.empty(prepared.n_examples, *batch.residuals.shape[1:], dtype=job.dtype)
            residuals[batch.example] = batch.residuals
            advance(batch.n_tokens)
    return ResidualStore.from_tensor(
        residuals,
        job.hook_points,
        positions=job.positions,
        fingerprint=job.fingerprint,
        text_hash=job.text_hash,
        truncated=int((prepared.truncated > 0).sum()),
        text_index=text_index,
    )


def _capture_to_folder(job: _Job, folder: Path, progress: bool) -> ResidualStore:
    with writing(folder, job.describe()) as writer:
        if not writer.whole():
            _write_store(job, writer, progress)
    return ResidualStore.open(folder, verify=False)  # every shard was checked or written just now


def _write_store(job: _Job, writer: StoreWriter, progress: bool) -> None:
    prepared = job.prepare()
    reader = job.reader(prepared)
    if job.batch_size is None and writer.batch is not None:
        reader.budget = writer.batch
    bytes_per_example = len(job.hook_points) * int(job.model.cfg.d_model) * job.dtype.itemsize
    ranges = writer.plan(prepared, bytes_per_example, reader.budget)
    with token_progress(progress, f"capture into {writer.folder.name}", int(prepared.length.sum())) as advance:
        for number, (begin, end) in enumerate(ranges):
            if not writer.has(number):
                writer.write(number, _read_shard(reader, begin, end), reader.budget)
            advance(int(prepared.length[begin:end].sum()))
    writer.finish()


def _read_shard(reader: ResidualReader, begin: int, end: int) -> Shard:
    """All residuals of one shard, computed with one batch size: the one that is on record when it is written."""
    while True:
        batches, budgets = [], []
        for batch in reader.read(begin, end):
            batches.append(batch)
            budgets.append(dict(vars(reader.budget)))
        if budgets[0] == budgets[-1]:
            break
    return Shard(
        residuals=torch.cat([batch.residuals for batch in batches]),
        example=torch.cat([batch.example for batch in batches]),
        text=torch.cat([batch.text for batch in batches]),
    )
