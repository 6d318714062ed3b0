"""Computes activity differences shard by shard, into memory or into a folder that a kill leaves usable."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from contrans_lens.artifacts import MANIFEST_NAME, require_kind
from contrans_lens.errors import ArtifactError, CaptureError
from contrans_lens.models import HookedModel, fingerprint
from contrans_lens.rahf.difference_store import (
    KIND,
    VALUES,
    ActivityDifferences,
    Origin,
    as_shard,
    same_models,
)
from contrans_lens.rahf.reading import ContrastReader, pair_of_token, prepare_rows, token_starts
from contrans_lens.residuals import ResidualStore
from contrans_lens.residuals.writer import SHARD_BYTES, StoreWriter, shard_ranges, writing

_COMPARED = ("hook_points", "where", "answers", "preferences", "rows_read")


def based_on(
    origin: Origin, reader: ContrastReader, base: HookedModel | None, advance: Callable[[int], None]
) -> Origin:
    """The origin with the base model's fingerprint and residual norms, which are measured here; without one as it is.

    Raises:
        CaptureError: the base model's activity is not finite.
    """
    if base is None:
        return origin
    return replace(origin, fingerprint=fingerprint(base), residual_norms=reader.mean_norms(base, advance))


def kept(
    reader: ContrastReader, values: Float[Tensor, "token layer d_model"], rows: Sequence[int], dtype: torch.dtype
) -> Float[Tensor, "token layer d_model"]:
    """Values in the dtype they are kept in.

    Raises:
        CaptureError: that dtype does not hold one of them; its pair and hook point are named.
    """
    narrowed = values.to(dtype)
    broken = torch.nonzero(~torch.isfinite(narrowed))
    if len(broken):
        token, layer = broken[0, :2].tolist()
        row = pair_of_token(reader.tokens.plain, rows, token)
        raise CaptureError(
            f"the difference of preference pair {row // reader.rows_per_pair} at {reader.hook_points[layer]} is not "
            f"finite as {dtype}; keep it in float32, or leave the pair out."
        )
    return narrowed


def to_memory(
    reader: ContrastReader, origin: Origin, dtype: torch.dtype, advance: Callable[[int], None]
) -> ResidualStore:
    """Compute all differences into memory: v ``[token, layer, d_model]``, row by row.

    Raises:
        CaptureError: an activity is not finite, or memory is too small for a single row.
    """
    prepared = prepare_rows(origin.rows, origin.where, 0, range(len(origin.rows)))
    starts = token_starts(origin.rows)
    d_model = int(reader.contrast.models[0].cfg.d_model)
    values = torch.empty(int(starts[-1]), len(origin.hook_points), d_model, dtype=dtype)
    at_once = max(1, SHARD_BYTES // (values[0].numel() * 4))
    for begin, end in shard_ranges(prepared, at_once):
        rows = prepared.order[begin:end].tolist()
        shard = as_shard(kept(reader, reader.differences(rows, advance), rows, dtype), rows, starts)
        values[shard.example] = shard.residuals
    return ResidualStore.from_tensor(values, origin.hook_points, text_hash=origin.preferences)


def to_folder(
    reader: ContrastReader,
    origin: Origin,
    base: HookedModel | None,
    folder: Path,
    dtype: torch.dtype,
    advance: Callable[[int], None],
) -> ActivityDifferences:
    """Compute the differences that a folder lacks, and open it. Only one shard of them is in memory at a time.

    Raises:
        ArtifactError: the folder holds something else, or cannot be written; finished shards stay.
        FingerprintMismatchError: it belongs to another base model.
        CaptureError: an activity is not finite, or memory is too small for a single row.
    """
    require_kind(folder, KIND)
    with writing(folder / VALUES, origin.capture(dtype)) as writer:
        for pattern in (".*.tmp", ".tmp??????"):  # what a killed writer left here; `writing` sees to the values
            for leftover in folder.glob(pattern):
                leftover.unlink(missing_ok=True)
        recorded = _recorded(folder, origin)
        if recorded is not None and recorded.fingerprint is not None:
            if base is not None:
                recorded.fingerprint.require(fingerprint(base), f"the activity differences in {folder}")
                advance(sum(len(row.ids) for row in origin.rows))
            origin = recorded
        else:
            origin = based_on(origin, reader, base, advance)
            origin.save(folder)
        if not writer.whole():
            _write(reader, origin, writer, dtype, advance)
    return ActivityDifferences.open(folder, verify=False)  # every shard was checked or written just now


def _recorded(folder: Path, wanted: Origin) -> Origin | None:
    """What an earlier capture has written down, if there was one."""
    if not (folder / MANIFEST_NAME).exists():
        return None
    recorded = Origin.load(folder)
    # The values' own manifest is compared too, but knows one model only, and may be gone.
    same = all(getattr(recorded, name) == getattr(wanted, name) for name in _COMPARED)
    if not same or not same_models(recorded.contrast, wanted.contrast):
        raise ArtifactError(
            f"{folder} holds differences of other answers, other models or another reading of them. Choose another "
            "folder, or delete this one."
        )
    return recorded


def _write(
    reader: ContrastReader, origin: Origin, writer: StoreWriter, dtype: torch.dtype, advance: Callable[[int], None]
) -> None:
    """Write the shards that are missing."""
    prepared = prepare_rows(origin.rows, origin.where, 0, range(len(origin.rows)))
    starts = token_starts(origin.rows)
    budget = reader.budget
    if budget.texts is None and writer.batch is not None:
        # The last bits depend on the batch: what was interrupted ends with the bytes that it would have had.
        budget.tokens, budget.texts = writer.batch.tokens, writer.batch.texts
    d_model = int(reader.contrast.models[0].cfg.d_model)
    ranges = writer.plan(prepared, len(origin.hook_points) * d_model * dtype.itemsize, budget)
    for number, (begin, end) in enumerate(ranges):
        rows = prepared.order[begin:end].tolist()
        if writer.has(number):
            advance(sum(len(side[row].ids) for side in (reader.tokens.first, reader.tokens.second) for row in rows))
            continue
        before = None
        while before != vars(budget):  # one batch size for a whole shard: the one on record when it is written
            before = dict(vars(budget))
            values = reader.differences(rows, advance)
        writer.write(number, as_shard(kept(reader, values, rows, dtype), rows, starts), budget)
    writer.finish()
