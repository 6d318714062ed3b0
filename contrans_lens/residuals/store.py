"""Pooled residuals of a set of texts, in memory or memory-mapped from disk: one interface for both."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from contrans_lens.artifacts import MANIFEST_NAME, SCHEMA_VERSION, read_json
from contrans_lens.errors import ArtifactError, CaptureError, HookPointError
from contrans_lens.models import Fingerprint
from contrans_lens.residuals.positions import LastToken, ReadPositions, positions_from_dict
from contrans_lens.residuals.shards import Shard, read_shard, shard_name

KIND = "residuals"


@dataclass(frozen=True, eq=False, repr=False)
class ResidualStore:
    """Residuals ``[example, layer, d_model]``, examples in the order of the texts; made by :func:`capture`.

    Only what is asked for is read: a store on disk stays there, and :meth:`select` copies nothing.
    """

    hook_points: tuple[str, ...]
    """Names of the layers, in the order of the ``layer`` axis."""
    d_model: int
    """Width of the residual stream."""
    positions: ReadPositions
    """Where the texts were read."""
    fingerprint: Fingerprint | None
    """The model."""
    text_hash: str
    """SHA-256 of all the texts that were captured (of a selection: of the whole)."""
    truncated: int
    """Number of texts that did not fit and were cut (of a selection: of the whole)."""
    text_index: Int[Tensor, "example"]
    """Index of each example's text in the captured list."""
    path: Path | None = None
    """The folder, for a store on disk."""
    _shards: tuple[Tensor, ...] = field(default=())
    _place: Int[Tensor, "example 2"] = field(default_factory=lambda: torch.zeros(0, 2, dtype=torch.int64))

    @classmethod
    def from_tensor(
        cls,
        residuals: Float[Tensor, "example layer d_model"],
        hook_points: Sequence[str],
        *,
        positions: ReadPositions | None = None,
        fingerprint: Fingerprint | None = None,
        text_hash: str = "",
        truncated: int = 0,
        text_index: Int[Tensor, "example"] | None = None,
    ) -> "ResidualStore":
        """A store over residuals that are in memory already.

        Raises:
            CaptureError: there is not one hook point for each layer.
        """
        n, n_layers, d_model = residuals.shape
        if len(hook_points) != n_layers:
            raise CaptureError(f"{len(hook_points)} hook points were given for residuals of {n_layers} layers.")
        index = torch.arange(n)
        return cls(
            hook_points=tuple(hook_points),
            d_model=d_model,
            positions=LastToken() if positions is None else positions,
            fingerprint=fingerprint,
            text_hash=text_hash,
            truncated=truncated,
            text_index=index if text_index is None else text_index,
            _shards=(residuals,),
            _place=torch.stack([torch.zeros_like(index), index], dim=1),
        )

    @classmethod
    def open(cls, path: Path | str, *, fingerprint: Fingerprint | None = None, verify: bool = True) -> "ResidualStore":
        """Open a finished store.

        Args:
            path: its folder.
            fingerprint: the model it is to be used with; a store of another one is refused.
            verify: read everything once and compare checksums; without it only truncation is noticed.

        Raises:
            ArtifactError: the folder is no store, is unfinished, damaged, or of another schema version.
            FingerprintMismatchError: the store was captured from another model.
        """
        folder = Path(path)
        manifest = read_store_manifest(folder)
        if not manifest["complete"]:
            raise ArtifactError(
                f"the capture into {folder} was interrupted; run it again with the same arguments to finish it."
            )
        shards = [
            read_shard(folder / shard_name(number), manifest["key"], verify=verify)
            for number in range(manifest["n_shards"])
        ]
        place, text_index = _places(shards, manifest["n_examples"], folder)
        what = manifest["capture"]
        saved = what["fingerprint"]
        store = cls(
            hook_points=tuple(what["hook_points"]),
            d_model=int(shards[0].residuals.shape[2]),
            positions=positions_from_dict(what["positions"]),
            fingerprint=None if saved is None else Fingerprint.from_dict(saved),
            text_hash=what["text_sha256"],
            truncated=manifest["truncated"],
            text_index=text_index,
            path=folder,
            _shards=tuple(shard.residuals for shard in shards),
            _place=place,
        )
        if fingerprint is not None and store.fingerprint is not None:
            store.fingerprint.require(fingerprint, f"the residuals in {folder}")
        return store

    @property
    def n_examples(self) -> int:
        """Number of examples: of texts, unless the positions give several for each."""
        return len(self.text_index)

    @property
    def dtype(self) -> torch.dtype:
        """Dtype the residuals are kept in; they are read as float32 at least."""
        return self._shards[0].dtype

    def __len__(self) -> int:
        return self.n_examples

    def __repr__(self) -> str:
        where = "in memory" if self.path is None else f"at {self.path}"
        cut = f", {self.truncated} texts truncated" if self.truncated else ""
        return (
            f"ResidualStore({self.n_examples} examples x {len(self.hook_points)} layers x {self.d_model}, "
            f"{self.positions.kind}, {where}{cut})"
        )

    def layer(self, hook_point: str) -> int:
        """Place of a hook point on the ``layer`` axis.

        Raises:
            HookPointError: it was not captured.
        """
        if hook_point not in self.hook_points:
            raise HookPointError(f"{hook_point!r} was not captured; the store has {', '.join(self.hook_points)}.")
        return self.hook_points.index(hook_point)

    def tensor(self, hook_point: str | None = None) -> Float[Tensor, "example *layer d_model"]:
        """Residuals ``[example, d_model]`` of one hook point, or ``[example, layer, d_model]`` of all.

        A copy in memory, in float32 (float64 where that was stored): half precision is for keeping, not for
        sums.

        Raises:
            HookPointError: the hook point was not captured.
        """
        return self._gather(self._place, None if hook_point is None else self.layer(hook_point))

    def batches(self, size: int) -> Iterator[Float[Tensor, "batch layer d_model"]]:
        """Residuals of ``size`` examples at a time, in order; never more than that in memory.

        Raises:
            CaptureError: ``size`` is below one.
        """
        if size < 1:
            raise CaptureError(f"batches of {size} examples cannot be made; give one or more.")
        for begin in range(0, self.n_examples, size):
            yield self._gather(self._place[begin : begin + size], None)

    def select(self, indices: Sequence[int] | Int[Tensor, "chosen"]) -> "ResidualStore":
        """The same store with only some examples, in the order given; nothing is copied.

        Raises:
            CaptureError: an index is outside the store.
        """
        chosen = torch.as_tensor(indices, dtype=torch.int64).reshape(-1)
        n = self.n_examples
        if len(chosen) and (int(chosen.min()) < -n or int(chosen.max()) >= n):
            raise CaptureError(f"example indices must be within the store's {n} examples.")
        return replace(self, text_index=self.text_index[chosen], _place=self._place[chosen])

    def _gather(self, place: Int[Tensor, "chosen 2"], layer: int | None) -> Float[Tensor, "chosen ... d_model"]:
        shape = (len(place), self.d_model) if layer is not None else (len(place), len(self.hook_points), self.d_model)
        out = torch.empty(shape, dtype=torch.promote_types(self.dtype, torch.float32))
        by_shard = torch.argsort(place[:, 0], stable=True)
        counts = torch.bincount(place[:, 0], minlength=len(self._shards)).tolist()
        begin = 0
        for shard, count in zip(self._shards, counts, strict=True):
            if count:
                where = by_shard[begin : begin + count]
                source = shard if layer is None else shard[:, layer]
                out[where] = source[place[where, 1]].to(out.dtype)
                begin += count
        return out


def read_store_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a finished or interrupted store.

    Raises:
        ArtifactError: there is none, or it is of another kind or schema version, or lacks something.
    """
    manifest = read_json(folder / MANIFEST_NAME)
    if manifest.get("kind") != KIND:
        raise ArtifactError(f"{folder} is a {manifest.get('kind')!r} artifact; {KIND!r} was expected.")
    if manifest.get("schema") != SCHEMA_VERSION:
        raise ArtifactError(
            f"{folder} has schema version {manifest.get('schema')!r}; this package reads version {SCHEMA_VERSION}. "
            "Capture again into a new folder."
        )
    missing = {"complete", "key", "capture", "n_shards", "n_examples", "truncated", "batch"} - manifest.keys()
    if missing:
        raise ArtifactError(f"the manifest of {folder} lacks {sorted(missing)}; capture again into a new folder.")
    return manifest


def _places(
    shards: Sequence[Shard], n_examples: int, folder: Path
) -> tuple[Int[Tensor, "example 2"], Int[Tensor, "example"]]:
    """Shard and row of every example, and its text."""
    example = torch.cat([shard.example for shard in shards])
    if not torch.equal(example.sort().values, torch.arange(n_examples)):
        raise ArtifactError(f"the shards in {folder} do not hold each of {n_examples} examples once; capture again.")
    order = torch.argsort(example)
    number = torch.cat([torch.full_like(shard.example, number) for number, shard in enumerate(shards)])
    row = torch.cat([torch.arange(len(shard.example)) for shard in shards])
    text = torch.cat([shard.text for shard in shards])
    return torch.stack([number, row], dim=1)[order], text[order]
